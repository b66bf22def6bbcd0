"""Memory that one process keeps for the sums of a panel, from still to still."""

from __future__ import annotations

import math

import numpy as np

from diffuse_dials.kernels import still
from diffuse_dials.kernels.harvest import in_order, make_empty
from diffuse_dials.kernels.places import SLOTS, Places


class Accumulator:
    """Rows of sums, taken into use voxel by voxel, and bricks of places that find them.

    Memory follows the voxels hit, not the grid: 4 bytes for each 4 x 4 x 4 voxels of it, twice; 256 for each such
    brick that holds a voxel; and a row of 40 bytes for each voxel.
    """

    def __init__(self):
        self._table = np.full((2, 0), -1, dtype=np.int32)
        self._bricks = np.zeros(0, dtype=np.int64)
        self._voxels = np.zeros(0, dtype=np.uint64)
        self._slots = np.zeros(0, dtype=np.int32)
        self._used = np.zeros(2, dtype=np.int64)
        self._whole = np.zeros((0, 5), dtype=np.int64)
        self._real = np.zeros((0, 0))

    def sum_panel(
        self, raw, limits, shared, bins, pieces, plane, shift, crystal, keep, pedestal, gain, background, variance,
        corner, collect, ratio=1.0, profile=None,
    ):  # fmt: skip
        """Sums of one panel; the arguments are those of kernels.still.sum_rows.

        Args:
            bins: Number of unmasked pixels and response of each |s| bin, shape (n, 2), int64.
            corner: Index of the grid's first voxel, shape (3,).
            collect: What is to be made of the sums, before the next panel empties them: function of ``whole`` and
                ``real``, as in still.Sums, and of the numbers of their rows in the order of the voxels.

        Returns:
            The results of harvest.in_order, with that of ``collect`` in place of the rows; whole and real sums of each
            bin.
        """
        # here and not at the end: whatever stopped the still before, half of it must not be added to this one
        make_empty(self._table, self._bricks, self._slots, self._used, self._whole, self._real)
        n_total = math.prod(crystal.n_bricks.tolist())
        n_bin_real = 0 if gain is None and background is None else 4
        n_real = n_bin_real if profile is None else 4
        if self._table.shape[1] < n_total:
            self._table = np.full((2, n_total), -1, dtype=np.int32)
        if self._real.shape[1] != n_real:
            self._real = np.zeros((len(self._whole), n_real))
        bin_whole, bin_real = np.zeros((len(bins), 4), dtype=np.int64), np.zeros((len(bins), n_bin_real))
        bin_whole[:, [still.N_PIXELS, still.RESPONSE]] = bins
        row = 0
        while row < len(raw):
            self._make_room(raw.shape[1])
            places = Places(self._table, self._bricks, self._voxels, self._slots)
            sums = still.Sums(self._whole, self._real, bin_whole, bin_real)
            # plain tuples, whose types numba recognises without going through them in Python
            row = still.sum_rows(
                row, raw, limits, shared[:3], shared[3:], tuple(pieces), plane, shift, crystal[:5], crystal[5:], keep,
                pedestal, gain, background, variance, ratio, profile, self._used, tuple(places), tuple(sums),
            )  # fmt: skip
        index, bragg, rows, n_left_out = in_order(
            crystal.n_bricks, corner, self._table, self._bricks, self._voxels, self._slots, self._used, self._whole
        )
        return index, bragg, collect(self._whole, self._real, rows), n_left_out, bin_whole, bin_real

    def _make_room(self, n_fast: int) -> None:
        """Room for what a row may need, as sum_rows judges it; a quarter more than before, so that calls are rare.

        In place, new elements are 0: a copy would need twice the memory. No other array refers to them. The arrays
        whose lengths count come last, so that there is room for what they say if memory ends before.
        """
        places, rows = (int(n) for n in self._used)
        needed = places + min(n_fast, self._table.size)
        if needed > len(self._bricks):
            before = len(self._slots)
            size = max(needed, 5 * len(self._bricks) // 4)
            self._slots.resize(size * SLOTS, refcheck=False)
            self._slots[before:] = -1
            self._voxels.resize(size, refcheck=False)
            self._bricks.resize(size, refcheck=False)
        if rows + n_fast > len(self._whole):
            size = max(rows + n_fast, 5 * len(self._whole) // 4)
            self._real.resize((size, self._real.shape[1]), refcheck=False)
            self._whole.resize((size, 5), refcheck=False)
