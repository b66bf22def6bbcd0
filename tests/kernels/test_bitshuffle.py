"""Decoding of bitshuffle/LZ4 chunks against HDF5's own filter, and what broken chunks do."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from diffuse_dials.adapters import direct  # noqa: F401  (registers hdf5plugin's filters)
from diffuse_dials.kernels.bitshuffle import decode

FILTER = 32008

pytestmark = pytest.mark.skipif(not h5py.h5z.filter_avail(FILTER), reason="HDF5 has no bitshuffle here")


def compressed(values, folder, block=0):
    """(chunk without its header, values in a block) as HDF5's filter writes them."""
    with h5py.File(folder / "chunk.h5", "w") as file:
        data = file.create_dataset(
            "data", data=values, chunks=values.shape, compression=FILTER, compression_opts=(block, 2)
        )
        _, chunk = data.id.read_direct_chunk((0,) * values.ndim)
    return np.frombuffer(chunk, np.uint8, offset=12), int.from_bytes(chunk[8:12], "big") // values.itemsize


def photons(kind, rng, n=40_000):
    values = rng.poisson(0.7, n)
    values[::97] = rng.integers(0, np.iinfo(kind).max, len(values[::97]), dtype=np.uint64)
    values[5000:9000] = np.iinfo(kind).max  # a gap between modules
    values[20_000:30_000] = 0
    return values.astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("block", [0, 64, 1024])
def test_values_are_those_that_hdf5s_filter_compressed(kind, block, rng, tmp_path):
    values = photons(kind, rng)
    chunk, block = compressed(values, tmp_path, block)
    found = np.empty_like(values)
    assert decode(chunk, block, found)
    assert np.array_equal(found, values)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 4095, 4097, 8201])
def test_lengths_that_fill_no_block_or_no_group_of_eight(n, rng, tmp_path):
    values = photons(np.uint16, rng)[:n].copy()
    chunk, block = compressed(values, tmp_path)
    found = np.empty_like(values)
    assert decode(chunk, block, found)
    assert np.array_equal(found, values)


def test_noise_that_cannot_be_compressed_and_smooth_values_come_back(rng, tmp_path):
    """Literals only in the first; in the second, matches that overlap themselves at many distances."""
    noise = rng.integers(0, 2**32, 30_000, dtype=np.uint32)
    pattern = np.concatenate([np.tile(np.arange(k, dtype=np.uint32) * 977, 4000 // k) for k in range(1, 60)])
    for values in (noise, pattern):
        chunk, block = compressed(values, tmp_path)
        found = np.empty_like(values)
        assert decode(chunk, block, found)
        assert np.array_equal(found, values)


def test_a_broken_chunk_is_refused_or_wrong_but_reads_and_writes_nothing_outside(rng, tmp_path):
    """Bytes changed at random and chunks cut off anywhere; a guard behind the values stays as it was."""
    values = photons(np.uint16, rng)[:3000].copy()
    chunk, block = compressed(values, tmp_path)
    guarded = np.full(len(values) + 1000, 12345, np.uint16)
    for cut in range(0, len(chunk), 101):
        assert not decode(chunk[:cut], block, guarded[: len(values)])
    for _ in range(3000):
        broken = chunk.copy()
        broken[rng.integers(0, len(chunk), 3)] = rng.integers(0, 256, 3)
        broken.flags.writeable = False  # as the bytes of a file
        decode(broken, block, guarded[: len(values)])
    assert np.all(guarded[len(values) :] == 12345)
