"""Tiles of BLOCK by TOGETHER pixels, and which of them may have pixels near a reciprocal lattice point.

A tile is treated as flat, and skipped if its distance from every lattice point exceeds the radius plus the deviation of
its pixels from the plane. If spots are well separated few tiles are left.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import SINGLE, find_cubics
from diffuse_dials.kernels.lattice import AXES, HALF_SPACING, by_metric, miller_step, reciprocal_volume
from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import (
    BEYOND,
    BLOCK,
    ERROR,
    PIECE,
    REACH,
    STRAY,
    TOGETHER,
    WARP,
    rows_of,
)

# Elements of ``flat``. What a lattice point's offset from a tile's middle is multiplied by: for the distance from the
# plane (3), for the pixels along fast (3) and along slow (3); what these are at most if a pixel is near
ACROSS, FAST, SLOW, MOST, N_FLAT = 0, 3, 6, 9, 12
_BLOCKS = PIECE // BLOCK
_FLAT = 1e-6  # of the product of its squared sides: squared area below which a tile is a line
_ROUNDING = 2.0**-20  # bound of the rounding of a product with an offset in single precision, over the factors' sum


@njit(**OPTIONS)
def measure_tiles(n_rows, edges, polynomials, patches):
    """Bounds of the blocks and tiles of patches.

    A tile's middle is the polynomials' value in the middle of its block and of the patch's rows. Its steps along fast
    and slow are the polynomials' linear terms.

    Args:
        n_rows: Of the panel.
        edges, polynomials: Of pieces.Pieces.
        patches: Result, REACH, STRAY and WARP of pieces.Pieces.patches.
    """
    n_pieces = len(edges) - 1
    in_middle, cubics = np.empty((3, 4)), np.empty((3, 4))
    of_tile, of_block = np.empty((_BLOCKS, 3)), np.empty((_BLOCKS, 3))
    for group in range(len(polynomials)):
        n_slow = rows_of(group, n_rows)[1]
        for part in range(n_pieces):
            patch, n = group * n_pieces + part, edges[part + 1] - edges[part]
            find_cubics(polynomials, group, part, 0.0, in_middle)
            reach = stray = warp = 0.0
            for row in range(n_slow):
                r = np.float64(row - n_slow // 2)
                find_cubics(polynomials, group, part, r, cubics)
                for block in range(-(-n // BLOCK)):
                    t = np.float64(block * BLOCK + BLOCK // 2 - n // 2)
                    for j in range(3):
                        of_tile[block, j] = _value(in_middle, j, t) + polynomials[group, j, 1, part] * r
                        of_block[block, j] = _value(cubics, j, t)
                for i in range(n):
                    block = i // BLOCK
                    away = beside = off = 0.0
                    for j in range(3):
                        value = _value(cubics, j, np.float64(i - n // 2))
                        along = (i - block * BLOCK - BLOCK // 2) * polynomials[group, j, 4, part]
                        away += (value - of_block[block, j]) ** 2
                        beside += (value - of_block[block, j] - along) ** 2
                        off += (value - of_tile[block, j] - along) ** 2
                    reach, stray, warp = max(reach, away), max(stray, beside), max(warp, off)
            patches[REACH, patch], patches[STRAY, patch] = np.sqrt(reach), np.sqrt(stray)
            patches[WARP, patch] = np.sqrt(warp)


@njit(**INLINE)
def _value(cubics, j, t):
    return ((cubics[j, 3] * t + cubics[j, 2]) * t + cubics[j, 1]) * t + cubics[j, 0]


@njit(**BORROW)
def _flatten(group, part, polynomials, patches, matrices, lattices, which, volume, size, radius, wavelength, flat):
    """What the tiles of a piece are compared with lattice points by; other arguments are those of ``find_tiles``.

    Args:
        volume: Of the reciprocal cell, Å⁻³.
        radius: Largest radius in the tiles.
        flat: Result, shape (N_FLAT,), single precision. Where tiles are too large for lattice points next to their
            middle to be all that matter, the limits are infinite.
    """
    patch, of_group = group * size.shape[1] + part, polynomials[group]
    h, k, l = miller_step(matrices, which, of_group[0, 4, part], of_group[1, 4, part], of_group[2, 4, part])
    o, p, q = miller_step(matrices, which, of_group[0, 1, part], of_group[1, 1, part], of_group[2, 1, part])
    a, b, c = by_metric(lattices, which, h, k, l)
    d, e, f = by_metric(lattices, which, o, p, q)
    fast, slow, both = h * a + k * b + l * c, o * d + p * e + q * f, o * a + p * b + q * c
    area = fast * slow - both * both  # of one pixel, squared
    radius += (patches[WARP, patch] + patches[ERROR, patch]) / wavelength
    for j in range(3):
        radius += SINGLE * size[j, part] * lattices[which, AXES + j]
    extent = max(
        BLOCK // 2 * abs(h) + TOGETHER // 2 * abs(o),
        max(BLOCK // 2 * abs(k) + TOGETHER // 2 * abs(p), BLOCK // 2 * abs(l) + TOGETHER // 2 * abs(q)),
    )
    if area <= _FLAT * fast * slow or extent + 0.5 * radius / lattices[which, HALF_SPACING] > 1 - 1e-5:
        flat[:MOST], flat[MOST:] = 0, np.inf
        return
    scale, slow_share, fast_share, both_share = volume / np.sqrt(area), slow / area, fast / area, both / area
    flat[ACROSS], flat[ACROSS + 1] = scale * (k * q - l * p), scale * (l * o - h * q)
    flat[ACROSS + 2] = scale * (h * p - k * o)
    flat[FAST], flat[FAST + 1] = slow_share * a - both_share * d, slow_share * b - both_share * e
    flat[FAST + 2] = slow_share * c - both_share * f
    flat[SLOW], flat[SLOW + 1] = fast_share * d - both_share * a, fast_share * e - both_share * b
    flat[SLOW + 2] = fast_share * f - both_share * c
    flat[MOST], flat[MOST + 1] = radius, BLOCK // 2 + radius * np.sqrt(slow_share)
    flat[MOST + 2] = TOGETHER // 2 + radius * np.sqrt(fast_share)
    for i in range(3):
        for j in range(3):
            flat[MOST + i] += _ROUNDING * abs(flat[3 * i + j])


@njit(**INLINE)
def _hits(h, k, l, n, m, p, a, b, c, d, e, f, across, fast, slow):
    """Whether a tile may have pixels near the lattice point at an offset (h, k, l) from its middle."""
    near = (np.abs(n * h + m * k + p * l) <= across) & (np.abs(a * h + b * k + c * l) <= fast)
    return near & (np.abs(d * h + e * k + f * l) <= slow)


@njit(**INLINE)
def _hold_against_points(half, part, local, flat, found):
    """Which tiles of a piece, as many as ``found`` holds, may have pixels near a lattice point next to their middle."""
    a0, a1 = np.float32(local[0, 0, part]), np.float32(local[0, 4, part])
    a2, a3 = np.float32(local[0, 7, part]), np.float32(local[0, 10, part])
    b0, b1 = np.float32(local[1, 0, part]), np.float32(local[1, 4, part])
    b2, b3 = np.float32(local[1, 7, part]), np.float32(local[1, 10, part])
    c0, c1 = np.float32(local[2, 0, part]), np.float32(local[2, 4, part])
    c2, c3 = np.float32(local[2, 7, part]), np.float32(local[2, 10, part])
    p = flat[0], flat[1], flat[2], flat[3], flat[4], flat[5], flat[6], flat[7], flat[8]
    across, fast, slow, one = flat[9], flat[10], flat[11], np.float32(1)
    for block in range(len(found)):
        t = np.float32(np.int32(np.int32(block) * np.int32(BLOCK) + np.int32(BLOCK // 2 - half)))
        h = ((a3 * t + a2) * t + a1) * t + a0
        k = ((b3 * t + b2) * t + b1) * t + b0
        l = ((c3 * t + c2) * t + c1) * t + c0
        h, k, l = np.rint(h) - h, np.rint(k) - k, np.rint(l) - l
        o, q, r = h - np.copysign(one, h), k - np.copysign(one, k), l - np.copysign(one, l)
        near = _hits(h, k, l, *p, across, fast, slow) | _hits(o, k, l, *p, across, fast, slow)
        near |= _hits(h, q, l, *p, across, fast, slow) | _hits(o, q, l, *p, across, fast, slow)
        near |= _hits(h, k, r, *p, across, fast, slow) | _hits(o, k, r, *p, across, fast, slow)
        near |= _hits(h, q, r, *p, across, fast, slow) | _hits(o, q, r, *p, across, fast, slow)
        found[np.uint64(block)] = np.int32(near)


@njit(**BORROW)
def find_tiles(
    group, n_rows, n_fast, polynomials, patches, kinds, matrices, lattices, which, size, radii, wavelength, local, flat,
    found, active,
):  # fmt: skip
    """Write the first pixels of the blocks of the tiles that may have pixels near a lattice point.

    Args:
        group: Number of the rows' group.
        n_rows, n_fast: Of the panel.
        polynomials, patches, kinds: Of all pieces (pieces.Pieces and pieces.Shared).
        matrices, lattices, which: Of the crystal, and which of its lattices.
        size, radii: As in ``spots.Work``, for these rows.
        wavelength: Å.
        local: Result of ``coordinates.localise`` for the group.
        flat, found: Memory, as in ``spots.Work``.
        active: Result, of ``which``, shape (l, blocks of a row).

    Returns:
        Their number.
    """
    n_pieces, number, volume = size.shape[1], 0, reciprocal_volume(lattices, which)
    first, n_slow = rows_of(group, n_rows)
    for part in range(n_pieces):
        used = False
        for piece in range(first * n_pieces + part, (first + n_slow) * n_pieces, n_pieces):
            used |= kinds[piece] < BEYOND
        if not used:
            continue
        n = min(PIECE, n_fast - part * PIECE)
        radius = radii[which, 1, part]
        _flatten(group, part, polynomials, patches, matrices, lattices, which, volume, size, radius, wavelength, flat)
        _hold_against_points(n // 2, part, local, flat, found)
        for block in range(-(-n // BLOCK)):
            active[which, number] = part * PIECE + block * BLOCK
            number += found[block]
    return number
