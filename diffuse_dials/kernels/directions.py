"""Polynomials of the direction on the patches of a panel, with the errors they have."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import direction, find_cubics
from diffuse_dials.kernels.options import BORROW, OPTIONS
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
# Parts of the work on a piece, in one array as in kernels.shared
_NUMBER, _CHORD, _INVERSE, _OFF, _LENGTH = (k * PIECE for k in range(5))


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
    work, cubics = np.zeros(_LENGTH), np.empty((3, 4))
    for i in range(PIECE):
        work[_NUMBER + i] = i
    # numbers that are not negative have the order of their bits, and those of a loop are compared several at once
    work_bits, bounds_bits = work.view(np.int64), bounds.view(np.int64)
    for patch in range(n_groups * n_pieces):
        group, part = patch // n_pieces, patch % n_pieces
        is_last, first, n = np.int64(group == n_groups - 1), edges[part], edges[part + 1] - edges[part]
        first_row, n_slow = rows_of(group, n_rows)
        for i in range(_NODES):
            for k in range(_NODES):
                vector = direction(first_row + rows[is_last, i], first + columns[part, k], plane, shift)[:3]
                for j in range(3):
                    for d in range(N_TERMS):
                        polynomials[group, j, d, part] += solve[is_last, part, d, i, k] * vector[j]
        work[_OFF : _OFF + PIECE] = 0.0
        for i in range(n_slow):
            find_cubics(polynomials, group, part, np.float64(i - n_slow // 2), cubics)
            _measure_piece(first_row + i, first, n, plane, shift, beam, cubics, work)
            piece = (first_row + i) * n_pieces + part
            low, high = _extremes(work_bits[_CHORD : _CHORD + n])
            bounds_bits[CHORD_LOW, piece], bounds_bits[CHORD_HIGH, piece] = low, high
            low, high = _extremes(work_bits[_INVERSE : _INVERSE + n])
            bounds_bits[INVERSE_LOW, piece], bounds_bits[INVERSE_HIGH, piece] = low, high
            for which in (CHORD_LOW, CHORD_HIGH):
                bounds[which, piece] = np.sqrt(bounds[which, piece])
            for which in (CHORD_LOW, INVERSE_LOW):
                patches[which, patch] = min(patches[which, patch], bounds[which, piece])
            for which in (CHORD_HIGH, INVERSE_HIGH):
                patches[which, patch] = max(patches[which, patch], bounds[which, piece])
        patches[ERROR, patch] = np.sqrt(work[_OFF : _OFF + n].max()) + _ROUNDING


@njit(**BORROW)
def _measure_piece(row, first, n, plane, shift, beam, cubics, work):
    """Squares of |ŝ1 - ŝ0|, and 1/distances, of the pixels of a piece; and how far, squared, the cubics are at most.

    Args:
        row, first, n: Its row, first pixel and length.
        plane, shift, beam: Of the panel; the formula is that of ``coordinates.direction``.
        cubics: Result of ``find_cubics`` for the row.
        work: Result.
    """
    x0 = plane[0, 0] + row * plane[2, 0]
    y0 = plane[0, 1] + row * plane[2, 1]
    z0 = plane[0, 2] + row * plane[2, 2]
    x1, y1, z1 = plane[1]
    a0, a1, a2 = plane[3]
    b0, b1, b2 = plane[4]
    s0, s1, s2 = beam
    f0, f1, f2, f3 = cubics[0]
    g0, g1, g2, g3 = cubics[1]
    h0, h1, h2, h3 = cubics[2]
    begin, middle = np.float64(first), np.float64(n // 2)
    if shift is not None:
        shift_fast, shift_slow = shift[0, row, first : first + n], shift[1, row, first : first + n]
    for i in range(n):
        column, t = work[_NUMBER + i] + begin, work[_NUMBER + i] - middle
        x, y, z = x0 + column * x1, y0 + column * y1, z0 + column * z1
        if shift is not None:
            a, b = np.float64(shift_fast[i]), np.float64(shift_slow[i])
            x += a * a0 + b * b0
            y += a * a1 + b * b1
            z += a * a2 + b * b2
        inverse = 1.0 / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse, y * inverse, z * inverse
        chord = 2.0 - 2.0 * (x * s0 + y * s1 + z * s2)
        work[_CHORD + i] = chord if chord > 0.0 else 0.0
        work[_INVERSE + i] = inverse
        u = ((f3 * t + f2) * t + f1) * t + f0 - x
        v = ((g3 * t + g2) * t + g1) * t + g0 - y
        w = ((h3 * t + h2) * t + h1) * t + h0 - z
        off, most = u * u + v * v + w * w, work[_OFF + i]
        work[_OFF + i] = off if off > most else most


@njit(**BORROW)
def _extremes(values):
    """The least and the largest of whole numbers."""
    low = high = values[0]
    for i in range(len(values)):
        low, high = min(low, values[i]), max(high, values[i])
    return low, high
