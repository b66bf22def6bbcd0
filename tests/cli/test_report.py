"""diffuse.report on the files of a whole run, on some of them, and on what is no run."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.algorithms.scaling.quality import Quality
from diffuse_dials.algorithms.stills import pixel_statistics
from diffuse_dials.cli import absolute, grid, scale
from diffuse_dials.cli.report import run
from diffuse_dials.io.tables import load_table


@pytest.fixture(scope="session")
def whole_run(simulated, tmp_path_factory):
    """A folder with all that the commands wrote, from six stills; the orientations are the true ones."""
    folder = tmp_path_factory.mktemp("run")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    shutil.copy(simulated / "truth_stills.expt", "integrated.expt")
    grid.run(["integrated.expt", f"mask={simulated / 'truth_pixels.mask'}", "d_min=3", "ndiv=1,1,1"])
    scale.run(["gridded.expt", "gridded.refl", "n_shells=4", "random_orientations=2"])
    model = f"absolute.model={simulated / 'small.pdb'}"
    absolute.run(["merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl", model, "method=none"])
    patch.undo()
    return folder


@pytest.fixture
def folder(whole_run, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    shutil.copytree(whole_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def report(*arguments):
    run([*arguments, "output.png=None"])
    return json.loads(Path("diffuse.report.json").read_text())


def refused(*arguments):
    with pytest.raises(Sorry) as stop:
        run(list(arguments))
    return str(stop.value)


def test_the_summary_says_what_was_not_done(folder, caplog):
    """No background was given; a sensor's absorption that is unknown is a slope, an exposure time is not."""
    record = json.loads(Path("grid.json").read_text())
    for name in ("sensor_efficiency", "exposure_time"):
        record["corrections"][name] = {"applied": False, "reason": "it is not known."}
    Path("grid.json").write_text(json.dumps(record))
    for name in ("merged.refl", "absolute.refl"):  # a map knows that this is not what its sums were corrected for
        Path(name).unlink()
    with caplog.at_level("INFO", "dials"):
        report(".")
    said = caplog.text
    assert "WARNING: not corrected for sensor_efficiency\n" in said
    assert "Exposure times are not known: the scales" in said and "WARNING: no background was subtracted" in said


def test_a_folder_gives_every_stage_that_is_in_it(folder):
    run(["."])
    content = json.loads((folder / "diffuse.report.json").read_text())
    assert list(content["pages"]) == ["integration", "pixels", "scaling", "absolute", "map"]
    page = (folder / "diffuse.report.html").read_text()
    assert page.count('class="slices"') == 2 and "not reported" not in page
    assert {path.name for path in folder.glob("*.png")} >= {
        f"diffuse.report_{name}.png" for name in ("pixels", "scaling", "absolute", "map", "map_anisotropic")
    }


def test_its_numbers_are_those_of_the_commands(folder):
    """From the JSON and the tables that they wrote."""
    pages = report(".")["pages"]
    scaled = json.loads((folder / "diffuse.scale.json").read_text())
    assert pages["scaling"]["numbers"]["overall"] == scaled["overall"]
    assert pages["scaling"]["numbers"]["r_factor"] == scaled["r_factor"]
    merged = load_table("merged.refl")
    bars = pages["scaling"]["graphs"]["multiplicity_of_the_voxels"]["data"][0]
    assert bars["y"] == [np.count_nonzero(merged["multiplicity"] == n) for n in bars["x"]]
    assert sum(bars["y"]) == len(merged)
    cc = pages["scaling"]["graphs"]["correlation_of_random_half_maps"]["data"][0]["y"]
    assert cc == pytest.approx([shell["cc_half"] for shell in scaled["shells"]], rel=1e-4)
    assert pages["integration"]["numbers"]["cell_mean"]["a"] == pytest.approx(30, abs=0.2)


def test_what_is_read_back_is_what_was_written(folder):
    """diffuse.scale.json → Quality → the same numbers."""
    record = json.loads((folder / "diffuse.scale.json").read_text())
    again = Quality.from_dict(record).to_dict()
    assert again and {name: record[name] for name in again} == again


def test_the_pixels_that_pass_are_those_that_were_summed(folder):
    """Sums and radial totals of diffuse.grid are made by the compiled kernel, the sample by arrays."""
    numbers = report(".")["pages"]["pixels"]["numbers"]
    rows = {row["image"].rpartition("/")[2]: row for row in csv.DictReader(open("stills.csv", encoding="utf-8"))}
    totals, sums = load_table("radial_totals.refl"), load_table("gridded.refl")
    assert len(numbers["stills"]) == 3
    for label, still in numbers["stills"].items():
        row = rows[label.partition(":")[0]]
        still_id = next(i for i, name in totals.identifiers.items() if name == row["identifier"])
        of_still = totals["id"] == still_id
        assert still["n_accepted"] == int(row["n_accepted"])
        assert still["n_good"] == totals["n_pixels"][of_still].sum()
        in_map = (sums["id"] == still_id) & ~sums["bragg"]
        assert still["n_accepted"] == sums["n_pixels"][in_map].sum()
        assert still["n_pixels"] == 195 * 487 and still["n_in_mask"] >= still["n_good"] >= still["n_in_resolution"]


