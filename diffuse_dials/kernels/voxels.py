"""Which voxel each pixel of a row is in, and where along the row it changes.

Along a piece of the row each coordinate in the grid is a cubic polynomial to within a known margin. It is evaluated at
each pixel in single precision, several pixels at once; a pixel nearer to a voxel's boundary than the margin is decided
by the exact formula. So the result is that of the exact formula at every pixel.

The loops over pixels are written so that the compiler makes vector instructions of them: 32 bits throughout, indices
without a sign (others are tested for being negative), no branches, a number of rounds that it does not know, and few
arrays a loop (it checks that what is written is none of those that are read, up to eight pairs of them).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import BLOCK, ERROR, PIECE
from diffuse_dials.kernels.vectors import changes, ones, trailing_zeros

SINGLE = 2.0**-21  # bound of the rounding of a cubic in single precision, over the sum of its terms

# A pixel's key: three fields of 8 bits for its voxel along each axis, CENTRE at the piece's base (``localise``), and
# flags: near a Bragg spot, not for the map, and voxel not told by the key. Neighbours of equal keys make a run.
FIELD, CENTRE = 8, 128
NEAR_BIT = 24
NEAR, SKIP, ALONE = 1 << NEAR_BIT, 1 << 25, 1 << 26
STEEP = CENTRE - 8.0  # voxels from the base: farther than what a field can hold
_MIDDLE_KEY = CENTRE << 2 * FIELD | CENTRE << FIELD | CENTRE
_FIELD_MASK = (1 << FIELD) - 1
_FRACTION = 20  # bits of a coordinate behind the point
_ONE = 1 << _FRACTION
_NUMBERS = np.arange(PIECE, dtype=np.float32)


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
def component(polynomials, row, j, part, n_pieces, t):
    """Component j of the unit vector by the polynomials of pieces.Pieces, t pixels from the piece's middle."""
    value = polynomials[row, j, 3 * n_pieces + part] * t + polynomials[row, j, 2 * n_pieces + part]
    return (value * t + polynomials[row, j, n_pieces + part]) * t + polynomials[row, j, part]


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


@njit(**OPTIONS)
def farthest_powers(edges):
    """Powers 0 to 3 of ``farthest`` of each piece, shape (4, pieces)."""
    powers = np.ones((4, len(edges) - 1))
    for part in range(len(edges) - 1):
        for d in range(1, 4):
            powers[d, part] = powers[d - 1, part] * farthest(edges[part + 1] - edges[part])
    return powers


# Loops in functions of their own, as the compiler makes no vector instructions of a loop within another.


@njit(**INLINE)
def _cubics(matrices, which, j, polynomials, row, out):
    m0, m1, m2 = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2]
    for i in range(out.shape[1]):
        at = np.uint64(i)
        value = m0 * polynomials[row, 0, at] + m1 * polynomials[row, 1, at]
        out[j, at] = value + m2 * polynomials[row, 2, at]


@njit(**INLINE)
def _bases(matrices, which, j, polynomials, row, step, base):
    m0, m1, m2, constant = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2], matrices[which, j, 3]
    for i in range(base.shape[1]):
        part = np.uint64(i)
        value = m0 * polynomials[row, 0, part] + m1 * polynomials[row, 1, part]
        base[j, part] = np.floor((value + m2 * polynomials[row, 2, part] + constant) / step) * step


@njit(**INLINE)
def _constants(matrices, which, j, polynomials, row, base, out):
    m0, m1, m2, constant = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2], matrices[which, j, 3]
    for i in range(base.shape[1]):
        part = np.uint64(i)
        value = m0 * polynomials[row, 0, part] + m1 * polynomials[row, 1, part]
        out[j, part] = value + m2 * polynomials[row, 2, part] + constant - base[j, part]


@njit(**BORROW)
def localise(matrices, which, polynomials, row, step, base, out):
    """Polynomials of the three coordinates by a matrix on the pieces of a row, less a whole number each.

    Args:
        matrices, which: As in ``linear``.
        polynomials, row: Of the unit vector, shape (rows, 3, 4·pieces), and of which row.
        step: What the whole numbers are to be multiples of; 0: take those of ``base``.
        base: Whole numbers near the coordinates of the pieces' middles, shape (3, pieces); result unless ``step`` is 0.
        out: Result, single precision, shape (3, 4, pieces).
    """
    flat = out.reshape(3, out.shape[1] * out.shape[2])
    for j in range(3):
        if step > 0:
            _bases(matrices, which, j, polynomials, row, step, base)
        _cubics(matrices, which, j, polynomials, row, flat)
        _constants(matrices, which, j, polynomials, row, base, flat)


