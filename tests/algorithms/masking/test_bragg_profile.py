"""The Bragg radius measured on images, against stills whose spots are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from libtbx.phil import parse

from diffuse_dials.adapters.experiments import still_keys
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking import phil_scope
from diffuse_dials.algorithms.masking.bragg import SIGMAS_STEP, LatticeMask
from diffuse_dials.algorithms.masking.bragg_profile import (
    SHELL,
    X_STEP,
    BraggProfile,
    load_profile,
    measure_profile,
    radius_sigmas,
    sample,
    sigmas_needed,
)
from diffuse_dials.algorithms.masking.chosen import BraggMasks, needs_profile

SHAPE = (96, 112)


def masking(text=""):
    return phil_scope.fetch(parse(f"masking {{ {text} }}")).extract().masking


def profile_of(excess, level=1e5, shell=3) -> BraggProfile:
    """A profile with this excess (function of x in σ) in one shell, free of noise."""
    profile = BraggProfile.zeros()
    x = (np.arange(profile.level_x.shape[1]) + 0.5) * X_STEP
    profile.level_x[shell] = level
    profile.counts_x[shell] = level * (1 + excess(x))
    return profile


@pytest.mark.parametrize(("strength", "tolerance"), [(1000, 0.03), (1000, 0.1), (20, 0.03), (3, 0.05)])
def test_the_radius_of_a_gaussian_spot_is_where_it_has_fallen_to_the_tolerance(strength, tolerance):
    """Analytic: strength exp(-x²/2) = tolerance at x = √(2 ln(strength/tolerance)), to a step."""
    needed = sigmas_needed(profile_of(lambda x: strength * np.exp(-(x**2) / 2)), tolerance)[3]
    assert needed == pytest.approx(math.sqrt(2 * math.log(strength / tolerance)), abs=X_STEP)


def test_the_long_tail_of_a_ccd_spot_is_followed():
    """An exponential tail of one σ: 20 exp(-x) = 0.03 at x = 6.5."""
    needed = sigmas_needed(profile_of(lambda x: 20 * np.exp(-x)), 0.03)[3]
    assert needed == pytest.approx(math.log(20 / 0.03), abs=1.5 * X_STEP)


def test_the_halo_of_diffuse_scattering_about_a_lattice_point_stays():
    """A Gaussian spot on a halo that falls as 1/(1 + (x/6)²), 20 % of the level: only the spot is masked."""
    needed = sigmas_needed(profile_of(lambda x: 500 * np.exp(-(x**2) / 2) + 0.2 / (1 + (x / 6) ** 2)), 0.03)[3]
    assert 3.0 <= needed <= math.sqrt(2 * math.log(500 / 0.03))


def test_hot_pixels_and_spots_of_something_else_widen_nothing():
    profile = profile_of(lambda x: 100 * np.exp(-(x**2) / 2))
    expected = sigmas_needed(profile, 0.03)[3]
    profile.counts_x[3, [25, 40]] *= 3
    assert sigmas_needed(profile, 0.03)[3] == expected


def test_shells_without_counts_take_the_radius_of_their_neighbours():
    profile = profile_of(lambda x: 100 * np.exp(-(x**2) / 2), shell=3)
    profile += profile_of(lambda x: 5 * np.exp(-(x**2) / 2), shell=6)
    needed, k = sigmas_needed(profile, 0.03), radius_sigmas(profile, 0.03)
    assert np.isnan(needed[[0, 4, 5, 7]]).all()
    assert k[0] == needed[3] and k[-1] == needed[6]
    assert len(k) == round(7 * SHELL / SIGMAS_STEP)
    assert (np.diff(k) <= 0).all()
    assert radius_sigmas(BraggProfile.zeros(), 0.03) is None


@pytest.fixture
def spotted(rng, write_stills, make_still):
    """Six stills of 20 counts with isotropic Gaussian lattice points, σ = 0.0012 1/Å and 400 times the level."""
    crystals = [make_still((60, 60, 60, 90, 90, 90), "P 21 21 21").crystal for _ in range(6)]
    probe = write_stills([np.zeros(SHAPE)], crystals=[crystals[0]])[0]
    geometry = pixel_geometry(probe.detector[0], beam_direction(probe.beam))
    s = geometry.s_vectors(probe.beam.get_wavelength())
    stack = []
    for crystal in crystals:
        probe.crystal = crystal
        lattice = LatticeMask.from_phil(masking().bragg, probe)
        r = lattice.distances(s @ np.linalg.inv(setting_matrix(probe)).T).reshape(SHAPE)
        stack.append(rng.poisson(20 * (1 + 400 * np.exp(-((r / 0.0012) ** 2) / 2))))
    return write_stills(stack, crystals=crystals)


def test_measured_on_images_the_radius_leaves_the_tolerance_whatever_the_mosaicity_said(spotted):
    """The crystal models say 0.4/1000 Å; the images hold 0.0012 1/Å: r with 400 exp(-r²/2σ²) = 0.05 is 5.1 mÅ⁻¹."""
    params = masking("bragg { tolerance = 0.05\n point_spread = 0\n largest_fraction = 0.9 }")
    use = (np.ones(SHAPE, dtype=bool),)
    profile = measure_profile(spotted, still_keys(spotted), params, lambda _: use, 1)
    assert profile.n_stills == 6
    mask = BraggMasks(params, spotted, {}, profile).of(0)
    geometry = pixel_geometry(spotted[0].detector[0], beam_direction(spotted[0].beam))
    s = geometry.s_vectors(spotted[0].beam.get_wavelength())
    length = np.linalg.norm(s, axis=1)
    radius = np.sqrt(mask.radius_squared(0, s))[(length > 0.1) & (length < 0.25)]
    expected = 0.0012 * math.sqrt(2 * math.log(400 / 0.05))
    assert radius.mean() == pytest.approx(expected, rel=0.15)


def test_the_profile_does_not_depend_on_the_order_of_stills_or_on_processes(spotted):
    params = masking("bragg.n_sample = 3")
    use = (np.ones(SHAPE, dtype=bool),)
    one = measure_profile(spotted, still_keys(spotted), params, lambda _: use, 1)
    turned = type(spotted)(list(spotted)[::-1])
    two = measure_profile(turned, still_keys(turned), params, lambda _: use, 2)
    assert one.to_dict() == two.to_dict() and one.n_stills == 3


def test_a_profile_survives_its_file(spotted, tmp_path):
    use = (np.ones(SHAPE, dtype=bool),)
    profile = measure_profile(spotted, still_keys(spotted), masking(), lambda _: use, 1)
    path = tmp_path / "bragg_profile.json"
    path.write_text(json.dumps(profile.to_dict()))
    np.testing.assert_array_equal(radius_sigmas(load_profile(path), 0.03), radius_sigmas(profile, 0.03))


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '{"shell_width": 1}'])
def test_something_else_than_a_profile_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="x.json cannot be used"):
        load_profile(tmp_path / "x.json")
    with pytest.raises(ValueError, match="There is no file"):
        load_profile(tmp_path / "none.json")


@pytest.mark.parametrize(("text", "needed"), [
    ("", True), ("bragg.radius = 0.002", False), ("bragg.radius_sigmas = 3", False),
    ("bragg.method = predicted", False),
])  # fmt: skip
def test_only_an_automatic_radius_is_measured(text, needed):
    assert needs_profile(masking(text).bragg) == needed


def test_the_sample_is_a_few_stills_of_a_large_detector(spotted):
    keys = still_keys(spotted)
    assert len(sample(keys, 16_000_000, None)) == 4
    assert len(sample(keys, 1_000_000, None)) == 6
    assert sample(keys, 1000, 2) == sample(keys, 1000, 2)
