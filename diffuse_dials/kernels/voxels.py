"""Which voxel each pixel of a row is in, and where along the row it changes.

Along a piece of the row each coordinate in the grid is a cubic polynomial to within a known margin. It is evaluated at
each pixel in single precision, several pixels at once; a pixel nearer to a voxel's boundary than the margin is decided
by the exact formula. So the result is that of the exact formula at every pixel.

The loops over pixels are written so that the compiler makes vector instructions of them: 32 bits throughout, indices
without a sign (others are tested for being negative), no branches, and a number of rounds that it does not know.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from diffuse_dials.kernels.pieces import BLOCK, PIECE

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
INLINE = {**OPTIONS, "forceinline": True}  # for each piece: a call that passes arrays costs more than the work itself
SINGLE = 2.0**-21  # bound of the rounding of a cubic in single precision, over the sum of its terms

# A pixel's key: three fields of 8 bits for its voxel along each axis, CENTRE at the piece's base (``localise``), and
# flags: near a Bragg spot, not for the map. Neighbours of equal keys make a run.
FIELD, CENTRE = 8, 128
NEAR_BIT = 24
NEAR, SKIP = 1 << NEAR_BIT, 1 << 25
STEEP = CENTRE - 8.0  # voxels from the base: farther than what a field can hold
_MIDDLE_KEY = CENTRE << 2 * FIELD | CENTRE << FIELD | CENTRE
_FRACTION = 20  # bits of a coordinate behind the point
_ONE = 1 << _FRACTION
_NUMBERS = np.arange(PIECE, dtype=np.float32)


@intrinsic
def trailing_zeros(typing_context, word):
    """Number of the lowest bit of a word of 64 bits that is set; 64 of 0."""

    def build(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), build


@intrinsic
def ones(typing_context, word):
    """Number of bits of a word of 64 bits that are set."""

    def build(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), build


@intrinsic
def changes(typing_context, values, at):
    """Bits of the 64 elements of an array of int32 after number ``at`` that differ from the one before them."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        before = builder.gep(data, [args[1]])
        after = builder.gep(before, [ir.Constant(ir.IntType(64), 1)])
        vector = ir.VectorType(ir.IntType(32), 64)
        before, after = (builder.load(builder.bitcast(p, vector.as_pointer()), align=4) for p in (before, after))
        return builder.bitcast(builder.icmp_signed("!=", before, after), ir.IntType(64))

    return types.uint64(values, types.int64), build


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


@njit(**INLINE)
def localise(matrices, which, polynomials, piece, half, step, number, out, base, size):
    """Polynomials of the three coordinates by a matrix on a piece, less a whole number each.

    Args:
        matrices, which: As in ``linear``.
        polynomials, piece: Of the unit vector, shape (pieces, 3, 4), and which of them.
        half: Largest distance of a pixel's number from the middle's.
        step: What the whole numbers are to be multiples of.
        number: Which of the results to write.
        out: Result, single precision, shape (m, 3, 4).
        base: Result, whole numbers, shape (m, 3).
        size: Result: sum of the sizes of the terms at most, shape (m, 3). ``out`` evaluated in single precision is
            right to SINGLE times it.
    """
    for j in range(3):
        m0, m1, m2 = matrices[which, j, 0], matrices[which, j, 1], matrices[which, j, 2]
        total, power = 0.0, 1.0
        for d in range(4):
            value = m0 * polynomials[piece, 0, d] + m1 * polynomials[piece, 1, d] + m2 * polynomials[piece, 2, d]
            if d == 0:
                value += matrices[which, j, 3]
                base[number, j] = np.floor(value / step) * step
                value -= base[number, j]
            out[number, j, d] = value
            total += np.abs(value) * power
            power *= half
        size[number, j] = total