@njit(**INLINE)
def _sizes(j, flat, powers, size):
    n_pieces = np.uint64(size.shape[1])
    for i in range(size.shape[1]):
        part = np.uint64(i)
        total = np.abs(flat[j, part]) + powers[1, part] * np.abs(flat[j, part + n_pieces])
        total += powers[2, part] * np.abs(flat[j, part + np.uint64(2) * n_pieces])
        size[j, part] = total + powers[3, part] * np.abs(flat[j, part + np.uint64(3) * n_pieces])


@njit(**BORROW)
def find_sizes(powers, c, size):
    """How large coordinates can be.

    Args:
        powers: Of how far from a piece's middle they are evaluated: 0 to 3, shape (4, pieces).
        c: Result of ``localise``.
        size: Result: sum of the sizes of the terms at most, shape (3, pieces). ``c`` evaluated in single precision is
            right to SINGLE times it.
    """
    flat = c.reshape(3, powers.size)
    for j in range(3):
        _sizes(j, flat, powers, size)


@njit(**INLINE)
def find_margins(which, row, bounds, sizes, size, margins):
    """To within which the coordinates on the pieces of a row are right, rounding in single precision included.

    Args:
        which, row: Number of the matrix, and of the row.
        bounds: Of all pieces, as pieces.Pieces has them.
        sizes: Of the matrices, as still.Crystal has them.
        size: Result of ``find_sizes``.
        margins: Result, shape (pieces,).
    """
    first = np.uint64(row * len(margins))
    a, b, c = sizes[which, 0], sizes[which, 1], sizes[which, 2]
    for i in range(len(margins)):
        part = np.uint64(i)
        error = bounds[ERROR, first + part]
        margin = max(error * a + SINGLE * size[0, part], error * b + SINGLE * size[1, part])
        margins[part] = max(margin, error * c + SINGLE * size[2, part])


