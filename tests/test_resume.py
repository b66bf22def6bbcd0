"""Runs that are killed, out of disk space, or interrupted: what they leave, and what resume=True makes of it."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.algorithms import pipeline, pixel_files
from diffuse_dials.cli import extract, grid
from diffuse_dials.io.gridded_store import GriddedStore
from diffuse_dials.io.store_parts import Part
from diffuse_dials.io.tables import load_table

N_STILLS = 6
OUTPUTS = {grid: "gridded.*", extract: "extracted*.*"}


def arguments(folder, *more):
    return [str(folder / "truth_stills.expt"), f"mask={folder / 'truth_pixels.mask'}", "d_min=2", *more]


def outputs(command=grid):
    """Contents of the finished files by name: of all, so that a missing or a half-written one would show."""
    names = {*Path().glob(OUTPUTS[command]), *Path().glob("radial_totals.refl"), *Path().glob("*.json")}
    return {path.name: path.read_bytes() for path in names if path.is_file()}


@pytest.fixture(scope="module")
def expected(simulated, tmp_path_factory):
    """What runs without any trouble write; diffuse.extract with one still to a file."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_files, "ROWS_PER_FILE", 95_000)
        for command in (grid, extract):
            patch.chdir(tmp_path_factory.mktemp("expected"))
            command.run(arguments(simulated))
            made[command] = outputs(command)
    return made


