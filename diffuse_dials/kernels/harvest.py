"""The rows that the pass over a panel leaves, in order of the voxels, and what is said of them."""

from __future__ import annotations

import numpy as np
from numba import njit

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
from diffuse_dials.kernels.voxels import OPTIONS


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
def harvest(n_bricks, sums, corner):
    """Rows of all voxels with pixels, in ascending order of their index, and the sums made empty again.

    Args:
        n_bricks: Of the grid, along each axis.
        sums: As ``sum_rows`` left them.
        corner: Index of the grid's first voxel, shape (3,).

    Returns:
        (index, shape (n, 3), int32, that of s = 0 left out; bragg, shape (n,), bool; whole and real sums, shape (n, 5)
        and (n, 4) or (n, 0); number of pixels away from Bragg spots, those of the voxel that is left out too).
    """
    table, bricks, voxels, slots, taken, whole, real, _, _ = sums
    n_places, n_rows = taken[0], taken[1]
    index, bragg = np.empty((n_rows, 3), np.int32), np.empty(n_rows, np.bool_)
    slot_of = np.empty(n_rows, np.uint32)
    first_voxel, places, inside = _used_bricks(n_bricks, table, bricks, voxels, n_places, corner)
    n = start = n_accepted = 0
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
                                    n_accepted += whole[slot, N_PIXELS] * (b == 0)
                                    continue
                                index[n, 0], index[n, 1], index[n, 2] = h, k, l
                                bragg[n], slot_of[n] = b == 1, slot
                                n += 1
                left = right
        start = stop
    rows, real_rows = np.empty((n, 5), np.int64), np.empty((n, real.shape[1]), np.float64)
    for i in range(n):  # a loop of its own: a processor then waits for the memory of many rows at once
        for c in range(5):
            rows[i, c] = whole[slot_of[i], c]
        for c in range(real.shape[1]):
            real_rows[i, c] = real[slot_of[i], c]
        n_accepted += 0 if bragg[i] else rows[i, N_PIXELS]
    for place in range(n_places):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
    slots[: n_places * SLOTS] = -1
    whole[:n_rows] = 0
    real[:n_rows] = 0
    taken[:] = 0
    return index[:n], bragg[:n], rows, real_rows, n_accepted


@njit(**OPTIONS)
def columns(whole, real, counting, unit, factor, read_variance):
    """What the sums of voxels or |s| bins say.

    Args:
        whole, real: Rows of sums, shape (n, 4 or 5) and (n, 4) or (n, 0).
        counting: Whether the whole numbers are photons; if not, the real ones are.
        unit: Of the response, sr s.
        factor: Variance of a photon, in photons.
        read_variance: Of each pixel, photons².

    Returns:
        (counts, background, response, variance, number of pixels), shape (n,) each: photons, photons, sr s, photons²,
        and int32.
    """
    n = len(whole)
    counts, background, response, variance = np.empty(n), np.zeros(n), np.empty(n), np.empty(n)
    n_pixels = np.empty(n, np.int32)
    for i in range(n):
        n_pixels[i] = whole[i, N_PIXELS]
        counts[i] = whole[i, COUNTS] if counting else real[i, PHOTONS]
        response[i] = whole[i, RESPONSE] * unit
        variance[i] = factor * (counts[i] if counting else real[i, POSITIVE]) + read_variance * whole[i, N_PIXELS]
        if real.shape[1]:
            background[i] = real[i, BACKGROUND]
            variance[i] += real[i, BACKGROUND_VARIANCE]
    return counts, background, response, variance, n_pixels


@njit(**OPTIONS)
def mean_positions(whole, offset, step):
    """Mean fast and slow coordinate of voxels on the panel, shape (n, 2), pixels.

    Args:
        whole: Rows of sums, shape (n, 5).
        offset, step: The pixels that were read are number offset, offset + step, ... along both axes.
    """
    position = np.empty((len(whole), 2))
    for i in range(len(whole)):
        twice = 2.0 * whole[i, N_PIXELS]
        position[i, 0] = offset + 0.5 + step * (whole[i, FAST] / twice - 0.5)
        position[i, 1] = offset + 0.5 + step * (whole[i, SLOW] / twice - 0.5)
    return position
