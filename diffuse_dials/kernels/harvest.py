"""The rows that the pass over a panel leaves, in order of the voxels."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.crossings import OPTIONS
from diffuse_dials.kernels.still import SLOTS


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
    table, bricks, slots = sums.table, sums.bricks, sums.slots
    n_places, n = sums.used[0], sums.used[1]
    used = np.unique(bricks[:n_places] >> 1)
    index, bragg = np.empty((n, 3), np.int32), np.empty(n, np.uint8)
    rows, real_rows = np.empty((n, sums.whole.shape[1]), np.int64), np.empty((n, sums.real.shape[1]), np.float64)
    n = 0
    slab = n_bricks[1] * n_bricks[2]
    start = 0
    while start < len(used):
        stop = start
        while stop < len(used) and used[stop] // slab == used[start] // slab:
            stop += 1
        for x in range(4):
            left = start
            while left < stop:
                right = left
                while right < stop and used[right] // n_bricks[2] == used[left] // n_bricks[2]:
                    right += 1
                for y in range(4):
                    for i in range(left, right):
                        for z in range(4):
                            for b in range(2):
                                place = table[b, used[i]]
                                if place < 0:
                                    continue
                                slot = slots[np.int64(place) * SLOTS + (x << 4 | y << 2 | z)]
                                if slot < 0:
                                    continue
                                index[n, 0] = (used[i] // slab) * 4 + x
                                index[n, 1] = (used[i] % slab) // n_bricks[2] * 4 + y
                                index[n, 2] = used[i] % n_bricks[2] * 4 + z
                                bragg[n] = b
                                for c in range(rows.shape[1]):
                                    rows[n, c] = sums.whole[slot, c]
                                for c in range(real_rows.shape[1]):
                                    real_rows[n, c] = sums.real[slot, c]
                                n += 1
                left = right
        start = stop
    for place in range(n_places):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
    slots[: n_places * SLOTS] = -1
    sums.whole[:n] = 0
    sums.real[:n] = 0
    sums.used[:] = 0
    return index, bragg, rows, real_rows
