"""The classes of docs/extending.md, taken from the page, made a package, and used by the commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.io.tables import load_table

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Folder of the page's package as pip would have installed it: modules, and metadata with the entry points."""
    folder = tmp_path_factory.mktemp("site")
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, code in re.findall(r"```\w+\n# (\S+)\n(.*?)```", text, flags=re.DOTALL):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code, encoding="utf-8")
    metadata = folder / "my_diffuse-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-diffuse\nVersion: 1.0\n")
    project = (folder / "pyproject.toml").read_text(encoding="utf-8")
    groups = re.sub(r'\[project.entry-points."(.*?)"\]', r"[\1]", project[project.index("[project.entry-points") :])
    (metadata / "entry_points.txt").write_text(groups.replace('"', ""))
    return folder


@pytest.fixture(scope="module")
def command(package):
    """Runs a command in a process of its own, which finds the package's entry points."""

    def run(name, *arguments):
        path = os.pathsep.join([str(package), str(ROOT)])
        code = f"import sys; from diffuse_dials.cli.{name} import run; run(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    return run


@pytest.fixture(scope="module")
def gridded(simulated, command, tmp_path_factory):
    """Folder with the sums of the simulated stills, gridded with the page's correction, background and mask."""
    folder = tmp_path_factory.mktemp("extended")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        common = (simulated / "truth_stills.expt", f"mask={simulated / 'truth_pixels.mask'}", "d_min=2")
        command(
            "grid", *common, "corrections.slab.mu=0.2", "corrections.slab.thickness=2", "background_method=dark",
            "background.dark.rate=2", "masking.bragg.method=box", "half_width=0.16666666666666666",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def plain(simulated, tmp_path_factory):
    """Folder with the sums as the package alone makes them, background subtracted."""
    from diffuse_dials.cli import grid

    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mask, blanks = f"mask={simulated / 'truth_pixels.mask'}", f"background={simulated / 'blank.expt'}"
        grid.run([str(simulated / "truth_stills.expt"), mask, blanks, "d_min=2"])
    return folder


def test_the_correction_multiplies_the_response(plain, gridded):
    """By exp(-μ t/2 (1 + 1/cos 2θ)), cos 2θ = 1 - λ²s²/2; the radial totals tell it bin by bin."""
    plain, slab = load_table(plain / "radial_totals.refl"), load_table(gridded / "radial_totals.refl")
    wavelength = ExperimentListFactory.from_json_file(str(gridded / "gridded.expt"), check_format=False)[0].beam
    cos_two_theta = 1 - (wavelength.get_wavelength() * plain["s"]) ** 2 / 2
    expected = np.exp(-0.2 * (1 + 1 / cos_two_theta))
    assert slab["response"] / plain["response"] == pytest.approx(expected, rel=5e-4)  # of the bins' width
    record = json.loads((gridded / "grid.json").read_text())
    assert record["corrections"]["slab"] == {"applied": True, "mu_per_mm": 0.2, "thickness_mm": 2}


def test_the_background_is_rate_times_exposure_time(gridded):
    table = load_table(gridded / "gridded.refl")
    per_pixel = table["background"] / table["n_pixels"]
    assert set(np.round(per_pixel, 9)) == {0.2, 0.4}  # the stills are exposed for 0.1 and 0.2 s
    assert json.loads((gridded / "grid.json").read_text())["background"] == {"method": "dark", "rate_per_s": 2}


def test_a_box_of_a_third_of_the_cell_is_the_voxel_of_the_lattice_point(gridded):
    table = load_table(gridded / "gridded.refl")
    np.testing.assert_array_equal(table["bragg"], np.all(table["miller_index"] % 3 == 0, axis=1))


def test_component_method_format_and_page_go_through_their_commands(simulated, plain, command, monkeypatch):
    monkeypatch.chdir(plain)
    command("scale", "gridded.expt", "gridded.refl", "experimental_scale_model=True", "components=taper")
    scale = json.loads(Path("diffuse.scale.json").read_text())
    assert scale["components"]["taper"]["kind"] == "still"
    (verdict,) = scale["cross_validation"]
    assert verdict["component"] == "taper" and not verdict["earned"]  # the simulated stills have none
    files = ("merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl")
    command("absolute", *files, f"absolute.model={simulated / 'model.pdb'}", "absolute.method=shell")
    absolute = json.loads(Path("diffuse.absolute.json").read_text())
    total = absolute["total_scattering"]
    s = np.array(total["s"])
    used = s > s.max() - 0.05
    # measured is I_tot/K: over the shell its sum is that of the theory
    assert np.sum(np.array(total["measured"])[used]) == pytest.approx(np.sum(np.array(total["theory"])[used]), rel=0.02)
    assert absolute["method"] == "shell"
    command("export", "absolute.expt", "absolute.refl", "format=csv", "csv.digits=4")
    rows = np.loadtxt("map.csv", delimiter=",", skiprows=1)
    table = load_table("absolute.refl")
    measured = (table["intensity.absolute.variance"] >= 0) & ~table["lattice_point"]
    np.testing.assert_allclose(rows[:, :3], table["hkl"][measured], atol=1e-4)
    np.testing.assert_allclose(rows[:, 3], table["intensity.absolute.value"][measured], rtol=1e-3)
    command("report", ".", "output.png=None")
    pages = json.loads(Path("diffuse.report.json").read_text())["pages"]
    assert pages["exposures"]["numbers"] == {"n_stills": 6, "total_s": pytest.approx(0.9)}  # 3 x (0.1 + 0.2) s
    assert list(pages["exposures"]["graphs"]) == ["exposure_times"]
