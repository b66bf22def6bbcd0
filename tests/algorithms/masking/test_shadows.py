"""Shadows over simulated solvent rings."""

from __future__ import annotations

import numpy as np
import pytest
from libtbx.phil import parse

from diffuse_dials.algorithms.masking import phil_scope
from diffuse_dials.algorithms.masking.pixels import make_pixel_mask

SHAPE = (240, 208)


def masking(text="shadow.find = True"):
    return phil_scope.fetch(parse(f"masking {{ dynamic.enabled = False\n {text} }}")).extract().masking


def stills(rng, write_stills, make_detector, transmission, n=6, level=40.0):
    """Images of a ring about the beam centre behind something that lets through ``transmission``."""
    slow, fast = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]] + 0.5
    r = np.hypot(slow - SHAPE[0] / 2, fast - SHAPE[1] / 2)
    expected = level * (0.5 + np.exp(-(((r - 60) / 25) ** 2))) * transmission
    return write_stills([rng.poisson(expected) for _ in range(n)], make_detector(shape=SHAPE, distance=300.0))


def test_a_beamstop_and_its_arm_are_found_and_little_else(rng, write_stills, make_detector):
    """Nine tenths are taken by the disc, a third by the arm; the simulated truth."""
    slow, fast = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]] + 0.5
    disc = np.hypot(slow - 120, fast - 104) < 12
    arm = (np.abs(slow - 120) < 5) & (fast < 104) & ~disc
    result = make_pixel_mask(
        stills(rng, write_stills, make_detector, np.where(disc, 0.1, np.where(arm, 0.67, 1))), masking()
    )
    masked = ~result.mask[0]
    assert masked[disc].mean() > 0.99
    assert masked[arm].mean() > 0.9
    assert masked[~(disc | arm)].mean() < 0.03
    assert result.steps[-1].name.startswith("shadows")


def test_without_a_shadow_none_is_found(rng, write_stills, make_detector):
    """Nor where intensity varies smoothly by 15 % around the beam, as it does by absorption."""
    slow, fast = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]] + 0.5
    trend = 1 + 0.15 * np.sin(np.arctan2(slow - 120, fast - 104))
    result = make_pixel_mask(stills(rng, write_stills, make_detector, trend), masking())
    assert np.mean(~result.mask[0]) < 1e-3


@pytest.mark.parametrize("width", [1, 3])
def test_edges_are_masked_around_panels_and_gaps_but_not_around_single_pixels(rng, write_stills, width):
    """Counted by hand: a rim of the panel, and as much on either side of a gap of 10 rows."""
    raw = rng.poisson(30.0, SHAPE)
    experiments = write_stills([raw])
    experiments[0].detector[0].add_mask(0, 100, SHAPE[1], 110)
    experiments[0].detector[0].add_mask(50, 50, 51, 51)
    mask = make_pixel_mask(experiments, masking(f"edge = {width}")).mask[0]
    expected = np.zeros(SHAPE, dtype=bool)
    expected[width : 100 - width, width:-width] = expected[110 + width : -width, width:-width] = True
    expected[50, 50] = False
    np.testing.assert_array_equal(mask, expected)
