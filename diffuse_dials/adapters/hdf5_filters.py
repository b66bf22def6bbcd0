"""The filter that decodes Eiger's images in HDF5 files (bitshuffle and LZ4)."""

from __future__ import annotations

import functools

import h5py

BITSHUFFLE = 32008  # registered with the HDF5 Group


@functools.cache
def use_fastest() -> bool:
    """Take hdf5plugin's bitshuffle, also where HDF5 found another: Debian's needs 1.6 times as long for an image.

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
