"""Arrays in a plain file, as they are in memory and in the order in which they came, and JSON that says where each is.

For temporary files that only this program reads, for which HDF5 would take as long as the disk itself.

    magic | the bytes of the arrays, each begun at a multiple of 8 | JSON | length of the JSON, 8 bytes, little-endian
"""

from __future__ import annotations

import json
import math
import mmap
from contextlib import contextmanager

import numpy as np

from diffuse_dials.io.atomic import replacing

MAGIC = b"diffuse_dials arrays 1\n\0"
_LENGTH = 8


class ArrayWriter:
    """Appends arrays; made by :func:`writing_arrays`.

    Attributes:
        description: What the file says of itself, for JSON.
    """

    def __init__(self, file):
        self._file = file
        self._end = file.write(MAGIC)
        self.description: dict = {}

    def put(self, arrays: dict[str, np.ndarray]) -> dict[str, list]:
        """Write arrays; what is returned belongs into the description and says where they are."""
        places = {}
        for name, values in arrays.items():
            places[name] = [values.dtype.str, values.shape, self._end]
            if values.size:
                self._end += self._file.write(np.ascontiguousarray(values).data.cast("B"))
            self._end += self._file.write(bytes(-self._end % _LENGTH))
        return places

    def finish(self) -> None:
        """Write the description."""
        text = json.dumps(self.description).encode()
        self._file.write(text + len(text).to_bytes(_LENGTH, "little"))


@contextmanager
def writing_arrays(path):
    """A file of arrays that appears under its name when the block ends well.

    Yields:
        An ArrayWriter.

    Raises:
        ValueError: If it cannot be written.
    """
    with replacing(path) as partial, open(partial, "wb") as file:
        writer = ArrayWriter(file)
        yield writer
        writer.finish()


def is_array_file(path) -> bool:
    """Whether a file begins as one; False where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Arrays:
    """An open file of arrays; what it gives stays valid when this is forgotten.

    Attributes:
        description: What the file says of itself.
    """

    def __init__(self, path):
        """Open it.

        Raises:
            ValueError: If it is cut off.
        """
        with open(path, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            end = len(self._bytes) - _LENGTH
            length = int.from_bytes(self._bytes[end:], "little")
            self.description = json.loads(self._bytes[end - length : end])
        except ValueError as error:
            raise ValueError(f"{path} is cut off ({error}).") from None

    def get(self, places: dict[str, list]) -> dict[str, np.ndarray]:
        """The arrays that one call of ``put`` wrote, by name: views of the file, to be read only."""
        found = {}
        for name, (dtype, shape, place) in places.items():
            count = math.prod(shape)
            found[name] = np.frombuffer(self._bytes, dtype, count, place if count else 0).reshape(shape)
        return found
