"""From simulated stills through the commands: each step runs on the files that an earlier one wrote."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cctbx import sgtbx
from dials.array_family import flex
from dials.util import Sorry
from dxtbx.model import Goniometer, Scan

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.algorithms.background import BACKGROUNDS, RadialBackground
from diffuse_dials.algorithms.gridding import define_grid, rms_delta_hkl
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.cli import extract, grid, make_mask, scale
from diffuse_dials.io.masks import save_pickle, to_flex
from diffuse_dials.io.tables import load_table
from diffuse_dials.kernels.sums import transform


def run_grid(folder, *parameters):
    grid.run([str(folder / "truth_stills.expt"), f"mask={folder / 'truth_pixels.mask'}", "d_min=2", *parameters])


def refuses(command, arguments):
    """The one line with which a command stops; DIALS shows a Sorry without traceback, with exit status 1."""
    with pytest.raises(Sorry) as stop:
        command(arguments)
    return str(stop.value)


def test_sums_from_the_images_and_from_extracted_files_are_the_same(work, tmp_path, assert_same_sums):
    background = f"background={work / 'blank.expt'}"
    run_grid(work, background, "output.reflections=direct.refl", "output.radial_totals=direct_totals.refl")
    extract.run([str(work / "truth_stills.expt"), f"mask={work / 'truth_pixels.mask'}", "d_min=2", background])
    assert_same_sums("radial_totals.refl", "direct_totals.refl")
    grid.run(["extracted.expt", "extracted_00000.refl"])
    assert_same_sums("gridded.refl", "direct.refl")
    assert json.loads((tmp_path / "grid.json").read_text())["background"]["method"] == "image"


@pytest.mark.parametrize("options", [
    "d_max=20", "pixel_step=2", "background_method=constant background.constant.value=0.5 constant.variance=0.1",
    "ndiv=2,2,2 cell=reference positions=False", "masking.bragg.method=predicted", "corrections.gain=1.7",
    "masking.bragg.radius=0.005 laue_group=P1", "photons_range=1,9", "photons_range=0.5,4.2 corrections.gain=1.7",
    "background_method=radial", "background_method=radial radial.bin_width=0.013 pixel_step=2 d_max=9",
    "background_method=radial corrections.gain=1.7 photons_range=0.5,4.2 masking.bragg.method=predicted",
])  # fmt: skip
def test_numpy_and_the_kernel_give_the_same_sums(work, options, assert_same_sums):
    """engine=numpy, step by step over all pixels, is the reference."""
    given = options.split()
    run_grid(work, *given, "output.reflections=kernel.refl", "output.radial_totals=kernel_totals.refl")
    run_grid(work, *given, "engine=numpy")
    assert_same_sums("gridded.refl", "kernel.refl")
    assert_same_sums("radial_totals.refl", "kernel_totals.refl")


@pytest.mark.parametrize("method", ["image", "radial"])
def test_blanks_are_scaled_and_taken_off_by_the_kernel_as_by_numpy(work, method, assert_same_sums):
    given = f"background={work / 'blank.expt'}", f"background_method={method}"
    run_grid(work, *given, "output.reflections=kernel.refl", "output.radial_totals=kernel_totals.refl")
    run_grid(work, *given, "engine=numpy")
    assert_same_sums("gridded.refl", "kernel.refl")
    assert_same_sums("radial_totals.refl", "kernel_totals.refl")


def test_a_background_of_all_pixels_of_a_still_goes_by_numpy_and_the_log_says_why(work, monkeypatch, caplog):
    """As another package may have one: it estimates on each still, and knows no sums over |s|."""

    class ByPixels(RadialBackground):
        by_profile = False

    run_grid(work, "background_method=radial", "engine=numpy")
    expected = Path("gridded.refl").read_bytes()
    monkeypatch.setitem(BACKGROUNDS, "radial", ByPixels)
    with caplog.at_level("INFO"):
        run_grid(work, "background_method=radial")
    assert Path("gridded.refl").read_bytes() == expected
    assert "grid.engine: numpy, because background_method=radial needs all pixels of a still" in caplog.text
    asked = "background_method=radial", "engine=numba"
    message = refuses(grid.run, [str(work / "truth_stills.expt"), "d_min=2", *asked])
    assert "grid.engine=numba was asked for, but" in message and "Leave grid.engine out" in message


@pytest.mark.parametrize("method", ["none", "radial"])
def test_the_number_of_processes_changes_no_byte(work, tmp_path, method):
    run_grid(work, f"background_method={method}")
    one = (tmp_path / "gridded.refl").read_bytes()
    run_grid(work, f"background_method={method}", "mp.nproc=2")
    assert (tmp_path / "gridded.refl").read_bytes() == one


def test_exposure_times_are_read_back_from_the_images(work, tmp_path):
    run_grid(work)
    with open(tmp_path / "stills.csv") as handle:
        measured = [float(row["exposure_time"]) for row in csv.DictReader(handle)]
    with open(work / "truth_stills.csv") as handle:
        truth = [float(row["exposure_time"]) for row in csv.DictReader(handle)]
    assert measured == pytest.approx(truth)
    assert len(set(truth)) == 2


def test_scattering_vectors_of_extracted_pixels_are_dxtbxs_own(work, rng):
    """DIALS's own number for s1 - s0 at a pixel centre, parallax included."""
    extract.run([str(work / "truth_stills.expt"), f"mask={work / 'truth_pixels.mask'}", "pixel_step=5", "d_min=3"])
    table = load_table("extracted_00000.refl")
    experiments = load_experiments("extracted.expt")
    for row in rng.integers(0, len(table), 50):
        experiment = experiments[int(table["id"][row])]
        panel = experiment.detector[int(table["panel"][row])]
        x, y, _ = table["xyzobs.px.value"][row]
        s1 = np.array(panel.get_pixel_lab_coord((x, y)))
        s = s1 / np.linalg.norm(s1) / experiment.beam.get_wavelength() - np.array(experiment.beam.get_s0())
        assert table["rlp"][row] == pytest.approx(s, abs=1e-9)  # parallax shifts are kept to 1e-8 mm
    assert 1 / np.linalg.norm(table["rlp"], axis=1).max() >= 3


