"""diffuse.absolute on the files of a run whose total scattering is that of an atomistic lysozyme crystal."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from dials.util import Sorry
from dxtbx.model import Beam, Crystal, Experiment, ExperimentList

from diffuse_dials.adapters import scattering
from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group, supercell_crystal
from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel
from diffuse_dials.cli.absolute import run
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import load_table, save_table
from diffuse_dials.models.grid import GridRecord

CELL = (78.54, 78.54, 37.77, 90.0, 90.0, 90.0)
NDIV = (3, 3, 3)
WAVELENGTH = 0.98
K = 4.2e-4
FILES = ("merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl")


@pytest.fixture
def sequence(reference):
    return json.loads(reference("cell_contents.json").read_text())["HEWL_P43212"]["sequence"]


@pytest.fixture
def files(run_in_tmp_path, reference, rng):
    """Files of 30 stills to 0.7 1/Å with Poisson noise; ids of the radial totals run against the experiments' order."""
    group, n_stills = parse_space_group("P43212"), 30
    scales = rng.uniform(0.3, 3, n_stills)
    write_stills(scales, group)
    write_map(rng, group)
    write_totals(rng, reference, scales, s_max=0.7)
    save_grid_record(record(), "grid.json")
    return run_in_tmp_path


def record(**changes):
    base = GridRecord(CELL, "given", NDIV, "P 43 21 2", "P 4/m m m", 1.4, 20.0, "own", 0.01, False, (), 0.005)
    return replace(base, **changes)


def write_stills(scales, group, path="scaled.expt"):
    experiments = ExperimentList()
    for i, scale in enumerate(scales):
        crystal = Crystal((CELL[0], 0, 0), (0, CELL[1], 0), (0, 0, CELL[2]), group)
        model = DiffuseScalingModel.from_scale(float(scale), 0.01)
        beam = Beam((0, 0, 1), WAVELENGTH)
        experiments.append(Experiment(beam=beam, crystal=crystal, scaling_model=model, identifier=f"still{i}"))
    save_experiments(experiments, path)


def composition():
    """All atoms of the cell: 8 chains and the waters between them."""
    return {"N": 1544, "C": 4904, "O": 4629, "H": 13906, "S": 80}


def write_map(rng, group):
    crystal = supercell_crystal(CELL, NDIV, group)
    n = np.unique(rng.integers(0, 60, (400, 3)), axis=0)
    n = np.unique(map_to_asu(n[n.any(axis=1)], group), axis=0)
    b = np.array(crystal.get_B()).reshape(3, 3)
    rlp = n @ b.T
    s = np.linalg.norm(rlp, axis=1)
    diffuse = 0.3 * scattering.sum_f0_squared(composition(), s)
    intensity = K * (diffuse + scattering.incoherent(composition(), s, WAVELENGTH))
    columns = {
        "miller_index": n, "hkl": n / 3.0, "rlp": rlp, "d": 1 / s, "intensity.scale.value": intensity,
        "intensity.scale.variance": (0.1 * intensity) ** 2, "multiplicity": np.full(len(n), 5),
        "n_pixels": np.full(len(n), 50), "lattice_point": np.all(n % 3 == 0, axis=1),
    }  # fmt: skip
    save_table(columns, "merged.refl")
    save_experiments(ExperimentList([Experiment(crystal=crystal)]), "merged.expt")


def write_totals(rng, reference, scales, s_max, path="radial_totals.refl", names=None, background=50.0):
    with open(reference("radial_total_lysozyme.csv"), newline="") as handle:
        lines = list(csv.DictReader(handle))
    column = {name: np.array([float(line[name]) for line in lines]) for name in lines[0]}
    s = (column["s_lo"] + column["s_hi"]) / 2
    total = column["I_total_coherent_e2"] + column["sum_S_incoh_e2"] * scattering.klein_nishina(s, WAVELENGTH)
    used = (s > 0.04) & (s < s_max)
    s, total = s[used], total[used]
    still, number = (x.ravel() for x in np.indices((len(scales), len(s))))
    response = 200.0 * s[number]
    expected = scales[still] * response * K * total[number]
    counts = rng.poisson(expected + background).astype(float)
    order, zero = len(scales) - 1 - still, np.zeros(len(still))
    columns = {
        "id": order, "panel": zero, "s": s[number], "counts": counts, "background": zero + background,
        "response": response, "variance": counts, "n_pixels": zero + 400, "n_overloaded": zero,
    }  # fmt: skip
    names = names or {len(scales) - 1 - i: f"still{i}" for i in range(len(scales))}
    save_table(columns, path, names)


def test_the_map_comes_out_in_electrons_squared(files, sequence):
    """K⁻¹ is 0.993 of the truth at 0.7 1/Å, as the reference's own; the map is I/K - Compton."""
    run([*FILES, f"absolute.sequence={sequence}", "disulfides=4"])
    report = json.loads((files / "diffuse.absolute.json").read_text())
    assert K / report["k"] == pytest.approx(0.993, abs=0.006)
    assert {e["method"] for e in report["estimates"]} == {"krogh_moe", "high_angle"}
    assert 0 < report["relative_error_of_k"] < 0.05
    assert 0 < report["estimates"][0]["relative_errors"]["stills"] < 0.01
    table = load_table("absolute.refl")
    s, k = 1 / table["d"], report["k"]
    incoherent = scattering.incoherent(composition(), s, WAVELENGTH)
    np.testing.assert_allclose(table["intensity.incoherent.value"], incoherent, rtol=1e-3)
    value, variance = (table[f"intensity.scale.{name}"] for name in ("value", "variance"))
    expected = value / k - table["intensity.incoherent.value"]
    np.testing.assert_allclose(table["intensity.absolute.value"], expected, rtol=1e-9)
    np.testing.assert_allclose(table["intensity.absolute.variance"], variance / k**2, rtol=1e-9)
    np.testing.assert_allclose(
        table["intensity.coherent.value"], scattering.sum_f0_squared(composition(), s), rtol=1e-3
    )
    assert set(load_table("merged.refl").columns) < set(table.columns)
    (experiment,) = load_experiments("absolute.expt")
    assert experiment.crystal.get_unit_cell().parameters()[0] == pytest.approx(3 * 78.54)
    page = (files / "diffuse.absolute.html").read_text()
    assert page.count('<div class="graph">') == 3
    assert "src=" not in page and "href=" not in page  # opens without a network


