"""The filter that decodes Eiger's images in HDF5 files (bitshuffle and LZ4)."""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path

import h5py
import numpy as np

BITSHUFFLE = 32008  # registered with the HDF5 Group
_LZ4 = 2  # the filter's number for it
_HEAD = struct.Struct(">QI")  # of a chunk, by bitshuffle's README: bytes of the image, bytes of a block


@functools.cache
def use_fastest() -> bool:
    """Use hdf5plugin's bitshuffle even if HDF5 found another: Debian's takes 1.6 times as long for an image.

    Debian's own package of hdf5plugin has no filters; then HDF5's stays.

    Returns:
        Whether images compressed with bitshuffle can be read.
    """
    try:
        from hdf5plugin import register
    except ImportError:  # none, or older than 4.0
        pass
    else:
        register("bshuf")
    return bool(h5py.h5z.filter_avail(BITSHUFFLE))


def read_image(data: h5py.Dataset, index: int, out: np.ndarray) -> None:
    """Read one image into an array.

    HDF5 decodes into memory of its own and copies from there. Where an image is one chunk of bitshuffle and LZ4, the
    bitshuffle that hdf5plugin brings decodes it straight into the array, in 0.8 of the time; all else is HDF5's.

    Args:
        data: Shape (images, slow, fast).
        index: Number of the image.
        out: Where it goes: shape (slow, fast), of data's type, contiguous.

    Raises:
        OSError: If it cannot be read or decoded.
    """
    if not _decode_chunk(data, index, out):
        data.read_direct(out, np.s_[index])


def _decode_chunk(data: h5py.Dataset, index: int, out: np.ndarray) -> bool:
    """Whether the image could be decoded without HDF5; if not, HDF5 knows what to do or what is wrong.

    Raises:
        OSError: If what is decoded is damaged.
    """
    decode = _decoder()
    if decode is None or data.chunks != (1, *data.shape[1:]):
        return False
    filters = data.id.get_create_plist()
    if filters.get_nfilters() != 1:
        return False
    number, _, options, _ = filters.get_filter(0)
    if number != BITSHUFFLE or options[4:5] != (_LZ4,):
        return False
    try:
        left_out, chunk = data.id.read_direct_chunk((index, 0, 0))
    except (OSError, ValueError):  # none where nothing was written: the image is HDF5's fill value
        return False
    if left_out or len(chunk) < _HEAD.size:
        return False
    n_bytes, block_bytes = _HEAD.unpack_from(chunk)
    if n_bytes != out.nbytes:
        return False
    blocks = np.frombuffer(chunk, dtype=np.uint8, offset=_HEAD.size)
    used = decode(blocks.ctypes.data, out.ctypes.data, out.size, out.itemsize, block_bytes // out.itemsize)
    if not 0 < used <= len(blocks):  # the latter is more than HDF5's filter would notice
        raise OSError(f"the compressed image {index} is damaged")
    return True


@functools.cache
def _decoder():
    """The C function bshuf_decompress_lz4 of hdf5plugin's bitshuffle; None where it has none."""
    try:
        from hdf5plugin import PLUGIN_PATH

        (library,) = Path(PLUGIN_PATH).glob("libh5bshuf.*")
        decode = ctypes.CDLL(str(library)).bshuf_decompress_lz4
    except (ImportError, ValueError, OSError, AttributeError):
        return None
    decode.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)
    decode.restype = ctypes.c_int64  # bytes that it read, or below 0
    return decode
