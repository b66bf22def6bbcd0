"""diffuse.report on the files of a whole run, on some of them, and on what is no run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry

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


def test_a_folder_gives_every_stage_that_is_in_it(folder):
    run(["."])
    content = json.loads((folder / "diffuse.report.json").read_text())
    assert list(content["pages"]) == ["integration", "scaling", "absolute", "map"]
    page = (folder / "diffuse.report.html").read_text()
    assert page.count('class="slices"') == 2 and "not reported" not in page
    assert {path.name for path in folder.glob("*.png")} >= {
        f"diffuse.report_{name}.png" for name in ("scaling", "absolute", "map", "map_anisotropic")
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
