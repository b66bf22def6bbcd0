"""diffuse.scale on ranks of MPI gives what one process gives.

Sums over stills are then sums of the ranks' sums and differ by rounding, 1e-16. Scales and map follow from them by the
same steps, well conditioned (one gauge, stills that overlap), so that they differ by little more: 1e-9 leaves room for
the last step of an iteration. What is counted is equal.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from dxtbx.model import BeamFactory, Crystal, DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy.spatial.transform import Rotation

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.io.gridded_store import write_index
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.store_parts import Part, writing_part
from diffuse_dials.io.tables import load_table, save_table
from diffuse_dials.models.asu import AsuBox
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import VoxelSums

ROOT = Path(__file__).resolve().parents[2]
# For mpirun: without what a stills_process in this process leaves there of MPI, with which mpirun ends without a word
ENVIRONMENT = dict(os.environ)
N_STILLS, PIXELS = 11, 200
DARK, EMPTY, ASTRAY = 2, 4, 7  # stills: no photons, no rows, another map
RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 41", "P 4/m", 6.0, None, "own", 0.0, False,
    (), 0.005,
)  # fmt: skip
AMBIGUOUS = replace(RECORD, ambiguous=True, reindexing_operators=("k,h,-l",))
REINDEXED = (1, 8)

# Name: (files, parameters)
CASES = {
    "still_b": ("gridded.refl", ["model=still_b", "outlier.stills=remove", "random_orientations=1"]),
    "store": ("gridded.h5", ["model=still"]),
    "streamed": ("gridded.h5", ["model=still"]),
    "two tables": ("first.refl second.refl", ["model=still", "outlier.probability=0"]),
    "reindexed": ("ambiguous/gridded.h5", ["reindex=True"]),
    "radial": ("radial/gridded.refl", []),
    "experimental": ("gridded.refl", ["experimental_scale_model=True", "components=panel"]),
    "engine": ("gridded.refl", ["engine=SimpleLBFGS", "outlier.probability=0"]),
}
TWO_RANKS = ("still_b", "store", "streamed")

RUNNER = """
import json, os, sys
from diffuse_dials.algorithms.scaling import streaming
from diffuse_dials.cli.scale import run

cases, target = json.loads(sys.argv[1]), sys.argv[2]
most = streaming.MAX_OBSERVATIONS
for name, (files, options) in cases.items():
    streaming.MAX_OBSERVATIONS = 10_000 if name == "streamed" else most
    folder = os.path.join(target, name)
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    sums = [f"../../{file}" for file in files.split()]
    run([sums[0].rsplit("/", 1)[0] + "/gridded.expt", *sums, *options, "output.html=None"])
    os.chdir("../..")
