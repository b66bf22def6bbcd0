"""The row of the sums that belongs to each run's voxel.

Voxels are found through bricks of 4 x 4 x 4: a table of all bricks of the grid says at which place a brick is, and a
place has a slot for each of its voxels. Most runs need none of it: their key was met in a row of pixels above, and a
small table for each piece knows the row of the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, INLINE
from diffuse_dials.kernels.pieces import PIECE
from diffuse_dials.kernels.vectors import prefetch
from diffuse_dials.kernels.voxels import ALONE, CENTRE, FIELD, NEAR_BIT, SKIP, exact_voxel

IN_BRICK = 6  # bits of a voxel's number in its brick
SLOTS = 1 << IN_BRICK
KNOWN_BITS = 7  # of the number of voxels that are remembered for a piece


class Places(NamedTuple):
    """How voxels are found.

    Attributes:
        table: Place of each brick, -1 unused, shape (2, number of bricks): Bragg pixels apart, int32.
        bricks: Which brick is at each place (twice its number, plus 1 for Bragg pixels), int64.
        voxels: Which voxels of the bricks are in use, a bit each, uint64.
        slots: Row of each voxel of the bricks in use, -1 unused, shape (places · SLOTS,), int32.
    """

    table: np.ndarray
    bricks: np.ndarray
    voxels: np.ndarray
    slots: np.ndarray


@njit(**BORROW)
def _take_into_use(voxel, bragg, table, bricks, voxels, slots, used):
    """Row for a new voxel in the sums; its brick is taken into use as well if it is new."""
    brick, inside = voxel >> IN_BRICK, voxel & SLOTS - 1
    place = np.int64(table[bragg, brick])
    if place < 0:
        place = used[0]
        table[bragg, brick] = place
        bricks[place], voxels[place] = brick << 1 | bragg, 0
        used[0] += 1
    row = used[1]
    slots[place * SLOTS + inside] = row
    voxels[place] |= np.uint64(1) << np.uint64(inside)
    used[1] += 1
    return row


@njit(**INLINE)
def _place_of(key):
    """Where a key is kept among the known ones of its piece."""
    return np.uint64(np.uint32(np.uint32(key) * np.uint32(2654435769)) >> np.uint32(32 - KNOWN_BITS))


@njit(**INLINE)
def look_up(n_runs, starts, keys, known, slot_of, others):
    """Row of the sums for the voxel of each run, where its key was met before.

    Args:
        starts, keys: Results of ``list_runs``.
        known: Keys met before on these bases, and their rows of the sums, -1: none; for each piece, shape
            (pieces, 2 ** KNOWN_BITS, 2), int32.
        slot_of: Result; -1 where a run is to be skipped.
        others: Result, int32: numbers of the runs whose keys are not known.

    Returns:
        The number of these.
    """
    n_others = 0
    for run in range(n_runs):
        key = keys[np.uint64(run)]
        part, at = np.uint64(np.uint32(starts[np.uint64(run)]) // np.uint32(PIECE)), _place_of(key)
        slot_of[np.uint64(run)] = np.int64(known[part, at, np.uint64(1)])
        others[np.uint64(n_others)] = run  # without a branch, which a processor would often guess wrong
        n_others += known[part, at, np.uint64(0)] != key
    return n_others


@njit(**INLINE)
def _find_voxel(row, start, key, base, plane, shift, matrices, slab, row_of_bricks):
    """Number of a key's voxel in the grid: SLOTS times that of its brick, and its number inside."""
    if key & ALONE:
        a, b, c = exact_voxel(row, start, plane, shift, matrices)
    else:
        part, field = np.uint64(start) // np.uint64(PIECE), (1 << FIELD) - 1
        a = np.int64(base[0, part]) - CENTRE + (key >> 2 * FIELD & field)
        b = np.int64(base[1, part]) - CENTRE + (key >> FIELD & field)
        c = np.int64(base[2, part]) - CENTRE + (key & field)
    brick = (a >> 2) * slab + (b >> 2) * row_of_bricks + (c >> 2)
    return brick << IN_BRICK | (a & 3) << 4 | (b & 3) << 2 | c & 3


@njit(**BORROW)
def find_others(
    row, n_others, others, starts, keys, base, plane, shift, matrices, n_bricks, table, bricks, voxels, slots, used,
    known, voxel_of, slot_of,
):  # fmt: skip
    """Row of the sums for the voxels of runs whose keys are not known; arguments as in ``_look_up``.

    In three loops, as what the first two ask for comes from memory meanwhile.

    Args:
        base: Of the patches' coordinates.
        voxel_of: Work space.
    """
    row_of_bricks = n_bricks[2]
    slab = n_bricks[1] * row_of_bricks
    for i in range(n_others):
        at, run = np.uint64(i), np.uint64(others[np.uint64(i)])
        key, voxel = np.int64(keys[run]), np.int64(0)
        if not key & SKIP:
            voxel = _find_voxel(row, np.int64(starts[run]), key, base, plane, shift, matrices, slab, row_of_bricks)
        voxel_of[at] = voxel
        prefetch(table, np.uint64((key >> NEAR_BIT & 1) * table.shape[1] + (voxel >> IN_BRICK)))
    for i in range(n_others):
        voxel, key = voxel_of[np.uint64(i)], np.int64(keys[np.uint64(others[np.uint64(i)])])
        place = np.int64(table[key >> NEAR_BIT & 1, voxel >> IN_BRICK])
        prefetch(slots, np.uint64(max(place, 0) * SLOTS + (voxel & SLOTS - 1)))
    for i in range(n_others):
        run = np.uint64(others[np.uint64(i)])
        voxel, key, slot = voxel_of[np.uint64(i)], keys[run], np.int64(-1)
        if not key & SKIP:
            bragg = np.int64(key) >> NEAR_BIT & 1
            place = np.int64(table[bragg, voxel >> IN_BRICK])
            if place >= 0:
                slot = np.int64(slots[place * SLOTS + (voxel & SLOTS - 1)])
            if slot < 0:
                slot = _take_into_use(voxel, bragg, table, bricks, voxels, slots, used)
        slot_of[run] = slot
        if not key & ALONE:
            part, at = np.uint64(np.uint32(starts[run]) // np.uint32(PIECE)), _place_of(key)
            known[part, at, np.uint64(0)], known[part, at, np.uint64(1)] = key, slot
