"""Bragg and diffuse scattering together obey the sum rule of independent displacements."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from cctbx import uctbx

from diffuse_dials.algorithms.simulation.llm import liquid_like_motions, order_weights


def test_the_orders_share_exactly_what_the_bragg_peaks_lose():
    """Analytic: Σ e^{-x} xⁿ/n! over n ≥ 1 is 1 - e^{-x}, however few orders are kept apart."""
    x = np.linspace(0, 6, 50)
    for orders in (1, 2, 4, 9):
        assert sum(order_weights(x, orders)) == pytest.approx(1 - np.exp(-x), abs=1e-12)


@pytest.mark.parametrize("b_factor", [5.0, 20.0])
def test_the_radial_total_is_the_mean_of_f_squared(b_factor, rng):
    """Analytic limit: random |F|² of mean 1 keep a mean of 1 in Bragg (e^{-2W}) plus diffuse, at every |s|.

    The tolerance is that of the mean over the lattice points of a shell, of which liquid-like motions only smear
    the neighbours, plus 1 %.
    """
    cell = uctbx.unit_cell((30, 32, 25, 90, 90, 90))
    h = np.mgrid[-30:31, -32:33, -25:26].reshape(3, -1).T
    s = np.linalg.norm(h / np.array([30, 32, 25]), axis=1)
    # far enough out that the tails of what lies beyond the shells looked at are there too
    h = h[s < 0.85]
    keys = {}
    squared = np.array([keys.setdefault(max(tuple(i), tuple(-i)), rng.exponential()) for i in h])
    params = SimpleNamespace(b_factor=b_factor, correlation_length=6.0, orders=4, fine=(4, 4, 4))
    truth = liquid_like_motions((h, squared), cell, params)
    centre, diffuse = truth.radial_mean(0.05)
    s = np.linalg.norm(h / np.array([30, 32, 25]), axis=1)
    for middle, mean in zip(centre, diffuse):
        shell = np.abs(s - middle) < 0.025
        if not 0.1 < middle < 0.45:
            continue
        fall_off = np.exp(-b_factor * s[shell] ** 2 / 2)
        bragg = np.mean(squared[shell] * fall_off)
        # Poisson-like: |F|² of the shell's Friedel pairs has a relative deviation of 1/√(n/2)
        assert bragg + mean == pytest.approx(1, abs=0.01 + 3 / np.sqrt(shell.sum() / 2))
        assert bragg + mean == pytest.approx(np.mean(squared[shell]), rel=0.08)
