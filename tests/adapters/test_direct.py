"""The direct reader of NXmx images against dxtbx."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffuse_dials.adapters import images
from diffuse_dials.adapters.direct import DirectReader
from diffuse_dials.adapters.experiments import load_experiments

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


def test_a_broken_or_missing_file_is_one_line_with_what_to_do(stills, tmp_path):
    image = tmp_path / "image_00001.nxs"
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(ValueError, match="grid.reader=dxtbx"):
        DirectReader().read(stills[0])
    image.unlink()
    with pytest.raises(ValueError, match="There is no image"):
        DirectReader().read(stills[0])
