"""The rows that the pass over a panel leaves, in order of the voxels."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.still import SLOTS
from diffuse_dials.kernels.voxels import OPTIONS


@njit(**OPTIONS)
def harvest(n_bricks, sums):
    """Rows of all voxels with pixels, in ascending order of their index, and the sums made empty again.

    Args:
        n_bricks: Of the grid, along each axis.
        sums: As ``sum_rows`` left them.

    Returns:
        (index from the grid's corner, shape (n, 3); bragg, shape (n,), uint8; whole and real sums, shape (n, 5)
        and (n, 4) or (n, 0)).
    """
    table, bricks, slots, taken, whole, real, _, _ = sums
    n_places, n = taken[0], taken[1]
    used = np.unique(bricks[:n_places] >> 1)
    index, bragg = np.empty((n, 3), np.int32), np.empty(n, np.uint8)
    rows, real_rows = np.empty((n, whole.shape[1]), np.int64), np.empty((n, real.shape[1]), np.float64)
    slab = n_bricks[1] * n_bricks[2]
    corner, places = np.empty((len(used), 3), np.int32), np.empty((len(used), 2), np.int64)
    for i in range(len(used)):
        corner[i, 0], rest = used[i] // slab * 4, used[i] % slab
        corner[i, 1], corner[i, 2] = rest // n_bricks[2] * 4, rest % n_bricks[2] * 4
        places[i, 0], places[i, 1] = table[0, used[i]], table[1, used[i]]
    n = start = 0
    while start < len(used):  # bricks of one slab, then of one row of it: their voxels take turns in the order
        stop = start
        while stop < len(used) and corner[stop, 0] == corner[start, 0]:
            stop += 1
        for x in range(4):
            left = start
            while left < stop:
                right = left
                while right < stop and corner[right, 1] == corner[left, 1]:
                    right += 1
                for y in range(4):
                    for i in range(left, right):
                        for z in range(4):
                            for b in range(2):
                                if places[i, b] < 0:
                                    continue
                                slot = slots[places[i, b] * SLOTS + (x << 4 | y << 2 | z)]
                                if slot < 0:
                                    continue
                                index[n, 0], index[n, 1] = corner[i, 0] + x, corner[i, 1] + y
                                index[n, 2] = corner[i, 2] + z
                                bragg[n] = b
                                for c in range(rows.shape[1]):
                                    rows[n, c] = whole[slot, c]
                                for c in range(real_rows.shape[1]):
                                    real_rows[n, c] = real[slot, c]
                                n += 1
                left = right
        start = stop
    for place in range(n_places):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
    slots[: n_places * SLOTS] = -1
    whole[:n] = 0
    real[:n] = 0
    taken[:] = 0
    return index, bragg, rows, real_rows
