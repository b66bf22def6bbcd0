"""NXmx (Eiger) images read straight from HDF5 into one buffer, several times faster than through dxtbx.

dxtbx converts each image to signed integers and marks the file's sentinels as negative, in passes over the image that
a kernel which tests the trusted range does not need. The first image of a run is held against dxtbx's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from dxtbx.nexus import get_detector_module_slices, nxmx

from diffuse_dials.adapters import images
from diffuse_dials.adapters.experiments import image_of

try:
    import hdf5plugin  # noqa: F401  (registers its filters where the HDF5 library has none of its own)
except ImportError:
    pass


@dataclass(frozen=True)
class _Layout:
    """Where a kind of file keeps its images.

    Attributes:
        data: Names of the datasets (image, slow, fast), in order.
        modules: (slow, fast) slices of the panels.
        highest: Largest value that is a measurement; above it are sentinels.
    """

    data: tuple[str, ...]
    modules: tuple[tuple[slice, slice], ...]
    highest: int


class DirectReader:
    """Reads one image after the other; the arrays it returns are overwritten by the next."""

    def __init__(self):
        self._layouts: dict[tuple[str, str], _Layout] = {}
        self._file: tuple[str, h5py.File] | None = None
        self._process = os.getpid()
        self._buffer = np.empty((0, 0))
        self._checked = False

    def read(self, experiment) -> tuple[tuple[np.ndarray, ...], int]:
        """Raw values of a still's image as they are stored.

        Returns:
            (one array (slow, fast) per panel, the largest value that is a measurement).

        Raises:
            ValueError: If the file is no NXmx file of whole numbers, is broken, or dxtbx reads other values from it.
        """
        path, index = image_of(experiment)
        if not os.path.isfile(path):
            raise ValueError(
                f"There is no image {path}. Put the images where the .expt file says, or change the paths."
            )
        try:
            raw, highest = self._read(path, index)
        except (OSError, KeyError, AttributeError, IndexError, TypeError, RuntimeError) as error:
            self._file = None
            raise ValueError(
                f"{path} cannot be read directly ({type(error).__name__}: {error}). It may be cut off, or of another "
                "format: try grid.reader=dxtbx."
            ) from error
        if [panel.shape for panel in raw] != images.panel_shapes(experiment.detector):
            raise ValueError(f"{path} has other panels than the detector model of its still. Try grid.reader=dxtbx.")
        if not self._checked:
            self._check(experiment, path, raw, highest)
        return raw, highest

    def _read(self, path: str, index: int):
        if self._file is None or self._file[0] != path or self._process != os.getpid():
            # A file that was opened before a fork shares its position with the other process.
            self._file, self._process = (path, h5py.File(path, "r", swmr=True)), os.getpid()
        file = self._file[1]
        kind = (os.path.dirname(path), Path(path).suffix)
        if kind not in self._layouts:
            self._layouts[kind] = _layout(file)
        layout = self._layouts[kind]
        for name in layout.data:
            data = file[name]
            if index < data.shape[0]:
                break
            index -= data.shape[0]
        else:
            raise IndexError("there is no image of that number")
        if self._buffer.shape != data.shape[1:] or self._buffer.dtype != data.dtype:
            self._buffer = np.empty(data.shape[1:], dtype=data.dtype)
        data.read_direct(self._buffer, np.s_[index])
        return tuple(self._buffer[module] for module in layout.modules), layout.highest

    def _check(self, experiment, path, raw, highest) -> None:
        """Hold an image against dxtbx's: equal values, and sentinels where dxtbx has negative numbers."""
        for panel, theirs in zip(raw, images.read_raw(experiment)):
            measured = panel <= highest
            if not (np.array_equal(measured, theirs >= 0) and np.array_equal(panel[measured], theirs[measured])):
                raise ValueError(f"dxtbx reads other values from {path} than a direct reader. Say grid.reader=dxtbx.")
        self._checked = True


def _layout(file: h5py.File) -> _Layout:
    entry = nxmx.NXmx(file).entries[0]
    detector, group = entry.instruments[0].detectors[0], entry.data[0]
    names = sorted(name for name in group.keys() if re.fullmatch(r"data_\d+", name))
    signal = nxmx.h5str(group.signal) if group.signal else "data"
    names = [signal] if signal in group else names
    found = [group[name] for name in names]
    if not found or any(data.ndim != 3 or data.dtype.kind not in "iu" for data in found):
        raise TypeError("it holds no stack of images of whole numbers")
    highest = min(np.iinfo(found[0].dtype).max, 2**31 - 1)
    if detector.bit_depth_readout:
        highest = min(highest, 2 ** min(int(detector.bit_depth_readout), 31) - 3)  # the two largest are sentinels
    return _Layout(tuple(data.name for data in found), get_detector_module_slices(detector), int(highest))
