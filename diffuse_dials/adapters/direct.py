"""NXmx (Eiger) images read straight from HDF5 into one buffer, several times faster than through dxtbx.

dxtbx converts each image to signed integers and marks the file's sentinels as negative, in passes over the image that
a kernel which tests the trusted range does not need. The first image of a run is compared with dxtbx's.
"""

from __future__ import annotations

import atexit
import os
import weakref

import h5py
import numpy as np

from diffuse_dials.adapters import hdf5_filters, images, nexus
from diffuse_dials.adapters.experiments import image_of
from diffuse_dials.adapters.virtual_images import VirtualImages

_readers: weakref.WeakSet[DirectReader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open when the process ends: HDF5 1.10 crashes if a virtual dataset is among it."""
    for reader in list(_readers):
        reader.close()


class DirectReader:
    """Reads one image after the other; the arrays it returns are overwritten by the next."""

    def __init__(self):
        self._path, self._process = None, None
        self._file: h5py.File | None = None
        self._source: h5py.File | None = None  # that the last virtual image was in
        self._data: dict[str, h5py.Dataset] = {}
        self._virtual: dict[str, VirtualImages] = {}
        self._times: nexus.Times | None = None
        self._buffer = np.empty((0, 0))
        self._checked = False
        hdf5_filters.use_fastest()
        _readers.add(self)

    def read(self, experiment) -> tuple[tuple[np.ndarray, ...], int]:
        """Raw values of a still's image as they are stored.

        Returns:
            (one array (slow, fast) per panel, the largest value that is a measurement).

        Raises:
            ValueError: If the file is no NXmx file of whole numbers, is broken, or dxtbx reads other values from it.
        """
        path, index = image_of(experiment)
        raw, highest = self._attempt(self._read, path, index)
        if [panel.shape for panel in raw] != images.panel_shapes(experiment.detector):
            raise ValueError(f"{path} has other panels than the detector model of its still. Try grid.reader=dxtbx.")
        if not self._checked:
            self._check(experiment, path, raw, highest)
        return raw, highest

    def header(self, experiment) -> tuple[float | None, float | None]:
        """Exposure time and time stamp, as images.header."""
        if experiment.scan is not None:
            return images.header(experiment)
        return self._attempt(self._header, *image_of(experiment))

    def _attempt(self, work, path: str, index: int):
        """Call ``work``, and turn HDF5's messages about a broken file into one line."""
        try:
            return work(path, index)
        except FileNotFoundError:
            raise ValueError(
                f"There is no image {path}. Put the images where the .expt file says, or change the paths."
            ) from None
        except (OSError, KeyError, AttributeError, IndexError, TypeError, RuntimeError) as error:
            self.close()
            raise ValueError(
                f"{path} cannot be read directly ({type(error).__name__}: {error}). It may be cut off, or of another "
                f"format: try grid.reader=dxtbx.{images.filter_hint(error)}"
            ) from error

    def _opened(self, path: str) -> h5py.File:
        # A file that was opened before a fork shares its position with the other process.
        if self._file is None or self._path != path or self._process != os.getpid():
            self.close()
            self._file, self._path, self._process = h5py.File(path, "r", swmr=True), path, os.getpid()
        return self._file

    def close(self) -> None:
        """Close the files; the next image opens its own."""
        if self._process == os.getpid():
            for file in (self._file, self._source):
                if file is not None:
                    file.close()
        self._file = self._source = self._path = self._times = None
        self._data, self._virtual = {}, {}

    def _header(self, path: str, index: int):
        file = self._opened(path)
        if self._times is None:
            self._times = nexus.Times(file, nexus.layout_of(file, path))
        return self._times.of(index)

    def _read(self, path: str, index: int):
        file = self._opened(path)
        layout = nexus.layout_of(file, path)
        for name in layout.data:
            if name not in self._data:
                self._data[name] = file[name]
            data = self._data[name]
            if index < data.shape[0]:
                break
            index -= data.shape[0]
        else:
            raise IndexError("there is no image of that number")
        if self._buffer.shape != data.shape[1:] or self._buffer.dtype != data.dtype:
            self._buffer = np.empty(data.shape[1:], dtype=data.dtype)
        hdf5_filters.read_image(*self._stored(name, data, index), self._buffer)
        return tuple(self._buffer[module] for module in layout.modules), nexus.highest_value(file, layout, data.dtype)

    def _stored(self, name: str, data: h5py.Dataset, index: int) -> tuple[h5py.Dataset, int]:
        """The dataset that an image is in, and its number there: of a virtual one the source, if there is no doubt."""
        if not data.is_virtual:
            return data, index
        if name not in self._virtual:
            self._virtual[name] = VirtualImages(data)
        found = self._virtual[name].find(index)
        if found is None:
            return data, index
        path, source, number = found
        try:
            if self._source is None or self._source.filename != path:
                if self._source is not None:
                    self._source.close()
                self._source = None
                self._source = h5py.File(path, "r", swmr=True)
            images_there = self._source[source]
        except (OSError, KeyError):  # missing: HDF5 gives the fill value
            return data, index
        return (images_there, number) if self._virtual[name].fits(images_there, number) else (data, index)

    def _check(self, experiment, path, raw, highest) -> None:
        """Compare an image with dxtbx's: equal values, and sentinels where dxtbx has negative numbers."""
        for panel, theirs in zip(raw, images.read_raw(experiment)):
            measured = panel <= highest
            if ((measured != (theirs >= 0)) | (measured & (panel != theirs))).any():
                raise ValueError(f"dxtbx reads other values from {path} than a direct reader. Say grid.reader=dxtbx.")
        self._checked = True