@njit(**INLINE)
def find_voxels(first, n, c, part, margin, keys):
    """Keys of the pixels of a piece by polynomials, evaluated in single precision and cut to multiples of 2⁻²⁰.

    Args:
        first, n: Number of the first pixel in its row, and of pixels.
        c, part: Coefficients of the coordinates, shape (3, 4, pieces), single precision, and of which piece.
        margin: To within which the polynomials are right, rounding in single precision included.
        keys: Result, int32, one for each pixel of the row, from number 1 on, and room for whole pieces. What follows
            the row's last pixel has no meaning.

    Returns:
        Whether a pixel is nearer to a voxel's boundary than the margin (also if it follows the row's last one), and may
        have a neighbouring voxel's key.
    """
    one = np.float32(_ONE)
    a0, a1, a2, a3 = one * c[0, 0, part], one * c[0, 1, part], one * c[0, 2, part], one * c[0, 3, part]
    b0, b1, b2, b3 = one * c[1, 0, part], one * c[1, 1, part], one * c[1, 2, part], one * c[1, 3, part]
    c0, c1, c2, c3 = one * c[2, 0, part], one * c[2, 1, part], one * c[2, 2, part], one * c[2, 3, part]
    around = np.int32(min(margin, 0.5) * _ONE + 2)  # more by 2, as coordinates are cut
    # by which voxels are counted from 0, and pixels near a boundary are right above it; those are not told here
    more = np.int32(np.int32(CENTRE << _FRACTION) + around)
    nearest, half, fraction = np.int32(_ONE), np.float32(n // 2), np.int32(_ONE - 1)
    for i in range(-(-n // BLOCK) * BLOCK):
        t = _NUMBERS[np.uint64(i)] - half
        u = np.int32(np.int32(((a3 * t + a2) * t + a1) * t + a0) + more)
        v = np.int32(np.int32(((b3 * t + b2) * t + b1) * t + b0) + more)
        w = np.int32(np.int32(((c3 * t + c2) * t + c1) * t + c0) + more)
        from_u, from_v, from_w = np.int32(u & fraction), np.int32(v & fraction), np.int32(w & fraction)
        nearest = min(nearest, min(min(from_u, from_v), from_w))
        key = np.int32(np.int32(u >> np.int32(_FRACTION - 2 * FIELD)) & np.int32(_FIELD_MASK << 2 * FIELD))
        key |= np.int32(np.int32(v >> np.int32(_FRACTION - FIELD)) & np.int32(_FIELD_MASK << FIELD))
        keys[np.uint64(1 + first + i)] = np.int32(key | np.int32(w >> np.int32(_FRACTION)))
    return nearest <= 2 * around


@njit(**BORROW)
def exact_voxel(row, column, plane, shift, matrices):
    """Coordinates of a pixel's voxel by the exact formula."""
    x, y, z, _ = direction(row, column, plane, shift)
    return (
        np.int64(np.floor(linear(matrices, 0, 0, x, y, z))),
        np.int64(np.floor(linear(matrices, 0, 1, x, y, z))),
        np.int64(np.floor(linear(matrices, 0, 2, x, y, z))),
    )


@njit(**INLINE)
def _from_boundary(t, c, j, part):
    """Distance of coordinate j at t from the nearest whole number."""
    value = ((c[j, 3, part] * t + c[j, 2, part]) * t + c[j, 1, part]) * t + c[j, 0, part]
    return np.abs(value - np.rint(value))


@njit(**BORROW)
def decide_close(row, first, n, c, part, margin, plane, shift, matrices, base, keys):
    """Decide the pixels of a piece that are nearer to a voxel's boundary than the margin by the exact formula.

    Args:
        row, first, n: Place of the piece's first pixel, and number of pixels.
        c, part, margin, keys: As in ``find_voxels``.
        plane, shift: As in ``direction``.
        matrices: The first leads to the coordinates, as in ``linear``.
        base: What was taken from them, shape (3, pieces).
    """
    margin = 2 * margin + 4.0 / _ONE  # as these values are rounded as well, and those of find_voxels are cut
    for begin in range(0, n, BLOCK):
        nearest = np.float32(1.0)
        for i in range(BLOCK):
            t = _NUMBERS[np.uint64(begin + i)] - np.float32(n // 2)
            nearest = min(nearest, min(_from_boundary(t, c, 0, part), _from_boundary(t, c, 1, part)))
            nearest = min(nearest, _from_boundary(t, c, 2, part))
        if nearest > margin:
            continue
        for i in range(begin, min(begin + BLOCK, n)):
            t = _NUMBERS[np.uint64(i)] - np.float32(n // 2)
            least = min(_from_boundary(t, c, 0, part), _from_boundary(t, c, 1, part))
            if min(least, _from_boundary(t, c, 2, part)) <= margin:
                u, v, w = exact_voxel(row, first + i, plane, shift, matrices)
                u -= np.int64(base[0, part])
                v -= np.int64(base[1, part])
                w -= np.int64(base[2, part])
                keys[1 + first + i] = (u << 2 * FIELD) + (v << FIELD) + w + _MIDDLE_KEY


@njit(**BORROW)
def find_runs(n, keys, starts):
    """Where runs of equal keys begin along a row; one begins with each piece.

    Args:
        n: Number of pixels.
        keys: As in ``find_voxels``.
        starts: Result, int32, shape (n + 8,): first pixel of each run, and n after them.

    Returns:
        The number of runs.
    """
    found = 0
    for begin in range(0, n, 64):
        word = changes(keys, begin)
        if begin % PIECE == 0:
            word |= np.uint64(1)
        if begin + 64 > n:
            word &= (np.uint64(1) << np.uint64(n - begin)) - np.uint64(1)
        stop, place = found + np.int64(ones(word)), found
        while place < stop:  # eight at a time, so that a processor seldom guesses the number wrong
            for k in range(8):
                starts[np.uint64(place + k)] = begin + np.int32(trailing_zeros(word))
                word &= word - np.uint64(1)
            place += 8
        found = stop
    starts[found] = n
    return found


assert PIECE % 64 == 0 and 3 * FIELD <= 24
