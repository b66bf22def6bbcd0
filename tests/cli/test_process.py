"""diffuse.process on simulated stills, from the images to the map; each step is a process of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.cli import grid, integrate, make_mask, process, scale
from diffuse_dials.io.tables import load_table

PHIL = """
unit_cell = 30 30 25 90 90 90
space_group = P43212
d_min = 2.5
grid.ndiv = 1,1,1
export.format = mtz
merging.n_splits = 2
stills_process {
  spotfinder.filter.min_spot_size = 2
  spotfinder.filter.d_min = 2
  spotfinder.threshold.dispersion.global_threshold = 5
  indexing.stills.indexer = stills
  indexing.stills.refine_all_candidates = False
  profile.gaussian_rs.parameters.sigma_b_cutoff = None
  prediction.d_min = 2
}
"""


@pytest.fixture(scope="module")
def made(simulated, tmp_path_factory):
    """The folder of a run on four good images, a truncated one and a blank."""
    folder = tmp_path_factory.mktemp("made")
    images = folder / "images"
    images.mkdir()
    for number in range(1, 5):
        shutil.copy(simulated / "images" / f"still_{number:05d}.cbf", images / f"a{number}.cbf")
    content = (images / "a1.cbf").read_bytes()
    (images / "broken_1.cbf").write_bytes(content[: len(content) // 2])
    shutil.copy(simulated / "blanks" / "blank_00001.cbf", images / "blank_1.cbf")
    (folder / "process.phil").write_text(PHIL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        process.run([*arguments(folder), f"background={simulated / 'blank.expt'}"])
    shutil.copy(folder / "diffuse.process.log", folder / "first.log")
    return folder


def arguments(folder):
    return [*sorted(str(path) for path in (folder / "images").glob("*.cbf")), str(folder / "process.phil")]


def assert_equal_tables(name, other):
    one, two = load_table(name), load_table(other)
    assert set(one.columns) == set(two.columns)
    for column in one.columns:
        assert np.array_equal(one[column], two[column], equal_nan=one[column].dtype.kind == "f"), column


def test_the_map_is_that_of_the_commands_one_by_one(made, simulated, run_in_tmp_path):
    """No table differs in a bit, although make_mask's Bragg profile serves diffuse.grid in the one case only."""
    Path("integrate.phil").write_text(PHIL[PHIL.index("stills_process") :])
    symmetry = "stills_process.indexing.known_symmetry"
    integrate.run([
        *arguments(made)[:-1], "integrate.phil", f"{symmetry}.unit_cell=30,30,25,90,90,90",
        f"{symmetry}.space_group=P43212",
    ])  # fmt: skip
    files = sorted(str(path) for path in Path("integrated").glob("*_integrated.*"))
    expts, refls = files[::2], files[1::2]
    make_mask.run(expts)
    grid.run([*expts, *refls, "mask=pixels.mask", f"background={simulated / 'blank.expt'}", "d_min=2.5", "ndiv=1,1,1"])
    scale.run(["gridded.expt", "gridded.refl", "n_splits=2"])
    for name in ("gridded.refl", "radial_totals.refl", "scaled.refl", "merged.refl"):
        assert_equal_tables(name, made / name)


def test_every_image_is_accounted_for(made):
    with open(made / "stills.csv", newline="") as handle:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(handle)}
    assert {name: row["status"] for name, row in rows.items()} == {
        **{f"a{number}.cbf": "ok" for number in range(1, 5)}, "broken_1.cbf": "failed", "blank_1.cbf": "failed",
    }  # fmt: skip
    assert rows["broken_1.cbf"]["reason"].startswith("not read: The image cannot be read")
    assert rows["blank_1.cbf"]["reason"].startswith("too few spots")
    log = (made / "first.log").read_text()
    assert "4 of 6 images are in it" in log.splitlines()[-1] and "broken_1.cbf:0 not read" in log


def test_blocks_that_were_not_finished_are_made_again_in_their_places(made, run_in_tmp_path):
    """As two processes may leave them, the second ahead of the first; then with an image more."""
    shutil.copytree(made / "integrated", "integrated")
    images, parameters = arguments(made)[:-1], str(made / "diffuse.integrate.phil")
    blocks = {path.name: json.loads(path.read_text()) for path in sorted(Path("integrated").glob("0*.json"))}
    assert [Path(block["images"][0]["path"]).name for block in blocks.values()] == [Path(name).name for name in images]
    kept = (Path("integrated") / "00002.json").stat().st_mtime_ns
    for number in (1, 5):
        (Path("integrated") / f"{number:05d}.json").unlink()
    integrate.run([*images, parameters, "mp.nproc=1", "resume=True"])
    assert {path.name: json.loads(path.read_text()) for path in Path("integrated").glob("0*.json")} == blocks
    assert (Path("integrated") / "00002.json").stat().st_mtime_ns == kept
    shutil.copy(made / "images" / "a1.cbf", "a0.cbf")
    integrate.run(["a0.cbf", *images, parameters, "resume=True"])
    found = {path.name: json.loads(path.read_text()) for path in Path("integrated").glob("0*.json")}
    assert {name: block for name, block in found.items() if name in blocks} == blocks
    assert [Path(image["path"]).name for image in found["00006.json"]["images"]] == ["a0.cbf"] and len(found) == 7


