"""The package as others get it: installed, from a checkout, and as DIALS finds its scaling model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from dxtbx.model import Experiment, ExperimentList

from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "diffuse_dials", "phil")


def run_python(code, *, path, cwd, executable=sys.executable):
    """Output of a fresh process that sees the package first of all through ``path``."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder into which pip has installed the package, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:  # a copy, because a build writes into its source folder
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def entry_points(installed):
    parser = ConfigParser(delimiters=("=",))
    parser.optionxform = str
    (file,) = installed.glob("diffuse_dials-*.dist-info/entry_points.txt")
    parser.read(file)
    return {group: dict(parser[group]) for group in parser.sections()}


def test_an_installation_holds_every_module_data_file_and_parameter_file(installed):
    for folder, suffix in (("diffuse_dials", "*.py"), ("diffuse_dials/data", "*.*"), ("phil", "*.phil")):
        inside = Path("diffuse_dials", "phil") if folder == "phil" else Path(folder)
        here = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(suffix)}
        there = {path.relative_to(installed / inside) for path in (installed / inside).rglob(suffix)}
        assert here <= there, f"not installed: {sorted(map(str, here - there))}"


def test_an_installation_brings_nothing_but_the_package(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"diffuse_dials", "bin"}


def test_the_scripts_are_the_commands_that_have_a_dispatcher(installed):
    commands = sorted(path.stem for path in (ROOT / "command_line").glob("*.py"))
    scripts = entry_points(installed)["console_scripts"]
    assert scripts == {f"diffuse.{name}": f"diffuse_dials.cli.{name}:run" for name in commands}
    assert sorted(path.name for path in (installed / "bin").iterdir()) == sorted(scripts)


def test_the_developer_build_registers_the_model_that_the_installation_does(installed):
    line = "diffuse = diffuse_dials.algorithms.scaling.model:DiffuseScalingModel"
    name, value = line.split(" = ")
    assert entry_points(installed)["dxtbx.scaling_model_ext"] == {name: value}
    assert f'{{"dxtbx.scaling_model_ext": ["{line}"]}}' in (ROOT / "libtbx_refresh.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("way", ["installed", "checkout"])
def test_the_package_and_its_parameter_files_are_found(way, installed, tmp_path):
    path = installed if way == "installed" else ROOT
    code = "import diffuse_dials as d; print(d.__file__, (d.phil_folder() / 'snase' / 'stills_process.phil').is_file())"
    assert run_python(code, path=path, cwd=tmp_path) == f"{path / 'diffuse_dials' / '__init__.py'} True"


@pytest.fixture
def scaled(tmp_path):
    """An .expt file with our scaling model in it."""
    experiments = ExperimentList([Experiment(scaling_model=DiffuseScalingModel.from_scale(1.5, 0.1))])
    experiments.as_file(str(tmp_path / "scaled.expt"))
    return tmp_path


READ_SCALE = (
    "from dxtbx.model import ExperimentList;"
    "print(ExperimentList.from_file('scaled.expt', check_format=False)[0].scaling_model.scale)"
)


@pytest.mark.parametrize(
    "first", ["diffuse_dials.algorithms.scaling.model", "dials.algorithms.scaling.model.model", "sys"]
)
def test_the_scaling_model_is_read_back_whatever_was_imported_first(first, installed, scaled):
    """DIALS imports all registered models while it imports its own: ours imports DIALS's and must not break that."""
    assert run_python(f"import {first}; {READ_SCALE}", path=installed, cwd=scaled) == "1.5"


def test_the_scaling_model_is_read_back_in_a_checkout_that_was_never_installed(scaled):
    shutil.copytree(ROOT / "diffuse_dials", scaled / "checkout" / "diffuse_dials")
    outside_venv = getattr(sys, "_base_executable", sys.executable)  # a .venv has the package installed
    code = (
        "import dxtbx.model.experiment_list; from diffuse_dials.adapters.entry_points import register_scaling_model;"
        "register_scaling_model(); from diffuse_dials.algorithms.scaling.model import check_registered;"
        f"check_registered(); {READ_SCALE}"
    )
    assert run_python(code, path=scaled / "checkout", cwd=scaled, executable=outside_venv) == "1.5"


def test_images_compressed_with_bitshuffle_can_be_read():
    """Eiger's files: setup.sh installs the HDF5 filter (Debian: bitshuffle), conda's hdf5plugin has its own."""
    from diffuse_dials.adapters import hdf5_filters

    assert hdf5_filters.use_fastest()
    if Path("/etc/debian_version").is_file():
        assert " bitshuffle\n" in (ROOT / "tools" / "setup.sh").read_text(encoding="utf-8")


def test_parameters_shown_to_a_reader_who_has_seen_enough_end_quietly(tmp_path):
    """As ``diffuse.grid -c -e2 | head -1``: more than a pipe holds, and nobody takes the rest."""
    code = "from diffuse_dials.cli import grid; grid.run(['-c', '-e2', '-a2'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, **pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
