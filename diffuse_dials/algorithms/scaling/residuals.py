"""How well scales and map explain the sums: χ² of (C - G - b R I) / σ_model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.scaling.likelihood import Scales
from diffuse_dials.algorithms.scaling.observations import Observations


@dataclass(frozen=True)
class Residuals:
    """Squared residuals over their model variance, and how much of each is free to vary.

    Attributes:
        square: (C - G - b R I)² / (b R I_ref + V), shape (n,); V is the variance from other sources.
        freedom: 1 - u b R / Σ u b R over the voxel: what the fit of I leaves of each, same shape.
        voxel, still: Of each, shape (n,), int32.
    """

    square: np.ndarray
    freedom: np.ndarray
    voxel: np.ndarray
    still: np.ndarray

    def chi_square(self, group: np.ndarray, n_groups: int) -> np.ndarray:
        """χ² per degree of freedom by group, shape (n_groups,); NaN where there are none.

        Args:
            group: Number of the group of each observation, shape (n,); negative: in none.
            n_groups: How many there are.
        """
        part = group >= 0
        square = np.bincount(group[part], self.square[part], n_groups)
        freedom = np.bincount(group[part], self.freedom[part], n_groups)
        return np.divide(square, freedom, out=np.full(n_groups, np.nan), where=freedom > 0.5)


def residuals(observations: Observations, scales: Scales, use: np.ndarray) -> Residuals:
    """Residuals of the observations in the voxels ``use`` (n_voxels,), of stills that have a scale.

    The model variance takes the shell's mean for the intensity and a smooth background, never the observation's own
    counts.
    """
    part = use[observations.voxel] & (observations.n_pixels > 0) & np.isfinite(scales.scale)[observations.still]
    voxel, still = observations.voxel[part], observations.still[part]
    response = scales.scale[still] * observations.response[part]
    weight, signal = scales.weight[part], observations.signal[part]
    total = np.bincount(voxel, weight * response, observations.n_voxels)[voxel]
    intensity = np.bincount(voxel, weight * signal, observations.n_voxels)[voxel] / total
    variance = response * scales.reference[voxel] + scales.added_variance[part]
    square = (signal - response * intensity) ** 2 / variance
    return Residuals(square, 1 - weight * response / total, voxel, still)
