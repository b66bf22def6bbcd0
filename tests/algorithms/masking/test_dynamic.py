"""Hot, dead and negative pixels against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.algorithms.masking.dynamic import BLOCK, Deviations, bad_pixels, block_levels, spread_out

SHAPE = (240, 208)


def judge(images, counter=True, trusted_range=(0, 1e6), use=None, persistence=0.3):
    """Kinds of bad pixels of a stack of images, shape (n, slow, fast)."""
    sums = Deviations.zeros(images[0].shape)
    use = np.ones(images[0].shape, dtype=bool) if use is None else use
    for raw in images:
        sums.add_image(raw, (raw >= trusted_range[0]) & (raw <= trusted_range[1]), raw > trusted_range[1], use, counter)
    return bad_pixels(sums, use, 6.0, persistence)


def ring(shape, level):
    """Expected counts: a solvent ring about a beam centre, as diffuse images have it."""
    slow, fast = np.mgrid[0 : shape[0], 0 : shape[1]]
    r = np.hypot(slow - 0.45 * shape[0], fast - 0.55 * shape[1])
    return level * (0.5 + np.exp(-(((r - 60) / 25) ** 2)))


def scattered(rng, n, shape=SHAPE):
    """Mask of n pixels."""
    mask = np.zeros(shape, dtype=bool)
    mask.ravel()[rng.choice(mask.size, n, replace=False)] = True
    return mask


@pytest.mark.parametrize(("level", "n_images"), [(3.5, 60), (20.0, 60), (400.0, 10)])
def test_hot_and_dead_pixels_are_found_and_good_ones_kept(rng, level, n_images):
    """5 times the neighbours or nothing at all, 100 expected counts or more: the simulated truth is recovered."""
    expected = ring(SHAPE, level)
    assert expected.min() * n_images >= 100
    hot, dead = scattered(rng, 40), scattered(rng, 40)
    dead &= ~hot
    response = np.where(hot, 5.0, np.where(dead, 0.0, 1.0))
    kinds = judge([rng.poisson(expected * response * scale) for scale in rng.uniform(0.8, 1.5, n_images)])
    assert kinds["hot"][hot].all()
    assert kinds["dead"][dead].all()
    good = ~(hot | dead)
    assert np.count_nonzero((kinds["hot"] | kinds["dead"] | kinds["negative"])[good]) < 1e-4 * good.sum()


def test_good_pixels_of_weak_images_stay(rng):
    """At 0.1 counts a pixel and image, skewed as such counts are, less than 1e-4 of a million good pixels go."""
    kinds = judge([rng.poisson(0.1, (1000, 1000)) for _ in range(20)])
    assert sum(np.count_nonzero(found) for found in kinds.values()) < 100


def test_a_bragg_hit_on_one_still_is_no_bad_pixel(rng):
    """Spots 3000 counts high on different pixels of each of 6 images, and on two of them in the same place."""
    images = [rng.poisson(ring(SHAPE, 20.0)) for _ in range(6)]
    for raw in images:
        for slow, fast in rng.integers(5, 200, (60, 2)):
            raw[slow : slow + 2, fast : fast + 2] += rng.poisson(3000, (2, 2))
    for raw in images[2:4]:
        raw[100:103, 100:103] += 5000
    kinds = judge(images)
    assert not any(found.any() for found in kinds.values())


def test_two_images_cannot_show_a_hot_pixel(rng):
    images = [rng.poisson(20.0, SHAPE) for _ in range(2)]
    for raw in images:
        raw[50, 60] = 500
    assert not judge(images)["hot"].any()


def test_zeros_of_a_counter_are_data(rng):
    kinds = judge([rng.poisson(0.02, SHAPE) for _ in range(5)])
    assert not any(found.any() for found in kinds.values())


def test_overloads_mark_a_pixel_only_if_they_persist(rng):
    images = [rng.poisson(20.0, SHAPE) for _ in range(6)]
    for number, raw in enumerate(images):
        raw[10, 10] = 2_000_000
        if number < 2:
            raw[20, 20] = 2_000_000
    kinds = judge(images)
    assert kinds["overload"][10, 10]
    assert not kinds["overload"][20, 20] and not kinds["hot"][20, 20]


def test_gaps_are_underloads_even_in_one_image(rng):
    raw = rng.poisson(20.0, SHAPE)
    raw[100:117] = -1
    kinds = judge([raw])
    np.testing.assert_array_equal(kinds["underload"], raw < 0)
    assert not (kinds["dead"] | kinds["negative"]).any()


def test_negative_values_of_an_integrating_detector_are_data(rng):
    """Dark-subtracted noise about 0, variance as it likes to be; one pixel lies 3 sigma below, image after image."""
    images = [rng.normal(2.0, 12.0, SHAPE) for _ in range(30)]
    for raw in images:
        raw[33, 44] -= 36
        raw[60, 70] += 60
    kinds = judge(images, counter=False, trusted_range=(-400, 9e4))
    assert np.argwhere(kinds["negative"]).tolist() == [[33, 44]]
    assert np.argwhere(kinds["hot"]).tolist() == [[60, 70]]
    assert not kinds["dead"].any() and not kinds["underload"].any()


def test_noise_of_a_ccd_is_taken_from_the_images(rng):
    """Variance/mean is 0.3 here; a pixel at 30 % of the level counts as dead."""
    level = ring(SHAPE, 1000.0)
    images = [rng.normal(level, np.sqrt(0.3 * level)).round().astype(np.int32) for _ in range(6)]
    for raw in images:
        raw[120, 90] = 0.3 * raw[120, 90]
    kinds = judge(images, counter=False, trusted_range=(1, 65000))
    assert np.argwhere(kinds["dead"]).tolist() == [[120, 90]]
    assert not kinds["hot"].any()


def test_a_shadow_is_not_eaten_pixel_by_pixel(rng):
    """Behind a beamstop a tenth of the intensity is left, and at its edge nothing marks single pixels."""
    slow, fast = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    shadow = (np.hypot(slow - 108, fast - 114) < 22) | ((np.abs(slow - 108) < 6) & (fast < 114))
    kinds = judge([rng.poisson(ring(SHAPE, 40.0) * np.where(shadow, 0.1, 1.0)) for _ in range(20)])
    assert sum(np.count_nonzero(found) for found in kinds.values()) <= 1e-4 * shadow.size


def test_a_bad_double_column_is_found_whole(rng):
    images = [rng.poisson(50.0, SHAPE) for _ in range(5)]
    for raw in images:
        raw[80:140, 66:68] = 4000
    hot = judge(images)["hot"]
    assert hot[80:140, 66:68].all() and hot.sum() == 120


def test_sums_of_images_add(rng):
    images = [rng.poisson(5.0, SHAPE) for _ in range(4)]
    use = np.ones(SHAPE, dtype=bool)
    parts = [Deviations.zeros(SHAPE), Deviations.zeros(SHAPE)]
    for number, raw in enumerate(images):
        parts[number // 2].add_image(raw, raw >= 0, raw < 0, use, True)
    parts[0] += parts[1]
    assert parts[0].images == 4
    assert (parts[0].n == 4).all()


def test_levels_of_squares_follow_the_image(rng):
    """Means of 256 Poisson counts, known to 4 standard errors; a spot in a square does not carry its level away."""
    values = rng.poisson(30.0, (64, 48)).astype(np.float32)
    values[5, 5] = 1e6
    valid = np.ones(values.shape, dtype=bool)
    valid[32:48, 16:32] = False
    level, sigma, spread = block_levels(values, valid, True, 0.3)
    assert level.shape == (64 // BLOCK, 48 // BLOCK)
    assert level == pytest.approx(30, abs=4 * np.sqrt(30 / 256) + 0.3)
    assert sigma == pytest.approx(np.sqrt(level))
    assert spread == pytest.approx(np.sqrt(30), rel=0.3)
    assert spread_out(level, values.shape) == pytest.approx(30, abs=2)


def test_a_linear_gradient_is_followed_between_the_centres_of_squares():
    """Linear interpolation is exact for a plane, away from the rim."""
    plane = np.add.outer(2.0 * np.arange(80), np.arange(96)) + 10
    blocks = plane.reshape(5, BLOCK, 6, BLOCK).mean(axis=(1, 3))
    inner = (slice(BLOCK, -BLOCK),) * 2
    np.testing.assert_allclose(spread_out(blocks, plane.shape)[inner], plane[inner], rtol=1e-5)


def test_a_pixel_that_scatters_more_than_its_neighbours_is_noisy(rng):
    """Mean 50 as all, standard deviation 4 times theirs; spots on a tenth of the images make no pixel noisy."""
    images = [rng.poisson(50.0, SHAPE).astype(float) for _ in range(40)]
    for number, raw in enumerate(images):
        raw[100, 70] = rng.normal(50, 28)
        if number < 4:
            raw[30:32, 40:42] += 3000
    kinds = judge(images)
    assert np.argwhere(kinds["noisy"]).tolist() == [[100, 70]]
    assert not kinds["hot"].any()


@pytest.mark.parametrize("ratio", [0.3, 1.0, 5.0])
def test_the_noise_of_a_detector_is_estimated(rng, ratio):
    """Variance/mean of what was simulated."""
    sums = Deviations.zeros(SHAPE)
    for _ in range(4):
        raw = rng.normal(500.0, np.sqrt(ratio * 500.0), SHAPE)
        sums.add_image(raw, raw > 0, raw > 1e6, np.ones(SHAPE, dtype=bool), False)
    assert sums.noise() == pytest.approx(ratio, rel=0.05)
