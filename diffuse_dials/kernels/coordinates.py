"""Coordinates in a crystal's grid, or Miller indices, of pixels: by the exact formula, and by polynomials on a patch.

Both are linear in the unit vector to a pixel, so that the polynomials of a patch (kernels.pieces) become theirs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import BLOCK, ERROR, N_TERMS, TERMS, TOGETHER

N_CUBICS = 3 * 4 * TOGETHER
SINGLE = 2.0**-21  # bound of the rounding of a cubic in single precision, over the sum of its terms
_FROM_T = tuple(d for d, _ in TERMS)
_FROM_R = tuple(e for _, e in TERMS)
assert _FROM_T == (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3) and _FROM_R == (0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1)


@njit(**BORROW)
def direction(row, column, plane, shift):
    """Unit vector to a pixel's centre, and 1/distance (1/mm): the exact formula.

    Args:
        row, column: Of the pixel.
        plane: Position of the first pixel's centre, steps along fast and slow, unit vectors along them, shape (5, 3).
        shift: What parallax adds along fast and slow, shape (2, slow, fast), mm; or None.
    """
    x = plane[0, 0] + row * plane[2, 0] + column * plane[1, 0]
    y = plane[0, 1] + row * plane[2, 1] + column * plane[1, 1]
    z = plane[0, 2] + row * plane[2, 2] + column * plane[1, 2]
    if shift is not None:
        a, b = np.float64(shift[0, row, column]), np.float64(shift[1, row, column])
        x += a * plane[3, 0] + b * plane[4, 0]
        y += a * plane[3, 1] + b * plane[4, 1]
        z += a * plane[3, 2] + b * plane[4, 2]
    inverse = 1.0 / np.sqrt(x * x + y * y + z * z)
    return x * inverse, y * inverse, z * inverse, inverse


@njit(**BORROW)
def linear(matrices, which, j, x, y, z):
    """Coordinate j of a unit vector by one of several matrices with a constant, shape (m, 3, 4)."""
    return matrices[which, j, 0] * x + matrices[which, j, 1] * y + matrices[which, j, 2] * z + matrices[which, j, 3]


@njit(**BORROW)
def farthest(n):
    """How far from the middle of a piece of n pixels polynomials are evaluated: at pixels, and in blocks' middles.

    The latter may be beyond the last pixel.
    """
    return max(n // 2, -(-n // BLOCK) * BLOCK - BLOCK // 2 - n // 2)


@njit(**INLINE)
def find_cubics(polynomials, group, part, r, cubics):
    """Cubics in t along one row of a patch.

    Args:
        polynomials: Of pieces.Pieces.
        group, part: Which patch.
        r: The row's number less that of the patch's middle.
        cubics: Result, shape (3, 4): of each component.
    """
    p = polynomials[group]
    for j in range(3):
        cubics[j, 0] = ((p[j, 3, part] * r + p[j, 2, part]) * r + p[j, 1, part]) * r + p[j, 0, part]
        cubics[j, 1] = (p[j, 6, part] * r + p[j, 5, part]) * r + p[j, 4, part]
        cubics[j, 2] = (p[j, 9, part] * r + p[j, 8, part]) * r + p[j, 7, part]
        cubics[j, 3] = p[j, 11, part] * r + p[j, 10, part]


@njit(**OPTIONS)
def farthest_powers(edges):
    """What the terms of a patch's polynomials can be for coefficients of 1, shape (N_TERMS, pieces)."""
    powers = np.empty((N_TERMS, len(edges) - 1))
    for part in range(len(edges) - 1):
        for d in range(N_TERMS):
            t = np.float64(farthest(edges[part + 1] - edges[part]))
            powers[d, part] = t ** _FROM_T[d] * np.float64(TOGETHER // 2) ** _FROM_R[d]
    return powers


# Loops in functions of their own, as the compiler makes no vector instructions of a loop within another.


@njit(**INLINE)
def _transform(matrices, which, j, polynomials, group, out):
    m0, m1, m2 = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2]
    for i in range(out.shape[1]):
        at = np.uint64(i)
        value = m0 * polynomials[group, 0, at] + m1 * polynomials[group, 1, at]
        out[j, at] = value + m2 * polynomials[group, 2, at]


