"""The direct reader of NXmx images against dxtbx."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from libtbx.phil import parse

from diffuse_dials.adapters import hdf5_filters, images
from diffuse_dials.adapters.direct import DirectReader
from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.cli.grid import phil_scope

needs_bitshuffle = pytest.mark.skipif(not hdf5_filters.use_fastest(), reason="HDF5 has no bitshuffle here")
TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def bench_data():
    """The benchmark's maker of images, as a module."""
    spec = importlib.util.spec_from_file_location("bench_data", TOOLS / "bench_data.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stills(bench_data, tmp_path):
    """Three stills on links to two images of 2 x 2 tilted panels."""
    case = bench_data.Case("small", (64, 96), 0.172, 50.0, (2, 2))
    names = bench_data.write_images(case, tmp_path, 2)
    return load_experiments(bench_data.write_stills(names, 3, tmp_path / "stills"))


def test_pixels_read_directly_are_dxtbxs(stills):
    """DIALS's own number: get_raw_data."""
    reader = DirectReader()
    for experiment in stills:
        raw, highest = reader.read(experiment)
        assert highest == 65535 and len(raw) == 4
        for panel, theirs in zip(raw, images.read_raw(experiment)):
            assert np.array_equal(panel, theirs)


def test_sentinels_are_above_the_highest_value_where_dxtbx_has_negative_ones(stills, tmp_path):
    for name in ("image_00001.nxs", "image_00002.nxs"):
        with h5py.File(tmp_path / name, "r+") as file:
            file["entry/instrument/detector/bit_depth_readout"] = 16
            file["entry/data/data"][0, 3, 5], file["entry/data/data"][0, 60, 90] = 65535, 65534
    raw, highest = DirectReader().read(stills[0])
    theirs = images.read_raw(stills[0])
    assert highest == 65533
    assert theirs[0][3, 5] == -1 and raw[0][3, 5] > highest
    assert theirs[3][28, 42] == -2 and raw[3][28, 42] > highest


def test_pixels_measured_one_by_one_are_the_same_with_either_reader(stills, tmp_path):
    """Sentinels are neither trusted nor overloaded; what else is above the trusted range is overloaded."""
    for name in ("image_00001.nxs", "image_00002.nxs"):
        with h5py.File(tmp_path / name, "r+") as file:
            file["entry/instrument/detector/bit_depth_readout"] = 16
            file["entry/data/data"][0, 3, 5:8] = 65535, 65534, 65000
    few = load_stills([tmp_path / "stills" / "stills.expt"], ())
    found = []
    for reader in ("dxtbx", "hdf5"):
        wanted = f"grid.reader = {reader}\nmasking.bragg {{\nradius = 0.01\nfound_spots = False\n}}"
        params = phil_scope.fetch(parse(wanted)).extract()
        measured = Measurement(params, few).measure(0)
        found.append([*measured.pixels, measured.totals])
    for panel, theirs in zip(*found):
        for name, values in vars(panel).items():
            assert np.array_equal(values, getattr(theirs, name)), name
    assert found[0][-1].n_overloaded.sum() == 1


def test_a_broken_or_missing_file_is_one_line_with_what_to_do(stills, tmp_path):
    image = tmp_path / "image_00001.nxs"
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(ValueError, match="grid.reader=dxtbx"):
        DirectReader().read(stills[0])
    image.unlink()
    with pytest.raises(ValueError, match="There is no image"):
        DirectReader().read(stills[0])


def bitshuffled(path, values, kind):
    """The file's images again, in another type and a chunk for each, all of them bitshuffle and LZ4."""
    with h5py.File(path, "r+") as file:
        group = file["entry/data"]
        del group["data"]
        group.create_dataset(
            "data",
            data=values.astype(kind),
            chunks=(1, *values.shape[1:]),
            compression=hdf5_filters.BITSHUFFLE,
            compression_opts=(0, 2),
        )


@needs_bitshuffle
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int32])
def test_every_type_of_whole_numbers_is_read_as_dxtbx_reads_it(kind, stills, tmp_path, rng):
    values = rng.poisson(2.0, (1, 64, 96))
    for name in ("image_00001.nxs", "image_00002.nxs"):
        bitshuffled(tmp_path / name, values, kind)
    raw, _ = DirectReader().read(stills[0])
    assert raw[0].dtype == kind
    for panel, theirs in zip(raw, images.read_raw(stills[0])):
        assert np.array_equal(panel, theirs)