"""


def experiments_of(rng):
    """Stills of images that need not be there, on a detector of two panels."""
    panel = DetectorFactory.simple("SENSOR_PAD", 80.0, (40.0, 40.0), "+x", "-y", (0.2, 0.2), (PIXELS, PIXELS)).to_dict()
    second = json.loads(json.dumps(panel["panels"][0]))
    second["origin"][0] += 0.2 * PIXELS
    second["name"] = "second"
    panel["panels"].append(second)
    panel["hierarchy"]["children"].append({"panel": 1})
    content = {
        "__id__": "ExperimentList",
        "experiment": [
            {"__id__": "Experiment", "identifier": f"still-{i}", "imageset": i, "beam": 0, "detector": 0, "crystal": i}
            for i in range(N_STILLS)
        ],
        "imageset": [
            {"__id__": "ImageSet", **dict.fromkeys(("mask", "gain", "pedestal", "dx", "dy")), "params": {},
             "images": [f"image_{i:04d}.cbf"]}
            for i in range(N_STILLS)
        ],
        "beam": [BeamFactory.simple(1.0).to_dict()],
        "detector": [panel],
        "crystal": [],
        **{model: [] for model in ("goniometer", "scan", "profile", "scaling_model")},
    }  # fmt: skip
    for turn in Rotation.random(N_STILLS, random_state=rng.integers(1 << 30)).as_matrix():
        a, b, c = (turn @ np.diag(RECORD.unit_cell[:3])).T
        content["crystal"].append(
            Crystal(tuple(a), tuple(b), tuple(c), space_group_symbol=RECORD.space_group).to_dict()
        )
    return ExperimentListFactory.from_dict(content, check_format=False)


def simulated(rng, record):
    """Sums of counts over a background, some of them spoiled; columns of gridded.refl."""
    asu = symmetry.unique_voxels(record, record.d_min)
    s = np.linalg.norm(symmetry.reciprocal_vectors(asu, record), axis=1)
    intensity = 60 * np.exp(-4 * s**2) * rng.gamma(8, 1 / 8, len(asu))
    scale = np.exp(np.linspace(np.log(0.4), np.log(2.5), N_STILLS))
    decay = np.linspace(-2, 2, N_STILLS)
    group = parse_space_group(record.space_group)
    operators = symmetry.laue_operators(record)
    parts = []
    for i in range(N_STILLS):
        if i == EMPTY:
            continue
        voxel = rng.permutation(len(asu))[: len(asu) // 2]
        voxel = np.concatenate([voxel, voxel[:50]])  # mates
        shown = rng.permutation(intensity) if i == ASTRAY and not record.ambiguous else intensity
        response, background = rng.uniform(0.5, 1.5, len(voxel)), rng.uniform(2, 20, len(voxel))
        expected = scale[i] * np.exp(-decay[i] * s[voxel] ** 2 / 2) * response * shown[voxel]
        counts = rng.poisson(0 * background if i == DARK else expected + background).astype(float)
        if not (record.ambiguous or i == DARK):
            counts[rng.random(len(voxel)) < 2e-3] += 2000
        bragg = np.all(asu[voxel] % 3 == 0, axis=1)
        index = np.einsum("ni,nij->nj", asu[voxel], operators[rng.integers(0, len(operators), len(voxel))])
        if record.ambiguous and i in REINDEXED:
            index = index @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
        index = index.astype(np.int32)
        position = np.column_stack([rng.uniform(0, PIXELS, (len(voxel), 2)), 0 * response])
        parts.append({
            "id": np.full(len(voxel), i), "miller_index": index, "asu_miller_index": map_to_asu(index, group),
            "panel": rng.integers(0, 2, len(voxel)), "bragg": bragg, "counts": counts, "background": background,
            "response": response, "variance": counts + 1.0, "n_pixels": np.full(len(voxel), 4),
            "xyzobs.px.value": position,
        })  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write(folder, columns, experiments, record, identifiers):
    folder.mkdir(exist_ok=True)
    save_experiments(experiments, folder / "gridded.expt")
    save_table(columns, folder / "gridded.refl", identifiers)
    save_grid_record(record, folder / "grid.json")
    names = ("id", "miller_index", "asu_miller_index", "panel", "bragg", "counts", "background", "response", "variance")
    sums = VoxelSums(*(columns[name] for name in (*names, "n_pixels")), columns["xyzobs.px.value"][:, :2])
    asu = columns["asu_miller_index"]
    box = AsuBox(tuple(int(x) for x in asu.min(axis=0)), tuple(int(x) for x in np.ptp(asu, axis=0) + 1))
    parts = []
    for number, stills in enumerate((range(4), range(4, 9), range(9, N_STILLS))):
        with writing_part(folder / f"part_{number}.h5", "key", box) as part:
            for still in stills:
                if still != EMPTY:
                    part.append(still, sums.select(sums.still == still))
            part.finish([])
        parts.append(Part.open(folder / f"part_{number}.h5"))
    write_index(folder / "gridded.h5", parts, [f"still-{i}" for i in range(N_STILLS)], "key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs of all cases, and what one process makes of them."""
    if shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    pytest.importorskip("mpi4py")
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("ranks")
    experiments = experiments_of(rng)
    identifiers = {i: f"still-{i}" for i in range(N_STILLS) if i != EMPTY}
    columns = simulated(rng, RECORD)
    write(path, columns, experiments, RECORD, identifiers)
    (path / "stills.csv").write_text(f"identifier,status,reason,jet\nstill-{EMPTY},failed,image is missing,left\n")
    for name, stills in (("first", range(6, N_STILLS)), ("second", range(6))):
        part = np.isin(columns["id"], list(stills))
        named = {i: text for i, text in identifiers.items() if i in stills}
        save_table({key: values[part] for key, values in columns.items()}, path / f"{name}.refl", named)
    radial = replace(RECORD, isotropic_removed=True)
    write(path / "radial", without_isotropic(columns), experiments, radial, identifiers)
    write(path / "ambiguous", simulated(rng, AMBIGUOUS), experiments, AMBIGUOUS, identifiers)
    done = started(path, [], CASES, "alone")
    assert done.returncode == 0, done.stderr
    return path