@njit(**BORROW)
def localise(matrices, which, polynomials, group, step, base, out):
    """Polynomials of the three coordinates by a matrix on the patches of a group of rows, less a whole number each.

    Args:
        matrices, which: As in ``linear``.
        polynomials, group: Of the unit vector (pieces.Pieces), and of which group of rows.
        step: What the whole numbers are to be multiples of; 0: take those of ``base``.
        base: Whole numbers near the coordinates of the patches' middles, shape (3, pieces); result unless ``step`` is
            0.
        out: Result, shape (3, N_TERMS, pieces).
    """
    n_groups, n_pieces = len(polynomials), base.shape[1]
    for j in range(3):
        _transform(
            matrices, which, j, polynomials.reshape(n_groups, 3, N_TERMS * n_pieces), group,
            out.reshape(3, N_TERMS * n_pieces),
        )  # fmt: skip
        constant = matrices[which, j, 3]
        for part in range(n_pieces):
            value = out[j, 0, part] + constant
            if step > 0:
                base[j, part] = np.floor(value / step) * step
            out[j, 0, part] = value - base[j, part]


@njit(**INLINE)
def _sizes(j, d, out, powers, size):
    for i in range(size.shape[1]):
        part = np.uint64(i)
        size[j, part] += powers[d, part] * np.abs(out[j, d, part])


@njit(**BORROW)
def find_sizes(powers, local, size):
    """How large coordinates can be.

    Args:
        powers: Result of ``farthest_powers``.
        local: Result of ``localise``.
        size: Result: sum of the sizes of the terms at most, shape (3, pieces). Cubics of a row that are evaluated in
            single precision are right to SINGLE times it.
    """
    size[:] = 0.0
    for j in range(3):
        for d in range(N_TERMS):
            _sizes(j, d, local, powers, size)


@njit(**INLINE)
def find_margins(which, group, patches, sizes, size, margins):
    """To within which the coordinates on the patches of a group are right, rounding in single precision included.

    Args:
        which, group: Number of the matrix, and of the group of rows.
        patches: Bounds of all of them, as pieces.Pieces has them.
        sizes: Of the matrices, as still.Crystal has them.
        size: Result of ``find_sizes``.
        margins: Result, shape (pieces,).
    """
    first = np.uint64(group * len(margins))
    a, b, c = sizes[which, 0], sizes[which, 1], sizes[which, 2]
    for i in range(len(margins)):
        part = np.uint64(i)
        error = patches[ERROR, first + part]
        margin = max(error * a + SINGLE * size[0, part], error * b + SINGLE * size[1, part])
        margins[part] = max(margin, error * c + SINGLE * size[2, part])


@njit(**INLINE)
def _along_slow(part, at, p, from_middle, cubics):
    for i in range(TOGETHER):
        r = np.float64(i) - from_middle
        row = np.uint64(i)
        cubics[part, at + row] = ((p[3] * r + p[2]) * r + p[1]) * r + p[0]
        cubics[part, at + np.uint64(TOGETHER) + row] = (p[6] * r + p[5]) * r + p[4]
        cubics[part, at + np.uint64(2 * TOGETHER) + row] = (p[9] * r + p[8]) * r + p[7]
        cubics[part, at + np.uint64(3 * TOGETHER) + row] = p[11] * r + p[10]


@njit(**BORROW)
def expand(part, n_slow, local, cubics):
    """Cubics in t along each row of a patch.

    Args:
        part: Which piece.
        n_slow: Number of rows in the patch.
        local: Result of ``localise``.
        cubics: Result, single precision, of ``part``, shape (pieces, N_CUBICS): TOGETHER coefficients, one of each row,
            for each power of t, and that for each coordinate.
    """
    middle = np.float64(n_slow // 2)
    for j in range(3):
        p = (
            local[j, 0, part], local[j, 1, part], local[j, 2, part], local[j, 3, part], local[j, 4, part],
            local[j, 5, part], local[j, 6, part], local[j, 7, part], local[j, 8, part], local[j, 9, part],
            local[j, 10, part], local[j, 11, part],
        )  # fmt: skip
        _along_slow(part, np.uint64(4 * TOGETHER * j), p, middle, cubics)


@njit(**INLINE)
def coefficients(cubics, part, j, r):
    """Coefficients of the cubic of coordinate j in row r of a patch, from the constant on."""
    at = np.uint64(4 * TOGETHER * j) + np.uint64(r)
    return (
        cubics[part, at], cubics[part, at + np.uint64(TOGETHER)], cubics[part, at + np.uint64(2 * TOGETHER)],
        cubics[part, at + np.uint64(3 * TOGETHER)],
    )  # fmt: skip


@njit(**INLINE)
def cubic(t, cubics, part, j, r):
    """Coordinate j at t in row r of a patch."""
    a, b, c, d = coefficients(cubics, part, j, r)
    return ((d * t + c) * t + b) * t + a
