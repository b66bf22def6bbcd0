"""Who works on what, how a dead process is noticed, and that none of it changes a number."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.algorithms.running import forked
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.running.parallel import each, working_on
from diffuse_dials.algorithms.running.parts import split
from diffuse_dials.algorithms.running.stopping import ToldToStop
from diffuse_dials.cli import grid, scale
from diffuse_dials.io.gridded_store import GriddedStore
from diffuse_dials.io.tables import load_table

ROOT = Path(__file__).resolve().parents[3]
# For mpirun: without what a stills_process in this process leaves there of MPI, with which mpirun ends without a word
ENVIRONMENT = dict(os.environ)


def arguments(folder, *more):
    return [str(folder / "truth_stills.expt"), f"mask={folder / 'truth_pixels.mask'}", "d_min=2", *more]


def test_results_come_in_the_order_of_the_tasks():
    tasks = list(range(20))
    for nproc in (1, 2, 4):
        assert list(each(lambda n: n * n, tasks, nproc, "squares")) == [n * n for n in tasks]


def test_an_error_of_a_worker_comes_through_and_a_bug_with_its_traceback():
    def fails(n):
        raise ValueError(f"image {n} is broken") if n == 3 else KeyError("a bug")

    with pytest.raises(ValueError, match="^image 3 is broken$"):
        list(each(fails, [3, 3], 2, ""))
    with pytest.raises(RuntimeError, match="KeyError.*a bug"):
        list(each(fails, [4, 4], 2, ""))


def test_a_worker_that_dies_is_named_by_what_it_worked_on():
    def dies(n):
        working_on(10 * n)
        if n == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match="still 20 was killed .SIGKILL."):
        list(each(dies, [1, 2, 3], 2, "", total=3, name=lambda n: f"still {n}"))
    assert not forked.in_worker()


def test_a_run_that_is_told_to_stop_says_so():
    with pytest.raises(ValueError, match="SIGTERM"):
        list(each(lambda n: os.kill(os.getpid(), signal.SIGTERM), [1], 1, ""))


def test_to_be_told_to_stop_is_not_taken_for_the_failure_of_one_task():
    """As skip_failed=True does it; and it ends what is done with a result as well."""

    def skips(n):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except ValueError:
            return "failed"

    with pytest.raises(ValueError, match="SIGTERM"):
        list(each(skips, [1, 2], 1, ""))
    with pytest.raises(ToldToStop):
        for result in each(str, [1, 2], 1, ""):
            skips(result)


def test_parts_cover_all_stills_once_and_are_small():
    for n, rows, workers in ((1, 1e5, 4), (60, 5e4, 2), (100_000, 7e4, 64), (1_000_000, 7e4, 2)):
        for store in (True, False):
            blocks = split(n, rows, workers, store)
            assert [number for block in blocks for number in range(*block)] == list(range(n))
            assert len(blocks) <= 2000
    assert max(end - first for first, end in split(60, 5e4, 2, False)) <= 2  # every worker gets several


def test_without_mpi_there_is_one_rank_and_sums_are_what_they_were(monkeypatch):
    alone = Communicator.of("multiprocessing")
    assert (alone.rank, alone.size, alone.share(5)) == (0, 1, slice(0, 5))
    values = np.arange(3.0)
    assert alone.sum(values) is values and alone.sum_on_first(values) is values
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="mp.method=mpi"):
        Communicator.of("multiprocessing")


def test_neither_processes_nor_the_order_of_the_stills_change_the_map(work):
    """Reversed order: the same counts and pixel numbers, intensities to 1e-12, and the same random half-sets."""
    maps = {}
    for name, more in {"one": ["mp.nproc=1"], "four": ["mp.nproc=4"], "reversed": []}.items():
        Path(name).mkdir()
        os.chdir(name)
        args = arguments(work, *more)
        if name == "reversed":
            experiments = load_experiments(args[0])
            backwards = type(experiments)(list(experiments)[::-1])
            save_experiments(backwards, "backwards.expt")
            args[0] = "backwards.expt"
        grid.run(args)
        scale.run(["gridded.expt", "gridded.refl"])
        maps[name] = load_table("gridded.refl"), load_table("merged.refl")
        os.chdir("..")
    assert Path("one/gridded.refl").read_bytes() == Path("four/gridded.refl").read_bytes()
    (rows, merged), (turned_rows, turned) = maps["one"], maps["reversed"]
    for still in range(6):
        mine, other = rows["id"] == still, turned_rows["id"] == 5 - still
        assert rows.identifiers[still] == turned_rows.identifiers[5 - still]
        for column in ("miller_index", "counts", "n_pixels", "bragg", "response"):
            assert np.array_equal(rows[column][mine], turned_rows[column][other]), column
    for column in ("miller_index", "n_pixels", "multiplicity", "multiplicity.half1", "multiplicity.half2"):
        assert np.array_equal(merged[column], turned[column]), column
    for column in ("intensity.scale.value", "intensity.half1.value", "intensity.half2.value"):
        assert turned[column] == pytest.approx(merged[column], rel=1e-12, abs=1e-12 * merged[column].max()), column


def test_a_map_from_the_store_is_that_of_the_table_to_the_precision_of_float32(work):
    grid.run(arguments(work))
    scale.run(["gridded.expt", "gridded.refl"])
    table, merged = load_table("gridded.refl"), load_table("merged.refl")
    grid.run(arguments(work, "grid.store=True", "mp.nproc=2"))
    assert not Path("gridded.refl").exists()  # it would be taken for this run's
    sums = GriddedStore("gridded.h5").read_sums()
    for column, values in (("id", sums.still), ("miller_index", sums.index), ("asu_miller_index", sums.asu_index),
                           ("counts", sums.counts), ("n_pixels", sums.n_pixels), ("bragg", sums.bragg)):  # fmt: skip
        assert np.array_equal(table[column], values), column
    assert sums.response == pytest.approx(table["response"], rel=6e-8)
    scale.run(["gridded.expt", "gridded.h5"])
    stored = load_table("merged.refl")
    assert np.array_equal(stored["miller_index"], merged["miller_index"])
    measured = merged["intensity.scale.variance"] > 0
    difference = (stored["intensity.scale.value"] - merged["intensity.scale.value"])[measured]
    assert np.abs(difference / np.sqrt(merged["intensity.scale.variance"][measured])).max() < 1e-5


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
@pytest.mark.parametrize("method", ["none", "radial"])
def test_two_ranks_of_mpi_write_the_same_bytes_as_one_process(method, work):
    pytest.importorskip("mpi4py")
    background = [f"background_method={method}"] + [f"background={work / 'blank.expt'}"] * (method == "radial")
    grid.run(arguments(work, *background))
    expected = Path("gridded.refl").read_bytes(), Path("radial_totals.refl").read_bytes()
    run = [sys.executable, str(ROOT / "command_line" / "grid.py"), *arguments(work, *background, "mp.method=mpi")]
    mpirun = [*MPIRUN, "-n", "2"]
    subprocess.run([*mpirun, *run], check=True, capture_output=True, env=ENVIRONMENT)
    assert (Path("gridded.refl").read_bytes(), Path("radial_totals.refl").read_bytes()) == expected


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
def test_a_mistake_is_said_by_one_rank(work):
    pytest.importorskip("mpi4py")
    run = [sys.executable, str(ROOT / "command_line" / "grid.py"), *arguments(work, "mp.method=mpi")]
    wrong = subprocess.run(
        [*MPIRUN, "-n", "2", *run, "d_min=900", "d_max=1000"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert wrong.returncode != 0
    assert sum("Sorry" in line or "No pixel" in line for line in wrong.stderr.splitlines()) == 1


SHARED = """
import numpy as np
from mpi4py import MPI
from diffuse_dials.algorithms.running.mpi import Communicator