def test_the_bragg_mask_only_flags_and_no_zero_count_is_lost(work):
    run_grid(work)
    table = load_table("gridded.refl")
    totals = load_table("radial_totals.refl")
    within = totals["s"] < 0.45
    assert table["bragg"].any() and not table["bragg"].all()
    # every good pixel of the totals inside the map's limit is in a sum, Bragg or not
    inner = table["n_pixels"][np.linalg.norm(table["miller_index"] / (3 * np.array([30, 30, 25])), axis=1) < 0.45].sum()
    assert inner == pytest.approx(totals["n_pixels"][within].sum(), rel=0.02)
    assert (table["counts"] == 0).any()
    assert not np.all(table["miller_index"] == 0, axis=1).any()


def test_a_pixel_step_that_leaves_no_pixel_is_refused(work):
    for command in (extract, grid):
        said = refuses(command.run, [str(work / "truth_stills.expt"), "pixel_step=5000", "d_min=3"])
        assert "pixel_step=5000 leaves no pixel of a panel" in said


def test_a_pixel_step_changes_which_pixels_are_read_and_nothing_of_a_pixel(work):
    common = [str(work / "truth_stills.expt"), f"mask={work / 'truth_pixels.mask'}", "d_min=2"]
    extract.run([*common, "output.reflections=all.refl"])
    extract.run([*common, "pixel_step=3", "output.reflections=some.refl"])
    every, some = load_table("all_00000.refl"), load_table("some_00000.refl")

    def by_place(table):
        x, y, _ = table["xyzobs.px.value"].T
        return (table["id"] * 10_000_000 + (y - 0.5) * 1000 + x - 0.5).astype(int)

    where = np.searchsorted(by_place(every), by_place(some))
    for column in ("counts", "bragg", "xyzobs.px.value"):
        assert np.array_equal(every[column][where], some[column])
    assert some["rlp"] == pytest.approx(every["rlp"][where], abs=1e-13)
    assert some["response"] == pytest.approx(every["response"][where], rel=1e-7)  # a multiple of 2⁻²⁵ of the largest
    assert len(some) == pytest.approx(len(every) / 9, rel=0.02)


