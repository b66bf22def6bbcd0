from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from dials.util import Sorry
from dxtbx.model import BeamFactory, DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.cli.scale import run
from diffuse_dials.io.columns import MERGED, SCALED
from diffuse_dials.io.gridded_store import write_index
from diffuse_dials.io.records import load_grid_record, save_grid_record
from diffuse_dials.io.store_parts import Part, writing_part
from diffuse_dials.io.tables import load_table, save_table
from diffuse_dials.models.asu import AsuBox
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import VoxelSums

N_STILLS = 12
RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 43 21 2", "P 4/m m m", 3.0, None, "own", 0.0, False,
    (), 0.005,
)  # fmt: skip


def experiments_of(n):
    """Stills of images that need not be there."""
    beam = BeamFactory.simple(1.0).to_dict()
    detector = DetectorFactory.simple("SENSOR_PAD", 150.0, (10.0, 10.0), "+x", "-y", (0.2, 0.2), (100, 100)).to_dict()
    still = {"__id__": "Experiment", "beam": 0, "detector": 0}
    imageset = {"__id__": "ImageSet", **dict.fromkeys(("mask", "gain", "pedestal", "dx", "dy")), "params": {}}
    content = {
        "__id__": "ExperimentList",
        "experiment": [{**still, "identifier": f"still-{i}", "imageset": i} for i in range(n)],
        "imageset": [{**imageset, "images": [f"image_{i:04d}.cbf"]} for i in range(n)],
        "beam": [beam],
        "detector": [detector],
        **{model: [] for model in ("goniometer", "scan", "crystal", "profile", "scaling_model")},
    }
    return ExperimentListFactory.from_dict(content, check_format=False)