comm, made = Communicator(MPI.COMM_WORLD), []

def make():
    made.append(1)
    turned = np.arange(12.0).reshape(3, 4).T
    given = turned, None, np.zeros((0, 2))
    return {"a": np.arange(5, dtype=np.int16), "b": given, "c": np.ones(3, bool), "d": "text"}

found = comm.shared(make)
assert np.array_equal(found["a"], np.arange(5)) and found["d"] == "text" and found["c"].all()
assert np.array_equal(found["b"][0], np.arange(12.0).reshape(3, 4).T) and found["b"][2].shape == (0, 2)
assert sum(comm._comm.allgather(len(made))) == 1
if comm.rank == 1:
    found["a"][0] = 77  # to see whose memory it is: nobody else may do this
comm._comm.Barrier()
assert found["a"][0] == 77

def broken():
    raise ValueError("no such thing")

try:
    comm.shared(broken)
except ValueError as error:
    assert str(error) == "no such thing"
else:
    raise AssertionError
"""
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe"]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
def test_the_ranks_of_a_machine_share_what_one_of_them_made(tmp_path):
    pytest.importorskip("mpi4py")
    (tmp_path / "shared.py").write_text(SHARED)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    run = [*MPIRUN, "-n", "3", sys.executable, str(tmp_path / "shared.py")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
