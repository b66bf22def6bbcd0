"""HDF5 files that appear complete or not at all, a full disk included."""

from __future__ import annotations

import io
from contextlib import contextmanager

import h5py

from diffuse_dials.io.atomic import replacing


@contextmanager
def new_hdf5(path):
    """An HDF5 file to write to, which appears as ``path`` when the block ends well.

    Args:
        path: Of the file.

    Yields:
        The open file.

    Raises:
        ValueError: If it cannot be written (disk full, no permission); nothing is left behind.
    """
    with replacing(path) as partial, open(partial, "w+b", buffering=0) as raw:
        disk = _Disk(raw)
        with h5py.File(disk, "w") as file:
            yield file
        if disk.error is not None:
            raise disk.error


class _Disk(io.RawIOBase):
    """A file that keeps its first error to itself, until HDF5 has closed.

    HDF5 1.10 cannot close a file that it could not write: the process ends with a segmentation fault.

    Attributes:
        error: The first error of writing, or None.
    """

    def __init__(self, raw):
        self._raw = raw
        self.error = None

    def seek(self, offset, whence=0):
        return self._raw.seek(offset, whence)

    def tell(self):
        return self._raw.tell()

    def readinto(self, buffer):
        view = memoryview(buffer).cast("B")
        n = self._raw.readinto(view)
        view[n:] = bytes(len(view) - n)  # what an error kept from being written
        return len(view)

    def write(self, data):
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size=None):
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
