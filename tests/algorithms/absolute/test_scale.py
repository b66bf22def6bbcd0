"""Theory, total scattering and methods against an atomistic lysozyme crystal computed independently."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import libtbx.phil
import numpy as np
import pytest

from diffuse_dials.algorithms.absolute import doubts, scale
from diffuse_dials.algorithms.absolute.composition import Composition
from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.absolute.residues import Bond, add, chains_inventory, residue_bonds
from diffuse_dials.algorithms.absolute.theory import Theory, interpolated
from diffuse_dials.algorithms.absolute.totals import TotalScattering, map_over_totals
from diffuse_dials.models.grid import GridRecord

# K⁻¹ found / true of an independent calculation on an all-atom lysozyme crystal, for limits of s_max
LIMITS = (0.40, 0.45, 0.50, 0.55, 0.60, 0.70, 0.80, 1.0)
WITHOUT_BONDS = (0.65, 0.72, 0.77, 0.83, 0.88, 0.94, 0.97, 0.96)
WITH_BONDS = (1.07, 1.01, 0.97, 0.97, 0.98, 0.99, 1.00, 1.00)
NO_RECOIL = 1e-9  # Å: the reference's total holds Σ S without recoil


def parameters(text=""):
    return scale.phil_scope.fetch(libtbx.phil.parse(text)).extract().absolute


@pytest.fixture(scope="module")
def cell(reference):
    """Contents of the lysozyme cell as the reference lists them."""
    data = json.loads(reference("cell_contents.json").read_text())["HEWL_P43212"]
    _, bonds = chains_inventory([data["sequence"]], data["disulfides_per_chain"])
    bonds = add(add(bonds, dict(bonds), 7), residue_bonds()["HOH"], data["waters_per_cell"])
    mass = data["chains_per_cell"] * data["chain_mass_Da"]
    inventories = data["ordered_atoms"], data["all_atoms"], dict(bonds)
    return Composition(*inventories, mass, data["waters_per_cell"], data["volume_A3"])


@pytest.fixture(scope="module")
def lysozyme(reference):
    """Columns of radial_total_lysozyme.csv."""
    with open(reference("radial_total_lysozyme.csv"), newline="") as handle:
        lines = list(csv.DictReader(handle))
    return {name: np.array([float(line[name]) for line in lines]) for name in lines[0]}


def totals(lysozyme, k=1.0, low=0.0, high=2.0, **kwargs):
    """The observed total as the radial sums of one noise-free still, K times e²."""
    s = (lysozyme["s_lo"] + lysozyme["s_hi"]) / 2
    observed = k * (lysozyme["I_total_coherent_e2"] + lysozyme["sum_S_incoh_e2"])
    used = (s > low) & (s < high)
    s, observed, zero = s[used], observed[used], np.zeros(used.sum(), dtype=int)
    return TotalScattering.from_rows(
        zero, s, 2.0 * observed, zero + 2.0, observed, zero + 1000, zero, width=0.005, **kwargs
    )


def estimate(method, totals, theory, text=""):
    return METHODS[method]().estimate(Evidence(theory, totals), parameters("absolute.n_bootstrap=0\n" + text))


def test_theory_is_that_of_the_reference_cell(reference, cell):
    """cell_scattering.csv, to 0.5 % (of the largest value for the bond term, which changes sign)."""
    with open(reference("cell_scattering.csv"), newline="") as handle:
        lines = [line for line in csv.DictReader(handle) if line["cell"] == "HEWL_P43212"]
    column = lambda name: np.array([float(line[name]) for line in lines])  # noqa: E731
    s, theory = column("s_invA"), Theory(cell, 1.0)
    np.testing.assert_allclose(theory.ordered(s), column("sum_f0sq_ordered_e2"), rtol=5e-3)
    np.testing.assert_allclose(theory.coherent(s), column("sum_f0sq_all_e2"), rtol=5e-3)
    np.testing.assert_allclose(theory.incoherent(s), column("sum_S_incoh_KN_lambda1.0_e2"), rtol=5e-3, atol=1e-6)
    expected = column("bond_term_12_all_e2")
    np.testing.assert_allclose(theory.bonds(s), expected, atol=1e-6 * expected.max())
    np.testing.assert_allclose(theory.total(s), theory.coherent(s) + theory.incoherent(s) + theory.bonds(s), rtol=1e-12)
    assert theory.forward == 92440.0**2


def test_a_bond_interferes_as_debye_says():
    """One C-C pair of 1.5 Å: 2 f² sin(2πsd)/(2πsd); twice Σf² of an atom at s = 0."""
    pair = Composition({"C": 2}, {"C": 2}, {Bond("C", "C", 1.5): 1}, 24.0, 0, 1000.0)
    theory, s = Theory(pair, 1.0), np.array([0.0, 1 / 3])
    np.testing.assert_allclose(theory.bonds(s), [theory.coherent(0.0), 0.0], atol=1e-9)


def test_interpolated_curves_are_the_curves(cell, rng):
    theory, s = Theory(cell, 1.0), rng.uniform(0.01, 0.8, 1000)
    np.testing.assert_allclose(interpolated(theory.incoherent, s), theory.incoherent(s), atol=1e-5 * 6e4)
    np.testing.assert_allclose(interpolated(theory.coherent, s), theory.coherent(s), rtol=2e-5)


@pytest.mark.parametrize("use_bonds, expected", [(True, WITH_BONDS), (False, WITHOUT_BONDS)])
def test_krogh_moe_reproduces_the_table_of_limits(cell, lysozyme, use_bonds, expected):
    """K⁻¹ found / true for eight s_max, to the ±0.01 of the tables above."""
    theory = Theory(cell, NO_RECOIL, use_bonds)
    found = [1 / estimate("krogh_moe", totals(lysozyme), theory, f"absolute.s_max={limit}").k for limit in LIMITS]
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("use_bonds, expected", [(True, 0.993), (False, 0.944)])
def test_krogh_moe_at_0_70(cell, lysozyme, use_bonds, expected):
    """radial_total_lysozyme.csv: 0.993 ± 0.003 with bonds, 0.944 without, whatever K is."""
    k = estimate("krogh_moe", totals(lysozyme, k=3.7e-4), Theory(cell, NO_RECOIL, use_bonds), "absolute.s_max=0.7").k
    assert 3.7e-4 / k == pytest.approx(expected, abs=0.003)


def test_a_beamstop_hardly_matters(cell, lysozyme):
    """No data below 0.05 1/Å: K changes by less than 0.2 %."""
    theory = Theory(cell, NO_RECOIL)
    whole, cut = (estimate("krogh_moe", totals(lysozyme, low=low), theory, "absolute.s_max=0.7").k for low in (0, 0.05))
    assert cut / whole == pytest.approx(1, abs=2e-3)


def test_errors_of_the_scale_are_those_of_the_reference(cell, lysozyme):
    """Composition 3 % too large: K⁻¹ + 2.6 % (absolute_scale_simulation.json D); truncation: the table above."""
    found = estimate("krogh_moe", totals(lysozyme), Theory(cell, NO_RECOIL), "absolute.s_max=0.7")
    assert found.errors["composition"] == pytest.approx(0.026, abs=0.001)
    assert 0.005 < found.errors["truncation"] < 0.012
    assert found.relative_error == pytest.approx(np.hypot(found.errors["composition"], found.errors["truncation"]))
    assert found.curve_k[np.searchsorted(found.curve_s, 0.699)] == pytest.approx(found.k)


@pytest.mark.parametrize(
    "low, high, expected", [(0.3, 0.5, 0.904), (0.5, 0.7, 1.015), (0.5, 0.8, 1.020), (0.3, 0.8, 0.981)]
)
def test_high_angle_windows(cell, lysozyme, low, high, expected):
    """absolute_scale_simulation.json D_high_angle, with the bond term."""
    text = f"absolute.s_max={high}\nabsolute.high_angle.s_min={low}"
    found = estimate("high_angle", totals(lysozyme), Theory(cell, NO_RECOIL), text)
    assert 1 / found.k == pytest.approx(expected, abs=0.01)


def test_krogh_moe_refuses_data_that_end_too_low(cell, lysozyme):
    with pytest.raises(ValueError, match="to .s. = 0.350 .* needs 0.4"):
        estimate("krogh_moe", totals(lysozyme, high=0.35), Theory(cell, NO_RECOIL))
    assert "below 0.45" in " ".join(estimate("krogh_moe", totals(lysozyme, high=0.42), Theory(cell, NO_RECOIL)).notes)
    with pytest.raises(ValueError, match="beyond the radial totals, which end at 0.500"):
        estimate("krogh_moe", totals(lysozyme, high=0.5), Theory(cell, NO_RECOIL), "absolute.s_max=0.6")


def noisy_totals(rng, cell, n_stills=150, photons=400.0):
    """Stills with known scales and Poisson noise around the theoretical curve; response in arbitrary units."""
    theory, k = Theory(cell, 1.0), 2.5e-5
    s = (np.arange(120) + 0.5) * 0.005
    b = rng.uniform(0.3, 3, n_stills)
    still, number = (x.ravel() for x in np.indices((n_stills, len(s))))
    # the theoretical total obeys its own sum rule only without the -n_e² term: high_angle is the method to test
    rate = k * theory.total(s)[number]
    response = photons / (k * theory.total(0.3)) * rng.uniform(0.5, 1.5, len(still))
    counts = rng.poisson(b[still] * response * rate).astype(float)
    zero = np.zeros(len(still))
    return (
        theory,
        k,
        TotalScattering.from_rows(still, s[number], counts, b[still] * response, counts, zero + 50, zero, width=0.005),
    )


def test_the_bootstrap_gives_the_error_of_counting(rng, cell):
    """40 simulated experiments scatter about the truth as the bootstrap says, where only counting contributes."""
    params = parameters("absolute.n_bootstrap=60\nabsolute.seed=1")
    found = []
    for _ in range(40):
        theory, k, simulated = noisy_totals(rng, cell, n_stills=30, photons=3.0)
        found.append(METHODS["high_angle"]().estimate(Evidence(theory, simulated), params))
    ratios = np.array([e.k for e in found]) / k
    sigma = np.sqrt(np.mean([e.errors["stills"] ** 2 for e in found]))
    assert ratios.mean() == pytest.approx(1, abs=4 * sigma / np.sqrt(40))
    assert ratios.std(ddof=1) == pytest.approx(sigma, rel=4 / np.sqrt(2 * 40))


def test_the_same_seed_gives_the_same_error(rng, cell):
    theory, _, simulated = noisy_totals(rng, cell, n_stills=20)
    evidence, params = Evidence(theory, simulated), parameters("absolute.seed=3")
    once, again = (METHODS["high_angle"]().estimate(evidence, params) for _ in range(2))
    assert once.errors == again.errors


def test_bins_with_few_pixels_count_as_not_measured():
    """A bin of one pixel between others is bridged, one at the end is cut off, overloads are reported."""
    s = (np.arange(6) + 0.5) * 0.01
    n_pixels = np.array([0, 500, 1, 500, 500, 1])
    signal = np.array([0.0, 10, 999, 30, 40, 999])
    found = TotalScattering.from_rows(
        np.zeros(6, dtype=int), s, signal, np.ones(6), signal, n_pixels, np.array([0, 0, 0, 0, 500, 0]), width=0.01
    )
    assert (found.s_first, found.s_last) == pytest.approx((0.01, 0.05))
    np.testing.assert_allclose(found.intensity()[[2, 3, 4]], [20, 30, 40])
    assert found.overloaded_fraction()[4] == 0.5
    with pytest.raises(ValueError, match="No .s. bin"):
        TotalScattering.from_rows(
            np.zeros(6, dtype=int), s, signal, np.ones(6), signal, n_pixels, n_pixels, width=0.01, min_pixels=1000
        ).intensity()
    with pytest.raises(ValueError, match="bins of the radial totals are not 0.02"):
        TotalScattering.from_rows(np.zeros(6, dtype=int), s, signal, np.ones(6), signal, n_pixels, n_pixels, width=0.02)


def test_the_map_in_electron_units_is_the_one_that_was_put_in(cell, rng):
    """I = K (I_D + I_inc) comes back as I_D, σ as σ/K."""
    theory, s = Theory(cell, 0.98), rng.uniform(0.1, 0.6, 500)
    diffuse, k = rng.uniform(1e4, 1e5, 500), 3e-3
    given = scale.ScaleEstimate("krogh_moe", k)
    relative = k * (diffuse + theory.incoherent(s))
    result = scale.absolute_map(relative, np.full(500, 4.0), s, given, Evidence(theory, None))
    np.testing.assert_allclose(result.value, diffuse, rtol=1e-3)
    np.testing.assert_allclose(result.variance, 4.0 / k**2)
    np.testing.assert_allclose(result.coherent, theory.coherent(s), rtol=1e-4)


def test_voxels_without_a_measurement_stay_marked(cell):
    given = scale.ScaleEstimate("krogh_moe", 2.0)
    evidence = Evidence(Theory(cell, 1.0), None)
    result = scale.absolute_map(np.array([0.0, 8e4]), np.array([-1.0, 4.0]), np.full(2, 0.3), given, evidence)
    assert result.value[0] == 0
    assert result.variance.tolist() == [-1.0, 1.0]


def test_compton_scattering_is_not_subtracted_after_a_radial_background(cell, lysozyme):
    evidence = Evidence(Theory(cell, 1.0), totals(lysozyme), isotropic_removed=True)
    with pytest.raises(ValueError, match="took the crystal's isotropic scattering with it"):
        scale.find_scale(evidence, parameters())
    chosen, estimates, refusals = scale.find_scale(evidence, parameters("absolute.scale=2.0"))
    assert chosen.k == 2.0
    assert set(refusals) == {"krogh_moe", "high_angle", "reference", "wilson"}
    assert not scale.absolute_map(np.ones(3), np.ones(3), np.full(3, 0.3), chosen, evidence).incoherent.any()
    assert any("radial background" in w for w in doubts.of_scale(estimates, evidence, np.array([0.1]), np.array([1.0])))


def test_method_none_leaves_the_map_alone():
    evidence = Evidence(None, None)
    chosen, _, refusals = scale.find_scale(evidence, parameters("absolute.method=none"))
    result = scale.absolute_map(np.array([1.0, 2.0]), np.ones(2), np.full(2, 0.3), chosen, evidence)
    assert result.value.tolist() == [1.0, 2.0]
    assert "needs radial_totals.refl" in refusals["krogh_moe"]


def test_methods_that_disagree_and_negative_maps_are_called_out(cell, lysozyme):
    evidence = Evidence(Theory(cell, NO_RECOIL), totals(lysozyme))
    chosen, estimates, _ = scale.find_scale(evidence, parameters("absolute.scale=1.3\nabsolute.n_bootstrap=0"))
    found = doubts.of_scale(estimates, evidence, np.array([0.1, 0.3]), np.array([10.0, -1.0]))
    assert any("krogh_moe gives 0.77 times the scale of number" in warning for warning in found)
    assert any("negative in 1 of 2 shells, first at |s| = 0.30" in warning for warning in found)


def test_shell_means_weight_voxels_by_their_stills():
    centres, means = scale.shell_means(np.array([1.0, 4.0, 9.0]), np.array([0.101, 0.119, 0.15]), np.array([1, 2, 5]))
    np.testing.assert_allclose(centres, [0.11, 0.15])
    np.testing.assert_allclose(means, [3.0, 9.0])


def test_map_and_radial_totals_are_held_against_each_other(lysozyme):
    """Voxels with the value of the totals at their |s| give 1; twice the map gives 2 and a doubt."""
    total = totals(lysozyme, high=0.6)
    s = np.linspace(0.05, 0.55, 4000)
    columns = {"intensity.all.value": np.interp(s, total.s, total.intensity()), "multiplicity.all": np.full(4000, 3)}
    ratio = map_over_totals(total, columns, s)
    assert ratio == pytest.approx(1, abs=0.01)
    assert doubts.of_totals(ratio) == []
    columns["intensity.all.value"] = 2 * columns["intensity.all.value"]
    assert "has 2.0" in doubts.of_totals(map_over_totals(total, columns, s))[0]
    assert map_over_totals(total, {}, s) is None
    assert map_over_totals(None, columns, s) is None


def test_overloads_are_a_lower_limit_of_what_is_lost(cell, lysozyme):
    """One pixel in a thousand that held at least ten times the mean takes 1 % of the intensity with it."""
    plain = totals(lysozyme)
    n = len(plain.s)
    mean = plain.signal[0] / plain.n_pixels
    for level, expected in ((10, 0.009), (1, 0.0)):
        over = replace(plain, n_overloaded=np.full(n, 1.0), overload_counts=level * mean[60])
        found = over.intensity_with_overloads()[60] / plain.intensity()[60] - 1
        assert found == pytest.approx(expected, abs=1e-4)
    estimate_with = estimate(
        "krogh_moe", replace(over, overload_counts=1e6), Theory(cell, NO_RECOIL), "absolute.s_max=0.7"
    )
    assert estimate_with.errors["overloads"] > 0
    assert "overloads" not in estimate("krogh_moe", plain, Theory(cell, NO_RECOIL), "absolute.s_max=0.7").errors


def test_the_record_tells_what_the_data_lack():
    record = GridRecord(
        (1.0,) * 6, "", (3, 3, 3), "P 1", "P -1", None, None, "own", 0.0, False, (), 0.005,
        {"air": {"applied": False, "reason": "switched off by the user"}}, {"method": "none"},
    )  # fmt: skip
    found = " ".join(doubts.of_record(record, 1, "krogh_moe"))
    assert "air was not corrected for (switched off by the user)" in found
    assert "No background was subtracted" in found
    assert "rests on 1 still:" in found
    assert "No background" not in " ".join(doubts.of_record(record, 300, "reference"))
    assert doubts.of_record(record, 1, "none") == []
