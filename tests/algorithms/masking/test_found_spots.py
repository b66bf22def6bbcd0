"""Strong spots found on images with known spots."""

from __future__ import annotations

import numpy as np
import pytest
from libtbx.phil import parse

from diffuse_dials.algorithms.masking import phil_scope
from diffuse_dials.algorithms.masking.found_spots import find_spots, wanted

SHAPE = (160, 144)


def options(text=""):
    return phil_scope.fetch(parse(f"masking.bragg {{ {text} }}")).extract().masking.bragg


def find(raw, detector, text="", above=None):
    good = np.ones(raw.shape, dtype=bool) if above is None else ~above
    above = np.zeros(raw.shape, dtype=bool) if above is None else above
    return find_spots([raw], [good], [above], detector, options(text))


def with_tail(shape, centre, peak, decay):
    """A spot whose tail falls exponentially, as on a CCD."""
    slow, fast = np.mgrid[0 : shape[0], 0 : shape[1]]
    return peak * np.exp(-np.hypot(slow - centre[0], fast - centre[1]) / decay)


def test_a_strong_spot_is_masked_further_out_than_a_weak_one_to_where_both_have_faded(rng, make_detector):
    """Tails of 1.5 pixels on 200 counts: what is left outside is below 15 % of the level everywhere."""
    tails = with_tail(SHAPE, (40, 40), 50_000, 1.5) + with_tail(SHAPE, (110, 90), 2000, 1.5)
    found = find(rng.poisson(200 + tails), make_detector())
    covered = found.covered[0]
    assert found.n_spots == 2
    assert tails[~covered].max() < 0.15 * 200
    strong, weak = covered[:80].sum(), covered[80:].sum()
    assert weak < strong < np.pi * 20**2


def test_noise_is_no_spot_however_weak_the_image(rng, make_detector):
    for level in (0.005, 0.3, 20.0):
        assert not find(rng.poisson(level, (600, 600)), make_detector()).covered[0].any()


def test_a_single_hot_pixel_is_no_spot_and_an_overload_is(rng, make_detector):
    raw = rng.poisson(20.0, SHAPE)
    raw[30, 30] = 5000
    assert find(raw, make_detector()).n_spots == 0
    above = np.zeros(SHAPE, dtype=bool)
    above[80:82, 80:82] = True
    found = find(raw, make_detector(), above=above)
    assert found.n_spots == 1 and found.covered[0][above].all()


def test_keep_is_what_is_not_covered(rng, make_detector):
    found = find(rng.poisson(20 + with_tail(SHAPE, (50, 60), 5000, 1.0)), make_detector())
    np.testing.assert_array_equal(found.keep(0, SHAPE, None, None), ~found.covered[0].ravel())


@pytest.mark.parametrize(("sensor", "text", "expected"), [
    ("PAD", "", False), ("CCD", "", True), ("PAD", "found_spots = True", True), ("CCD", "found_spots = False", False),
])  # fmt: skip
def test_spots_are_looked_for_on_detectors_with_tails_or_on_request(sensor, text, expected, make_detector):
    assert wanted(options(text), make_detector(sensor=sensor)) == expected
