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
# Parts of the work on a piece, in one array as in kernels.shared
_NUMBER, _IN_BLOCK, _REACH, _STRAY, _WARP, _LENGTH = (k * PIECE for k in range(6))
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
    in_middle, cubics, work = np.empty((3, 4)), np.empty((3, 4)), np.empty(_LENGTH)
    for i in range(PIECE):
        work[_NUMBER + i], work[_IN_BLOCK + i] = i, i % BLOCK - BLOCK // 2
    for group in range(len(polynomials)):
        n_slow = rows_of(group, n_rows)[1]
        for part in range(n_pieces):
            patch, n = group * n_pieces + part, edges[part + 1] - edges[part]
            find_cubics(polynomials, group, part, 0.0, in_middle)
            work[_REACH:] = 0.0
            for row in range(n_slow):
                r = np.float64(row - n_slow // 2)
                find_cubics(polynomials, group, part, r, cubics)
                _measure_row(n, r, cubics, in_middle, polynomials[group, :, 1, part], work)
            for which, found in ((REACH, _REACH), (STRAY, _STRAY), (WARP, _WARP)):
                patches[which, patch] = np.sqrt(work[found : found + n].max())


@njit(**BORROW)
def _measure_row(n, r, cubics, in_middle, steps, work):
    """Squared distances of the values on a row, if they are larger: from the block's middle, line and flat tile.

    Args:
        n: Pixels.
        r: The row's number less that of the patch's middle.
        cubics, in_middle: Along this row, and that in the patch's middle.
        steps: From one row to the next, shape (3,).
        work: Result.
    """
    a0, a1, a2, a3 = cubics[0]
    b0, b1, b2, b3 = cubics[1]
    c0, c1, c2, c3 = cubics[2]
    d0, d1, d2, d3 = in_middle[0]
    e0, e1, e2, e3 = in_middle[1]
    f0, f1, f2, f3 = in_middle[2]
    x_off, y_off, z_off = r * steps[0], r * steps[1], r * steps[2]
    middle = np.float64(n // 2)
    for i in range(n):
        k = work[_IN_BLOCK + i]
        t = work[_NUMBER + i] - middle
        x, y, z = ((a3 * t + a2) * t + a1) * t, ((b3 * t + b2) * t + b1) * t, ((c3 * t + c2) * t + c1) * t
        x, y, z = x + a0, y + b0, z + c0
        t -= k  # the block's middle
        u, v, w = ((a3 * t + a2) * t + a1) * t, ((b3 * t + b2) * t + b1) * t, ((c3 * t + c2) * t + c1) * t
        u, v, w = x - (u + a0), y - (v + b0), z - (w + c0)
        away, most = u * u + v * v + w * w, work[_REACH + i]
        work[_REACH + i] = away if away > most else most
        u, v, w = u - k * d1, v - k * e1, w - k * f1
        beside, most = u * u + v * v + w * w, work[_STRAY + i]
        work[_STRAY + i] = beside if beside > most else most
        u, v, w = ((d3 * t + d2) * t + d1) * t, ((e3 * t + e2) * t + e1) * t, ((f3 * t + f2) * t + f1) * t
        u, v, w = x - (u + d0 + x_off) - k * d1, y - (v + e0 + y_off) - k * e1, z - (w + f0 + z_off) - k * f1
        off, most = u * u + v * v + w * w, work[_WARP + i]
        work[_WARP + i] = off if off > most else most


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
