"""Polynomials of the direction on the patches of a panel, with the errors they have."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import direction, find_cubics
from diffuse_dials.kernels.options import OPTIONS
from diffuse_dials.kernels.pieces import (
    CHORD_HIGH,
    CHORD_LOW,
    ERROR,
    INVERSE_HIGH,
    INVERSE_LOW,
    N_BOUNDS,
    N_PATCH_BOUNDS,
    N_TERMS,
    PIECE,
    TERMS,
    TOGETHER,
    Pieces,
    row_edges,
    rows_of,
)
from diffuse_dials.kernels.tiles import measure_tiles

_NODES = 4  # along each direction, of a cubic
_ROUNDING = 1e-15  # of a unit vector


def make_pieces(shape, plane, shift, beam) -> Pieces:
    """The pieces of a panel.

    Args:
        shape: (slow, fast) pixels.
        plane, shift: As in ``coordinates.direction``.
        beam: Unit vector ŝ0.
    """
    n_rows, edges = shape[0], row_edges(shape[1])
    n_pieces, n_groups = len(edges) - 1, -(-n_rows // TOGETHER)
    polynomials, bounds = np.zeros((n_groups, 3, N_TERMS, n_pieces)), np.empty((N_BOUNDS, n_rows * n_pieces))
    patches = np.zeros((N_PATCH_BOUNDS, n_groups * n_pieces))
    patches[[CHORD_LOW, INVERSE_LOW]] = np.inf
    # all groups of rows are alike but for the last one
    columns, rows = np.zeros((n_pieces, _NODES), np.int64), np.zeros((2, _NODES), np.int64)
    solve = np.zeros((2, n_pieces, N_TERMS, _NODES, _NODES))
    for is_last, group in enumerate((0, n_groups - 1)):
        n_slow = rows_of(group, n_rows)[1]
        rows[is_last, : min(_NODES, n_slow)] = _nodes(n_slow)
        for part, n_fast in enumerate(np.diff(edges)):
            columns[part, : min(_NODES, n_fast)] = _nodes(n_fast)
            solve[is_last, part, :, : min(_NODES, n_slow), : min(_NODES, n_fast)] = _solution(int(n_fast), n_slow)
    _fit(n_rows, edges, columns, rows, solve, plane, shift, beam, polynomials, bounds, patches)
    measure_tiles(n_rows, edges, polynomials, patches)
    return Pieces(edges, polynomials, bounds, patches)


def _nodes(n: int) -> np.ndarray:
    """Numbers among n at which a cubic is best found, denser towards the ends; all of them if there are few."""
    found = min(_NODES, n)
    at = np.rint((n - 1) / 2 * (1 - np.cos(np.pi * (np.arange(found) + 0.5) / found))).astype(np.int64)
    return at if len(np.unique(at)) == found else np.arange(found)


@lru_cache
def _solution(n_fast: int, n_slow: int) -> np.ndarray:
    """What leads from values at all pairs of nodes to the coefficients of TERMS, by least squares.

    Returns:
        Shape (N_TERMS, nodes along slow, nodes along fast); 0 for terms that the nodes leave open.
    """
    t, r = _nodes(n_fast) - n_fast // 2, _nodes(n_slow) - n_slow // 2
    known = np.array([d < len(t) and e < len(r) for d, e in TERMS])
    scale = np.array([max(abs(t).max(), 1.0) ** d * max(abs(r).max(), 1.0) ** e for d, e in TERMS])
    terms = np.stack([np.outer(r**e, t**d).ravel() for d, e in TERMS], axis=1) / scale
    solution = np.zeros((N_TERMS, terms.shape[0]))
    solution[known] = np.linalg.pinv(terms[:, known]) / scale[known, None]
    return solution.reshape(N_TERMS, len(r), len(t))


@njit(**OPTIONS)
def _fit(n_rows, edges, columns, rows, solve, plane, shift, beam, polynomials, bounds, patches):
    """Fit the polynomials of all patches, and measure on every pixel what the bounds say.

    Args:
        columns: Numbers of the pixels that are nodes, shape (pieces, _NODES).
        rows: Numbers of the rows that are nodes, in any group of rows but the last, and in that, shape (2, _NODES).
        solve: Results of ``_solution``, shape (2, pieces, N_TERMS, _NODES, _NODES), 0 where there are fewer nodes.
        n_rows, edges, plane, shift, beam, polynomials, bounds, patches: Of the panel.
    """
    n_pieces, n_groups = len(edges) - 1, len(polynomials)
    pixels, cubics = np.empty((TOGETHER, PIECE, 3)), np.empty((3, 4))
    for patch in range(n_groups * n_pieces):
        group, part = patch // n_pieces, patch % n_pieces
        is_last, first, n = np.int64(group == n_groups - 1), edges[part], edges[part + 1] - edges[part]
        first_row, n_slow = rows_of(group, n_rows)
        for i in range(n_slow):
            chord_low = inverse_low = np.inf
            chord_high = inverse_high = 0.0
            for k in range(n):
                x, y, z, inverse = direction(first_row + i, first + k, plane, shift)
                pixels[i, k, 0], pixels[i, k, 1], pixels[i, k, 2] = x, y, z
                chord = max(2 - 2 * (x * beam[0] + y * beam[1] + z * beam[2]), 0.0)
                chord_low, chord_high = min(chord_low, chord), max(chord_high, chord)
                inverse_low, inverse_high = min(inverse_low, inverse), max(inverse_high, inverse)
            piece = (first_row + i) * n_pieces + part
            bounds[CHORD_LOW, piece], bounds[CHORD_HIGH, piece] = np.sqrt(chord_low), np.sqrt(chord_high)
            bounds[INVERSE_LOW, piece], bounds[INVERSE_HIGH, piece] = inverse_low, inverse_high
            for which in (CHORD_LOW, INVERSE_LOW):
                patches[which, patch] = min(patches[which, patch], bounds[which, piece])
            for which in (CHORD_HIGH, INVERSE_HIGH):
                patches[which, patch] = max(patches[which, patch], bounds[which, piece])
        for j in range(3):
            for d in range(N_TERMS):
                value = 0.0
                for i in range(_NODES):
                    for k in range(_NODES):
                        value += solve[is_last, part, d, i, k] * pixels[rows[is_last, i], columns[part, k], j]
                polynomials[group, j, d, part] = value
        error = 0.0
        for i in range(n_slow):
            find_cubics(polynomials, group, part, np.float64(i - n_slow // 2), cubics)
            for k in range(n):
                t, off = np.float64(k - n // 2), 0.0
                for j in range(3):
                    value = ((cubics[j, 3] * t + cubics[j, 2]) * t + cubics[j, 1]) * t + cubics[j, 0]
                    off += (value - pixels[i, k, j]) ** 2
                error = max(error, off)
        patches[ERROR, patch] = np.sqrt(error) + _ROUNDING