def start(command, args, seconds_per_still=0.0, max_bytes=None):
    """Run a command in a forked process, with a still slowed down so that it can be killed in the middle."""

    def main():
        os.setpgrp()
        measure = pipeline.measure_still

        def slow(*measured):
            time.sleep(seconds_per_still)
            return measure(*measured)

        pipeline.measure_still = pixel_files.measure_still = slow
        if max_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where pytest collects what is printed is a file too
            os.dup2(1, 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
        try:
            command.run(args)
        except Sorry as stop:
            Path("said.txt").write_text(str(stop)) if max_bytes is None else said.send(str(stop))
            os._exit(1)
        os._exit(0)

    heard, said = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    process.heard = heard
    return process


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("nothing happened")


def parts(command=grid):
    found = Path().glob(f"{OUTPUTS[command].split('*')[0].rstrip('.')}_parts/*/0*")
    return sorted(path.stem for path in found if path.suffix in (".part", ".h5"))


def measured_by(command, args, monkeypatch):
    """Run a command here and return the stills that it measured."""
    numbers = []
    measure = pipeline.measure_still

    def noted(measurement, number, *rest):
        numbers.append(number)
        return measure(measurement, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "measure_still", noted)
        patch.setattr(pixel_files, "measure_still", noted)
        command.run(args)
    return numbers


@pytest.mark.parametrize("command", [grid, extract])
@pytest.mark.parametrize("nproc", [1, 2])
def test_killed_at_a_random_moment_it_leaves_nothing_half_written_and_resumes_to_the_same_files(
    command, nproc, work, expected, monkeypatch
):
    random = np.random.default_rng(os.getpid())  # another moment in each run of the test
    monkeypatch.setattr(pixel_files, "ROWS_PER_FILE", 95_000)
    args = arguments(work, "resume=True", f"mp.nproc={nproc}")
    for _ in range(2):
        process = start(command, args, seconds_per_still=0.05)
        process.join(random.uniform(0.05, 1.0))
        workers = workers_of(process) if process.is_alive() else []
        process.kill()
        process.join()
        wait_for(lambda: not any(alive(pid) for pid in workers))
        left = outputs(command)
        assert {name: expected[command][name] for name in left} == left  # complete or not there
    finished = set(parts(command))
    complete = left == expected[command]
    again = measured_by(command, arguments(work, "resume=True"), monkeypatch)
    assert len(again) == (0 if complete else N_STILLS - len(finished))
    assert outputs(command) == expected[command]
    assert not list(Path().glob("*_parts")) and not list(Path().glob(".*refl"))


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_background_of_each_still_is_the_same_after_a_kill(nproc, work, monkeypatch):
    """kill -9 when some stills are done, with the profile of each still subtracted after the blanks."""
    args = arguments(work, "background_method=radial", f"background={work / 'blank.expt'}")
    Path("whole").mkdir()
    monkeypatch.chdir("whole")
    grid.run(args)
    expected = outputs()
    monkeypatch.chdir("..")
    process = start(grid, [*args, f"mp.nproc={nproc}"], seconds_per_still=0.3)
    wait_for(lambda: len(parts()) >= 2)
    workers = workers_of(process)
    process.kill()
    process.join()
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert not outputs()
    n_done = len(parts())
    assert len(measured_by(grid, [*args, "resume=True"], monkeypatch)) == N_STILLS - n_done < N_STILLS
    assert outputs() == expected


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_stops_the_run_which_names_its_still(victim, work, expected):
    process = start(grid, arguments(work, "mp.nproc=2"), seconds_per_still=0.3)
    wait_for(lambda: len(parts()) >= 2 and len(workers_of(process)) == 2)
    os.kill(workers_of(process)[victim], signal.SIGKILL)
    process.join()
    assert process.exitcode == 1
    said = Path("said.txt").read_text()
    assert "still_0000" in said and "SIGKILL" in said and "resume=True" in said and "\n" not in said
    assert not outputs()
    n_done = len(parts())
    assert f"{n_done} of {N_STILLS} parts" in said
    grid.run(arguments(work, "resume=True"))
    assert outputs() == expected[grid]


@pytest.mark.parametrize("nproc", [1, 2])
def test_told_to_stop_it_does_not_take_that_for_the_failure_of_a_still(nproc, work, expected):
    """SIGTERM, as a batch system's time limit sends it, where stills that fail are left out."""
    process = start(grid, arguments(work, f"mp.nproc={nproc}", "skip_failed=True"), seconds_per_still=0.3)
    wait_for(lambda: len(parts()) >= 2)
    process.terminate()
    process.join()
    assert process.exitcode == 1
    said = Path("said.txt").read_text()
    assert said.startswith("The run was told to stop (SIGTERM)") and "resume=True" in said and "\n" not in said
    assert not outputs()
    grid.run(arguments(work, "resume=True", "skip_failed=True"))
    assert outputs() == expected[grid]


@pytest.mark.parametrize("nproc", [1, 2])
def test_interrupted_from_the_keyboard_it_says_so_and_goes_on_later(nproc, work, expected):
    """Ctrl-C reaches all processes at once."""
    process = start(grid, arguments(work, f"mp.nproc={nproc}", "output.log=grid.log"), seconds_per_still=0.3)
    wait_for(lambda: len(parts()) >= 2)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert Path("grid.log").read_text().rstrip().endswith("Interrupted. Go on with resume=True.")
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert not outputs()
    grid.run(arguments(work, "resume=True"))
    assert outputs() == expected[grid]


@pytest.mark.parametrize("store, max_bytes", [(True, 60_000), (False, 60_000), (False, 1_500_000)])
def test_a_full_disk_stops_the_run_with_one_line_and_no_half_written_file(max_bytes, store, work, expected):
    """Files may not grow beyond a limit: parts do not fit, or the parts do and the table does not."""
    args = arguments(work, "mp.nproc=2", f"grid.store={store}", "output.log=None")
    process = start(grid, args, max_bytes=max_bytes)
    process.join()
    assert process.exitcode == 1
    said = process.heard.recv()
    assert said.startswith("Cannot write") and "\n" not in said
    assert ("gridded.refl" in said) == (max_bytes == 1_500_000)
    assert not outputs()
    grid.run([*args, "resume=True"])
    if store:
        assert GriddedStore("gridded.h5").n_rows > 0
    else:
        assert outputs()["gridded.refl"] == expected[grid]["gridded.refl"]


def test_parts_of_other_parameters_are_refused_and_thrown_away_without_resume(work, expected, monkeypatch):
    process = start(grid, arguments(work), seconds_per_still=0.2)
    wait_for(lambda: len(parts()) >= 2)
    process.kill()
    process.join()
    n_done = len(parts())
    with pytest.raises(Sorry, match="other parameters"):
        grid.run(arguments(work, "ndiv=1,1,1", "resume=True"))
    assert len(parts()) == n_done
    assert len(measured_by(grid, arguments(work), monkeypatch)) == N_STILLS
    assert outputs() == expected[grid]


def test_a_part_whose_image_changed_meanwhile_is_made_again(work, expected, tmp_path, monkeypatch):
    shutil.copytree(work / "images", tmp_path / "images")
    text = (work / "truth_stills.expt").read_text().replace(str(work / "images"), str(tmp_path / "images"))
    Path("stills.expt").write_text(text)
    image = tmp_path / "images" / "still_00004.cbf"  # the first is still_00001
    whole = image.read_bytes()
    image.write_bytes(whole[:3000])
    args = ["stills.expt", *arguments(work)[1:]]
    with pytest.raises(Sorry, match="still_00004.*3 of 6 parts are finished: resume=True"):
        grid.run(args)
    os.utime("images/still_00001.cbf", (1e9, 1e9))
    # a run that was stopped by a broken image may go on without it
    assert measured_by(grid, [*args, "resume=True", "skip_failed=True"], monkeypatch) == [0, 3, 4, 5]
    assert measured_by(grid, [*args, "resume=True", "skip_failed=True"], monkeypatch) == []
    with pytest.raises(Sorry, match="3 of 6"):
        grid.run(args)
    image.write_bytes(whole)
    with pytest.raises(Sorry, match="Bragg profile"):  # the image counts there, so that it matters to the others too
        grid.run([*args, "resume=True"])
    args.append("masking.bragg.radius=0.01")
    image.unlink()
    with pytest.raises(Sorry, match="3 of 6"):
        grid.run(args)
    image.write_bytes(whole)
    assert measured_by(grid, [*args, "resume=True"], monkeypatch) == [3, 4, 5]
    resumed = load_table("gridded.refl")["counts"]
    grid.run(args)
    assert np.array_equal(resumed, load_table("gridded.refl")["counts"])


def test_two_runs_do_not_write_the_same_output_at_once(work):
    process = start(grid, arguments(work), seconds_per_still=0.3)
    wait_for(parts)
    with pytest.raises(Sorry, match="Another run"):
        grid.run(arguments(work))
    process.kill()
    process.join()


def test_a_store_is_replaced_only_by_a_complete_one(work):
    grid.run(arguments(work, "grid.store=True"))
    before = GriddedStore("gridded.h5").read_sums()
    process = start(grid, arguments(work, "grid.store=True"), seconds_per_still=0.2)
    wait_for(lambda: len(parts()) >= N_STILLS + 2)
    process.kill()
    process.join()
    assert np.array_equal(GriddedStore("gridded.h5").read_sums().counts, before.counts)
    grid.run(arguments(work, "grid.store=True", "ndiv=1,1,1"))
    after = GriddedStore("gridded.h5")
    assert 0 < after.n_rows < len(before)
    assert len(parts()) == len(after.parts) == N_STILLS
    assert all(Part.open(part.path).key == after.key for part in after.parts)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
def test_a_killed_rank_ends_the_run_with_a_message_and_the_rest_is_resumed_to_the_same_files(work, expected):
    """kill -9 of rank 2, after the first part is finished; three ranks then do the rest."""
    pytest.importorskip("mpi4py")
    script = Path(grid.__file__).resolve().parents[2] / "command_line" / "grid.py"
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3"]
    run = [*mpirun, sys.executable, str(script), *arguments(work, "mp.method=mpi", "resume=True")]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=slow_environment())
    wait_for(parts)
    rank = wait_for(lambda: [pid for pid in workers_of(process) if rank_of(pid) == 2])[0]
    os.kill(rank, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "signal 9" in said or "SIGTERM" in said, said
    left, finished = outputs(), parts()
    assert {name: expected[grid][name] for name in left} == left and finished
    # without what a stills_process in this process leaves there of MPI, with which mpirun ends without a word
    subprocess.run(run, check=True, capture_output=True, env=dict(os.environ))
    assert outputs() == expected[grid]
    assert not list(Path().glob("*_parts"))


def slow_environment():
    """A start-up file that makes each still wait in the ranks, so that one can be killed between two."""
    Path("slow").mkdir()
    Path("slow/sitecustomize.py").write_text(
        "import importlib.abc, sys, time\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'diffuse_dials.algorithms.pixel_files':\n"
        "            from diffuse_dials.algorithms import pipeline\n"
        "            measure = pipeline.measure_still\n"
        "            def slow(*given):\n"
        "                time.sleep(0.7)\n"
        "                return measure(*given)\n"
        "            pipeline.measure_still = slow\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    paths = [str(Path("slow").absolute()), os.environ["PYTHONPATH"]]  # the latter leads to this checkout: conftest.py
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def rank_of(pid):
    for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if item.startswith(b"OMPI_COMM_WORLD_RANK="):
            return int(item.split(b"=")[1])
    return None
