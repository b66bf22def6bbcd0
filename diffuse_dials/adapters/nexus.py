"""Where NXmx files (Eiger) keep their images, exposure times and sentinels, without a dxtbx format object.

Making that object costs 10 to 30 ms a file, several times what a kernel needs for the image; what is looked up here
once for the files of a folder is the same in all of them.
"""

from __future__ import annotations

import datetime
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from dxtbx.nexus import get_detector_module_slices, nxmx


@dataclass(frozen=True)
class Layout:
    """Names of what a kind of file holds.

    Attributes:
        data: Datasets (image, slow, fast), in order.
        modules: (slow, fast) slices of the panels.
        entry, detector: Groups.
    """

    data: tuple[str, ...]
    modules: tuple[tuple[slice, slice], ...]
    entry: str
    detector: str


_layouts: dict[tuple[str, str], Layout] = {}


def layout_of(file: h5py.File, path: str) -> Layout:
    """The layout of an open file, worked out once for each folder and suffix.

    Raises:
        TypeError: If it holds no stack of images of whole numbers; KeyError, IndexError: if it is no NXmx.
    """
    kind = (os.path.dirname(path), Path(path).suffix)
    found = _layouts.get(kind)
    if found is None or found.data[0] not in file or found.detector not in file:
        found = _layouts[kind] = _layout(file)
    return found


def _layout(file: h5py.File) -> Layout:
    entry = nxmx.NXmx(file).entries[0]
    detector, group = entry.instruments[0].detectors[0], entry.data[0]
    names = sorted(name for name in group.keys() if re.fullmatch(r"data_\d+", name))
    signal = nxmx.h5str(group.signal) if group.signal else "data"
    names = [signal] if signal in group else names
    found = [group[name] for name in names]
    if not found or any(data.ndim != 3 or data.dtype.kind not in "iu" for data in found):
        raise TypeError("it holds no stack of images of whole numbers")
    data = tuple(f"{group.path}/{name}" for name in names)
    return Layout(data, get_detector_module_slices(detector), entry.path, detector.path)


def highest_value(file: h5py.File, layout: Layout, dtype) -> int:
    """Largest value that is a measurement: what dxtbx marks as negative is above it."""
    highest = min(np.iinfo(dtype).max, 2**31 - 1)
    bits = file.get(f"{layout.detector}/bit_depth_readout")
    if bits is not None:
        highest = min(highest, 2 ** min(int(np.squeeze(bits[()])), 31) - 3)  # the two largest are sentinels
    return int(highest)


class Times:
    """Exposure times and time stamps of the images in a file."""

    def __init__(self, file: h5py.File, layout: Layout):
        self._counted, self._frame = (
            _seconds(file.get(f"{layout.detector}/{name}")) for name in ("count_time", "frame_time")
        )
        self._start = _epoch(file.get(f"{layout.entry}/start_time"))

    def of(self, index: int) -> tuple[float | None, float | None]:
        """Exposure time (s) and time stamp (s since 1970) of an image; None where the file does not say.

        The exposure is the time that was counted; where the file has only that from frame to frame, it is taken.
        """
        frame_time = _positive(self._frame, index)
        exposure = _positive(self._counted, index) or frame_time
        return exposure, None if self._start is None else self._start + index * (frame_time or 0.0)


def _seconds(data: h5py.Dataset | None) -> np.ndarray:
    """Times, one number or one for each image, in seconds (NXmx's unit where none is given); empty if missing."""
    if data is None:
        return np.empty(0)
    return np.ravel(data[()]).astype(np.float64) * _unit_in_seconds(nxmx.h5str(data.attrs.get("units", "s")))


def _positive(values: np.ndarray, index: int) -> float | None:
    """The image's value, None if there is none or it is not positive."""
    if not len(values):
        return None
    value = float(values[index if len(values) > 1 else 0])
    return value if np.isfinite(value) and value > 0 else None


@functools.cache
def _unit_in_seconds(unit: str) -> float:
    return float(nxmx.ureg.Quantity(1.0, unit).to("s").magnitude)


def _epoch(data: h5py.Dataset | None) -> float | None:
    """Seconds since 1970 of a date in ISO 8601, UTC where no zone is given."""
    if data is None:
        return None
    text = str(nxmx.h5str(np.squeeze(data[()])[()])).strip()
    try:
        start = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (start if start.tzinfo else start.replace(tzinfo=datetime.timezone.utc)).timestamp()
