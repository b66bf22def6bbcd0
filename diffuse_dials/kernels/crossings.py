"""Where the pixels of a piece of a row pass from one voxel to the next.

Along a piece each coordinate in the grid is a cubic polynomial to within a known margin. Where it rises or falls all
the way, the pixel at which it crosses a whole number follows from one step of Newton's method; that no pixel on either side
is nearer to the boundary than the margin is then checked, so that how the place was found does not matter. Where the
check fails, or the coordinate turns round, the polynomial is evaluated at each pixel, and within the margin the exact
formula. So the result is that of the exact formula at every pixel.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from diffuse_dials.kernels.pieces import PIECE

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
_LANES = 8  # crossings worked out together
_SINGLE = np.float32(2.0**-21)  # bound of the rounding of a cubic in single precision, over the sum of its terms


@intrinsic
def trailing_zeros(typing_context, word):
    """Number of the lowest bit of a word of 64 bits that is set."""

    def build(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), build


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def linear(matrices, which, j, x, y, z):
    """Coordinate j of a unit vector by one of several matrices with a constant, shape (m, 3, 4)."""
    return matrices[which, j, 0] * x + matrices[which, j, 1] * y + matrices[which, j, 2] * z + matrices[which, j, 3]


@njit(**OPTIONS)
def localise(matrices, which, polynomials, piece, half, out, base, spread):
    """Polynomials of the three coordinates by a matrix on a piece, less a whole number each.

    Args:
        matrices, which: As in ``linear``.
        polynomials, piece: Of the unit vector, shape (pieces, 3, 4), and which of them.
        half: Largest distance of a pixel's number from the middle's.
        out: Result, single precision, shape (3, 4).
        base: Result, whole numbers, shape (3,).
        spread: Result: bound of the rounding of ``out`` evaluated in single precision, shape (3,).
    """
    for j in range(3):
        m0, m1, m2 = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2]
        size, power = 0.0, 1.0
        for d in range(4):
            value = m0 * polynomials[piece, 0, d] + m1 * polynomials[piece, 1, d] + m2 * polynomials[piece, 2, d]
            if d == 0:
                value += matrices[which, j, 3]
                base[j] = np.floor(value)
                value -= base[j]
            out[j, d] = value
            size += np.abs(value) * power
            power *= half
        spread[j] = size * _SINGLE


@njit(**OPTIONS)
def _value(c0, c1, c2, c3, t):
    return ((c3 * t + c2) * t + c1) * t + c0


@njit(**OPTIONS)
def find_crossings(n, c, j, margin, unit, places, step, words):
    """Mark where a coordinate that rises or falls all along a piece crosses whole numbers.

    Args:
        n: Number of pixels.
        c, j: Coefficients of the coordinates, shape (3, 4), single precision, and which of them.
        margin: To within which the polynomial is right.
        unit: What a crossing upwards adds to the voxel's key.
        places: Work space, shape (PIECE + 8,), int32.
        step: Change of the key at each pixel, shape (PIECE,), int64; added to.
        words: Bits of the pixels where the key changes, shape (2,), uint64; added to.

    Returns:
        The whole number below the first pixel; and whether all places are certain, without which nothing was marked.
    """
    half = n // 2
    c0, c1, c2, c3 = c[j, 0], c[j, 1], c[j, 2], c[j, 3]
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    middle, margin = np.float32(half), np.float32(margin)
    bend = middle * (two * np.abs(c2) + three * middle * np.abs(c3))
    if not (np.float32(1.5) * bend < np.abs(c1) < np.float32(0.45)):
        return 0, False
    at_first, at_last = _value(c0, c1, c2, c3, -middle), _value(c0, c1, c2, c3, np.float32(n - 1 - half))
    first, last = np.floor(at_first), np.floor(at_last)
    inside = min(min(at_first - first, first + one - at_first), min(at_last - last, last + one - at_last))
    if not inside > margin:
        return 0, False
    lowest, number = np.int64(min(first, last)) + 1, np.int64(np.abs(last - first))
    sign, inverse = (one if c1 > 0 else -one), one / c1
    curve, failed = c2 * inverse, np.int32(0)
    for begin in range(0, number, _LANES):
        for lane in range(_LANES):
            k = np.int32(np.int32(begin) + np.int32(lane))
            boundary = np.float32(np.int32(np.int32(lowest) + k))
            y = (boundary - c0) * inverse
            t = y - curve * y * y
            t -= (_value(c0, c1, c2, c3, t) - boundary) / (c1 + t * (two * c2 + three * t * c3))
            t = np.ceil(t)
            before = (boundary - _value(c0, c1, c2, c3, t - one)) * sign
            after = (_value(c0, c1, c2, c3, t) - boundary) * sign
            certain = (before > margin) & (after > margin)
            failed = np.int32(failed | np.int32(np.int32(not certain) & np.int32(k < number)))
            places[k] = np.int32(t) + np.int32(half)
    if failed:
        return 0, False
    change = unit if c1 > 0 else -unit
    low, high, bit = words[0], words[1], np.uint64(1)
    for k in range(number):
        i = places[k]
        step[i] += change
        mark = bit << np.uint64(i & 63)
        low |= mark if i < 64 else np.uint64(0)
        high |= mark if i >= 64 else np.uint64(0)
    words[0], words[1] = low, high
    return np.int64(first), True


@njit(**OPTIONS)
def _floors(n, c, j, margin, floors):
    """Whole numbers below the polynomial at each pixel; whether one is nearer to the boundary than the margin."""
    c0, c1, c2, c3 = c[j, 0], c[j, 1], c[j, 2], c[j, 3]
    middle, margin, close = np.float32(n // 2), np.float32(margin), np.int32(0)
    for i in range(n):
        value = _value(c0, c1, c2, c3, np.float32(np.int32(i)) - middle)
        below = np.floor(value)
        floors[i] = np.int32(below)
        rest = value - below
        close = np.int32(close | np.int32(not ((rest > margin) & (np.float32(1) - rest > margin))))
    return close


@njit(**OPTIONS)
def visit_pixels(n, c, j, margin, unit, row, first, plane, shift, matrices, base, floors, step, words):
    """Mark where a coordinate changes its whole number, pixel by pixel.

    Args:
        n, c, j, margin, unit, step, words: As in ``find_crossings``.
        row, first: Place of the piece's first pixel.
        plane, shift: As in ``direction``.
        matrices: The first leads to the coordinates, as in ``linear``.
        base: What was taken from them, shape (3,).
        floors: Work space, shape (PIECE,), int32.

    Returns:
        The whole number below the first pixel.
    """
    if _floors(n, c, j, margin, floors):
        c0, c1, c2, c3 = c[j, 0], c[j, 1], c[j, 2], c[j, 3]
        middle, margin = np.float32(n // 2), np.float32(margin)
        for i in range(n):
            value = _value(c0, c1, c2, c3, np.float32(np.int32(i)) - middle)
            rest = value - np.floor(value)
            if not (rest > margin and np.float32(1) - rest > margin):
                x, y, z, _ = direction(row, first + i, plane, shift)
                floors[i] = np.int32(np.floor(linear(matrices, 0, j, x, y, z) - base[j]))
    for i in range(1, n):
        if floors[i] != floors[i - 1]:
            step[i] += unit * np.int64(floors[i] - floors[i - 1])
            words[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    return np.int64(floors[0])


assert PIECE == 128  # two words of bits