@njit(**INLINE)
def find_voxels(first, n, c, number, margin, keys):
    """Keys of the pixels of a piece by polynomials, evaluated in single precision and cut to multiples of 2⁻²⁰.

    Args:
        first, n: Number of the first pixel in its row, and of pixels.
        c, number: Coefficients of the coordinates, shape (m, 3, 4), single precision, and which of them.
        margin: To within which the polynomials are right, rounding in single precision included.
        keys: Result, int32, one for each pixel of the row, from number 1 on, and room for whole pieces. What follows
            the row's last pixel has no meaning.

    Returns:
        Whether a pixel is nearer to a voxel's boundary than the margin (also if it follows the row's last one).
    """
    one = np.float32(_ONE)
    a0, a1, a2, a3 = one * c[number, 0, 0], one * c[number, 0, 1], one * c[number, 0, 2], one * c[number, 0, 3]
    b0, b1, b2, b3 = one * c[number, 1, 0], one * c[number, 1, 1], one * c[number, 1, 2], one * c[number, 1, 3]
    c0, c1, c2, c3 = one * c[number, 2, 0], one * c[number, 2, 1], one * c[number, 2, 2], one * c[number, 2, 3]
    around = np.uint32(min(margin, 0.5) * _ONE + 2)  # more by 2, as coordinates are cut
    nearest, half = np.uint32(_ONE), np.float32(n // 2)
    fraction, field = np.uint32(_ONE - 1), np.int32((1 << FIELD) - 1)
    for i in range(-(-n // BLOCK) * BLOCK):
        t = _NUMBERS[np.uint64(i)] - half
        u = np.int32(((a3 * t + a2) * t + a1) * t + a0)
        v = np.int32(((b3 * t + b2) * t + b1) * t + b0)
        w = np.int32(((c3 * t + c2) * t + c1) * t + c0)
        from_u = np.uint32(np.uint32(np.uint32(u) + around) & fraction)
        from_v = np.uint32(np.uint32(np.uint32(v) + around) & fraction)
        from_w = np.uint32(np.uint32(np.uint32(w) + around) & fraction)
        nearest = min(nearest, min(min(from_u, from_v), from_w))
        key = np.int32(np.int32(u >> np.int32(_FRACTION - 2 * FIELD)) & np.int32(field << np.int32(2 * FIELD)))
        key |= np.int32(np.int32(v >> np.int32(_FRACTION - FIELD)) & np.int32(field << np.int32(FIELD)))
        key |= np.int32(np.int32(w >> np.int32(_FRACTION)) & field)
        keys[np.uint64(1 + first + i)] = np.int32(key ^ np.int32(_MIDDLE_KEY))
    return nearest <= np.uint32(2) * around


@njit(**OPTIONS)
def exact_voxel(row, column, plane, shift, matrices):
    """Coordinates of a pixel's voxel by the exact formula."""
    x, y, z, _ = direction(row, column, plane, shift)
    return (
        np.int64(np.floor(linear(matrices, 0, 0, x, y, z))),
        np.int64(np.floor(linear(matrices, 0, 1, x, y, z))),
        np.int64(np.floor(linear(matrices, 0, 2, x, y, z))),
    )


@njit(**OPTIONS)
def _inside(c, number, j, t, margin):
    """Whether coordinate j at t is farther from a whole number than the margin."""
    value = ((c[number, j, 3] * t + c[number, j, 2]) * t + c[number, j, 1]) * t + c[number, j, 0]
    return margin < value - np.floor(value) < 1 - margin


@njit(**OPTIONS)
def decide_close(row, first, n, c, number, margin, plane, shift, matrices, base, keys):
    """Decide the pixels of a piece that are nearer to a voxel's boundary than the margin by the exact formula.

    Args:
        row, first, n: Place of the piece's first pixel, and number of pixels.
        c, number, margin, keys: As in ``find_voxels``.
        plane, shift: As in ``direction``.
        matrices: The first leads to the coordinates, as in ``linear``.
        base: What was taken from them, shape (m, 3).
    """
    margin += 4.0 / _ONE  # not to leave out what find_voxels found
    for i in range(n):
        t = np.float64(i - n // 2)
        if not (
            _inside(c, number, 0, t, margin) and _inside(c, number, 1, t, margin) and _inside(c, number, 2, t, margin)
        ):
            u, v, w = exact_voxel(row, first + i, plane, shift, matrices)
            u -= np.int64(base[number, 0])
            v -= np.int64(base[number, 1])
            w -= np.int64(base[number, 2])
            keys[1 + first + i] = (u << 2 * FIELD) + (v << FIELD) + w + _MIDDLE_KEY


@njit(**OPTIONS)
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
