"""Wilson statistics: of complete intensities, and why those of single stills set no scale."""

from __future__ import annotations

import libtbx.phil
import numpy as np
import pytest

from diffuse_dials.algorithms.absolute import scale
from diffuse_dials.algorithms.absolute.bragg import BraggIntensities
from diffuse_dials.algorithms.absolute.composition import Composition
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.absolute.methods.wilson import Wilson, wilson_plot
from diffuse_dials.algorithms.absolute.raw_bragg import RawBragg
from diffuse_dials.algorithms.absolute.theory import Theory
from diffuse_dials.algorithms.simulation.bragg import Mosaicity, excite
from diffuse_dials.algorithms.simulation.stills import random_rotation

ATOMS = {"C": 500.0, "N": 130.0, "O": 150.0}


@pytest.fixture
def theory():
    return Theory(Composition(ATOMS, ATOMS, {}, 11000.0, 0.0, 30000.0), 1.0)


def parameters(text=""):
    return scale.phil_scope.fetch(libtbx.phil.parse(text)).extract().absolute


def random_crystal(theory, rng, edge=31.0, s_max=0.62, b=15.0):
    """|F|² of atoms at random: exponential with mean Σf² e^{-Bs²/2}; all of reciprocal space, Friedel mates equal."""
    reach = int(s_max * edge)
    hkl = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    s = np.linalg.norm(hkl, axis=1) / edge
    hkl, s = hkl[(s > 0) & (s < s_max)], s[(s > 0) & (s < s_max)]
    first = np.array([tuple(h) > (0, 0, 0) for h in hkl])
    draws = dict(zip(map(tuple, hkl[first]), rng.exponential(size=first.sum())))
    draw = np.array([draws.get(tuple(h)) or draws[tuple(-h)] for h in hkl])
    return hkl, s, draw * theory.ordered(s) * np.exp(-b * s**2 / 2)


def test_scale_and_b_of_random_atoms(theory, rng):
    """Exponential intensities of 10000 reflections: within four of the fit's standard errors, and 3 %."""
    hkl, s, squared = random_crystal(theory, rng)
    found = BraggIntensities(hkl, s, 2.5e-4 * squared, squared, np.full(len(s), 3), np.ones(len(s)))
    estimate = Wilson().estimate(Evidence(theory, None, bragg=found), parameters())
    assert estimate.k == pytest.approx(2.5e-4, rel=4 * estimate.errors["fit"])
    assert estimate.errors["fit"] < 0.05
    assert estimate.details["b"] == pytest.approx(15.0, abs=0.5)
    assert estimate.relative_error > 0.3
    assert estimate.s_range[0] > 0.25


def still_intensities(squared_of, domain, mosaic, rng, n_stills=60, edge=31.0):
    """What the Ewald sphere cuts of all reflections with |δ| < 3σ: |F|² λ² g/V (bragg_still_constant.csv), K = 1."""
    hkl, s, squared = squared_of
    mosaicity, wavelength = Mosaicity(0.4 / domain, np.radians(mosaic)), 1.0
    parts = []
    for _ in range(n_stills):
        spots = excite(hkl.astype(float), random_rotation(rng) / edge, np.array([0, 0, 1 / wavelength]), mosaicity)
        sigma = np.hypot(mosaicity.radial, mosaicity.rms * s[spots.number])
        near = np.abs(spots.delta) < 3 * sigma
        chosen = spots.number[near]
        parts.append((s[chosen], squared[chosen] * spots.g[near] * wavelength**2 / edge**3))
    return tuple(np.concatenate(column) for column in zip(*parts))


def test_single_stills_give_scales_that_follow_the_mosaicity(theory, rng):
    """k = (λ²/V) <g>; <g>, some hundred Å, falls 3-fold from 0.02 to 0.3°; B comes out high."""
    crystal = random_crystal(theory, rng)
    scales, shifts = [], []
    for mosaic in (0.02, 0.3):
        s, intensity = still_intensities(crystal, 1000, mosaic, rng)
        plot = wilson_plot(s, intensity, np.ones(len(s)), theory.ordered(s), None, 4.0)
        scales.append(np.exp(plot.log_k) * 31.0**3)
        shifts.append(plot.b - 15.0)
    assert 300 < scales[0] < 550  # 414 Å in the table for 1000 Å and 0.02°
    assert scales[0] / scales[1] > 1.8
    assert shifts[1] > 2
    assert np.exp(plot.log_k) < 0.05  # true: 1


def test_they_are_refused_as_a_scale_with_the_reason(theory):
    raw = RawBragg(np.ones(3), np.ones(3), np.ones(3), "integrated.refl")
    with pytest.raises(ValueError, match="λ² g/V, where g depends on mosaicity.*no scale of a diffuse map"):
        Wilson().estimate(Evidence(theory, None, raw_bragg=raw), parameters())


def test_too_few_shells_are_refused(theory, rng):
    hkl, s, squared = random_crystal(theory, rng, s_max=0.3)
    found = BraggIntensities(hkl, s, squared, squared, np.full(len(s), 3), np.ones(len(s)))
    with pytest.raises(ValueError, match="a Wilson plot needs 4"):
        Wilson().estimate(Evidence(theory, None, bragg=found), parameters("absolute.bragg.d_max=3.4"))
