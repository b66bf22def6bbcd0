"""Which filter decodes Eiger's images, and images that are decoded without HDF5's copy."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from diffuse_dials.adapters import hdf5_filters

needs_bitshuffle = pytest.mark.skipif(not hdf5_filters.use_fastest(), reason="HDF5 has no bitshuffle here")
SHAPE = 61, 47  # of no number of whole blocks, nor of eight pixels


def test_hdf5plugins_filter_is_taken_wherever_it_has_one():
    """Also where HDF5 found Debian's, which is slower; Debian's package of hdf5plugin has none."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    assert hdf5_filters.use_fastest()
    config = hdf5plugin.get_config()
    own = "hdf5plugin" in config.registered_filters["bshuf"]
    assert own == ("bshuf" in config.build_config.embedded_filters)


def written(tmp_path, values, options, chunk=(1, *SHAPE), filters=hdf5_filters.BITSHUFFLE):
    path = tmp_path / "images.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values, chunks=chunk, compression=filters, compression_opts=options)
    return path


def read(path, index):
    """An image, and whether it was decoded without HDF5."""
    with h5py.File(path, "r") as file:
        data = file["data"]
        out = np.full(data.shape[1:], 77, dtype=data.dtype)
        straight = hdf5_filters._decode_chunk(data, index, out.copy())
        hdf5_filters.read_image(data, index, out)
    return out, straight


@needs_bitshuffle
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("block", [0, 64, 4096])
def test_images_of_one_chunk_are_decoded_into_the_array(kind, block, tmp_path, rng):
    """The truth: what was written. Without hdf5plugin's library HDF5 reads them."""
    values = rng.poisson(3.0, (3, *SHAPE)).astype(kind)
    path = written(tmp_path, values, (block, 2))
    for index in (2, 0, 1):
        found, straight = read(path, index)
        assert np.array_equal(found, values[index])
        assert straight == (hdf5_filters._decoder() is not None)


@needs_bitshuffle
@pytest.mark.parametrize(
    "options, chunk, filters",
    [((0, 0), (1, *SHAPE), hdf5_filters.BITSHUFFLE), ((0, 2), (2, *SHAPE), hdf5_filters.BITSHUFFLE),
     ((0, 2), (1, 30, 47), hdf5_filters.BITSHUFFLE), (4, (1, *SHAPE), "gzip"), (None, (1, *SHAPE), None)],
)  # fmt: skip
def test_all_other_images_are_left_to_hdf5(options, chunk, filters, tmp_path, rng):
    values = rng.poisson(3.0, (3, *SHAPE)).astype(np.uint16)
    found, straight = read(written(tmp_path, values, options, chunk, filters), 1)
    assert np.array_equal(found, values[1]) and not straight


@needs_bitshuffle
def test_an_image_that_was_never_written_is_the_files_fill_value(tmp_path):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file.create_dataset(
            "data", (2, *SHAPE), np.uint16, chunks=(1, *SHAPE), fillvalue=5, compression=hdf5_filters.BITSHUFFLE,
            compression_opts=(0, 2),
        )  # fmt: skip
    assert (read(tmp_path / "images.h5", 1)[0] == 5).all()


@needs_bitshuffle
@pytest.mark.parametrize("spoil", [lambda chunk: chunk[:-9], lambda chunk: chunk[:5], lambda chunk: b"\0" * len(chunk)])
def test_a_damaged_chunk_is_an_error_and_no_image(spoil, tmp_path, rng):
    values = rng.poisson(3.0, (1, *SHAPE)).astype(np.uint16)
    path = written(tmp_path, values, (0, 2))
    with h5py.File(path, "r+") as file:
        data = file["data"]
        chunk = data.id.read_direct_chunk((0, 0, 0))[1]
        data.id.write_direct_chunk((0, 0, 0), spoil(chunk))
    with pytest.raises(OSError):
        read(path, 0)