def test_of_a_large_detector_the_numbers_are_those_of_all_pixels(whole_run, simulated, run_in_tmp_path, monkeypatch):
    """As counted where every pixel is looked at; the Bragg mask's share is that of a sample, within 4 sigma."""
    shutil.copy(simulated / "truth_stills.expt", "integrated.expt")
    monkeypatch.setattr(pixel_statistics, "_MOST_PIXELS", 195 * 487 / 15)
    grid.run(["integrated.expt", f"mask={simulated / 'truth_pixels.mask'}", "d_min=3", "ndiv=1,1,1"])
    sampled, whole = (
        json.loads((folder / "pixel_statistics.json").read_text()) for folder in (run_in_tmp_path, whole_run)
    )
    assert (sampled["pixel_step"], sampled["sample_step"], whole["sample_step"]) == (1, 4, 1)
    for some, every in zip(sampled["stills"], whole["stills"]):
        for name in ("label", "n_pixels", "n_in_mask", "n_good", "n_accepted", "n_overloaded"):
            assert some[name] == every[name], name
        removed = every["n_in_resolution"] - every["n_accepted"]
        esd = 4 * np.sqrt(removed)  # of 16 times a number that was counted on one pixel in 16
        assert removed > 0 and some["n_in_resolution"] == pytest.approx(every["n_in_resolution"], abs=4 * esd)
        assert sum(some["raw"]) < sum(every["raw"]) / 12
    run([".", "output.png=None"])
    assert "found on one pixel in 16" in Path("diffuse.report.html").read_text()


def test_the_histograms_hold_the_photons_of_the_still(folder):
    """Mean photons of a still from its histogram and from its sums; bins are whole photons here."""
    content = json.loads((folder / "pixel_statistics.json").read_text())
    sample = content["stills"][0]
    edges = np.array(sample["edges"])
    assert np.all(np.diff(edges) == 1) and sum(sample["raw"]) >= 0.998 * sample["n_accepted"]
    rows = {row["image"].rpartition("/")[2]: row for row in csv.DictReader(open("stills.csv", encoding="utf-8"))}
    sums = load_table("gridded.refl")
    identifier = rows[sample["label"].partition(":")[0]]["identifier"]
    part = (sums["id"] == next(i for i, name in sums.identifiers.items() if name == identifier)) & ~sums["bragg"]
    mean = np.average((edges[1:] + edges[:-1]) / 2, weights=sample["raw"])
    assert mean == pytest.approx(sums["counts"][part].sum() / sums["n_pixels"][part].sum(), rel=0.02)
    corrected = np.average((edges[1:] + edges[:-1]) / 2, weights=sample["corrected"])
    intensity = sums["counts"][part].sum() / sums["response"][part].sum()  # no background here
    assert corrected == pytest.approx(intensity * sample["mean_response"], rel=0.05)


def test_factors_over_the_detector_leave_no_gap_in_a_panel(folder):
    """One Pilatus module: every cell of the picture has pixels, and the solid angle falls off from the centre."""
    maps = json.loads((folder / "pixel_statistics.json").read_text())["detector"]
    assert set(maps["factors"]) == {"solid_angle", "polarization", "sensor_efficiency", "air", "response"}
    for values in maps["factors"].values():
        assert np.isfinite(np.array(values, dtype=float)).all()
    angle = np.array(maps["factors"]["solid_angle"])
    assert angle.shape == (len(maps["y"]), len(maps["x"]))
    y, x = np.unravel_index(angle.argmax(), angle.shape)
    assert abs(maps["x"][x]) < 3 and abs(maps["y"][y]) < 3


def test_each_graph_is_data_and_layout_of_plotly(folder):
    for page in report(".")["pages"].values():
        for graph in page["graphs"].values():
            assert set(graph) == {"data", "layout"} and graph["data"] and graph["layout"]["title"]["text"]


def test_what_is_missing_is_said(folder):
    (folder / "diffuse.absolute.json").unlink()
    content = report(".")
    assert "diffuse.absolute" in content["missing"]["absolute"] and "absolute" not in content["pages"]
    assert "nothing of diffuse.absolute was found" in (folder / "diffuse.report.html").read_text()


def test_files_give_the_pages_of_their_stages(folder):
    assert list(report("integrated.expt")["pages"]) == ["integration"]
    assert list(report("gridded.expt", "gridded.refl")["pages"]) == ["pixels"]
    assert list(report("merged.expt", "merged.refl")["pages"]) == ["scaling", "map"]
    assert report("merged.expt", "merged.refl")["pages"]["map"]["numbers"]["units"] == "relative"
    assert list(report("integrated.expt", "absolute.expt", "absolute.refl")["pages"]) == [
        "integration", "absolute", "map",
    ]  # fmt: skip


def test_a_table_of_another_name_is_known_by_its_columns(folder):
    (folder / "merged.refl").rename("other.refl")
    (folder / "merged.expt").rename("other.expt")
    assert list(report("other.expt", "other.refl")["pages"]) == ["scaling", "map"]


def test_scales_are_drawn_against_any_column_of_stills_csv(folder):
    graph = report(".", "report.order=exposure_time")["pages"]["scaling"]["graphs"]["scale_of_each_still"]
    assert graph["layout"]["xaxis"]["title"]["text"] == "exposure_time"
    assert set(graph["data"][0]["x"]) == {0.1, 0.2}
    assert "report.order=nothing is no column" in refused(".", "report.order=nothing")


@pytest.mark.parametrize("argument, words", [
    ("nowhere", "There is no folder nowhere"), ("diffuse.scale.json", "neither a folder"),
    ("radial_totals.refl", "no page draws on this alone"),
])  # fmt: skip
def test_what_is_no_run_is_refused(folder, argument, words):
    assert words in refused(argument)


def test_an_empty_folder_is_refused_and_nothing_is_written(run_in_tmp_path):
    assert "Nothing to report was found" in refused(".")
    assert not list(run_in_tmp_path.glob("diffuse.report.[hj]*"))
