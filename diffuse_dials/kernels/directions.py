"""Polynomials of the direction along the pieces of a panel's rows, with the errors they have."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import OPTIONS
from diffuse_dials.kernels.pieces import (
    CHORD_HIGH,
    CHORD_LOW,
    ERROR,
    INVERSE_HIGH,
    INVERSE_LOW,
    N_BOUNDS,
    PIECE,
    Pieces,
    row_edges,
)
from diffuse_dials.kernels.tiles import measure_tiles
from diffuse_dials.kernels.voxels import component, direction

_TERMS = 4  # of a cubic
_ROUNDING = 1e-15  # of a unit vector


def make_pieces(shape, plane, shift, beam) -> Pieces:
    """The pieces of a panel.

    Args:
        shape: (slow, fast) pixels.
        plane, shift: As in ``voxels.direction``.
        beam: Unit vector ŝ0.
    """
    edges = row_edges(shape[1])
    n_pieces = len(edges) - 1
    nodes, solve = np.zeros((n_pieces, _TERMS), dtype=np.int64), np.zeros((n_pieces, _TERMS, _TERMS))
    for part, n in enumerate(np.diff(edges)):
        terms = min(_TERMS, n)
        at = np.rint((n - 1) / 2 * (1 - np.cos(np.pi * (np.arange(terms) + 0.5) / terms))).astype(np.int64)
        if len(np.unique(at)) < terms:
            at = np.arange(terms)
        nodes[part, :terms] = at
        solve[part, :terms, :terms] = np.linalg.inv(np.vander(at - n // 2.0, terms, increasing=True))
    polynomials, bounds = np.empty((shape[0], 3, _TERMS * n_pieces)), np.empty((N_BOUNDS, shape[0] * n_pieces))
    _fit(shape[0], edges, nodes, solve, plane, shift, beam, polynomials, bounds)
    return Pieces(edges, polynomials, bounds, measure_tiles(edges, polynomials, bounds))


@njit(**OPTIONS)
def _fit(n_rows, edges, nodes, solve, plane, shift, beam, polynomials, bounds):
    """Interpolate at the nodes, and measure on every pixel what the bounds say."""
    n_pieces, pixels = len(edges) - 1, np.empty((PIECE, 3))
    for row in range(n_rows):
        for part in range(n_pieces):
            piece, first, n = row * n_pieces + part, edges[part], edges[part + 1] - edges[part]
            chord_low = inverse_low = np.inf
            chord_high = inverse_high = 0.0
            for i in range(n):
                x, y, z, inverse = direction(row, first + i, plane, shift)
                pixels[i, 0], pixels[i, 1], pixels[i, 2] = x, y, z
                chord = max(2 - 2 * (x * beam[0] + y * beam[1] + z * beam[2]), 0.0)
                chord_low, chord_high = min(chord_low, chord), max(chord_high, chord)
                inverse_low, inverse_high = min(inverse_low, inverse), max(inverse_high, inverse)
            for j in range(3):
                for d in range(_TERMS):
                    value = 0.0
                    for k in range(_TERMS):
                        value += solve[part, d, k] * pixels[nodes[part, k], j]
                    polynomials[row, j, d * n_pieces + part] = value
            error = 0.0
            for i in range(n):
                t, off = np.float64(i - n // 2), 0.0
                for j in range(3):
                    off += (component(polynomials, row, j, part, n_pieces, t) - pixels[i, j]) ** 2
                error = max(error, off)
            bounds[ERROR, piece] = np.sqrt(error) + _ROUNDING
            bounds[CHORD_LOW, piece], bounds[CHORD_HIGH, piece] = np.sqrt(chord_low), np.sqrt(chord_high)
            bounds[INVERSE_LOW, piece], bounds[INVERSE_HIGH, piece] = inverse_low, inverse_high
