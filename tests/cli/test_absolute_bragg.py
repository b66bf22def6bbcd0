"""diffuse.absolute by Bragg intensities out of the map, on a small crystal of known |F|²."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cctbx import crystal, miller
from dials.array_family import flex
from dials.util import Sorry
from dxtbx.model import Beam, Crystal, Experiment, ExperimentList

from diffuse_dials.adapters import scattering
from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.adapters.symmetry import (
    epsilons,
    map_to_asu,
    parse_space_group,
    supercell_crystal,
    systematically_absent,
)
from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel
from diffuse_dials.cli.absolute import run
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import load_table, save_table
from diffuse_dials.models.grid import GridRecord, holds_lattice_point

CELL, NDIV, K, B, D_MIN = (30.0, 30.0, 20.0, 90.0, 90.0, 90.0), (3, 3, 3), 2.3e-3, 12.0, 1.5
FORMULA = {"C": 50, "N": 14, "O": 16, "H": 80}  # times 8 operations
GIVEN = ['absolute.formula="C50 N14 O16 H80"', "solvent=none"]
FILES = ["merged.expt", "merged.refl", "scaled.expt"]


def cell_atoms():
    return {element: 8 * n for element, n in FORMULA.items()}


@pytest.fixture
def files(run_in_tmp_path, rng):
    """A map with peaks in lattice-point voxels, 2 % noise on each, and F.mtz with the |F|² behind them."""
    group = parse_space_group("P43212")
    model = supercell_crystal(CELL, NDIV, group)
    cell = np.array(model.get_B()).reshape(3, 3)
    reach = [int(edge * 3 / D_MIN) for edge in CELL[:3]]
    n = np.stack(np.meshgrid(*[np.arange(0, r + 1) for r in reach], indexing="ij"), -1).reshape(-1, 3)
    n = np.unique(map_to_asu(n[n.any(axis=1)], group), axis=0)
    rlp = n @ cell.T
    s = np.linalg.norm(rlp, axis=1)
    n, rlp, s = n[s < 1 / D_MIN], rlp[s < 1 / D_MIN], s[s < 1 / D_MIN]
    point = holds_lattice_point(n, NDIV)
    hkl = n[point] // 3
    mean = scattering.sum_f0_squared(cell_atoms(), s[point]) * np.exp(-B * s[point] ** 2 / 2)
    squared = epsilons(hkl, group) * mean * rng.exponential(size=len(hkl)) * ~systematically_absent(hkl, group)
    diffuse = 0.3 * scattering.sum_f0_squared(cell_atoms(), s)
    level = K * (diffuse + scattering.incoherent(cell_atoms(), s, 1.0))
    everything = level.copy()
    everything[point] += K * 27 * squared * (1 + 0.02 * rng.standard_normal(len(hkl)))
    save_table(
        {
            "miller_index": n, "hkl": n / 3.0, "rlp": rlp, "d": 1 / s,
            "intensity.scale.value": np.where(point, 0.0, level), "intensity.scale.variance": np.where(point, -1, 1e-8),
            "multiplicity": np.where(point, 0, 20), "n_pixels": np.full(len(n), 50), "lattice_point": point,
            "intensity.all.value": everything, "intensity.all.variance": (0.02 * everything) ** 2,
            "multiplicity.all": np.full(len(n), 20),
        },
        "merged.refl",
    )  # fmt: skip
    save_experiments(ExperimentList([Experiment(crystal=model)]), "merged.expt")
    write_stills(group)
    write_reference(hkl, squared, group)
    save_grid_record(
        GridRecord(CELL, "given", NDIV, "P 43 21 2", "P 4/m m m", D_MIN, None, "own", 0.01, False, (), 0.005,
                   {"sensor_efficiency": {"applied": False, "reason": "the thickness is unknown"}}), "grid.json"
    )  # fmt: skip
    return run_in_tmp_path


def write_stills(group):
    experiments = ExperimentList()
    for i in range(12):
        axes = Crystal((CELL[0], 0, 0), (0, CELL[1], 0), (0, 0, CELL[2]), group)
        scaling = DiffuseScalingModel.from_scale(1.0, 0.01)
        experiments.append(
            Experiment(beam=Beam((0, 0, 1), 1.0), crystal=axes, scaling_model=scaling, identifier=f"{i}")
        )
    save_experiments(experiments, "scaled.expt")


def write_reference(hkl, squared, group):
    symmetry = crystal.symmetry(CELL, space_group=group)
    indices = flex.miller_index([tuple(int(i) for i in h) for h in hkl[squared > 0]])
    data = miller.array(miller.set(symmetry, indices, False), flex.double(np.sqrt(squared[squared > 0])))
    data.set_observation_type_xray_amplitude().as_mtz_dataset(column_root_label="F").mtz_object().write("F.mtz")


def report():
    with open("diffuse.absolute.json", encoding="utf-8") as handle:
        return json.load(handle)


def test_known_amplitudes_set_the_scale_without_radial_totals(files):
    """K to four standard errors and 1 %; the map is I/K - Compton; Wilson beside it; a picture and a page."""
    run([*FILES, "F.mtz", "method=reference", *GIVEN])
    found = report()
    assert found["k"] == pytest.approx(K, rel=min(0.01, 4 * found["relative_error_of_k"]))
    methods = {e["method"]: e for e in found["estimates"]}
    assert methods["reference"]["delta_b"] == pytest.approx(0, abs=0.5)
    assert methods["wilson"]["k"] == pytest.approx(K, rel=0.3)
    assert methods["wilson"]["b"] == pytest.approx(B, abs=2)
    assert "needs radial_totals.refl" in found["cannot_run"]["krogh_moe"]
    table = load_table("absolute.refl")
    measured = ~table["lattice_point"]
    truth = 0.3 * scattering.sum_f0_squared(cell_atoms(), 1 / table["d"])
    np.testing.assert_allclose(table["intensity.absolute.value"][measured], truth[measured], rtol=0.03)
    assert any("sensor efficiency was not corrected for" in warning for warning in found["warnings"])
    assert len(found["map_shells"]["independent_vibrations"]) == len(found["map_shells"]["s"])
    assert (files / "diffuse.absolute.png").stat().st_size > 10_000
    assert "Wilson plot" in (files / "diffuse.absolute.html").read_text()
    scales = [e.scaling_model.scale for e in load_experiments("absolute_models.expt")]
    assert scales == pytest.approx([found["k"]] * 12)


def test_flux_and_volume_are_held_against_the_scale(files):
    """Φ r_e² N_cells with 1e12 photons/s/µm² on 1 µm³ of cells of 18000 Å³; the scale given is a third of it."""
    expected = 1e12 * 1e-8 * 7.9408e-10 * 1e12 / 18000.0
    run([*FILES, *GIVEN, f"absolute.scale={expected / 3}", "flux=1e12", "volume=1"])
    assert report()["k_by_flux_and_volume"] == pytest.approx(expected)
    assert any("K is 0.333 times what flux" in warning for warning in report()["warnings"])
    with pytest.raises(Sorry, match="say something together only"):
        run([*FILES, *GIVEN, "absolute.scale=1", "flux=1e12"])


def write_integrated():
    """Rows as dials.stills_process writes them."""
    table, rng = flex.reflection_table(), np.random.default_rng(1)
    hkl = rng.integers(1, 15, (5000, 3))
    s = np.linalg.norm(hkl / np.array(CELL[:3]), axis=1)
    hkl, s = hkl[s < 0.62], s[s < 0.62]
    table["id"] = flex.int(len(s), 0)
    table["miller_index"] = flex.miller_index([tuple(int(i) for i in h) for h in hkl])
    table["d"] = flex.double(1 / s)
    direction = np.stack([np.sin(s), 0 * s, np.cos(s)], axis=1)
    table["s1"] = flex.vec3_double([tuple(row) for row in direction])
    intensity = 1e-4 * rng.exponential(size=len(s)) * scattering.sum_f0_squared(cell_atoms(), s) * np.exp(-8 * s**2)
    table["intensity.sum.value"] = flex.double(intensity)
    table.experiment_identifiers()[0] = "0"
    table.as_file("integrated.refl")


def test_intensities_of_single_stills_give_a_plot_and_b_but_no_scale(files):
    """With the map's own Bragg intensities Wilson's method runs on those; without, it is refused with the reason."""
    write_integrated()
    run([*FILES, "integrated.refl", "method=wilson", *GIVEN])
    found = report()
    assert found["k"] == pytest.approx(K, rel=0.3)
    assert 5 < found["wilson_plot_of_single_stills"]["b"] < 25
    table = load_table("merged.refl")
    save_table({n: v for n, v in table.columns.items() if ".all" not in n}, "merged.refl")
    with pytest.raises(Sorry, match="no scale of a diffuse map"):
        run([*FILES, "integrated.refl", "method=wilson", *GIVEN])
    with pytest.raises(Sorry, match="needs Bragg intensities in the map"):
        run([*FILES, "F.mtz", "method=reference", *GIVEN])


def test_a_composition_may_be_named_as_input(files):
    (files / "chain.fasta").write_text(">chain\nGASG\n")
    run([*FILES, "input.composition=chain.fasta", f"absolute.scale={K}"])
    assert report()["composition"]["ordered_atoms"]["N"] == 32
    with pytest.raises(Sorry, match="are both sequences"):
        run([*FILES, "chain.fasta", "input.composition=chain.fasta", f"absolute.scale={K}"])
