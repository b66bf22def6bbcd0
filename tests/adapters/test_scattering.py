"""Scattering and attenuation tables against the reference values."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffuse_dials.adapters import scattering

SOURCES = [
    pytest.param("xraylib", marks=pytest.mark.skipif(scattering.xraylib is None, reason="xraylib is not installed")),
    "shipped",
]


def rows(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("source", SOURCES)
def test_incoherent_functions_are_those_of_hubbell(reference, source):
    """Both sources reproduce compton_S.csv to 1e-3 Z; hydrogen is 1 - f0² of the bonded atom."""
    table = rows(reference("compton_S.csv"))
    s = np.array([float(r["s_invA"]) for r in table])
    for name in table[0]:
        element = "H" if name == "H_bonded" else name
        if name in ("s_invA", "x_stol_invA", "H_free"):
            continue
        expected = np.array([float(r[name]) for r in table])
        found = scattering.incoherent_function(element, s, source)
        np.testing.assert_allclose(found, expected, atol=1e-3 * scattering.atomic_number(element), rtol=0)


@pytest.mark.parametrize("source", SOURCES)
def test_incoherent_functions_of_all_shipped_elements(reference, source):
    """Every entry of the reference table up to x = 8, to 1e-3 Z."""
    table = rows(reference("compton_S_table.csv"))
    s = 2 * np.array([float(r["x_stol_invA"]) for r in table])
    for element in set(table[0]) - {"x_stol_invA", "H_free", "H_bonded"}:
        expected = np.array([float(r[element]) for r in table])
        found = scattering.incoherent_function(element, s, source)
        np.testing.assert_allclose(found, expected, atol=1e-3 * scattering.atomic_number(element), rtol=0)


@pytest.mark.parametrize("source", SOURCES)
def test_incoherent_function_is_quadratic_at_small_s_and_zero_at_zero(source):
    """xraylib itself raises at 0 and below x = 0.001."""
    s = np.array([0.0, 0.001, 0.002])
    values = scattering.incoherent_function("C", s, source)
    assert values[0] == 0
    assert values[2] == pytest.approx(4 * values[1], rel=1e-12)


@pytest.mark.skipif(scattering.xraylib is None, reason="xraylib is not installed")
def test_xraylib_and_shipped_table_give_the_same_cell(reference):
    """The fallback differs by less than 1e-3 of the sum at any |s| a protein reaches."""
    atoms = json.loads(reference("cell_contents.json").read_text())["HIVPR_P21_2dimers_MSE_2Zn"]["all_atoms"]
    s = np.linspace(0.01, 1.5, 300)
    one, other = (scattering.incoherent(atoms, s, 1.0, source=source) for source in ("xraylib", "shipped"))
    electrons = sum(n * scattering.atomic_number(e) for e, n in atoms.items())
    np.testing.assert_allclose(one, other, atol=1e-3 * electrons, rtol=2e-3)


def test_recoil_factor_of_an_unpolarized_beam(reference):
    """compton_recoil.csv to 1e-6, for photons counted and energies added."""
    for row in rows(reference("compton_recoil.csv")):
        s, wavelength = float(row["s_invA"]), float(row["wavelength_A"])
        factor = scattering.klein_nishina(s, wavelength)
        assert factor == pytest.approx(float(row["KN_over_Thomson_unpolarised"]), abs=1e-6)
        ratio = scattering.klein_nishina(s, wavelength, energy_integrating=True) / factor
        assert ratio == pytest.approx(float(row["kprime_over_k"]), abs=1e-6)


def test_form_factors(reference):
    """f0.csv, column wk1995, to 1e-6 of Z."""
    for row in rows(reference("f0.csv")):
        expected = float(row["wk1995"])
        number = scattering.atomic_number(row["element"])
        assert scattering.f0(row["element"], float(row["s_invA"])) == pytest.approx(expected, abs=1e-6 * number)


@pytest.mark.parametrize("source", SOURCES)
def test_sums_over_a_cell(reference, source):
    """cell_scattering.csv to 0.5 %: Σf0², ordered and all, and Compton with recoil at 1 Å."""
    contents = json.loads(reference("cell_contents.json").read_text())
    table = rows(reference("cell_scattering.csv"))
    for name, cell in contents.items():
        lines = [r for r in table if r["cell"] == name]
        s = np.array([float(r["s_invA"]) for r in lines])
        column = lambda key: np.array([float(r[key]) for r in lines])  # noqa: E731
        np.testing.assert_allclose(
            scattering.sum_f0_squared(cell["ordered_atoms"], s), column("sum_f0sq_ordered_e2"), rtol=5e-3
        )
        everything = scattering.sum_f0_squared(cell["all_atoms"], s)
        np.testing.assert_allclose(everything, column("sum_f0sq_all_e2"), rtol=5e-3)
        np.testing.assert_allclose(
            scattering.incoherent(cell["all_atoms"], s, 1.0, source=source),
            column("sum_S_incoh_KN_lambda1.0_e2"),
            rtol=5e-3,
            atol=1e-6,
        )


@pytest.mark.parametrize("source", SOURCES)
def test_air_attenuation(reference, source):
    """air_attenuation.csv: 2 % in μ from either source."""
    for row in rows(reference("air_attenuation.csv")):
        mu = scattering.air_attenuation(float(row["wavelength_A"]), source=source)
        assert mu == pytest.approx(float(row["mu_total_xraylib_per_mm"]), rel=0.02)


@pytest.mark.parametrize("source", SOURCES)
def test_sensor_attenuation(reference, source):
    """sensor_efficiency.csv: 2 % in μ from either source."""
    for row in rows(reference("sensor_efficiency.csv")):
        wavelength = scattering.HC / float(row["energy_keV"])
        mu = scattering.attenuation(row["material"], wavelength, source=source)
        assert mu == pytest.approx(float(row["mu_xraylib_per_mm"]), rel=0.02)


def test_helium_passes_what_air_stops():
    """μ of helium at 1 Å is NIST's 0.23 cm²/g times the density of the gas: a ninetieth of air."""
    mu = scattering.attenuation("he", 1.0)
    assert mu == pytest.approx(0.1 * 0.226 * 1.664e-4, rel=0.03)
    assert mu < 0.02 * scattering.air_attenuation(1.0)


def test_anomalous_terms_matter_near_an_edge():
    """Zn 3 eV above its K edge (9.659 keV): f'' is about 4 electrons (Sasaki's table)."""
    assert scattering.anomalous("Zn", scattering.HC / 9.70).imag == pytest.approx(3.9, abs=0.2)
    assert scattering.anomalous("H", 1.0) == 0
    with_terms = scattering.sum_f0_squared({"Zn": 1}, 0.0, 1.2834)
    assert with_terms < scattering.sum_f0_squared({"Zn": 1}, 0.0)


@pytest.mark.parametrize("name, symbol", [("ZN", "Zn"), ("Zn2+", "Zn"), (" c ", "C"), ("D", "H"), ("Cl1-", "Cl")])
def test_symbols_are_read_as_files_write_them(name, symbol):
    assert scattering.element_symbol(name) == symbol


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="'Xx' is no chemical element"):
        scattering.f0("Xx", 0.1)
    with pytest.raises(ValueError, match="no material 'cheese'"):
        scattering.attenuation("cheese", 1.0)
    with pytest.raises(ValueError, match="no W .*Install xraylib"):
        scattering.incoherent_function("W", 0.3, "shipped")
    with pytest.raises(ValueError, match="must be positive"):
        scattering.air_attenuation(0.0)
