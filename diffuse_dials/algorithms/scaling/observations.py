"""From the rows of gridded.refl to observations: sums per (voxel of the asymmetric unit, still)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffuse_dials.models.sums import VoxelSums


@dataclass(frozen=True)
class Observations:
    """Sums per (voxel, still), ordered by voxel and then still; symmetry mates and panels are added up.

    Attributes:
        index: Voxels of the asymmetric unit, ordered by h, k, l, shape (n_voxels, 3), int32.
        voxel: Row of ``index`` of each observation, shape (n,), int32.
        still: Position of the still in the experiment list, shape (n,), int32.
        counts, background, response, variance: Sums over pixels that pass the Bragg mask, shape (n,); as in VoxelSums.
        n_pixels: Pixels in those sums, shape (n,); 0 where the Bragg mask removed all of them.
        bragg_signal: counts - background of the pixels that the Bragg mask removed, shape (n,), photons.
        bragg_response: Response of the same pixels, shape (n,).
        n_stills: Length of the experiment list.
    """

    index: np.ndarray
    voxel: np.ndarray
    still: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    n_pixels: np.ndarray
    bragg_signal: np.ndarray
    bragg_response: np.ndarray
    n_stills: int

    def __len__(self) -> int:
        return len(self.voxel)

    @property
    def n_voxels(self) -> int:
        return len(self.index)

    @cached_property
    def signal(self) -> np.ndarray:
        """counts - background, shape (n,), photons."""
        return self.counts - self.background

    @cached_property
    def added_variance(self) -> np.ndarray:
        """Variance that the crystal's photons do not cause, shape (n,), photons².

        The background's own Poisson noise G, and what ``variance`` holds beyond the counts: the noise of a
        subtracted background and of the detector. As noisy as the background itself where that was measured.
        """
        return self.background + (self.variance - self.counts)

    def sum_by_voxel(self, values: np.ndarray) -> np.ndarray:
        """Totals of ``values`` (n,) over the stills of each voxel, shape (n_voxels,)."""
        return np.bincount(self.voxel, values, self.n_voxels)

    def sum_by_still(self, values: np.ndarray) -> np.ndarray:
        """Totals of ``values`` (n,) over the voxels of each still, shape (n_stills,)."""
        return np.bincount(self.still, values, self.n_stills)


def group_sums(sums: VoxelSums, n_stills: int) -> Observations:
    """Add up symmetry mates and panels of each still. Voxel (0, 0, 0) is left out: no program of DIALS takes it.

    Args:
        sums: Rows of gridded.refl, in any order.
        n_stills: Length of the experiment list.

    Raises:
        ValueError: If nothing remains, or the indices span more than 63 bits can number.
    """
    sums = sums.select(np.any(sums.asu_index != 0, axis=1))
    if not len(sums):
        raise ValueError("No voxel but (0, 0, 0) was measured. Use more voxels (grid.ndiv) or a smaller d_min.")
    low = sums.asu_index.min(axis=0).astype(np.int64)
    span = [int(n) for n in sums.asu_index.max(axis=0) - low + 1]
    if span[0] * span[1] * span[2] * n_stills >= 2**63:
        raise ValueError(f"Voxel indices span {span}: too many to number. Use a smaller grid.ndiv or a larger d_min.")
    h, k, l = (sums.asu_index[:, i].astype(np.int64) - low[i] for i in range(3))
    code = ((h * span[1] + k) * span[2] + l) * n_stills + sums.still
    order = np.argsort(code, kind="stable")
    code = code[order]
    first = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])

    def total(values):
        return np.add.reduceat(values[order], first)

    voxel_code, still = np.divmod(code[first], n_stills)
    starts = np.r_[True, voxel_code[1:] != voxel_code[:-1]]
    used = ~sums.bragg
    return Observations(
        index=sums.asu_index[order[first[starts]]].astype(np.int32),
        voxel=(np.cumsum(starts) - 1).astype(np.int32),
        still=still.astype(np.int32),
        counts=total(np.where(used, sums.counts, 0.0)),
        background=total(np.where(used, sums.background, 0.0)),
        response=total(np.where(used, sums.response, 0.0)),
        variance=total(np.where(used, sums.variance, 0.0)),
        n_pixels=total(np.where(used, sums.n_pixels, 0)),
        bragg_signal=total(np.where(used, 0.0, sums.counts - sums.background)),
        bragg_response=total(np.where(used, 0.0, sums.response)),
        n_stills=n_stills,
    )
