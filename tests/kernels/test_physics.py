"""Closed forms against the reference tables and against DIALS's own Corrections."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from dials.algorithms.integration import Corrections
from dxtbx.model import BeamFactory, Detector

from diffuse_dials.kernels import physics


def rows(path):
    with open(path) as handle:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(handle)]


def test_polarization_is_the_reference_at_every_angle_and_fraction(reference):
    for row in rows(reference("polarization.csv")):
        k = np.array([[row["kx"], row["ky"], row["kz"]]])
        p = physics.polarization(k, np.array([0, 0, -1.0]), np.array([0, 1.0, 0]), row["polarization_fraction"])
        assert p[0] == pytest.approx(row["P"], abs=1e-8)


@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.999])
def test_the_azimuthal_mean_of_polarization_does_not_depend_on_its_fraction(fraction):
    """Analytic limit: (1 + cos² 2θ)/2."""
    phi = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    two_theta = 0.6
    k = np.stack([np.sin(two_theta) * np.cos(phi), np.sin(two_theta) * np.sin(phi), -np.cos(two_theta) + 0 * phi], 1)
    p = physics.polarization(k, np.array([0, 0, -1.0]), np.array([0, 1.0, 0]), fraction)
    assert p.mean() == pytest.approx((1 + np.cos(two_theta) ** 2) / 2, abs=1e-12)


def test_solid_angle_is_the_exact_form_within_the_error_of_the_approximation(reference):
    for row in rows(reference("solid_angle.csv")):
        alpha = np.radians(row["obliquity_deg"])
        omega = physics.solid_angle(row["normal_distance_mm"] / np.cos(alpha), np.cos(alpha), row["pixel_mm"] ** 2)
        assert omega == pytest.approx(row["omega_Acos_over_r2_sr"], rel=1e-8)
        assert omega == pytest.approx(row["omega_exact_sr"], rel=2e-5)


def test_efficiency_is_the_reference_for_its_absorption(reference):
    with open(reference("sensor_efficiency.csv")) as handle:
        for row in csv.DictReader(handle):
            cosine = np.cos(np.radians(float(row["obliquity_deg"])))
            efficiency = physics.sensor_efficiency(cosine, float(row["mu_xraylib_per_mm"]), float(row["thickness_mm"]))
            assert efficiency == pytest.approx(float(row["efficiency_xraylib"]), abs=1e-8)


def test_a_sensor_without_absorption_or_thickness_is_refused():
    with pytest.raises(ValueError, match="positive absorption"):
        physics.sensor_efficiency(1.0, 0.0, 0.45)


def test_air_density_at_standard_conditions_is_that_of_physics():
    """1.2041e-3 g/cm³ at 101325 Pa and 293.15 K (ideal gas law)."""
    assert physics.air_density() == pytest.approx(1.2041e-3, rel=1e-4)


def test_an_unpolarized_pixel_at_45_degrees_gets_the_multiplier_four_thirds():
    """Rule 0.7 of the plan: 1/P = 4/3 at any azimuth, to better than 1 %; here exactly."""
    true = 250.0
    for phi in np.linspace(0, 6, 7):
        k = np.array([[np.cos(phi) / np.sqrt(2), np.sin(phi) / np.sqrt(2), -1 / np.sqrt(2)]])
        p = physics.polarization(k, np.array([0, 0, -1.0]), np.array([0, 1.0, 0]), 0.5)
        corrected = physics.apply_corrections(true * p, 1 / p, np.ones(1), np.ones(1), np.ones(1))
        assert 1 / p[0] == pytest.approx(4 / 3, rel=1e-12)
        assert corrected[0] == pytest.approx(true, rel=1e-12)


def test_the_product_of_all_multipliers_is_the_reference_on_a_tilted_panel(reference):
    data = json.loads(reference("pixel_corrections.json").read_text())
    panel = data["panel"]
    s0 = np.array(data["s0"]) / np.linalg.norm(data["s0"])
    for pixel in data["pixels"]:
        lab = np.array([pixel["lab_mm"]])
        distance = np.linalg.norm(lab, axis=1)
        direction = lab / distance[:, None]
        cosine = np.abs(direction @ np.array(panel["normal"]))
        p = physics.polarization(direction, s0, np.array(data["polarization_normal"]), data["polarization_fraction"])
        efficiency = physics.sensor_efficiency(cosine, panel["mu_per_mm"], panel["thickness_mm"])
        omega = physics.solid_angle(distance, cosine, panel["pixel_size"] ** 2)
        air = physics.transmission(distance, data["mu_air_per_mm"])
        for factor, name in ((p, "lp_mult"), (efficiency, "qe_mult"), (air, "air_mult")):
            assert 1 / factor[0] == pytest.approx(pixel[name], rel=1e-8)
        assert 1 / omega[0] == pytest.approx(pixel["sa_mult"], rel=1e-6)
        total = physics.apply_corrections(np.ones(1), 1 / p, 1 / efficiency, 1 / omega, 1 / air)
        assert total[0] == pytest.approx(pixel["total_mult"], rel=1e-6)


def test_a_multiplier_that_is_not_positive_and_finite_is_refused():
    with pytest.raises(ValueError, match="qe_mult must be finite"):
        physics.apply_corrections(np.ones(2), 1, np.array([1, np.inf]), 1, 1)


def test_dials_corrections_without_goniometer_agree(reference, rng):
    """DIALS's own numbers: lp() is 1/P, a multiplier; qe() is the efficiency, a divisor."""
    data = json.loads(reference("pixel_corrections.json").read_text())
    model = data["panel"]
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame(model["fast"], model["slow"], model["origin"])
    panel.set_pixel_size((model["pixel_size"], model["pixel_size"]))
    panel.set_image_size((1024, 1024))
    panel.set_mu(model["mu_per_mm"])
    panel.set_thickness(model["thickness_mm"])
    beam = BeamFactory.make_polarized_beam(
        sample_to_source=(0, 0, 1), wavelength=data["wavelength"],
        polarization=tuple(data["polarization_normal"]), polarization_fraction=data["polarization_fraction"],
    )  # fmt: skip
    corrections = Corrections(beam, detector)
    for x, y in rng.uniform(0, 1024, (20, 2)):
        s1 = np.array(panel.get_pixel_lab_coord((x, y)))
        s1 /= np.linalg.norm(s1)
        cosine = abs(s1 @ np.array(panel.get_normal()))
        p = physics.polarization(s1[None], np.array(beam.get_unit_s0()), np.array(beam.get_polarization_normal()), 0.99)
        assert corrections.lp(tuple(s1 / data["wavelength"])) == pytest.approx(1 / p[0], rel=1e-10)
        efficiency = physics.sensor_efficiency(cosine, model["mu_per_mm"], model["thickness_mm"])
        assert corrections.qe(tuple(s1 / data["wavelength"]), 0) == pytest.approx(efficiency, rel=1e-10)
