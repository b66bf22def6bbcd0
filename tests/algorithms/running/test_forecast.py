"""The forecast of a run's memory, and the choice that follows from it."""

from __future__ import annotations

from collections import namedtuple

import pytest

from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.limits import table_bytes
from diffuse_dials.algorithms.running import forecast as module
from diffuse_dials.algorithms.running.forecast import Forecast, available_memory, forecast
from diffuse_dials.algorithms.stills import fused
from diffuse_dials.cli import grid
from diffuse_dials.io.gridded_store import GriddedStore
from diffuse_dials.kernels.accumulator import Accumulator

GIB = 2**30


def test_many_observations_go_to_the_store():
    """5e8 rows: more than a .refl holds whatever the memory; fewer where the memory is small."""
    assert Forecast(500_000_000, 1000 * GIB).needs_store()
    assert not Forecast(20_000_000, 64 * GIB).needs_store()
    assert Forecast(20_000_000, 8 * GIB).needs_store()


@pytest.fixture
def machine(tmp_path):
    def make(available_gib, groups, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {int(available_gib * 2**20)} kB\n")
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return make


def test_the_memory_of_the_machine_where_nothing_limits_it(machine):
    assert available_memory(machine(10, "0::/\n", {})) == 10 * GIB


def test_a_control_group_limits_it_whose_file_cache_can_be_taken_back(machine):
    files = {
        "job/memory.max": str(4 * GIB), "job/memory.current": str(3 * GIB),
        "job/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        "job/step/memory.max": "max", "job/step/memory.current": "0", "job/step/memory.stat": "inactive_file 0\n",
    }  # fmt: skip
    assert available_memory(machine(10, "0::/job/step\n", files)) == 2 * GIB


def test_control_groups_of_version_1_count_too(machine):
    files = {
        "memory/job/memory.limit_in_bytes": str(3 * GIB), "memory/job/memory.usage_in_bytes": str(GIB),
        "memory/job/memory.stat": "total_inactive_file 0\n",
    }  # fmt: skip
    assert available_memory(machine(10, "5:cpu:/\n4:memory:/job\n", files)) == 2 * GIB


def test_one_still_in_a_hundred_is_measured_and_no_more_than_needed(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 8 * GIB)
    measured = []

    def count(number):
        measured.append(number)
        return 70_000 + number

    found = forecast(count, list(range(10_000)), 18_000_000, "gridded.refl")
    assert len(measured) == 3 and found.n_rows == pytest.approx(10_000 * (70_000 + sum(measured) / 3))
    assert found.needs_store() and not found.at_most
    measured.clear()
    few = forecast(count, [0, 1], 1_000_000, "gridded.refl")
    assert not measured and few.at_most and few.n_rows == 2_000_000


@pytest.mark.parametrize("d_min", [2, 4])
def test_the_table_of_voxels_is_as_large_as_it_is_forecast(d_min, simulated, run_in_tmp_path, monkeypatch):
    """Of the cell that the stills have on average, and with a few pixels of parallax: 2 % an axis."""
    made, foretold = [], []

    class Kept(Accumulator):
        def __init__(self):
            super().__init__()
            made.append(self)

    def remember(*given):
        foretold.append(table_bytes(*given))
        return foretold[-1]

    monkeypatch.setattr(fused, "Accumulator", Kept)
    monkeypatch.setattr(pipeline, "table_bytes", remember)
    grid.run([str(simulated / "truth_stills.expt"), f"d_min={d_min}", "ndiv=15,15,15", "mp.nproc=1", "store=False"])
    assert max(one._table.nbytes for one in made) == pytest.approx(foretold[0], rel=0.06)


def test_the_table_of_voxels_counts_even_where_no_still_is_measured_first(monkeypatch, caplog):
    """0.4 GiB for a cell of 500 Å, 3 voxels per lattice point to 2 Å: too much for 24 processes on 10 GiB."""
    monkeypatch.setattr(module, "available_memory", lambda: 10 * GIB)
    found = forecast(None, [0, 1], 1_000_000, "gridded.refl", int(0.4 * GIB))
    with caplog.at_level("WARNING", logger="dials"):
        found.log(False, 16)
    assert not caplog.text
    with caplog.at_level("WARNING", logger="dials"):
        found.log(False, 24)
    assert "24 processes of about 0.40 GiB each" in caplog.text and "a smaller mp.nproc or a smaller" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="dials"):
        forecast(None, [0], 1_000_000, "gridded.refl", 9 * GIB).log(False, 1)
    assert "A process of about 9.00 GiB may need" in caplog.text and "mp.nproc" not in caplog.text


def test_a_disk_that_cannot_hold_the_run_is_told_before_it(monkeypatch, caplog, tmp_path):
    """1e7 rows: 1.5 GiB as a table with its parts, 0.2 GiB in the store."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(GIB))
    found = forecast(lambda number: 100_000, list(range(100)), 10**7, str(tmp_path / "not" / "there" / "gridded.refl"))
    assert found.free == GIB and found.n_rows == 10_000_000
    assert not found.fits_disk(False) and found.fits_disk(True)
    with caplog.at_level("WARNING", logger="dials"):
        found.log(False, 1)
    assert "1.51 GiB are needed, 1.00 GiB are free" in caplog.text and "grid.store=True" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="dials"):
        found.log(True, 1)
    assert not caplog.text


def test_stills_that_fail_are_no_part_of_the_forecast(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: GIB)

    def count(number):
        if number < 500:
            raise ValueError("broken")
        return 1000

    assert forecast(count, list(range(1000)), 10**7, "gridded.refl").n_rows == 1_000_000


def test_a_run_that_would_not_fit_switches_to_the_store_by_itself(simulated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "available_memory", lambda: 10 * 2**20)
    grid.run([str(simulated / "truth_stills.expt"), "d_min=3", "masking.bragg.radius=0.01"])
    assert GriddedStore("gridded.h5").n_rows > 0 and not (tmp_path / "gridded.refl").exists()
    log = (tmp_path / "diffuse.grid.log").read_text()
    assert "The sums go to an HDF5 store" in log
