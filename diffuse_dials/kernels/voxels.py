"""Which voxel each pixel of a piece is in, worked out at each pixel.

Along a piece of a row each coordinate in the grid is a cubic polynomial to within a known margin. It is evaluated at
each pixel in single precision, several pixels at once; a pixel nearer to a voxel's boundary than the margin is decided
by the exact formula. So the result is that of the exact formula at every pixel. Most pieces need less work
(kernels.crossings).

The loops over pixels are written so that the compiler makes vector instructions of them: 32 bits throughout, indices
without a sign (others are tested for being negative), no branches, a number of rounds that it does not know, and few
arrays a loop (it checks that what is written is none of those that are read, up to eight pairs of them).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import coefficients, cubic, direction, linear
from diffuse_dials.kernels.options import BORROW, INLINE
from diffuse_dials.kernels.pieces import BLOCK, PIECE

# A pixel's key: three fields of 8 bits for its voxel along each axis, CENTRE at the patch's base
# (``coordinates.localise``), and flags: near a Bragg spot, not for the map, and voxel not told by the key. Neighbours
# of equal keys make a run.
FIELD, CENTRE = 8, 128
NEAR_BIT, SKIP_BIT = 24, 25
NEAR, SKIP, ALONE = 1 << NEAR_BIT, 1 << SKIP_BIT, 1 << 26
STEEP = CENTRE - 8.0  # voxels from the base: farther than what a field can hold
_MIDDLE_KEY = CENTRE << 2 * FIELD | CENTRE << FIELD | CENTRE
_FIELD_MASK = (1 << FIELD) - 1
_FRACTION = 20  # bits of a coordinate behind the point
_ONE = 1 << _FRACTION
_NUMBERS = np.arange(PIECE, dtype=np.float32)

assert 3 * FIELD <= NEAR_BIT


@njit(**INLINE)
def find_voxels(first, n, cubics, part, r, margin, keys):
    """Keys of the pixels of a piece by polynomials, evaluated in single precision and cut to multiples of 2⁻²⁰.

    Args:
        first, n: Number of the first pixel in its row, and of pixels.
        cubics, part, r: Of the coordinates, as ``coordinates.expand`` makes them; of which piece, and which row of the
            patch.
        margin: To within which the polynomials are right, rounding in single precision included.
        keys: Result, int32, one for each pixel of the row, from number 1 on, and room for whole pieces. What follows
            the row's last pixel has no meaning.

    Returns:
        Whether a pixel is nearer to a voxel's boundary than the margin (also if it follows the row's last one), and may
        have a neighbouring voxel's key.
    """
    one = np.float32(_ONE)
    a0, a1, a2, a3 = coefficients(cubics, part, 0, r)
    a0, a1, a2, a3 = one * a0, one * a1, one * a2, one * a3
    b0, b1, b2, b3 = coefficients(cubics, part, 1, r)
    b0, b1, b2, b3 = one * b0, one * b1, one * b2, one * b3
    c0, c1, c2, c3 = coefficients(cubics, part, 2, r)
    c0, c1, c2, c3 = one * c0, one * c1, one * c2, one * c3
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
def _is_close(t, cubics, part, r, margin):
    """Whether a coordinate at t is nearer to a whole number than the margin."""
    u, v, w = cubic(t, cubics, part, 0, r), cubic(t, cubics, part, 1, r), cubic(t, cubics, part, 2, r)
    u, v, w = np.abs(u - np.rint(u)), np.abs(v - np.rint(v)), np.abs(w - np.rint(w))
    return (u <= margin) | (v <= margin) | (w <= margin)


@njit(**INLINE)
def _any_close(begin, n_block, half, cubics, part, r, margin):
    found = np.int32(0)
    for i in range(n_block):
        t = np.float32(np.int32(begin + np.int32(i))) - half
        found |= np.int32(_is_close(t, cubics, part, r, margin))
    return found != np.int32(0)


@njit(**BORROW)
def decide_close(row, first, n, cubics, part, r, margin, plane, shift, matrices, base, keys):
    """Decide the pixels of a piece that are nearer to a voxel's boundary than the margin by the exact formula.

    Args:
        row, first, n: Place of the piece's first pixel, and number of pixels.
        cubics, part, r, margin, keys: As in ``find_voxels``.
        plane, shift: As in ``coordinates.direction``.
        matrices: The first leads to the coordinates, as in ``coordinates.linear``.
        base: What was taken from them, shape (3, pieces).
    """
    # as these values are rounded as well, and those of find_voxels are cut
    margin, half = np.float32(2 * margin + 4.0 / _ONE), np.float32(n // 2)
    for begin in range(0, n, BLOCK):
        n_block = min(BLOCK, n - begin)
        if not _any_close(np.int32(begin), n_block, half, cubics, part, r, margin):
            continue
        for i in range(begin, begin + n_block):
            if _is_close(np.float32(i) - half, cubics, part, r, margin):
                u, v, w = exact_voxel(row, first + i, plane, shift, matrices)
                u -= np.int64(base[0, part])
                v -= np.int64(base[1, part])
                w -= np.int64(base[2, part])
                keys[1 + first + i] = (u << 2 * FIELD) + (v << FIELD) + w + _MIDDLE_KEY
