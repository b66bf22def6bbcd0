"""Tiles of BLOCK by TOGETHER pixels, and which of them may have pixels near a reciprocal lattice point.

A tile is taken for flat, and passed over if it is farther from every lattice point than the radius and what its pixels
stray from it. Few are left where spots are apart.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.lattice import AXES, HALF_SPACING, by_metric, miller_step, reciprocal_volume
from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import (
    BEYOND,
    BLOCK,
    CHORD_HIGH,
    CHORD_LOW,
    ERROR,
    INVERSE_HIGH,
    INVERSE_LOW,
    N_TILE_BOUNDS,
    PIECE,
    REACH,
    SPREAD,
    STRAY,
    TOGETHER,
    WARP,
)
from diffuse_dials.kernels.voxels import SINGLE, component, farthest

# Elements of ``flat``. What a lattice point's offset from a tile's middle is multiplied by: for the distance from the
# plane (3), for the pixels along fast (3) and along slow (3); what these are at most if a pixel is near
ACROSS, FAST, SLOW, MOST, N_FLAT = 0, 3, 6, 9, 12
_BLOCKS = PIECE // BLOCK
_FLAT = 1e-6  # of the product of its squared sides: squared area below which a tile is a line
_ROUNDING = 2.0**-20  # bound of the rounding of a product with an offset in single precision, over the factors' sum


@njit(**BORROW)
def tile_rows(row, n_rows):
    """First and last row of the tiles that hold a row, and the row through their middle.

    A tile's middle is the value of the polynomial of the latter row in the middle of its block. Its step along fast is
    the polynomial's linear term in the first row, its step along slow what the constants of the piece's polynomials
    change by from the first to the last row, over the number of rows between them.
    """
    first = row // TOGETHER * TOGETHER
    return first, min(first + TOGETHER, n_rows) - 1, min(first + TOGETHER // 2, n_rows - 1)


@njit(**BORROW)
def _slow_step(polynomials, j, part, first, last):
    """Step along slow of component j of the unit vector."""
    return (polynomials[last, j, part] - polynomials[first, j, part]) / max(last - first, 1)


@njit(**OPTIONS)
def measure_tiles(edges, polynomials, bounds):
    """The bounds of tiles; arguments and result are those of pieces.Pieces."""
    n_rows, n_pieces = len(polynomials), len(edges) - 1
    tiles = np.zeros((N_TILE_BOUNDS, -(-n_rows // TOGETHER) * n_pieces))
    tiles[CHORD_LOW], tiles[INVERSE_LOW] = np.inf, np.inf
    of_tile, of_block, slow = np.empty((_BLOCKS, 3)), np.empty((_BLOCKS, 3)), np.empty(3)
    for row in range(n_rows):
        first, last, centre = tile_rows(row, n_rows)
        for part in range(n_pieces):
            piece, tile = row * n_pieces + part, row // TOGETHER * n_pieces + part
            for which in (ERROR, CHORD_HIGH, INVERSE_HIGH):
                tiles[which, tile] = max(tiles[which, tile], bounds[which, piece])
            for which in (CHORD_LOW, INVERSE_LOW):
                tiles[which, tile] = min(tiles[which, tile], bounds[which, piece])
            n = edges[part + 1] - edges[part]
            for j in range(3):
                slow[j] = _slow_step(polynomials, j, part, first, last)
                for block in range(-(-n // BLOCK)):
                    t = np.float64(block * BLOCK + BLOCK // 2 - n // 2)
                    of_tile[block, j] = component(polynomials, centre, j, part, n_pieces, t) + slow[j] * (row - centre)
                    of_block[block, j] = component(polynomials, row, j, part, n_pieces, t)
                spread = 0.0
                for d in range(4):
                    change = polynomials[row, j, d * n_pieces + part] - polynomials[centre, j, d * n_pieces + part]
                    spread += abs(change) * np.float64(farthest(n)) ** d
                tiles[SPREAD, tile] = max(tiles[SPREAD, tile], spread)
            reach = stray = warp = 0.0
            for i in range(n):
                block = i // BLOCK
                away = beside = off = 0.0
                for j in range(3):
                    value = component(polynomials, row, j, part, n_pieces, np.float64(i - n // 2))
                    along = (i - block * BLOCK - BLOCK // 2) * polynomials[first, j, n_pieces + part]
                    away += (value - of_block[block, j]) ** 2
                    beside += (value - of_block[block, j] - along) ** 2
                    off += (value - of_tile[block, j] - along) ** 2
                reach, stray, warp = max(reach, away), max(stray, beside), max(warp, off)
            tiles[REACH, tile] = max(tiles[REACH, tile], np.sqrt(reach))
            tiles[STRAY, tile] = max(tiles[STRAY, tile], np.sqrt(stray))
            tiles[WARP, tile] = max(tiles[WARP, tile], np.sqrt(warp))
    return tiles


@njit(**BORROW)
def _flatten(row, part, polynomials, tiles, matrices, lattices, which, volume, size, radius, wavelength, flat):
    """By what the tiles of a piece are held against lattice points; the arguments not named here are of ``find_tiles``.

    Args:
        volume: Of the reciprocal cell, Å⁻³.
        radius: Largest radius in the tiles.
        flat: Result, shape (N_FLAT,), single precision. Where tiles are too large for lattice points next to their
            middle to be all that matter, the limits are infinite.
    """
    n_pieces = size.shape[1]
    first, last, _ = tile_rows(row, len(polynomials))
    at, tile = n_pieces + part, row // TOGETHER * n_pieces + part
    h, k, l = miller_step(
        matrices, which, polynomials[first, 0, at], polynomials[first, 1, at], polynomials[first, 2, at]
    )
    o, p, q = miller_step(
        matrices, which, _slow_step(polynomials, 0, part, first, last),
        _slow_step(polynomials, 1, part, first, last), _slow_step(polynomials, 2, part, first, last),
    )  # fmt: skip
    a, b, c = by_metric(lattices, which, h, k, l)
    d, e, f = by_metric(lattices, which, o, p, q)
    fast, slow, both = h * a + k * b + l * c, o * d + p * e + q * f, o * a + p * b + q * c
    area = fast * slow - both * both  # of one pixel, squared
    radius += (tiles[WARP, tile] + tiles[ERROR, tile]) / wavelength
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
def _hold_against_points(half, part, c, flat, found):
    """Which tiles of a piece, as many as ``found`` holds, may have pixels near a lattice point next to their middle."""
    a0, a1, a2, a3 = c[0, 0, part], c[0, 1, part], c[0, 2, part], c[0, 3, part]
    b0, b1, b2, b3 = c[1, 0, part], c[1, 1, part], c[1, 2, part], c[1, 3, part]
    c0, c1, c2, c3 = c[2, 0, part], c[2, 1, part], c[2, 2, part], c[2, 3, part]
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
    row, n_fast, polynomials, tiles, kinds, matrices, lattices, which, size, radii, wavelength, c, flat, found, active
):
    """Write the first pixels of the blocks of the tiles that may have pixels near a lattice point.

    Args:
        row, n_fast: A row of these tiles, and the number of pixels in it.
        polynomials, tiles, kinds: Of all pieces (pieces.Pieces and pieces.Shared).
        matrices, lattices, which: Of the crystal, and which of its lattices.
        size, radii: As in ``spots.Work``, for these rows.
        wavelength: Å.
        c: Result of ``voxels.localise`` for the row through the tiles' middle.
        flat, found: Memory, as in ``spots.Work``.
        active: Result, of ``which``, shape (l, blocks of a row).

    Returns:
        Their number.
    """
    n_pieces, number, volume = size.shape[1], 0, reciprocal_volume(lattices, which)
    first, last, _ = tile_rows(row, len(polynomials))
    for part in range(n_pieces):
        used = False
        for piece in range(first * n_pieces + part, (last + 1) * n_pieces, n_pieces):
            used |= kinds[piece] < BEYOND
        if not used:
            continue
        n = min(PIECE, n_fast - part * PIECE)
        radius = radii[which, 1, part]
        _flatten(row, part, polynomials, tiles, matrices, lattices, which, volume, size, radius, wavelength, flat)
        _hold_against_points(n // 2, part, c, flat, found)
        for block in range(-(-n // BLOCK)):
            active[which, number] = part * PIECE + block * BLOCK
            number += found[block]
    return number
