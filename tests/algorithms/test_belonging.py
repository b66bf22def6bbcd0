"""Files of different runs, or of different stages, given together; and a grid.json that is another's."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.algorithms.belonging import check_sums_record, map_differs
from diffuse_dials.algorithms.scaling.inputs import load_gridded
from diffuse_dials.cli import absolute, compare, export, extract, grid, process, report, scale
from diffuse_dials.io.records import load_grid_record, save_grid_record
from diffuse_dials.io.tables import load_table

SCALED = ("scaled.expt", "radial_totals.refl", "model.pdb")


@pytest.fixture(scope="module")
def runs(simulated, tmp_path_factory):
    """Three runs from stills to map: a, b of other stills of the crystal, fine of the stills of a in smaller voxels."""
    folder = tmp_path_factory.mktemp("runs")
    stills = load_experiments(simulated / "truth_stills.expt")
    with pytest.MonkeyPatch.context() as patch:
        for name, part, ndiv in (("a", stills[:4], 1), ("b", stills[2:], 1), ("fine", stills[:4], 2)):
            (folder / name).mkdir()
            patch.chdir(folder / name)
            save_experiments(part, "stills.expt")
            shutil.copy(simulated / "model.pdb", "model.pdb")
            grid.run(["stills.expt", "d_min=3", f"ndiv={ndiv},{ndiv},{ndiv}", f"grid.store={name == 'fine'}"])
            sums = "gridded.h5" if name == "fine" else "gridded.refl"
            scale.run(["gridded.expt", sums, "n_splits=1", "exclude_lattice_points=False"])
        for name in "a", "b":
            patch.chdir(folder / name)
            absolute.run(["merged.expt", "merged.refl", *SCALED])
    return folder


@pytest.fixture
def work(runs, run_in_tmp_path):
    """A copy of them, in which the test runs."""
    shutil.copytree(runs, run_in_tmp_path, dirs_exist_ok=True)
    return run_in_tmp_path


def refused(command, *arguments) -> str:
    with pytest.raises(Sorry) as stop:
        command.run([*arguments, "output.log=None"])
    assert "\n" not in str(stop.value)
    return str(stop.value)


def changed(folder: str, **values) -> None:
    record = load_grid_record(f"{folder}/gridded.expt")
    save_grid_record(replace(record, **values), f"{folder}/grid.json")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"ndiv": (2, 2, 2)}, "its ndiv is 2,2,2, that of the sums 1,1,1"),
        ({"ndiv": (1, 1, 3)}, "its ndiv is 1,1,3, that of the sums 1,1,1"),
        ({"unit_cell": (40.0, 40.0, 25.0, 90.0, 90.0, 90.0)}, "its unit_cell is 40,40,25,90,90,90, that of the stills"),
        ({"space_group": "P 1"}, "its space_group P 1 has another asymmetric unit"),
        ({"space_group": "P 4", "laue_group": "P 4/m"}, "its space_group P 4 has another asymmetric unit"),
    ],
)
def test_a_grid_json_of_another_run_beside_sums_is_refused(work, values, words):
    changed("a", **values)
    said = refused(scale, "a/gridded.expt", "a/gridded.refl")
    assert said.startswith("a/grid.json is not that of a/gridded.refl: ") and words in said
    assert said.endswith("Put the grid.json there that diffuse.grid wrote in the same run.")
    assert not (work / "merged.refl").exists()


def test_a_grid_json_of_another_run_beside_a_store_is_refused(work):
    changed("fine", ndiv=(3, 3, 3))
    said = refused(scale, "fine/gridded.expt", "fine/gridded.h5")
    assert "fine/grid.json is not that of fine/gridded.h5: its ndiv is 3,3,3, that of the sums 2,2,2" in said


def test_sums_of_crystals_in_other_orientations_are_doubted(work, caplog):
    """No ndiv explains them, so it is not grid.json that is wrong."""
    gridded = load_gridded(["a/gridded.expt"], ["a/gridded.refl"])
    assert "elsewhere on the detector" not in caplog.text
    for still in gridded.experiments:
        still.crystal.rotate_around_origin((1.0, 2.0, 3.0), 40.0, True)
    check_sums_record("a/gridded.refl", gridded.sums, gridded.experiments, gridded.record)
    assert "The sums of a/gridded.refl lie elsewhere on the detector" in caplog.text


@pytest.mark.parametrize("policy", ["own", "reference"])
def test_sums_fit_their_own_grid_json_whatever_its_cell_policy(simulated, run_in_tmp_path, policy):
    """Voxels of a few pixels and cells that differ: every sum lies within half a voxel of its centre."""
    grid.run([f"{simulated}/truth_stills.expt", "d_min=2.5", "ndiv=7,7,7", f"grid.cell={policy}"])
    gridded = load_gridded(["gridded.expt"], ["gridded.refl"])
    check_sums_record("gridded.refl", gridded.sums, gridded.experiments, gridded.record)
    with pytest.raises(ValueError, match="its ndiv is 6,6,6, that of the sums 7,7,7"):
        other = replace(gridded.record, ndiv=(6, 6, 6))
        check_sums_record("gridded.refl", gridded.sums, gridded.experiments, other)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"ndiv": (2, 2, 2)}, "by its unit_cell 30,30,25,90,90,90 and ndiv 2,2,2 voxel"),
        (
            {"unit_cell": (40.0, 40.0, 25.0, 90.0, 90.0, 90.0)},
            "by its unit_cell 40,40,25,90,90,90 and ndiv 1,1,1 voxel",
        ),
        ({"space_group": "P 4 3 2"}, "some of its voxels are symmetry mates in the space_group P 4 3 2"),
    ],
)
def test_a_grid_json_of_another_run_beside_a_map_is_refused_by_all_in_the_same_words(work, values, words):
    changed("a", **values)
    for command, *arguments in (
        (absolute, *(f"a/{name}" for name in ("merged.expt", "merged.refl", *SCALED))), (export, "a/merged.refl"),
        (export, "a/merged.expt", "a/merged.refl"), (compare, "a/merged.refl", "b/merged.refl"),
    ):  # fmt: skip
        said = refused(command, *arguments)
        if command is not compare or "has laue_group" not in said and "has ndiv" not in said:
            assert said.startswith(f"a/grid.json is not that of a/merged.refl: {words}"), said


@pytest.mark.parametrize(
    "experiments, table",
    [
        ("a/absolute.expt", "a/merged.refl"), ("a/merged.expt", "a/absolute.refl"), ("b/merged.expt", "a/merged.refl"),
        ("b/absolute.expt", "a/absolute.refl"), ("b/scaled.expt", "a/scaled.refl"),
        ("b/gridded.expt", "a/gridded.refl"),
    ],
)  # fmt: skip
def test_a_table_is_exported_with_its_own_experiments_only(work, experiments, table):
    said = refused(export, experiments, table)
    assert said.startswith(f"{table} refers to experiment ") and f"which {experiments} does not hold." in said
    assert not list(work.glob("map*")) and not list(work.glob("sums*"))


def test_an_experiment_of_another_grid_or_of_stills_is_none_of_a_map(work):
    for experiments in "fine/merged.expt", "a/scaled.expt":
        said = refused(export, experiments, "a/merged.refl")
        assert said.startswith(
            f"{experiments} is not the experiment of the map a/merged.refl: it must hold one crystal"
        )


def test_the_map_and_the_scales_are_of_one_run(work):
    map_of_a = ("a/merged.expt", "a/merged.refl")
    said = refused(absolute, *map_of_a, "b/scaled.expt", "b/radial_totals.refl", "a/model.pdb")
    assert "a/merged.refl was not merged from the stills of b/scaled.expt with the scales in it" in said
    said = refused(absolute, *map_of_a, "a/absolute_models.expt", "a/radial_totals.refl", "a/model.pdb")
    assert "a/absolute_models.expt holds scales in absolute units, by diffuse.absolute. Give scaled.expt." in said
    said = refused(absolute, "a/absolute.expt", "a/absolute.refl", *(f"a/{name}" for name in SCALED))
    assert "a/absolute.refl is on an absolute scale already. Give merged.expt and merged.refl." in said
    # scaled again in another way: the same stills with other scales
    scale.run(["a/gridded.expt", "a/gridded.refl", "n_splits=1", "scale.model=still_b"])
    said = refused(absolute, *map_of_a, "scaled.expt", "a/radial_totals.refl", "a/model.pdb")
    assert "a/merged.refl was not merged from the stills of scaled.expt" in said


def test_maps_of_one_run_are_linked_as_dials_links_tables(work):
    for name in "merged", "absolute":
        (experiment,), table = load_experiments(f"a/{name}.expt"), load_table(f"a/{name}.refl")
        assert table.identifiers == {0: experiment.identifier} and len(experiment.identifier) == 32
        assert not table["id"].any()
    export.run(["a/absolute.expt", "a/absolute.refl", "format=npz"])
    assert (work / "map.npz").exists()


def test_maps_of_different_grids_are_not_compared(work):
    (work / "fine" / "grid.json").unlink()  # which says it, where it is there
    said = refused(compare, "a/merged.refl", "fine/merged.refl")
    assert said.startswith("fine/merged.refl has another grid than a/merged.refl: by its unit_cell")


def test_a_map_without_resolutions_is_held_against_the_symmetry_alone(work):
    table, record = load_table("a/merged.refl"), load_grid_record("a/merged.refl")
    assert map_differs(table, record) is None
    del table.columns["d"]
    assert map_differs(table, replace(record, ndiv=(2, 2, 2))) is None
    table.columns["miller_index"] = np.repeat(table["miller_index"], 2, axis=0)
    assert "symmetry mates" in map_differs(table, record)


def test_sums_are_neither_a_map_to_compare_nor_one_to_start_from(work):
    assert "a/gridded.refl has no column intensity" in refused(compare, "a/gridded.refl", "a/merged.refl")
    said = refused(process, "a/gridded.expt", "a/gridded.refl", "start_from=scaled")
    assert "a/gridded.refl holds no map" in said and not list(work.glob("sums*"))


def test_a_report_says_what_does_not_belong_together(work):
    said = refused(report, "a/absolute.expt", "a/merged.refl")
    assert said.startswith("a/absolute.expt is not the experiment of a/merged.refl. Give the .expt and .refl that one")
    shutil.copy("b/merged.expt", "a/merged_of_b.expt")
    said = refused(report, "a/merged_of_b.expt", "a/merged.refl", "a/absolute.expt", "a/absolute.refl")
    assert said.startswith("a/merged_of_b.expt is not the experiment of a/absolute.refl or a/merged.refl.")
    report.run([*(f"a/{name}" for name in ("merged.expt", "merged.refl", "absolute.expt", "absolute.refl")),
                "output.html=None", "output.png=None"])  # fmt: skip
    changed("a", ndiv=(2, 2, 2))
    assert "a/grid.json is not that of a/merged.refl" in refused(report, "a/merged.expt", "a/merged.refl")


@pytest.fixture
def gridded_again(work, simulated):
    """Folder again: the stills of a summed with other values of the parameters, and the same voxels."""

    def make(*parameters):
        (work / "again").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(work / "again")
            grid.run(["../a/stills.expt", "d_min=3", "ndiv=1,1,1", *parameters])

    return make


@pytest.mark.parametrize(
    "parameter, words",
    [
        ("background.constant.value=0.1 background_method=constant", "by it the background of still"),
        ("corrections.air.apply=False", "by it the response of still"),
        ("extraction.pixel_step=2", "by it the number of pixels of still"),
        ("mask={0}/truth_pixels.mask", "by it the number of pixels of still"),
    ],
)
@pytest.mark.parametrize("store", [False, True])
def test_a_grid_json_of_other_corrections_background_or_pixels_is_refused(
    work, simulated, gridded_again, parameter, words, store
):
    gridded_again(*parameter.format(simulated).split(), f"grid.store={store}")
    sums = f"again/gridded.{'h5' if store else 'refl'}"
    shutil.copy("again/grid.json", "right.json")
    shutil.copy("a/grid.json", "again/grid.json")
    said = refused(scale, "again/gridded.expt", sums)
    assert said.startswith(f"again/grid.json is not that of {sums}: {words}"), said
    shutil.copy("right.json", "again/grid.json")
    scale.run(["again/gridded.expt", sums, "n_splits=1", "exclude_lattice_points=False"])
    # the map of a, with what another run subtracted or corrected beside it
    shutil.copy("right.json", "a/grid.json")
    for command, *files in (
        (absolute, *(f"a/{name}" for name in ("merged.expt", "merged.refl", *SCALED))), (export, "a/absolute.refl"),
        (report, "a/merged.expt", "a/merged.refl"),
    ):  # fmt: skip
        assert "the corrections, background or masks that it describes are not those of" in refused(command, *files)


def test_radial_totals_of_another_gridding_of_the_same_stills_are_refused(work, gridded_again):
    gridded_again("corrections.air.apply=False")
    map_of_a = ("a/merged.expt", "a/merged.refl", "a/scaled.expt", "a/model.pdb")
    said = refused(absolute, *map_of_a, "again/radial_totals.refl")
    assert said.startswith(
        "again/radial_totals.refl is not of the run that a/grid.json describes: by it the response of still "
    )
    assert not (work / "absolute.refl").exists()
    absolute.run([*map_of_a, "a/radial_totals.refl"])


def test_radial_totals_of_extracted_pixels_are_known_to_their_grid_json(simulated, run_in_tmp_path):
    """diffuse.extract writes them, and extracted.json tells diffuse.grid of them."""
    extract.run([f"{simulated}/truth_stills.expt", "d_min=3"])
    grid.run(["extracted.expt", "extracted_00000.refl", "ndiv=1,1,1"])
    record, totals = load_grid_record("gridded.refl"), load_table("radial_totals.refl")
    number = {name: number for number, name in totals.identifiers.items()}[record.totals_of_a_still["identifier"]]
    for name in ("n_pixels", "counts", "response"):
        of_still = totals[name][totals["id"] == number]
        assert record.totals_of_a_still[name] == pytest.approx(of_still.sum(), rel=1e-12)
