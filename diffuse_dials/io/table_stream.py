"""A reflection table written block by block: what is in memory is one block, not the table and a copy of it.

The bytes are those that ``flex.reflection_table.as_file`` writes (a test compares the two): MessagePack
of [name of the type, version, {identifiers, nrows, data: {column: [type, [n, bytes]]}}], columns in alphabetical order.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import numpy as np

from diffuse_dials.io.atomic import replacing
from diffuse_dials.io.columns import COLUMNS
from diffuse_dials.io.tables import check_n_rows

_VERSION = 1
# Type in the file, NumPy's type of an element, elements of a row
_KINDS = {
    "int": ("int", "<i4", 1), "size_t": ("std::size_t", "<u8", 1), "bool": ("bool", "?", 1),
    "double": ("double", "<f8", 1), "vec3_double": ("vec3<double>", "<f8", 3),
    "miller_index": ("cctbx::miller::index<>", "<i4", 3),
}  # fmt: skip


def write_table(names, blocks, path, identifiers: dict[int, str], n_rows: int) -> None:
    """Write a reflection table, complete or not at all.

    Args:
        names: Columns; those that io.columns does not list are refused.
        blocks: An iterable of consecutive rows: dictionaries of one array for each name; columns that one lacks are 0
            there. Vectors and Miller indices have shape (n, 3). Each is written before the next is asked for.
        path: Output file.
        identifiers: Experiment identifier of each ``id``.
        n_rows: Length of every column.

    Raises:
        ValueError: If there are more rows than a .refl file holds, or the file cannot be written.
    """
    check_n_rows(path, n_rows)
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(_array(3) + _text("dials::af::reflection_table") + _whole(_VERSION) + _map(3))
        file.write(_text("identifiers") + _map(len(identifiers)))
        for number in sorted(identifiers):
            file.write(_whole(int(number)) + _text(identifiers[number]))
        file.write(_text("nrows") + _whole(n_rows) + _text("data") + _map(len(names)))
        place, places = file.tell(), {}  # columns follow one another: where each begins is known
        for name in sorted(names):
            kind, _, _ = _KINDS[COLUMNS[name].kind]
            n_bytes = n_rows * _row_bytes(name)
            head = _text(name) + _array(2) + _text(kind) + _array(2) + _whole(n_rows) + _bytes(n_bytes)
            file.seek(place)
            file.write(head)
            places[name] = place + len(head)
            place += len(head) + n_bytes
        _reserve(file.fileno(), place)
        file.truncate(place)  # to its full length: what is not written is 0
        ends = {name: begin + n_rows * _row_bytes(name) for name, begin in places.items()}
        for block in blocks:
            n_in_block = len(next(iter(block.values()), ()))
            for name in names:
                if name in block and n_in_block:
                    written = np.ascontiguousarray(block[name], dtype=_KINDS[COLUMNS[name].kind][1])
                    file.seek(places[name])
                    file.write(written.data.cast("B"))
                places[name] += n_in_block * _row_bytes(name)
        for name, end in ends.items():
            if places[name] != end:
                raise AssertionError(f"column {name} has not {n_rows} rows of {_KINDS[COLUMNS[name].kind][2]}")


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Let the file system (of Linux) set space aside: writing takes a fifth less, and a full disk shows at once.

    Not os.posix_fallocate: where a file system cannot, it writes to every block instead.

    Raises:
        OSError: If there is not enough.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "fallocate"):
        return
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if library.fallocate(descriptor, 0, 0, n_bytes):
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, os.strerror(number))


def _row_bytes(name: str) -> int:
    _, dtype, width = _KINDS[COLUMNS[name].kind]
    return width * np.dtype(dtype).itemsize


def _whole(value: int) -> bytes:
    """A whole number, not negative, in as few bytes as there can be."""
    if value < 128:
        return struct.pack("B", value)
    for code, form, limit in ((0xCC, ">BB", 1 << 8), (0xCD, ">BH", 1 << 16), (0xCE, ">BI", 1 << 32)):
        if value < limit:
            return struct.pack(form, code, value)
    return struct.pack(">BQ", 0xCF, value)


def _sized(value: int, small: tuple[int, int] | None, sizes) -> bytes:
    """The head of something of a length: in the code itself where it is ``small``, (code, limit), else beside it."""
    if small is not None and value < small[1]:
        return struct.pack("B", small[0] | value)
    for code, form, limit in sizes:
        if value < limit:
            return struct.pack(form, code, value)
    raise ValueError(f"MessagePack holds no {value} elements.")


def _array(n: int) -> bytes:
    return _sized(n, (0x90, 16), ((0xDC, ">BH", 1 << 16), (0xDD, ">BI", 1 << 32)))


def _map(n: int) -> bytes:
    return _sized(n, (0x80, 16), ((0xDE, ">BH", 1 << 16), (0xDF, ">BI", 1 << 32)))


def _bytes(n: int) -> bytes:
    return _sized(n, None, ((0xC4, ">BB", 1 << 8), (0xC5, ">BH", 1 << 16), (0xC6, ">BI", 1 << 32)))


def _text(text: str) -> bytes:
    raw = text.encode()
    return _sized(len(raw), (0xA0, 32), ((0xD9, ">BB", 1 << 8), (0xDA, ">BH", 1 << 16), (0xDB, ">BI", 1 << 32))) + raw
