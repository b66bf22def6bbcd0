"""Mistakes that every command finds before it works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dials.util import Sorry
from libtbx import Auto

from diffuse_dials import library as diffuse
from diffuse_dials.algorithms.scaling.agreement import compare_scales
from diffuse_dials.cli import compare, export, extract, grid, integrate, make_mask, process, scale
from diffuse_dials.io.atomic import write_text


def refused(command, *arguments):
    with pytest.raises(Sorry) as stop:
        command.run([str(argument) for argument in arguments])
    return str(stop.value)


@pytest.fixture
def stills(work, run_in_tmp_path):
    shutil.copy(work / "truth_stills.expt", "stills.expt")
    return run_in_tmp_path / "stills.expt"


def only_inputs_are_left(folder, *inputs):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".log") == sorted(inputs)


def test_an_output_replaces_no_input_and_no_other_output(work, stills, run_in_tmp_path):
    mask = shutil.copy(work / "truth_pixels.mask", "pixels.mask")
    before = stills.read_bytes()
    for command, *arguments in (
        (grid, stills, "output.experiments=./stills.expt"), (make_mask, stills, f"mask={mask}"),
        (make_mask, "stills.expt", f"output.experiments={stills}"),
    ):  # fmt: skip
        assert "would replace an input of this run. Give it another name." in refused(command, *arguments)
    said = refused(grid, stills, "output.radial_totals=gridded.refl")
    assert "output.radial_totals=gridded.refl would replace output.reflections of the same name" in said
    assert stills.read_bytes() == before and only_inputs_are_left(run_in_tmp_path, "stills.expt", "pixels.mask")


@pytest.mark.parametrize("output", ["grid", "radial_totals", "stills", "log"])
def test_an_output_that_cannot_be_written_stops_a_run_before_its_work(output, stills, run_in_tmp_path):
    (run_in_tmp_path / "file").write_text("no folder")
    suffix = {"radial_totals": ".refl"}.get(output, ".x")
    said = refused(grid, stills, f"output.{output}=file/a/b{suffix}")
    assert said.startswith(f"output.{output}=file/a/b{suffix} cannot be written: ") and "file is no folder" in said
    assert only_inputs_are_left(run_in_tmp_path, "stills.expt", "file")


@pytest.mark.parametrize("place, why", [("file/a/b.txt", "Not a directory"), ("folder", "Is a directory")])
def test_a_place_that_takes_no_file_is_one_clear_line(place, why, run_in_tmp_path):
    """Found by the writing itself, where it became one while the command ran."""
    (run_in_tmp_path / "file").write_text("no folder")
    (run_in_tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=f"^Cannot write {place}: {why}. Check the folder"):
        write_text("text", place)
    assert sorted(path.name for path in run_in_tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "option, words",
    [
        ("corrections.gain=inf", "corrections.gain element is greater than the maximum"),
        ("corrections.gain=0", "less than the minimum"), ("corrections.exposure_time=0", "less than the minimum"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_photons_are_refused(option, words, stills, run_in_tmp_path):
    assert words in refused(grid, stills, option)
    assert only_inputs_are_left(run_in_tmp_path, "stills.expt")


@pytest.mark.parametrize(
    "command, option, words",
    [
        (grid, "quality.sample_stills=None", "quality.sample_stills=None: give a whole number, or leave"),
        (compare, "compare.n_shells=Auto", "compare.n_shells=Auto: give a whole number, or leave"),
        (grid, "extraction.lattices=None", "extraction.lattices=None: give one of first, refuse, or leave"),
        (grid, "output.experiments=None", "output.experiments=None: give a name, or leave"),
        (scale, "input.bragg=Auto", "input.bragg=Auto: give a name, or leave"),
        (grid, 'output.grid=""', "output.grid= is no name of a file. Give one, such as grid.json."),
        (make_mask, "masking.resolution_range=nan,3", "masking.resolution_range=nan is no number"),
        (make_mask, "output.png=/", "output.png=/ is no name of a file. Give one, such as png.out."),
        (make_mask, "masking.bragg.profile=no.json", "masking.bragg.profile=no.json: there is no such file. Check"),
        (make_mask, "masking.bragg.method=shoebox", "method=shoebox needs the .refl of the stills. Give it"),
        (make_mask, "d_max=1e30", "greater than the maximum allowed value: 1e+30 > 1000000000"),
        (grid, "corrections.sensor_efficiency.thickness=1e30", "greater than the maximum allowed value"),
        (grid, "output.grid=/", "output.grid=/ is no name of a file. Give one, such as grid.json."),
        (scale, "merging.n_splits=nan", "merging.n_splits=nan: cannot convert float NaN to integer. Give one such as"),
        (grid, "air.pressure=1e30", "pressure element is greater than the maximum allowed value: 1e+30 > 10000000"),
        (grid, "background.constant.value=2", "background.constant.value=2 goes with background_method=constant, not"),
        (grid, "smooth=1e9", "background.image.smooth element is greater than the maximum allowed value"),
        (extract, "radial.rejection=1e300", "background.radial.rejection element is greater than the maximum"),
        (extract, "spot_radius=1e300", "masking.bragg.spot_radius element is greater than the maximum allowed value"),
        (extract, "domain_size=1e300", "masking.bragg.domain_size element is greater than the maximum allowed value"),
        (extract, "mp.nproc=1e30", "mp.nproc element is greater than the maximum allowed value"),
        (make_mask, "masking.edge=1e30", "masking.edge element is greater than the maximum allowed value"),
        (process, "unit_cell=79,79", "unit_cell=79,79,1,90,90,90 is no unit cell of a crystal: its edges must be"),
        (integrate, "known_symmetry.unit_cell=1,2", "known_symmetry.unit_cell=1,2,1,90,90,90 is no unit cell of a"),
        (process, "unit_cell=inf", "unit_cell=inf,1,1,90,90,90 is no unit cell of a crystal: its edges must be"),
        (process, "space_group=P999", "space_group=P999: cctbx Error: Space group symbol not recognized: P999. Give"),
        (process, "unit_cell=1,2,3,90,90,190", "190: Unit cell angle is greater than or equal to 180 degrees. Give"),
        (grid, "grid.laue_group=P999", "grid.laue_group=P999: there is no space group P999. Give a Hermann"),
    ],
)  # fmt: skip
def test_values_that_are_none_are_named_with_what_to_give(command, option, words, stills, run_in_tmp_path):
    """Every type of PHIL lets None and Auto through; what cctbx raises names no parameter."""
    said = refused(command, stills, option)
    assert words in said and "\n" not in said
    assert only_inputs_are_left(run_in_tmp_path, "stills.expt")


@pytest.mark.parametrize(
    "parameter, content, words",
    [
        ("input.bragg_masks", b"{}", "is no mask that can be read (invalid load key, '{'). Give the bragg_masks"),
        ("input.mask", b"{}", "is no mask that can be read (invalid load key, '{'). Give a .mask file of dials"),
        ("masking.bragg.profile", b"text", "cannot be used as masking.bragg.profile: Expecting value"),
        ("input.background", b"text", "cannot be read as a DIALS experiment list"),
    ],
)
def test_files_of_another_kind_are_named_with_what_to_give(parameter, content, words, stills, run_in_tmp_path):
    (run_in_tmp_path / "file").write_bytes(content)
    said = refused(grid, stills, f"{parameter}=file", "d_min=3")
    assert words in said and said.startswith("file ") and "\n" not in said


def test_blanks_without_images_are_refused(work, stills, run_in_tmp_path):
    said = refused(grid, stills, f"background={work / 'truth.expt'}", "d_min=3")
    assert said.endswith("truth.expt has experiments without an image. Give blank exposures, an .expt of dials.import.")


@pytest.mark.parametrize(
    "option, words",
    [
        ("input.reference_geometry=no.expt", "There is no file no.expt. Check the name"),
        ("input.reference_geometry=text", "text cannot be read as a DIALS experiment list"),
        ("spotfinder.lookup.mask=text", "text is no mask that can be read"),
        ("integration.lookup.mask=no.mask", "There is no file no.mask. Check the name"),
        ("input.max_images=0", "stills_process.input.max_images=0 leaves no image. Give 1 or more."),
    ],
)
def test_files_and_numbers_for_stills_process_are_refused_before_the_first_image(option, words, stills):
    Path("text").write_text("text")
    said = refused(integrate, stills, f"stills_process.{option}")
    assert words in said and "\n" not in said
    said = refused(integrate, "stills_process.input.file_list=no.txt")
    assert said.startswith("stills_process.input.file_list=no.txt: there is no such file. Check")
    assert only_inputs_are_left(stills.parent, "stills.expt", "text")


def test_a_parameter_file_is_no_hiding_place_for_a_wrong_value(stills, run_in_tmp_path):
    (run_in_tmp_path / "cell.phil").write_text("d_min = 2\nspace_group = P999\n")
    assert refused(process, "cell.phil").startswith("space_group=P999: cctbx Error: Space group symbol")


def test_parameters_of_another_command_in_a_file_are_named_with_their_place(work, stills, run_in_tmp_path):
    """stills_process.phil given to diffuse.integrate as it is, the likeliest of them."""
    shutil.copy(work / "stills_process.phil", "theirs.phil")
    said = refused(integrate, stills, "theirs.phil")
    assert said.startswith('output.integration_pickle (file "theirs.phil", line 3) and ') and "\n" not in said
    assert said.endswith(" more are no parameter of this command. Those of dials.stills_process stand in "
                         "stills_process { ... }.")  # fmt: skip
    (run_in_tmp_path / "ours.phil").write_text("d_min = 2\nndviv = 1,1,1\n")
    said = refused(grid, stills, "ours.phil")
    assert said == 'ndviv (file "ours.phil", line 2) is no parameter of this command. -c -e2 lists all of them.'


def test_none_and_auto_mean_the_default_or_the_choice_of_that_name():
    """Of a choice PHIL itself makes Auto of "Auto", and None of "none"."""
    for given in ("compare.column=Auto", "compare.column=auto"):
        assert diffuse.parameters("compare", given).compare.column == "Auto"
    assert diffuse.parameters("absolute", "absolute.method=None").absolute.method == "none"
    assert diffuse.parameters("grid", "grid.laue_group=None").grid.laue_group is Auto
    assert diffuse.parameters("absolute", "solvent=none").absolute.solvent is None
    assert diffuse.parameters("grid", "d_min=Auto").d_min is None
    assert diffuse.parameters("make_mask", "output.json=None").output.json is None
    with pytest.raises(ValueError, match="compare.n_shells=None: give a whole number"):
        diffuse.parameters("compare", "n_shells=None")


@pytest.mark.parametrize("content", [b"image,scale\na.cbf,1\n", b"identifier\n\xff\xfe\x00"])
def test_a_table_of_the_stills_that_cannot_be_read_stops_a_run_before_its_work(content, stills, run_in_tmp_path):
    (run_in_tmp_path / "stills.csv").write_bytes(content)
    assert "stills.csv" in refused(grid, stills)
    assert only_inputs_are_left(run_in_tmp_path, "stills.expt", "stills.csv")


def test_tables_of_spreadsheets_are_read_and_others_named(run_in_tmp_path):
    """Spreadsheets put a byte order mark before the first name."""
    (run_in_tmp_path / "a.csv").write_text("\ufeffimage,scale\na.cbf,2\n", encoding="utf-8")
    (run_in_tmp_path / "b.csv").write_bytes("image,scale\nä.cbf,1\n".encode("latin-1"))
    assert compare_scales("a.csv", "a.csv").factor == 1
    with pytest.raises(ValueError, match="b.csv cannot be read as a CSV file in UTF-8"):
        compare_scales("a.csv", "b.csv")


def test_a_map_goes_to_no_file_that_it_came_from(stills):
    assert "would replace an input" in refused(export, stills, f"output.json={stills}")


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
@pytest.mark.parametrize(
    "command, given, words",
    [
        ("grid", ["nothing.expt", "mp.method=mpi"], "There is no file nothing.expt. Check the name and the folder."),
        ("extract", ["stills.expt", "mp.method=mpi", "pixel_step=-1"], "pixel_step element is less than the minimum"),
        ("scale", ["stills.expt"], "MPI started 2 processes of this command, but mp.method is multiprocessing. Add"),
        ("export", ["stills.expt"], "MPI started 2 processes of this command, which uses one. Leave mpirun out."),
        ("process", ["a.cbf"], "MPI started 2 processes of this command, which is one process and starts the ranks"),
    ],
)
def test_a_mistake_is_said_once_and_not_by_every_rank(command, given, words, stills, run_in_tmp_path):
    run = [sys.executable, "-c", f"import diffuse_dials\nfrom diffuse_dials.cli.{command} import run\nrun()", *given]
    # without what a stills_process in this process leaves there of MPI, with which mpirun ends without a word
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "ORTE_"))}
    ranks = subprocess.run(
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *run], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert ranks.returncode != 0 and "Traceback" not in ranks.stderr
    assert ranks.stderr.count("Sorry: ") == 1 and words in ranks.stderr
    assert only_inputs_are_left(run_in_tmp_path, "stills.expt")
