"""Memory that one process keeps for the sums of a panel, from still to still."""

from __future__ import annotations

import numpy as np

from diffuse_dials.kernels import still


class Accumulator:
    """Bricks of voxels, taken into use where pixels fall: memory follows the voxels hit, not the grid."""

    def __init__(self):
        self._table = np.full((2, 0), -1, dtype=np.int32)
        self._bricks = np.zeros(1, dtype=np.int64)
        self._whole = np.zeros((0, 5), dtype=np.int64)
        self._real = np.zeros((0, 0))

    def sum_panel(
        self, raw, limits, response, s_bin, vectors, shift, beam, lattices, own_first, centring, sigmas_squared, keep,
        pedestal, gain, background, variance, to_voxel, n_bricks, n_bins,
    ):  # fmt: skip
        """Sums of one panel; the arguments are those of kernels.still.sum_rows.

        Returns:
            (index from the grid's corner, bragg, whole and real sums of each voxel; whole and real sums of each bin).
        """
        n_total = int(np.prod(n_bricks))
        n_real = 0 if gain is None and background is None else 4
        if self._table.shape[1] < n_total:
            self._table = np.full((2, n_total), -1, dtype=np.int32)
        if self._real.shape[1] != n_real:
            self._real = np.zeros((len(self._whole), n_real))
        table = self._table[:, :n_total]
        # A key holds twice the voxel's number
        key_type = np.zeros(1, dtype=np.int32 if 2 * (n_total + 1) * still.SLOTS < 2**31 else np.int64)
        bin_whole, bin_real = np.zeros((n_bins, 4), dtype=np.int64), np.zeros((n_bins, 4))
        row = 0
        try:
            while row < len(raw):
                self._make_room(raw.shape[1], n_total)
                row = still.sum_rows(
                    row, raw, limits, response, s_bin, vectors, shift, beam, lattices, own_first, centring,
                    sigmas_squared, keep, pedestal, gain, background, variance, to_voxel, n_bricks, key_type, table,
                    self._bricks, self._whole, self._real, bin_whole, bin_real,
                )  # fmt: skip
            rows = still.harvest(n_bricks, table, self._bricks, self._whole, self._real)
        except BaseException:  # whatever happened: half a still must not be added to the next
            self.__init__()
            raise
        return (*rows, bin_whole, bin_real)

    def _make_room(self, n_fast: int, n_total: int) -> None:
        """Room for the new bricks of a row, at least; a quarter more than there was, so that it is seldom called."""
        used, places = int(self._bricks[-1]), len(self._bricks) - 1
        needed = used + min(n_fast, 2 * n_total)
        if needed <= places:
            return
        places = max(needed, 5 * places // 4)
        bricks = np.zeros(places + 1, dtype=np.int64)
        bricks[: len(self._bricks) - 1], bricks[-1] = self._bricks[:-1], used
        self._bricks = bricks
        # In place, new elements are 0: a copy would need twice the memory. No other array refers to them.
        self._whole.resize((places * still.SLOTS, 5), refcheck=False)
        self._real.resize((places * still.SLOTS, self._real.shape[1]), refcheck=False)