def test_fractional_indices_are_the_reference_for_both_cell_policies(reference, work):
    """h = A_i⁻¹ s and h = B_ref⁻¹ U_iᵀ s of mapping.json, through Grid.to_hkl."""
    from dxtbx.model import Crystal, Experiment

    from diffuse_dials.algorithms.gridding import Grid

    data = json.loads(reference("mapping.json").read_text())
    a = np.array(data["U_i"]) @ np.array(data["B_i"])
    crystal = Crystal(*(tuple(row) for row in np.linalg.inv(a)), space_group_symbol="P1")
    for policy, key in (("own", "h_still"), ("reference", "h_common_cell")):
        chosen = Grid(
            tuple(data["cell_ref"]),
            "",
            (3, 3, 3),
            sgtbx.space_group(),
            sgtbx.space_group(),
            policy,
            np.zeros(1),
            (),
            True,
        )
        for example in data["examples"]:
            h = transform(chosen.to_hkl(Experiment(crystal=crystal)), np.array([example["s_lab"]]))
            assert h[0] == pytest.approx(example[key], abs=1e-9)


def test_non_isomorphism_is_that_of_the_strain(work):
    """Analytic: 1 % in every axis moves h by 1 % of |h|, whose rms in a sphere of radius R is R √(3/5)."""
    stills = load_stills([str(work / "truth_stills.expt")], [])
    rms = rms_delta_hkl(stills, (30 / 1.01, 30 / 1.01, 25 / 1.01, 90, 90, 90), 1.0)
    expected = 0.01 / 1.01 * np.sqrt((30**2 + 30**2 + 25**2) / 5)
    assert rms == pytest.approx(np.full(6, expected), rel=0.05)


@pytest.mark.parametrize("factor, outcome", [(1, "fine"), (1.03, "warned"), (0.97, "warned"), (1.15, "refused"),
                                             (10, "refused"), (0.1, "refused"), (float("nan"), "refused")])  # fmt: skip
def test_a_reference_cell_that_is_not_the_crystals_is_warned_of_or_refused(factor, outcome, work, caplog):
    """To 10 %, within which indexing would take the one for the other, it may be meant; beyond, or no number, not."""
    stills = load_stills([str(work / "truth_stills.expt")], [])
    params = grid.phil_scope.extract().grid
    params.unit_cell = [30 * factor, 30 * factor, 25 * factor, 90, 90, 90]
    with caplog.at_level("WARNING", "dials"):
        if outcome == "refused":
            with pytest.raises(
                ValueError, match="^grid.unit_cell=.* the crystals' cell, which is 30,30,25,90,90,90 .med"
            ):
                define_grid(params, stills, 2.0)
            return
        define_grid(params, stills, 2.0)
    said = [record.getMessage() for record in caplog.records if "grid.unit_cell" in record.getMessage()]
    assert len(said) == (outcome == "warned")
    assert not any("isomorphous" in record.getMessage() for record in caplog.records)


def test_stills_of_different_space_groups_are_refused(work):
    stills = load_stills([str(work / "truth_stills.expt")], [])
    stills.experiments[3].crystal.set_space_group(sgtbx.space_group_info("P1").group())
    with pytest.raises(ValueError, match="The stills have different space groups: P 1, .*"):
        define_grid(grid.phil_scope.extract().grid, stills, 2.0)