def write_gridded(folder, rng, stills=range(N_STILLS), record=RECORD, name="gridded", spot=500.0, dark=()):
    """Files of diffuse.grid with 50 photons per sum of unit scale; returns the true scales of all stills."""
    stills = list(stills)
    scale = np.exp(np.linspace(np.log(0.3), np.log(3), N_STILLS))
    asu = symmetry.unique_voxels(record, 3.0)
    s = np.linalg.norm(symmetry.reciprocal_vectors(asu, record), axis=1)
    intensity = 50 * np.exp(-2 * s**2) * (1 + 0.3 * np.sin(7.0 * np.arange(len(asu))))
    voxel = np.concatenate([rng.permutation(len(asu))[: len(asu) // 3] for _ in stills])
    number = np.repeat(np.arange(len(stills)), len(asu) // 3)
    response = rng.uniform(0.5, 1.5, len(voxel))
    counts = rng.poisson(scale[stills][number] * response * intensity[voxel]).astype(float)
    counts[np.isin(number, list(dark))] = 0
    bragg = np.all(asu[voxel] % 3 == 0, axis=1)
    counts[bragg] += spot
    operators = symmetry.laue_operators(record)
    index = np.einsum("ni,nij->nj", asu[voxel], operators[rng.integers(0, len(operators), len(voxel))]).astype(np.int32)
    columns = {
        "id": number, "miller_index": index, "asu_miller_index": asu[voxel], "panel": number * 0, "bragg": bragg,
        "counts": counts, "background": counts * 0, "response": response, "variance": counts,
        "n_pixels": number * 0 + 4,
    }  # fmt: skip
    assert np.array_equal(map_to_asu(index, parse_space_group(record.space_group)), asu[voxel])
    experiments = experiments_of(N_STILLS)
    save_experiments(experiments, folder / f"{name}.expt")
    identifiers = {i: f"still-{still}" for i, still in enumerate(stills)}
    save_table(columns, folder / f"{name}.refl", identifiers)
    save_grid_record(record, folder / "grid.json")
    return scale


@pytest.fixture
def gridded(run_in_tmp_path, rng):
    return write_gridded(run_in_tmp_path, rng)


def stills_csv(path="stills.csv"):
    with open(path, newline="") as handle:
        return {line["identifier"]: line for line in csv.DictReader(handle)}


def refused(*args):
    """The one line that the command ends with."""
    with pytest.raises(Sorry) as raised:
        run(list(args))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_scales_are_recovered_and_every_output_is_written(gridded):
    """Simulated truth: relative errors of the scales within 5 standard uncertainties."""
    run(["gridded.expt", "gridded.refl"])
    experiments = load_experiments("scaled.expt")
    found = np.array([e.scaling_model.scale for e in experiments])
    esd = np.array([e.scaling_model.scale_esd for e in experiments])
    assert np.all(np.abs(found - gridded / gridded.mean()) < 5 * esd)
    assert np.all(esd < 0.02 * found)
    scaled = load_table("scaled.refl", SCALED)
    assert scaled["inverse_scale_factor"] == pytest.approx(found[scaled["id"]])
    lines = stills_csv()
    assert [float(lines[f"still-{i}"]["scale"]) for i in range(N_STILLS)] == pytest.approx(found, rel=1e-9)
    assert {line["status"] for line in lines.values()} == {"ok"}
    summary = json.loads(open("diffuse.scale.json").read())
    assert summary["overall"]["cc_half"] > 0.6 and summary["overall"]["completeness"] > 0.95
    assert summary["overall"]["chi_square"] == pytest.approx(1, abs=0.05)
    assert summary["stills"]["image_0000.cbf:0:0"]["scale"] == pytest.approx(found[0])
    page = open("diffuse.scale.html").read()
    assert page.count("<svg") == 2 and page.count('<div class="graph">') > 8 and "CC½" in page
    # one set of numbers, three outlets
    line = summary["overall"]
    for text in (page, open("diffuse.scale.log").read()):
        assert f"{line['cc_half']:.3f}" in text and f"{summary['symmetry']['cc_sym']:.3f}" in text
    friedel = summary["symmetry"]["operators"][0]
    assert friedel["kind"] == "-1" and friedel["cc"] == pytest.approx(friedel["expected"], abs=0.1)
    assert summary["residuals"]["panel"]["rms_excess"] == pytest.approx(0, abs=0.01)
    assert summary["bragg"] is None and summary["random_orientations"] is None
    assert load_grid_record("merged.refl") == RECORD


def test_the_map_is_the_truth_with_the_lattice_points_apart(gridded):
    """Against the simulated intensities: pulls of mean 0 and width 1."""
    run(["gridded.expt", "gridded.refl"])
    merged = load_table("merged.refl", MERGED)
    assert set(MERGED) == set(merged.columns)
    index = merged["miller_index"]
    assert np.all(np.lexsort(index.T[::-1]) == np.arange(len(index)))
    assert np.array_equal(merged["lattice_point"], np.all(index % 3 == 0, axis=1))
    asu = symmetry.unique_voxels(RECORD, 3.0)
    s = np.linalg.norm(symmetry.reciprocal_vectors(asu, RECORD), axis=1)
    truth = 50 * np.exp(-2 * s**2) * (1 + 0.3 * np.sin(7.0 * np.arange(len(asu)))) * gridded.mean()
    truth = {tuple(n): value for n, value in zip(asu.tolist(), truth)}
    good = ~merged["lattice_point"]
    expected = np.array([truth[tuple(n)] for n in index[good].tolist()])
    assert merged["intensity.scale.value"][good].mean() == pytest.approx(expected.mean(), rel=0.01)
    variance = merged["intensity.scale.variance"][good]
    enough = expected**2 > 20 * variance
    pull = (merged["intensity.scale.value"][good] - expected)[enough] / np.sqrt(variance[enough])
    assert pull.std() == pytest.approx(1, abs=0.1)
    # all pixels of a lattice point are under the Bragg mask: measured with them, not without
    lattice = ~good
    assert np.all(merged["multiplicity"][lattice] == 0) and np.all(merged["intensity.scale.variance"][lattice] == -1)
    assert np.all(merged["intensity.all.value"][lattice] > 0)
    assert merged["d"] == pytest.approx(1 / np.linalg.norm(merged["rlp"], axis=1))
    assert merged["hkl"] == pytest.approx(index / 3)


def test_the_merged_pair_works_in_dials(gridded):
    """Predicted positions of the super-cell's reflections are the voxels' centres; dials.show lists both models."""
    run(["gridded.expt", "gridded.refl"])
    (experiment,) = load_experiments("merged.expt")
    merged = load_table("merged.refl")
    a = np.array(experiment.crystal.get_A()).reshape(3, 3)
    assert merged["rlp"] == pytest.approx(merged["miller_index"] @ a.T, abs=1e-12)
    assert str(experiment.crystal.get_space_group().info()) == "P 4 2 2"
    code = "import diffuse_dials.adapters.experiments, sys\nfrom dials.command_line.show import run\nrun(sys.argv[1:])"
    shown = subprocess.run(
        [sys.executable, "-c", code, "scaled.expt", "merged.refl"], capture_output=True, text=True, check=True
    ).stdout
    assert "type : diffuse" in shown and "intensity.half1.value" in shown


def test_pairs_of_files_are_scaled_together(run_in_tmp_path, rng):
    """Two runs of diffuse.grid with one grid: as if it had been one."""
    for name, stills in (("first", range(5)), ("second", range(5, N_STILLS))):
        scale = write_gridded(run_in_tmp_path, rng, stills, name=name)
        experiments = load_experiments(f"{name}.expt")
        save_experiments(experiments[stills.start : stills.stop], f"{name}.expt")
    run(["first.expt", "second.expt", "second.refl", "first.refl"])
    found = np.array([e.scaling_model.scale for e in load_experiments("scaled.expt")])
    assert found == pytest.approx(scale / scale.mean(), rel=0.05)


def test_the_map_of_several_runs_does_not_go_beside_the_grid_json_of_one_that_differs(tmp_path, monkeypatch, rng):
    """It would be refused there by later commands: a map knows the corrections and the background of its sums."""
    for name, stills in (("first", range(5)), ("second", range(5, N_STILLS))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        record = replace(RECORD, background={"method": "image", "files": [f"blanks_of_{name}.expt"]})
        write_gridded(tmp_path / name, rng, stills, record)
        experiments = load_experiments("gridded.expt")
        save_experiments(experiments[stills.start : stills.stop], "gridded.expt")
    files = ["../first/gridded.expt", "../first/gridded.refl", "gridded.expt", "gridded.refl"]
    said = refused(*files)
    assert said.startswith(f"The map would go beside {tmp_path}/second/grid.json, which has another background, mask")
    assert not (tmp_path / "second" / "scaled.expt").exists()
    run([*files[2:], *files[:2]])
    assert (tmp_path / "second" / "merged.refl").exists()


def test_a_still_without_photons_is_left_out_and_says_why(run_in_tmp_path, rng):
    write_gridded(run_in_tmp_path, rng, range(N_STILLS - 1), dark=[3], spot=0.0)
    (run_in_tmp_path / "stills.csv").write_text(
        "identifier,status,reason,jet\nstill-3,ok,,left\nstill-11,failed,image is missing,right\n"
    )
    run(["gridded.expt", "gridded.refl"])
    experiments = load_experiments("scaled.expt")
    assert list(experiments.identifiers()) == [f"still-{i}" for i in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)]
    scaled = load_table("scaled.refl")
    assert sorted(scaled.identifiers.values()) == sorted(experiments.identifiers())
    lines = stills_csv()
    assert lines["still-3"]["status"] == "failed" and lines["still-3"]["reason"] == "it holds no photons"
    assert lines["still-11"]["reason"] == "image is missing" and lines["still-11"]["jet"] == "right"


def test_outputs_in_another_folder_take_the_grid_along(gridded, tmp_path):
    names = ("experiments=s.expt", "reflections=s.refl", "merged_experiments=m.expt", "merged_reflections=m.refl")
    before = (tmp_path / "grid.json").read_bytes()
    run(["gridded.expt", "gridded.refl", *(f"output.{name.replace('=', '=out/')}" for name in names)])
    assert (tmp_path / "out" / "grid.json").is_file() and (tmp_path / "grid.json").read_bytes() == before


@pytest.mark.parametrize(
    "option, words",
    [
        ("resolution_smoother=3", "same |s|"),
        ("scale.components=panel+offset", "experimental"),
        ("reindexed_experiments=gridded.expt", "reindex=True"),
    ],
)
def test_what_the_model_does_not_have_is_refused(gridded, option, words):
    assert words in refused("gridded.expt", "gridded.refl", option)


def test_ambiguous_indexing_is_refused_unless_the_user_knows_better(run_in_tmp_path, rng):
    record = replace(RECORD, space_group="P 43", laue_group="P 4/m", ambiguous=True, reindexing_operators=("k,h,-l",))
    write_gridded(run_in_tmp_path, rng, record=record)
    assert "k,h,-l" in refused("gridded.expt", "gridded.refl")
    run(["gridded.expt", "gridded.refl", "assume_consistent_indexing=True"])
    (experiment,) = load_experiments("merged.expt")
    assert str(experiment.crystal.get_space_group().info()) == "P 4"


def test_a_table_of_other_stills_is_refused(gridded, tmp_path):
    table = load_table("gridded.refl")
    save_table(table.columns, "other.refl", {i: f"elsewhere-{i}" for i in table.identifiers})
    assert "other.refl refers to experiment elsewhere-0" in refused("gridded.expt", "other.refl")


def test_the_same_files_twice_are_refused(gridded):
    said = refused("gridded.expt", "gridded.refl", "gridded.expt", "gridded.refl")
    assert said == "gridded.expt holds still still-0, which another file has as well. Give each still once."


@pytest.mark.parametrize(
    "option, words",
    [
        ("scale.tolerance=nan", "scale.tolerance=nan is no number"),
        ("output.experiments=scaled", "output.experiments=scaled must end in .expt"),
        ("output.reflections=/dev/full", "must end in .refl"),
    ],
)
def test_parameters_that_no_command_can_use_are_refused_before_it_begins(gridded, option, words):
    assert words in refused("gridded.expt", "gridded.refl", option)


def test_a_table_without_the_columns_is_refused(gridded):
    table = load_table("gridded.refl")
    del table.columns["response"]
    save_table(table.columns, "short.refl", table.identifiers)
    assert "no column response" in refused("gridded.expt", "short.refl")


def test_an_empty_table_is_refused(gridded):
    table = load_table("gridded.refl")
    save_table({name: values[:0] for name, values in table.columns.items()}, "empty.refl", table.identifiers)
    assert "empty.refl is empty" in refused("gridded.expt", "empty.refl")


def test_a_missing_file_or_grid_is_refused(gridded, tmp_path):
    assert "No .refl file" in refused("gridded.expt")
    (tmp_path / "grid.json").unlink()
    assert "no grid.json" in refused("gridded.expt", "gridded.refl")


def test_stills_that_do_not_overlap_are_named(gridded):
    table = load_table("gridded.refl")
    index = table["asu_miller_index"]
    apart = index[:, 2] % 2 == 1
    keep = np.where(table["id"] == 4, apart, ~apart)
    save_table({name: values[keep] for name, values in table.columns.items()}, "apart.refl", table.identifiers)
    message = refused("gridded.expt", "apart.refl")
    assert "1 of 12 stills share no voxel" in message and "image_0004.cbf" in message


def test_files_of_different_grids_are_refused(run_in_tmp_path, rng):
    for name, record in (("a", RECORD), ("b", replace(RECORD, unit_cell=(40.4, 40.4, 60.0, 90.0, 90.0, 90.0)))):
        (run_in_tmp_path / name).mkdir()
        write_gridded(run_in_tmp_path / name, rng, record=record)
    assert "unit_cell" in refused("a/gridded.expt", "a/gridded.refl", "b/gridded.refl")


def write_store(table, n_stills):
    """gridded.h5 with the rows of gridded.refl."""
    asu = table["asu_miller_index"]
    box = AsuBox(tuple(int(x) for x in asu.min(axis=0)), tuple(int(x) for x in np.ptp(asu, axis=0) + 1))
    names = ("id", "miller_index", "asu_miller_index", "panel", "bragg", "counts", "background", "response", "variance")
    sums = VoxelSums(*(table[name] for name in (*names, "n_pixels")))
    with writing_part("part.h5", "key", box) as part:
        for still in range(n_stills):
            part.append(still, sums.select(sums.still == still))
        part.finish([{"number": still} for still in range(n_stills)])
    write_index("gridded.h5", [Part.open("part.h5")], [table.identifiers[i] for i in range(n_stills)], "key")


def test_a_store_gives_the_same_map_and_is_not_written_again(gridded, tmp_path):
    """float32 rounds a row by 6e-8: intensities to 1e-6, counts and pixels exactly."""
    run(["gridded.expt", "gridded.refl"])
    expected = load_table("merged.refl")
    for name in ("scaled.refl", "merged.refl"):
        (tmp_path / name).unlink()
    write_store(load_table("gridded.refl"), N_STILLS)
    run(["gridded.expt", "gridded.h5"])
    found = load_table("merged.refl")
    assert np.array_equal(found["n_pixels"], expected["n_pixels"])
    assert np.array_equal(found["multiplicity"], expected["multiplicity"])
    assert found["intensity.scale.value"] == pytest.approx(expected["intensity.scale.value"], rel=1e-6)
    assert found["intensity.half1.value"] == pytest.approx(expected["intensity.half1.value"], rel=1e-6)
    assert not (tmp_path / "scaled.refl").exists() and len(load_experiments("scaled.expt")) == N_STILLS


def test_rows_carry_their_factor_and_outliers_their_flag(gridded):
    """One sum of a hundred times its photons: flagged, and the map is as if it had not been."""
    table = load_table("gridded.refl")
    row = int(np.flatnonzero(~table["bragg"])[100])
    for name in ("counts", "variance"):
        table[name][row] = 100 * table[name][row] + 5000
    save_table(table.columns, "spoiled.refl", table.identifiers)
    run(["gridded.expt", "spoiled.refl"])
    scaled = load_table("scaled.refl", SCALED)
    assert scaled["flags"][row] == 1 and scaled["flags"].sum() < 5
    assert np.array_equal(scaled["counts"], table["counts"])
    assert np.array_equal(scaled["asu_miller_index"], table["asu_miller_index"])
    summary = json.loads(open("diffuse.scale.json").read())
    assert summary["outliers"]["n_sums_left_out"] >= 1 and summary["overall"]["chi_square"] < 1.1


def test_stills_are_held_against_a_column_of_the_user(gridded, tmp_path):
    lines = "".join(f"still-{i},{100 - 3 * i}\n" for i in range(N_STILLS))
    (tmp_path / "stills.csv").write_text(f"identifier,delay\n{lines}")
    run(["gridded.expt", "gridded.refl", "scale.order=delay"])
    order = json.loads(open("diffuse.scale.json").read())["residuals"]["order"]
    assert order["x"] == "delay" and order["x_centres"] == [100 - 3 * i for i in range(N_STILLS)][::-1]
    assert "delay" in open("diffuse.scale.html").read()


def test_the_null_test_needs_positions(gridded):
    assert "grid.positions=True" in refused("gridded.expt", "gridded.refl", "random_orientations=3")