def test_a_complete_run_is_left_as_it_is(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    before = {path: path.stat().st_mtime_ns for path in made.glob("*.refl")}
    process.run([*arguments(made), f"background={json_background(made)}", "resume=True"])
    assert {path: path.stat().st_mtime_ns for path in made.glob("*.refl")} == before
    done_before = re.findall(r"(\S+) +done before", capsys.readouterr().out)
    assert done_before == ["integrate", "make_mask", "grid", "scale", "export", "report"]


def json_background(folder):
    """The blanks that a run was given, from its record."""
    return json.loads((folder / "grid.json").read_text())["background"]["files"][0]


def test_stills_integrated_elsewhere_give_the_same_map(made, simulated, run_in_tmp_path):
    """stills.csv travels with them, failed images included."""
    files = sorted(os.path.relpath(path) for path in (made / "integrated").glob("*_integrated.*"))
    process.run([*files, str(made / "process.phil"), f"background={simulated / 'blank.expt'}", "start_from=integrated"])
    assert not Path("integrated").exists()
    for name in ("gridded.refl", "merged.refl"):
        assert_equal_tables(name, made / name)
    assert Path("stills.csv").read_text() == (made / "stills.csv").read_text()


def test_a_folder_with_images_is_none_for_results_and_files_of_others_stay_in_it(made, run_in_tmp_path):
    """A run removes what earlier ones made in its folder, by the names: 00001.cbf could be taken for a block."""
    image = shutil.copy(made / "images" / "a1.cbf", "00001.cbf")
    for folder in (".", str(run_in_tmp_path)):
        with pytest.raises(Sorry, match="^output.folder=.* holds 00001.cbf, an input of this run. Give a folder"):
            integrate.run([image, str(made / "diffuse.integrate.phil"), f"output.folder={folder}"])
    Path("results").mkdir()
    for name in ("00001.cbf", "00002_strong.cbf", "00003.json", "idx-00003.log"):
        (Path("results") / name).write_text("")
    integrate.run([image, str(made / "diffuse.integrate.phil"), "output.folder=results"])
    kept = {path.name for path in Path("results").iterdir()}
    assert {"00000.json", "00001.cbf", "00002_strong.cbf"} <= kept and not {"00003.json", "idx-00003.log"} & kept


def test_what_cannot_work_is_refused_before_anything_is_done(made, run_in_tmp_path):
    images = arguments(made)[:-1]
    for wrong, said in {
        "input.mask=none.mask": "^input.mask=none.mask: there is no such file",
        "background=blanks/*.cbf": r"^input.background=blanks/\*.cbf: there is no such file",
        "d_max=1": "^d_min=2.5 and d_max=1 leave nothing",
        "background.constant.value=2": "^background.constant.value=2 goes with background_method=constant, not none",
        "air.window=kapton": "^corrections.air.window='kapton' must be a material, its thickness",
        "sensor_efficiency.material=wood": "^There is no material 'wood' here",
        "photons_range=5,1": "^extraction.photons_range=5,1: the smaller number comes first",
        "unit_cell=30,40,25,90,90,90": "^The cell 30,40,25,90,90,90 does not fit the space group P 43 21 2",
        "grid.unit_cell=300,300,250,90,90,90": "^grid.unit_cell=300,300,250.* cannot be .*, which is 30,30,25,",
    }.items():
        with pytest.raises(Sorry, match=said):
            process.run([*images, str(made / "process.phil"), wrong])
    assert not Path("integrated").exists()


def test_a_map_made_elsewhere_is_exported_here(made, run_in_tmp_path):
    process.run([os.path.relpath(made / "merged.expt"), os.path.relpath(made / "merged.refl"), "start_from=merged",
                 "export.format=mtz"])  # fmt: skip
    assert Path("map.mtz").read_bytes() == (made / "map.mtz").read_bytes()
    assert not Path("gridded.refl").exists()


def test_files_of_the_scaled_stage_are_known_by_what_they_hold(made, run_in_tmp_path):
    """Without a composition: the map stays relative, and export and report still find it among the four."""
    for ours, theirs in (("merged", "m"), ("scaled", "s"), ("radial_totals", "t")):
        for suffix in (".expt", ".refl"):
            if (made / f"{ours}{suffix}").exists() and (ours, suffix) != ("scaled", ".refl"):
                shutil.copy(made / f"{ours}{suffix}", f"{theirs}{suffix}")
    shutil.copy(made / "grid.json", "grid.json")
    process.run(["t.refl", "s.expt", "m.refl", "m.expt", "start_from=scaled", "export.format=mtz"])
    assert Path("map.mtz").read_bytes() == (made / "map.mtz").read_bytes()
    assert Path("diffuse.report.html").exists()


def test_a_step_that_fails_says_why_in_one_line_and_how_to_go_on(made, run_in_tmp_path):
    with pytest.raises(Sorry, match="^diffuse.export stopped: [^\n]*go on with resume=True.$"):
        process.run([str(made / "gridded.expt"), str(made / "merged.refl"), "start_from=merged", "export.format=mtz"])
    assert not list(Path().glob("map*"))