def test_a_broken_image_stops_the_run_or_is_skipped_and_named(work, tmp_path):
    shutil.copytree(work / "images", tmp_path / "images")
    text = (work / "truth_stills.expt").read_text().replace(str(work / "images"), str(tmp_path / "images"))
    (tmp_path / "stills.expt").write_text(text)
    broken = tmp_path / "images" / "still_00002.cbf"
    broken.write_bytes(broken.read_bytes()[:3000])
    (tmp_path / "images" / "still_00004.cbf").unlink()
    arguments = ["stills.expt", f"mask={work / 'truth_pixels.mask'}", "d_min=2"]
    assert "still_0000" in refuses(grid.run, arguments)
    assert not (tmp_path / "gridded.refl").exists()
    grid.run([*arguments, "skip_failed=True"])
    with open(tmp_path / "stills.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "failed", "ok", "ok"]
    assert "still_00002" in rows[1]["reason"] and "no image" in rows[3]["reason"]
    assert set(load_table("gridded.refl")["id"]) == {0, 2, 4, 5}


@pytest.mark.parametrize("command", [extract, grid])
@pytest.mark.parametrize("left", [0, 200])
def test_the_first_image_may_be_one_that_fails(command, left, work, tmp_path):
    """Missing, or cut off in its header: what all stills share is then worked out with the next."""
    shutil.copytree(work / "images", tmp_path / "images")
    text = (work / "truth_stills.expt").read_text().replace(str(work / "images"), str(tmp_path / "images"))
    (tmp_path / "stills.expt").write_text(text)
    first = tmp_path / "images" / "still_00001.cbf"
    content = first.read_bytes()[:left]
    first.unlink()
    if left:
        first.write_bytes(content)
    arguments = ["stills.expt", f"mask={work / 'truth_pixels.mask'}", "d_min=2", "pixel_step=4"]
    assert "still_00001.cbf" in refuses(command.run, arguments)
    assert "still_00001.cbf" in refuses(make_mask.run, ["stills.expt"])
    command.run([*arguments, "skip_failed=True"])
    with open(tmp_path / "stills.csv") as handle:
        assert [row["status"] for row in csv.DictReader(handle)] == ["failed"] + 5 * ["ok"]


def test_images_of_a_rotation_are_no_stills(work):
    """As dials.integrate writes them: the orientation of the crystal model is that at 0°, not that of the image."""
    experiments = load_experiments(work / "truth_stills.expt")
    experiments[2].goniometer, experiments[2].scan = Goniometer((1.0, 0.0, 0.0)), Scan((1, 1), (10.0, 0.5))
    save_experiments(experiments, "rotation.expt")
    for command in (extract, grid, make_mask):
        said = refuses(command.run, ["rotation.expt"])
        assert said.startswith("rotation.expt holds images of a rotation, 0.5° each. Give stills: dials.import")
    experiments[2].scan = Scan((1, 1), (10.0, 0.0))
    save_experiments(experiments, "stills.expt")
    assert len(load_stills(["stills.expt"], [])) == 6


def test_mistakes_get_one_line_and_no_output(work, tmp_path):
    stills = str(work / "truth_stills.expt")
    assert "no file nowhere.expt" in refuses(grid.run, ["nowhere.expt"])
    assert "mix the axes a and b" in refuses(grid.run, [stills, "ndiv=2,3,1"])
    assert "smaller than d_max" in refuses(grid.run, [stills, "d_min=3", "d_max=2"])
    assert "Give each still once" in refuses(grid.run, [stills, stills])
    assert "Give each still once" in refuses(make_mask.run, [stills, stills])
    assert "without a crystal" in refuses(extract.run, [str(work / "blank.expt")])
    assert "No pixel of" in refuses(grid.run, [stills, "d_min=900", "d_max=1000"])
    table = flex.reflection_table()
    table["intensity"] = flex.double(3)
    table.as_file("other.refl")
    assert "no column id" in refuses(grid.run, [stills, "other.refl"])
    table["id"], table["miller_index"] = flex.int(3, 0), flex.miller_index(3)
    table.experiment_identifiers()[0] = "stranger"
    table.as_file("other.refl")
    assert "refers to experiment stranger" in refuses(grid.run, [stills, "other.refl"])
    assert not list(tmp_path.glob("gridded*")) and not list(tmp_path.glob("extracted*"))


def test_a_correction_without_what_it_needs_is_recorded_or_stops_the_run(work, tmp_path):
    experiments = load_experiments(work / "truth_stills.expt")
    for experiment in experiments:
        for panel in experiment.detector:
            panel.set_mu(0)
            panel.set_thickness(0)
    save_experiments(experiments, "no_sensor.expt")
    arguments = ["no_sensor.expt", "d_min=2"]
    grid.run(arguments)
    record = json.loads((tmp_path / "grid.json").read_text())["corrections"]["sensor_efficiency"]
    assert record["applied"] is False and "thickness" in record["reason"]
    assert "thickness" in refuses(grid.run, [*arguments, "sensor_efficiency.apply=True"])
    grid.run([*arguments, "sensor_efficiency.material=Si", "sensor_efficiency.thickness=0.32"])
    assert json.loads((tmp_path / "grid.json").read_text())["corrections"]["sensor_efficiency"]["applied"] is True


def test_blanks_are_scaled_to_the_exposure_of_each_still(work):
    """The radial totals of all stills hold the same pixels: their background is exposure x one rate, to rounding."""
    run_grid(work, f"background={work / 'blank.expt'}")
    totals, table = load_table("radial_totals.refl"), load_table("gridded.refl")
    with open(work / "truth_stills.csv") as handle:
        exposure = np.array([float(row["exposure_time"]) for row in csv.DictReader(handle)])
    rate = np.bincount(totals["id"], totals["background"]) / exposure
    assert rate == pytest.approx(np.full(6, rate[0]), rel=1e-9)
    run_grid(work, "background_method=none")
    plain = load_table("gridded.refl")
    assert not plain["background"].any()
    assert np.array_equal(table["counts"], plain["counts"])
    # each term of the variance: the still's own counts, and the blanks' scaled to its exposure
    assert np.all(table["variance"] >= table["counts"])


def test_scaling_follows_on_the_files_of_gridding(work):
    run_grid(work, f"background={work / 'blank.expt'}")
    scale.run(["gridded.expt", "gridded.refl"])
    with open("stills.csv") as handle:
        rows = list(csv.DictReader(handle))
    with open(work / "truth_stills.csv") as handle:
        truth = np.array([float(row["scale"]) for row in csv.DictReader(handle)])
    found = np.array([float(row["scale"]) for row in rows])
    # 5 photons in 90 000 pixels: a scale is known to about 0.3 %, with the blanks' noise on top
    assert found / found.mean() == pytest.approx(truth / truth.mean(), rel=0.03)


def test_a_single_still_is_a_map_with_its_own_noise_and_empty_statistics(work):
    """Half of one still is no still: its columns say "not measured" (variance -1)."""
    save_experiments(load_experiments(work / "truth_stills.expt")[:1], "one.expt")
    grid.run(["one.expt", f"mask={work / 'truth_pixels.mask'}", "d_min=2"])
    scale.run(["gridded.expt", "gridded.refl"])
    merged = load_table("merged.refl")
    assert merged["multiplicity"].max() == 1
    halves = np.sort([merged[f"multiplicity.half{i}"].max() for i in (1, 2)])
    assert halves.tolist() == [0, 1]
    empty = 1 if merged["multiplicity.half1"].max() == 0 else 2
    assert np.all(merged[f"intensity.half{empty}.variance"] == -1)


def test_a_radial_background_is_in_the_map_and_not_in_the_radial_totals(work, tmp_path):
    """What is isotropic in a still goes, the blanks first; the totals keep what was measured."""
    background = f"background={work / 'blank.expt'}"
    run_grid(work, background)
    blanks, blank_totals = load_table("gridded.refl"), load_table("radial_totals.refl")
    run_grid(work, background, "background_method=radial")
    table, totals = load_table("gridded.refl"), load_table("radial_totals.refl")
    record = json.loads((tmp_path / "grid.json").read_text())
    assert record["isotropic_removed"] is True and record["background"]["blanks_first"]["method"] == "image"
    assert np.array_equal(totals["background"], blank_totals["background"])
    assert np.array_equal(table["counts"], blanks["counts"])
    kept = ~table["bragg"]
    left = (table["counts"] - table["background"])[kept].sum()
    assert abs(left) < 0.01 * (blanks["counts"] - blanks["background"])[kept].sum()
    scale.run(["gridded.expt", "gridded.refl"])
    with open("stills.csv") as handle:
        found = np.array([float(row["scale"]) for row in csv.DictReader(handle)])
    with open(work / "truth_stills.csv") as handle:
        truth = np.array([float(row["scale"]) for row in csv.DictReader(handle)])
    # six stills share few voxels, and a voxel is as wide as the features of this small crystal: 5 % each
    assert found / found.mean() == pytest.approx(truth / truth.mean(), rel=0.2)
    run_grid(work, "background_method=radial")
    assert not load_table("radial_totals.refl")["background"].any()


def test_bragg_masks_of_single_stills_stand_for_the_lattice_mask_they_were_made_from(work, assert_same_sums):
    """make_mask writes the masks of a radius; a smaller radius and the file give the sums of that radius."""
    expt, radius = str(work / "truth_stills.expt"), "masking.bragg.radius=0.006"
    make_mask.run([expt, radius, "dynamic.enabled=False", "output.bragg_masks=bragg.pickle", "output.html=None"])
    run_grid(work, radius, "output.reflections=own.refl")
    for engine in ("numba", "numpy"):
        run_grid(work, "masking.bragg.radius=0.001", "bragg_masks=bragg.pickle", f"engine={engine}")
        assert_same_sums("gridded.refl", "own.refl")


def test_bragg_masks_of_other_stills_are_refused(work):
    save_pickle({"another": to_flex([np.ones((195, 487), dtype=bool)])}, "bragg.pickle")
    assert "has no mask for still" in refuses(grid.run, [str(work / "truth_stills.expt"), "bragg_masks=bragg.pickle"])
    save_pickle({"another": to_flex([np.ones((10, 10), dtype=bool)])}, "bragg.pickle")
    assert "the detector has" in refuses(grid.run, [str(work / "truth_stills.expt"), "bragg_masks=bragg.pickle"])
