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
def simulate_stills(tmp_path_factory):
    """Function (name, model, *parameters) → folder of simulated stills on small detectors; blanks in blank.expt."""
    from dxtbx.model.experiment_list import ExperimentListFactory

    from diffuse_dials.cli import simulate

    def make(name: str, model: str, *parameters: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            Path("small.pdb").write_text(model)
            simulate.run(["small.pdb", "distance=60", "exposure_time=0.1,0.2", "output.directory=.", *parameters])
            blanks = sorted(str(path) for path in Path("blanks").resolve().glob("*.cbf"))
            ExperimentListFactory.from_filenames(blanks).as_file("blank.expt")
        return folder

    return make


@pytest.fixture(scope="session")
def simulated(simulate_stills):
    """Six stills of a small crystal on one Pilatus module, three blanks, and the truth."""
    return simulate_stills(
        "simulated", MODEL, "n_stills=6", "n_blanks=3", "modules=1,1", "truth.d_min=2", "photons_per_pixel=5"
    )


@pytest.fixture
def work(simulated, run_in_tmp_path) -> Path:
    """The folder of the simulated stills, for a test that runs in a folder of its own."""
    return simulated


@pytest.fixture(scope="session")
def assert_same_sums():
    """Function (name, other): two tables have equal counts, numbers of pixels and places, the rest to rounding."""
    from diffuse_dials.io.tables import load_table

    def check(name, other):
        one, two = load_table(name), load_table(other)
        assert set(one.columns) == set(two.columns)
        for column in one.columns:
            whole = not np.any(one[column] % 1) if column == "counts" else False
            if column in ("counts", "response", "variance", "background", "xyzobs.px.value") and not whole:
                assert two[column] == pytest.approx(one[column], rel=1e-12)
            else:
                assert np.array_equal(one[column], two[column]), column

    return check
