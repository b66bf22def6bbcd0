"""diffuse.make_mask from the command line; its files are read back by DIALS."""

from __future__ import annotations

import json
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry
from dxtbx import flumpy
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.algorithms.masking.bragg_profile import load_profile
from diffuse_dials.cli.make_mask import run

stills = runpy.run_path(str(Path(__file__).parents[1] / "algorithms" / "masking" / "conftest.py"))


@pytest.fixture
def stack(rng):
    """Six images of 40 counts with a hot pixel, a dead one and a module gap."""
    images = [rng.poisson(40.0, (96, 112)) for _ in range(6)]
    for raw in images:
        raw[30, 20], raw[50, 60], raw[80:84] = 500, 0, -1
    return images


@pytest.fixture
def files(rng, stack, run_in_tmp_path):
    """imported.expt (no crystals) and integrated.expt in the working directory."""
    bare, indexed = ExperimentList(), ExperimentList()
    for number, raw in enumerate(stack):
        still = stills["write_still"](run_in_tmp_path / f"still_{number:05d}.cbf", raw)
        bare.append(still)
        crystal = stills["crystal_at"](stills["random_orientation"](rng))
        indexed.append(stills["write_still"](run_in_tmp_path / f"still_{number:05d}.cbf", raw, crystal=crystal))
    bare.as_file("imported.expt")
    indexed.as_file("integrated.expt")
    return run_in_tmp_path


def load(path):
    with open(path, "rb") as handle:
        return pickle.load(handle)


def expected_mask(stack):
    mask = stack[0] >= 0
    mask[30, 20] = mask[50, 60] = False
    return mask


def test_the_mask_is_what_dials_reads(files, stack):
    assert run(["imported.expt", "untrusted.rectangle=0,5,0,96"]) is None
    mask = load("pixels.mask")
    expected = expected_mask(stack)
    expected[:, :5] = False
    np.testing.assert_array_equal(flumpy.to_numpy(mask[0]), expected)
    masked = ExperimentListFactory.from_json_file("masked.expt", check_format=True)
    assert len(masked) == 6
    for experiment, original in zip(masked, ExperimentListFactory.from_json_file("imported.expt", check_format=False)):
        assert experiment.identifier == original.identifier
        found = flumpy.to_numpy(experiment.imageset.get_mask(0)[0])
        assert not found[~expected].any()  # dxtbx adds its trusted range
        assert found[expected & (stack[0] > 0)].all()


def test_numbers_and_picture_are_written(files):
    run(["integrated.expt", "output.png=mask.png"])
    record = json.loads(Path("diffuse.make_mask.json").read_text())
    assert record["n_pixels"] == 96 * 112 and record["n_images"] == 6
    assert record["n_used"] == 96 * 112 - 4 * 112 - 2
    assert record["bad_pixel_positions"]["hot"] == [[0, 30, 20]]
    assert record["bad_pixel_positions"]["dead"] == [[0, 50, 60]]
    page = Path("diffuse.make_mask.html").read_text()
    assert "<svg" in page and "hot in 6 image(s)" in page
    assert Path("mask.png").read_bytes().startswith(b"\x89PNG")


def test_bragg_masks_are_written_by_identifier(files):
    run(["integrated.expt", "output.bragg_masks=bragg_masks.pickle", "bragg.radius=0.002", "mp.nproc=2"])
    masks = load("bragg_masks.pickle")
    identifiers = list(ExperimentListFactory.from_json_file("integrated.expt", check_format=False).identifiers())
    assert list(masks) == identifiers
    for mask in masks.values():
        assert mask[0].all() == (96, 112)
        assert 0.5 < flumpy.to_numpy(mask[0]).mean() < 1
    assert len({flumpy.to_numpy(mask[0]).tobytes() for mask in masks.values()}) == 6


def test_the_bragg_profile_is_written_for_the_other_commands_and_drawn(files):
    run(["integrated.expt", "output.png=mask.png"])
    profile = load_profile("bragg_profile.json")
    assert profile.n_stills == 6
    record = json.loads(Path("diffuse.make_mask.json").read_text())["bragg"]
    assert record["measured_on_stills"] == 6 and record["left_over"][0]["masked"] < 1
    page = Path("diffuse.make_mask.html").read_text()
    assert "Intensity about the lattice points" in page and page.count("<svg") == 3
    assert Path("mask_bragg.png").read_bytes().startswith(b"\x89PNG")


def test_outputs_can_be_switched_off(files):
    run(["imported.expt", "output.experiments=None", "output.json=None", "output.html=None", "dynamic.enabled=False"])
    written = {path.name for path in files.iterdir()} - {"imported.expt", "integrated.expt"}
    assert {name for name in written if not name.endswith(".cbf")} == {"pixels.mask", "diffuse.make_mask.log"}


def test_a_mask_given_is_combined_and_never_replaced(files):
    run(["imported.expt", "output.pixel_mask=first.mask", "untrusted.rectangle=0,5,0,96", "dynamic.enabled=False"])
    run(["imported.expt", "mask=first.mask", "untrusted.rectangle=100,112,0,96", "dynamic.enabled=False"])
    mask = flumpy.to_numpy(load("pixels.mask")[0])
    assert not mask[:, :5].any() and not mask[:, 100:].any() and mask[:, 5:100].all()
    before = Path("first.mask").read_bytes()
    with pytest.raises(Sorry, match="would replace an input"):
        run(["imported.expt", "mask=first.mask", "output.pixel_mask=first.mask"])
    assert Path("first.mask").read_bytes() == before


@pytest.mark.parametrize("arguments, message", [
    (["missing.expt"], "There is no file missing.expt"),
    (["imported.expt", "mask=none.mask"], "input.mask=none.mask: there is no such file"),
    (["imported.expt", "untrusted.panel=3"], "has 1 panel"),
    (["imported.expt", "d_min=0"], "d_min"),
    (["imported.expt", "output.bragg_masks=b.pickle"], "without a crystal"),
    (["integrated.expt", "bragg.method=shoebox", "output.bragg_masks=b.pickle"], "needs the .refl"),
])  # fmt: skip
def test_mistakes_end_in_one_line_and_a_status(files, arguments, message):
    with pytest.raises(Sorry) as stopped:
        run(arguments)
    assert message in str(stopped.value) and "\n" not in str(stopped.value).strip()
    assert not Path("pixels.mask").exists()


def test_the_bad_column_and_the_hot_pixel_of_snase_are_found(shared_data, run_in_tmp_path):
    """Rectangles that the pack's mask.phil draws around them by hand; the stills come without that mask."""
    path = shared_data("snase") / "integrated.expt"
    experiments = ExperimentListFactory.from_json_file(str(path), check_format=False)
    for imageset in experiments.imagesets():
        imageset.external_lookup.mask.filename = ""
    experiments.as_file("bare.expt")
    run(["bare.expt", "output.html=None", "output.experiments=None"])
    mask = flumpy.to_numpy(load("pixels.mask")[0])
    assert not mask[280:290, 186:188].any()
    assert not mask[228, 101:103].any()
    interior = mask[60:980, 60:960].copy()
    interior[270 - 60 : 300 - 60, 180 - 60 : 195 - 60] = True
    interior[222 - 60 : 235 - 60, 95 - 60 : 108 - 60] = True
    assert np.count_nonzero(~interior) < 1e-4 * interior.size