def test_models_lead_from_counts_to_absolute_units(files, sequence):
    """b' = b K, in the order and with the identifiers of scaled.expt, which itself does not change."""
    before = (files / "scaled.expt").read_bytes()
    run([*FILES, f"absolute.sequence={sequence}", "disulfides=4"])
    k = json.loads((files / "diffuse.absolute.json").read_text())["k"]
    old, new = load_experiments("scaled.expt"), load_experiments("absolute_models.expt")
    assert list(new.identifiers()) == list(old.identifiers())
    for one, other in zip(old, new):
        assert other.scaling_model.scale == pytest.approx(k * one.scaling_model.scale)
        assert other.scaling_model.scale_esd == pytest.approx(k * one.scaling_model.scale_esd)
    assert (files / "scaled.expt").read_bytes() == before


def test_a_given_scale_replaces_the_method(files, sequence):
    run(["merged.expt", "merged.refl", "scaled.expt", f"absolute.sequence={sequence}", f"absolute.scale={K}"])
    report = json.loads((files / "diffuse.absolute.json").read_text())
    assert (report["method"], report["k"]) == ("number", K)
    table = load_table("absolute.refl")
    truth = 0.3 * scattering.sum_f0_squared(composition(), 1 / table["d"])
    np.testing.assert_allclose(table["intensity.absolute.value"], truth, rtol=3e-3)


def test_method_none_needs_no_composition(files):
    run(["merged.expt", "merged.refl", "scaled.expt", "absolute.method=none"])
    table = load_table("absolute.refl")
    np.testing.assert_allclose(table["intensity.absolute.value"], table["intensity.scale.value"])
    assert json.loads((files / "diffuse.absolute.json").read_text())["units"] == "relative"


def test_results_in_another_folder_keep_the_record(files, sequence):
    names = {name: f"out/{name}" for name in ("absolute.expt", "absolute.refl", "absolute_models.expt")}
    run([*FILES, f"absolute.sequence={sequence}", "output.experiments=" + names["absolute.expt"],
         "output.reflections=" + names["absolute.refl"], "output.models=" + names["absolute_models.expt"]])  # fmt: skip
    assert (files / "out/grid.json").read_bytes() == (files / "grid.json").read_bytes()


def refused(arguments):
    with pytest.raises(Sorry) as error:
        run(arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_wrong_input_is_one_line(files, sequence, rng, reference):
    """Each message says what is wrong; nothing is written."""
    given = f"absolute.sequence={sequence}"
    assert "No composition is given" in refused(FILES)
    assert "'Xx' is no chemical element" in refused([*FILES, "absolute.formula=C2Xx1"])
    assert "no parameter of this command" in refused([*FILES, given, "data.txt"])
    assert "needs radial_totals.refl" in refused([*FILES[:3], given])
    assert "No merged map was given" in refused(["merged.expt", "scaled.expt", "radial_totals.refl", given])
    assert "Give merged.expt and scaled.expt" in refused(["merged.expt", *FILES[1:2], "radial_totals.refl", given])
    table = load_table("merged.refl")
    table.columns["intensity.scale.value"][:] = np.nan
    save_table(table.columns, "nan.refl")
    assert "that are no numbers" in refused(["merged.expt", "nan.refl", *FILES[2:], given])
    scales = rng.uniform(0.3, 3, 5)
    write_totals(rng, reference, scales, 0.38, "low.refl")
    assert "needs 0.4 and should have 0.45" in refused([*FILES[:3], "low.refl", given])
    write_totals(rng, reference, scales, 0.7, "strange.refl", names={i: f"other{i}" for i in range(5)})
    assert "have no experiment in common" in refused([*FILES[:3], "strange.refl", given])
    save_grid_record(record(unit_cell=(60.0, 60.0, 40.0, 90.0, 90.0, 90.0)), "grid.json")
    assert "grid.json is not that of merged.refl: by its unit_cell 60,60,40" in refused([*FILES, given])
    (files / "grid.json").unlink()
    assert "There is no grid.json beside merged.refl" in refused([*FILES, given])
    assert not list(files.glob("absolute*"))


def test_a_map_without_its_isotropic_part_gets_no_scale_from_totals(files, sequence):
    save_grid_record(record(isotropic_removed=True), "grid.json")
    assert "took the crystal's isotropic scattering" in refused([*FILES, f"absolute.sequence={sequence}"])
    run([*FILES, f"absolute.sequence={sequence}", f"absolute.scale={K}"])
    report = json.loads((files / "diffuse.absolute.json").read_text())
    assert not report["compton_subtracted"]
    assert not load_table("absolute.refl")["intensity.incoherent.value"].any()