def without_isotropic(columns):
    """The mean of each still's rows went with the background; stills that show nothing are left out."""
    good = ~np.isin(columns["id"], (DARK, ASTRAY)) & (columns["counts"] < 1000)
    columns = {name: values[good].copy() for name, values in columns.items()}
    still, response = columns["id"], columns["response"]
    mean = np.bincount(still, columns["counts"])[still] / np.bincount(still, response)[still]
    columns["background"] = mean * response
    return columns


def started(path, mpirun, cases, target):
    code = [sys.executable, "-c", RUNNER, json.dumps(cases), target]
    return subprocess.run([*mpirun, *code], cwd=path, capture_output=True, text=True, env=ENVIRONMENT)


def ranks(n):
    # ranks that wait let others have the processor
    idle = ["--mca", "mpi_yield_when_idle", "1"]
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", *idle, "-n", str(n)]


@pytest.fixture(scope="module")
def shared(folder):
    """Returns the folder of what so many ranks make of the inputs."""

    @functools.cache
    def run(n):
        cases = {name: (files, [*options, "mp.method=mpi"]) for name, (files, options) in CASES.items()}
        if n == 2:
            cases = {name: cases[name] for name in TWO_RANKS}
        done = started(folder, ranks(n), cases, f"ranks_{n}")
        assert done.returncode == 0, done.stderr
        return folder / f"ranks_{n}"

    return run


def agree(found, expected, where=""):
    """The same structure, texts and whole numbers; other numbers to rounding."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            agree(found[key], expected[key], f"{where} {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected)):
            agree(*pair, f"{where} {number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), where
    else:
        assert found == expected, where


def same_table(found, expected):
    assert found.identifiers == expected.identifiers and found.columns.keys() == expected.columns.keys()
    for name, values in expected.columns.items():
        if values.dtype == np.float64:
            assert found[name] == pytest.approx(values, rel=1e-9, abs=1e-9 * np.abs(values).max()), name
        else:
            assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("n, case", [*((2, case) for case in TWO_RANKS), *((3, case) for case in CASES)])
def test_ranks_make_what_one_process_makes(shared, folder, n, case):
    one, many = folder / "alone" / case, shared(n) / case
    same_table(load_table(many / "merged.refl"), load_table(one / "merged.refl"))
    assert (many / "scaled.refl").exists() == (one / "scaled.refl").exists() == CASES[case][0].endswith(".refl")
    if (one / "scaled.refl").exists():
        same_table(load_table(many / "scaled.refl"), load_table(one / "scaled.refl"))
    models, expected = (load_experiments(path / "scaled.expt").scaling_models() for path in (many, one))
    agree([model.to_dict() for model in models], [model.to_dict() for model in expected])
    agree(*(json.loads((path / "diffuse.scale.json").read_text()) for path in (many, one)))
    lines, expected = (list(csv.DictReader((path / "stills.csv").open())) for path in (many, one))
    agree([numbers(line) for line in lines], [numbers(line) for line in expected])
    assert {path.name for path in many.iterdir()} == {path.name for path in one.iterdir()}


def numbers(line):
    """A line of a table, with what looks like a number as one."""
    return {name: float(text) if re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", text) else text for name, text in line.items()}


def test_the_cases_hold_what_they_are_for(folder):
    """Outliers, a still without photons, one without rows, one of another map, streams and settings that differ."""
    records, logs = {}, {}
    for name in CASES:
        records[name] = json.loads((folder / "alone" / name / "diffuse.scale.json").read_text())
        logs[name] = (folder / "alone" / name / "diffuse.scale.log").read_text()
    failed = {int(label[6:10]): reason for label, reason in records["still_b"]["failed"].items()}
    assert failed.keys() == {DARK, EMPTY, ASTRAY} and "does not agree" in failed[ASTRAY]
    assert failed[EMPTY] == "image is missing" and records["store"]["outliers"]["n_sums_left_out"] > 50
    assert "Components are refined on 31 % of the voxels" in logs["streamed"] and records["streamed"]["esd"] == "full"
    moved = [line for line in logs["reindexed"].splitlines() if "| k,h,-l " in line and "image_00" in line]
    assert {int(line.split("image_")[1][:4]) for line in moved} - {DARK, EMPTY} == set(REINDEXED)
    assert "isotropic part was subtracted" in logs["radial"] and "SimpleLBFGS stopped" in logs["engine"]
    assert [verdict["component"] for verdict in records["experimental"]["cross_validation"]] == ["panel"]


def test_an_error_on_one_rank_ends_all_with_one_line(folder, tmp_path):
    for name in ("gridded.expt", "gridded.h5", "grid.json", *(f"part_{i}.h5" for i in range(3))):
        shutil.copy(folder / name, tmp_path)
    with h5py.File(tmp_path / "part_2.h5", "r+") as file:  # its stills are the last rank's
        file["rows/response"][-1] = 0
    run = [str(ROOT / "command_line" / "scale.py"), "gridded.expt", "gridded.h5", "mp.method=mpi"]
    done = subprocess.run(
        [*ranks(3), sys.executable, *run], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if "Sorry" in line or "part_2.h5" in line] == [
        "Sorry: part_2.h5 has a response of 0 or less. Check the corrections and run diffuse.grid again."
    ]
    assert not (tmp_path / "merged.refl").exists()


def test_a_log_that_cannot_be_written_on_rank_0_ends_all(folder, tmp_path):
    run = [str(ROOT / "command_line" / "scale.py"), "gridded.expt", "gridded.h5", "mp.method=mpi"]
    run += [f"output.log={tmp_path / 'nowhere' / 'scale.log'}"]
    done = subprocess.run(
        [*ranks(2), sys.executable, *run], cwd=folder, capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode != 0 and done.stderr.count("Cannot write") == 1


APART = """
import numpy as np
from mpi4py import MPI
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks, Shells
from diffuse_dials.algorithms.scaling.refine import unconnected_stills

