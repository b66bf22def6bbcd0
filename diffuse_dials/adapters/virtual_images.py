"""Where the images of a virtual dataset are: in the data files that a master file points at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np


@dataclass(frozen=True)
class _Source:
    """Whole images that follow one another in another dataset.

    Attributes:
        first, stop: Their numbers in the virtual dataset.
        path: File, ``.`` for the same.
        name: Dataset.
        start: Number of the first in it.
    """

    first: int
    stop: int
    path: str
    name: str
    start: int


class VirtualImages:
    """The sources of one virtual dataset (images, slow, fast)."""

    def __init__(self, data: h5py.Dataset):
        """Look at all sources, once for the dataset."""
        self._shape, self._type, self._file = data.shape[1:], data.dtype, data.file.filename
        self._sources = [found for found in map(self._whole_images, data.virtual_sources()) if found is not None]
        self._moved = "HDF5_VDS_PREFIX" in os.environ  # HDF5 looks there first

    def _whole_images(self, source) -> _Source | None:
        to, of = _box(source.vspace), _box(source.src_space)
        if to is None or of is None or to[1] != of[1] or to[0][1:] != (0, 0) or to[1][1:] != self._shape:
            return None
        if of[0][1:] != (0, 0) or "%" in source.file_name or "%" in source.dset_name:  # %b: a file for each block
            return None
        return _Source(to[0][0], to[0][0] + to[1][0], source.file_name, source.dset_name, of[0][0])

    def find(self, index: int) -> tuple[str, str, int] | None:
        """File, dataset and number in it of an image; None where only HDF5 knows."""
        found = [source for source in self._sources if source.first <= index < source.stop]
        if self._moved or len(found) != 1:
            return None
        (source,) = found
        path = self._file if source.path == "." else str(Path(self._file).parent / source.path)
        return path, source.name, source.start + index - source.first

    def fits(self, data: h5py.Dataset, index: int) -> bool:
        """Whether an image of a source is whole and of the type that HDF5 would give."""
        return data.ndim == 3 and data.shape[1:] == self._shape and data.dtype == self._type and index < data.shape[0]


def _box(space) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """First place and size of a selection in three dimensions that is one block; None for any other."""
    try:
        first, last = space.get_select_bounds()
    except (ValueError, RuntimeError):  # without an end: a file that grows
        return None
    size = tuple(int(b) - int(a) + 1 for a, b in zip(first, last))
    if len(size) != 3 or np.prod(size, dtype=np.int64) != space.get_select_npoints():
        return None
    return tuple(int(a) for a in first), size
