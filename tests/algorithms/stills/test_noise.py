"""Noise of integrating detectors, against images whose gain, smearing and read noise are known."""

from __future__ import annotations

import types

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffuse_dials.algorithms.stills.noise import NoiseModel, choose_noise, measure_noise

SHAPE = (512, 512)


def images(rng, gain=1.0, read=0.0, smear=0.0, n=2, level=(5, 60), halos=True):
    """Poisson photons of a falling background with haloes and a few spots, smeared and read out."""
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(slow - 200, fast - 250)
    expected = level[0] + (level[1] - level[0]) * np.exp(-radius / 150)
    if halos:
        for y, x in rng.uniform(0, 512, (30, 2)):
            expected += level[1] * np.exp(-((slow - y) ** 2 + (fast - x) ** 2) / (2 * 6**2))
        for y, x in rng.integers(0, 512, (40, 2)):
            expected[y, x] += 3000
    use = np.ones(SHAPE, dtype=bool)
    use[:, 240:260] = False
    sample = []
    for _ in range(n):
        photons = rng.poisson(expected).astype(float)
        if smear:
            photons = gaussian_filter(photons, smear)
        sample.append([(gain * photons + rng.normal(0, read, SHAPE) if read else gain * photons, use)])
    return sample


def test_a_photon_counter_shows_poisson_noise_whatever_haloes_and_spots_are_on_it(rng):
    measured = measure_noise(images(rng))
    assert measured.slope == pytest.approx(1, abs=0.1)
    assert measured.constant < 1


def test_the_variance_at_the_mean_of_the_images_is_that_of_gain_and_read_noise(rng):
    """Analytic: the variance of gain x photons + read noise is gain x its mean + read²."""
    sample = images(rng, gain=3.0, read=8.0, n=4, halos=False)
    measured = measure_noise(sample)
    mean = sample[0][0][0].mean()
    assert measured.slope * mean + measured.constant == pytest.approx(3.0 * mean + 64, rel=0.1)
    assert 30 < measured.constant < 120


def test_smeared_photons_have_the_noise_of_photons_in_large_sums(rng):
    """A point spread of 0.8 pixels takes 85 % of the variance from single pixels, and through the edges of 4 x 4 pixels
    1 - (1 - 0.8 x 2/(4 √π))² = 40 % from those (analytic)."""
    sample = images(rng, gain=1.5, smear=0.8, n=4, halos=False)
    values = sample[0][0][0]
    one = np.var(np.diff(values[400:, 300:], axis=1)) / 2 / values[400:, 300:].mean()
    assert one < 0.4
    measured = measure_noise(sample)
    assert measured.slope == pytest.approx(0.6 * 1.5, rel=0.15)
    assert measured.gain == pytest.approx(1.5, rel=0.2)


def test_pulls_of_sums_over_voxels_have_width_one_with_the_measured_model(rng):
    """Differences of two images of one scene, in squares of 5 x 5 pixels."""
    sample = images(rng, gain=2.0, smear=0.6, read=3.0, n=4, halos=False)
    model, gain = choose_noise(params(), [False], False, lambda n: sample)
    assert gain == pytest.approx(2.0, rel=0.2)
    first, second = (image[0][0][:500, 300:510] / gain for image in sample[:2])

    def sums(values):
        return values.reshape(100, 5, 42, 5).sum(axis=(1, 3))

    pulls = sums(second - first) / np.sqrt(sums(model.variance(0, first) + model.variance(0, second)))
    assert pulls.std() == pytest.approx(1, abs=0.1)


def params(model="Auto"):
    return types.SimpleNamespace(model=model, n_stills=4)


def test_a_photon_counter_is_not_measured_unless_asked(rng):
    def never(n):
        raise AssertionError("no image is needed")

    model, gain = choose_noise(params(), [True, True], True, never)
    assert (model.factor, model.read_variance, gain) == ((1.0, 1.0), (0.0, 0.0), None)
    sample = images(rng)
    model, gain = choose_noise(params("measured"), [True], True, lambda n: sample)
    assert gain is None and model.factor[0] == pytest.approx(1, abs=0.1)


def test_with_a_known_gain_the_measured_noise_goes_into_the_factor(rng):
    """Photons by a gain of 2 where 3 is true: the sums scatter 1.5 times as much as counting alone."""
    sample = [[(v / 2, u) for v, u in panel] for panel in images(rng, gain=3.0, halos=False)]
    model, gain = choose_noise(params(), [False], True, lambda n: sample)
    assert gain is None
    assert model.factor[0] == pytest.approx(1.5, rel=0.1)


def test_a_panel_that_says_1_is_believed_where_the_images_do_not_contradict(rng):
    """Units that are photons: 1 is better than a measurement good to 20 % (smooth tiles are some 5 % too quiet)."""
    sample = images(rng, gain=1.05, halos=False)
    model, gain = choose_noise(params(), [False], False, lambda n: sample)
    assert gain is None and model.factor[0] == pytest.approx(1.05, rel=0.2)


def test_where_nothing_is_smooth_enough_counting_is_taken_and_said(rng):
    sample = [[(rng.poisson(10, (50, 50)).astype(float), np.zeros((50, 50), dtype=bool))]]
    model, gain = choose_noise(params(), [False], False, lambda n: sample)
    assert gain is None and "too few" in model.record["reason"]


def test_negative_counts_have_the_noise_of_zero():
    model = NoiseModel((0.5,), (2.0,), {})
    assert model.variance(0, np.array([-3.0, 0.0, 4.0])).tolist() == [2.0, 2.0, 4.0]