comm = Communicator(MPI.COMM_WORLD)
shells = Shells(np.zeros(8, dtype=np.uint8), np.ones(1))

def apart(voxels):
    share = comm.share(len(voxels))
    n_rows = [len(own) if share.start <= i < share.stop else 0 for i, own in enumerate(voxels)]
    starts = np.concatenate(([0], np.cumsum(n_rows)))
    voxel = np.array(sum(voxels[share], []), dtype=np.int32)
    photons = np.where(voxel == 7, 0, 1).astype(np.float32)
    empty = np.empty(0, dtype=np.int32)
    blocks = ScaleBlocks(starts, voxel, photons, photons + 1, empty, shells, np.empty((0, 0)), comm)
    return unconnected_stills(blocks).tolist()

# two stills a rank; what connects those of a rank is on the others; voxel 7 is dark
assert apart([[0], [2], [0, 1], [1, 3], [3, 4], [4, 2]]) == []
assert apart([[0], [2], [0, 1], [1, 3], [3, 4], [5, 7]]) == [1, 5]
assert apart([[0], [0, 7], [2, 7], [2], [0], []]) == [2, 3]

assert comm.union(np.array([comm.rank, 7])).tolist() == [0, 1, 2, 7]
assert comm.deal(lambda rank: 10 * rank) == 10 * comm.rank
assert list(comm.in_order([comm.rank, "b"])) == ([0, "b", 1, "b", 2, "b"] if comm.rank == 0 else [])
assert comm.shares(np.array([5, 0, 0, 1, 4])) == [slice(0, 1), slice(1, 4), slice(4, 5)]

def broken():
    yield 1
    if comm.rank == 1:
        raise ValueError("no such thing")

try:
    with comm.together():
        list(comm.in_order(broken()))
except ValueError as error:
    assert str(error) == "no such thing"
else:
    raise AssertionError
"""


def test_stills_are_connected_through_those_of_other_ranks(tmp_path):
    if shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    pytest.importorskip("mpi4py")
    done = subprocess.run(
        [*ranks(3), sys.executable, "-c", APART], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