@needs_bitshuffle
def test_an_image_whose_chunk_was_left_uncompressed_is_read(stills, tmp_path, rng):
    """HDF5 stores a chunk as it is where a filter was left out; the mask of the chunk says so."""
    values = rng.poisson(2.0, (1, 64, 96)).astype(np.uint16)
    bitshuffled(tmp_path / "image_00001.nxs", values, np.uint16)
    with h5py.File(tmp_path / "image_00001.nxs", "r+") as file:
        file["entry/data/data"].id.write_direct_chunk((0, 0, 0), values.tobytes(), filter_mask=1)
    raw, _ = DirectReader().read(stills[0])
    assert np.array_equal(raw[3], values[0, 32:, 48:])


def test_exposure_times_and_time_stamps_are_in_the_file_though_dxtbx_makes_no_scan_of_stills(stills, tmp_path):
    with h5py.File(tmp_path / "image_00001.nxs", "r+") as file:
        detector = file["entry/instrument/detector"]
        del detector["count_time"]
        detector["count_time"], detector["frame_time"] = 10.0, 0.012
        detector["count_time"].attrs["units"], detector["frame_time"].attrs["units"] = "ms", "s"
        file["entry/start_time"] = "2024-02-03T04:05:06Z"
    seconds = 1706933106.0  # date -d 2024-02-03T04:05:06Z +%s
    for header in (DirectReader().header, images.header):
        assert header(stills[0]) == pytest.approx((0.01, seconds), abs=1e-9)
        assert header(stills[1]) == (1.0, None)


def test_each_image_of_a_file_has_its_own_exposure_time_and_a_file_written_anew_its_new_ones(bench_data, tmp_path):
    case = bench_data.Case("small", (64, 96), 0.172, 50.0, (2, 2))
    names = bench_data.write_images(case, tmp_path, 2)
    stills = load_experiments(bench_data.write_stills(names, 3, tmp_path / "stills", master=True))
    master = tmp_path / "stills" / "master.nxs"
    for times in ([1.0, 0.0, 3.0], [5.0, 6.0, 7.0, 8.0]):
        with h5py.File(master, "r+") as file:
            detector = file["entry/instrument/detector"]
            del detector["count_time"]
            detector["count_time"] = times
        for header in (DirectReader().header, images.header):
            assert [header(still)[0] for still in stills] == [time or None for time in times[:3]]


def test_sentinels_follow_each_files_own_depth(stills, tmp_path):
    """Two files of one folder, of which only one names its depth."""
    with h5py.File(tmp_path / "image_00002.nxs", "r+") as file:
        file["entry/instrument/detector/bit_depth_readout"] = 16
    reader = DirectReader()
    assert reader.read(stills[0])[1] == 65535
    assert reader.read(stills[1])[1] == 65533


def test_a_process_that_ends_with_a_virtual_dataset_open_ends_well(bench_data, tmp_path):
    """HDF5 1.10 crashes on what it has to close itself then."""
    case = bench_data.Case("small", (64, 96), 0.172, 50.0, (2, 2))
    expt = bench_data.write_stills(bench_data.write_images(case, tmp_path, 2), 3, tmp_path / "stills", master=True)
    program = (
        "import diffuse_dials.cli\n"
        "from diffuse_dials.adapters.direct import DirectReader\n"
        "from diffuse_dials.adapters.experiments import load_experiments\n"
        f"still, reader = load_experiments({str(expt)!r})[0], DirectReader()\n"
        "print(len(reader.read(still)[0]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "4\n"), ended.stderr
