"""How far parallax moves pixels, by dxtbx's formula, for all pixels of a panel."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, OPTIONS
from diffuse_dials.kernels.pieces import row_edges
from diffuse_dials.kernels.shared import DISTANCE, LENGTH, RESPONSE, multiply


def parallax_shifts(along_fast, along_slow, height: float, mu: float, thickness: float) -> np.ndarray:
    """What adapters.panels._fast_shifts returns.

    Args:
        along_fast, along_slow: Coordinates of the pixels along the panel's axes from the foot of the perpendicular
            through the sample, shapes (n,) and (m,), mm.
        height: Distance of the panel's plane from the sample, mm.
        mu, thickness: Of the sensor, 1/mm and mm.

    Returns:
        Shifts along fast and slow, shape (2, m, n), mm.
    """
    shifts = np.empty((2, len(along_slow), len(along_fast)))
    _shift_rows(along_fast, along_slow, height, mu, thickness, row_edges(len(along_fast)), shifts)
    return shifts


@njit(**BORROW)
def _distances(x, squared, way_of, depth, work):
    for i in range(len(x)):
        distance = np.sqrt(x[i] * x[i] + squared)
        work[DISTANCE + i] = distance
        work[RESPONSE + i] = distance * way_of + depth


@njit(**BORROW)
def _shifts(x, y, depth, work, fast, slow):
    for i in range(len(x)):
        work[RESPONSE + i] = (work[RESPONSE + i] - depth) / work[DISTANCE + i]
    for i in range(len(x)):
        fast[i] = x[i] * work[RESPONSE + i]
    for i in range(len(x)):
        slow[i] = y * work[RESPONSE + i]


@njit(**OPTIONS)
def _shift_rows(along_fast, along_slow, height, mu, thickness, edges, out):
    work = np.empty(LENGTH)
    way_of, depth = thickness / height, 1.0 / mu
    for row in range(len(along_slow)):
        y = along_slow[row]
        for part in range(len(edges) - 1):
            first, stop = edges[part], edges[part + 1]
            x = along_fast[first:stop]
            _distances(x, y * y + height * height, way_of, depth, work)
            # distances differ by no more than the pixels are apart
            multiply(len(x), mu * way_of, abs(x[-1] - x[0]), 1.0, work)
            _shifts(x, y, depth, work, out[0, row, first:stop], out[1, row, first:stop])
