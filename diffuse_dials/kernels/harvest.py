"""The rows that the pass over a panel leaves, in order of the voxels, and what is said of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import OPTIONS
from diffuse_dials.kernels.still import (
    BACKGROUND,
    BACKGROUND_VARIANCE,
    COUNTS,
    FAST,
    N_PIXELS,
    PHOTONS,
    POSITIVE,
    RESPONSE,
    SLOTS,
    SLOW,
)
from diffuse_dials.kernels.vectors import trailing_zeros


@njit(**OPTIONS)
def _used_bricks(n_bricks, table, bricks, voxels, n_places, corner):
    """Index of the first voxel, places and voxels in use of each brick, in ascending order of its number."""
    used = np.unique(bricks[:n_places] >> 1)
    slab = n_bricks[1] * n_bricks[2]
    first_voxel, places = np.empty((len(used), 3), np.int32), np.empty((len(used), 2), np.int64)
    inside = np.zeros((len(used), 2), np.uint64)
    for i in range(len(used)):
        rest = used[i] % slab
        first_voxel[i, 0] = corner[0] + used[i] // slab * 4
        first_voxel[i, 1], first_voxel[i, 2] = corner[1] + rest // n_bricks[2] * 4, corner[2] + rest % n_bricks[2] * 4
        for b in range(2):
            places[i, b] = table[b, used[i]]
            if places[i, b] >= 0:
                inside[i, b] = voxels[places[i, b]]
    return first_voxel, places, inside


@njit(**OPTIONS)
def in_order(n_bricks, corner, table, bricks, voxels, slots, used, whole):
    """All voxels with pixels, in ascending order of their index.

    Args:
        n_bricks: Of the grid, along each axis.
        corner: Index of the grid's first voxel, shape (3,).
        table, bricks, voxels, slots, used, whole: As ``sum_rows`` left them, see still.Sums. (Not as one tuple: of a
            long one numba finds the type anew at every call, in Python.)

    Returns:
        (index, shape (n, 3), int32, that of s = 0 left out; bragg, shape (n,), bool; row of the sums, shape (n,);
        number of pixels away from Bragg spots in the voxel that is left out).
    """
    n_places, n_rows = used
    index, bragg = np.empty((n_rows, 3), np.int32), np.empty(n_rows, np.bool_)
    row = np.empty(n_rows, np.uint32)
    first_voxel, places, inside = _used_bricks(n_bricks, table, bricks, voxels, n_places, corner)
    n = start = n_left_out = 0
    while start < len(places):  # bricks of one slab, then of one row of it: their voxels take turns in the order
        stop = start
        while stop < len(places) and first_voxel[stop, 0] == first_voxel[start, 0]:
            stop += 1
        for x in range(4):
            left = start
            while left < stop:
                right = left
                while right < stop and first_voxel[right, 1] == first_voxel[left, 1]:
                    right += 1
                h = first_voxel[left, 0] + x
                for y in range(4):
                    first, k = np.uint64(x << 4 | y << 2), first_voxel[left, 1] + y
                    for i in range(left, right):
                        apart = (inside[i, 0] >> first & np.uint64(15), inside[i, 1] >> first & np.uint64(15))
                        hit = apart[0] | apart[1]
                        while hit:
                            z = trailing_zeros(hit)
                            hit &= hit - np.uint64(1)
                            l = first_voxel[i, 2] + np.int64(z)
                            for b in range(2):
                                if not apart[b] >> z & np.uint64(1):
                                    continue
                                slot = slots[places[i, b] * SLOTS + np.int64(first | z)]
                                if h == 0 and k == 0 and l == 0:
                                    n_left_out += whole[slot, N_PIXELS] * (b == 0)
                                    continue
                                index[n, 0], index[n, 1], index[n, 2] = h, k, l
                                bragg[n], row[n] = b == 1, slot
                                n += 1
                left = right
        start = stop
    return index[:n], bragg[:n], row[:n], n_left_out


@njit(**OPTIONS)
def make_empty(table, bricks, slots, used, whole, real):
    """Make the sums empty again."""
    n_places, n_rows = used
    for place in range(n_places):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
    slots[: n_places * SLOTS] = -1
    whole[:n_rows] = 0
    real[:n_rows] = 0
    used[:] = 0


@njit(**OPTIONS)
def columns(whole, real, rows, counting, unit, factor, read_variance, place):
    """What the sums of voxels or |s| bins say.

    Args:
        whole, real: Sums, shape (m, 4 or 5) and (m, 4) or (m, 0).
        rows: Which of them, shape (n,).
        counting: Whether the whole numbers are photons; if not, the real ones are.
        unit: Of the response, sr s.
        factor: Variance of a photon, in photons.
        read_variance: Of each pixel, photons².
        place: For positions: number of the first pixel that was read and the step to the next, along both axes. Or
            None.

    Returns:
        (counts, background, response, variance, number of pixels), shape (n,) each: photons, photons, sr s, photons²,
        and int32; mean fast and slow coordinate on the panel, shape (n, 2), pixels, or None.
    """
    n = len(rows)
    counts, background, response, variance = np.empty(n), np.zeros(n), np.empty(n), np.empty(n)
    n_pixels, position = np.empty(n, np.int32), None if place is None else np.empty((n, 2))
    for i in range(n):
        row = rows[i]
        n_pixels[i] = whole[row, N_PIXELS]
        counts[i] = whole[row, COUNTS] if counting else real[row, PHOTONS]
        response[i] = whole[row, RESPONSE] * unit
        variance[i] = factor * (counts[i] if counting else real[row, POSITIVE]) + read_variance * whole[row, N_PIXELS]
        if real.shape[1]:
            background[i] = real[row, BACKGROUND]
            variance[i] += real[row, BACKGROUND_VARIANCE]
        if place is not None:
            first, step = place
            twice = 2.0 * whole[row, N_PIXELS]
            position[i, 0] = first + 0.5 + step * (whole[row, FAST] / twice - 0.5)
            position[i, 1] = first + 0.5 + step * (whole[row, SLOW] / twice - 0.5)
    return counts, background, response, variance, n_pixels, position
