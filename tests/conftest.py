"""Fixtures that all tests share; the package is importable from a bare checkout, here and in sub-processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

import diffuse_dials  # noqa: E402, F401  (prepares the environment before a test imports dxtbx)


def pytest_addoption(parser):
    # dials_data defines the same option when it is installed: both mean "run the slow tests that download"
    try:
        parser.addoption("--regression", action="store_true", default=False, help="run tests on dials_data sets")
    except ValueError:
        pass


def pytest_configure(config):
    config.addinivalue_line("markers", "regression: needs --regression (large or downloaded data)")


def pytest_runtest_setup(item):
    if item.get_closest_marker("regression") and not item.config.getoption("--regression"):
        pytest.skip("needs --regression")


def _shared(folder: str):
    def locate(name: str) -> Path:
        path = SHARED / folder / name
        if not path.exists():
            pytest.skip(f"shared/{folder}/{name} is not beside this checkout")
        return path

    return locate


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def reference():
    """Path of a reference table by file name; skips where the tables are absent."""
    return _shared("reference")


@pytest.fixture(scope="session")
def shared_data():
    """Path of a folder of real stills by name; skips where the data are absent."""
    return _shared("data")


@pytest.fixture
def run_in_tmp_path(monkeypatch, tmp_path) -> Path:
    """Makes an empty folder the working directory of the test and returns it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODEL = """\
CRYST1   30.000   30.000   25.000  90.00  90.00  90.00 P 43 21 2
ATOM      1  C   ALA A   1       5.000   6.000   7.000  1.00  0.00           C
ATOM      2  N   ALA A   1       6.400   6.300   7.200  1.00  0.00           N
ATOM      3  O   ALA A   1       8.000   9.000   4.000  1.00  0.00           O
ATOM      4  S   CYS A   2      11.000   3.000   9.000  1.00  0.00           S
END
"""


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Six stills of a small crystal on one Pilatus module, three blanks, and the truth."""
    from dxtbx.model.experiment_list import ExperimentListFactory

    from diffuse_dials.cli import simulate

    folder = tmp_path_factory.mktemp("simulated")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    (folder / "small.pdb").write_text(MODEL)
    simulate.run([
        "small.pdb", "n_stills=6", "n_blanks=3", "modules=1,1", "distance=60", "truth.d_min=2", "output.directory=.",
        "photons_per_pixel=5", "exposure_time=0.1,0.2",
    ])  # fmt: skip
    experiments = ExperimentListFactory.from_filenames([str(p) for p in sorted((folder / "blanks").glob("*.cbf"))])
    experiments.as_file(str(folder / "blank.expt"))
    patch.undo()
    return folder
