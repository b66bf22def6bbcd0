"""Variance of the counts of a pixel: Poisson for photon counters, measured on the images for integrating detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NoiseModel:
    """Variance of a pixel = factor x max(counts, 0) + read_variance, per panel, in photons².

    Attributes:
        factor: 1 for a photon counter, shape (n_panels,).
        read_variance: 0 for a photon counter, shape (n_panels,), photons².
        record: Where the numbers came from, for the log and grid.json.
    """

    factor: tuple[float, ...]
    read_variance: tuple[float, ...]
    record: dict

    @classmethod
    def counting(cls, n_panels: int) -> NoiseModel:
        """Poisson statistics on every panel."""
        return cls((1.0,) * n_panels, (0.0,) * n_panels, {"method": "counting"})

    def variance(self, panel: int, counts: np.ndarray) -> np.ndarray:
        """Variance of counts (photons), same shape.

        The counts stand for their expectation, which stays unbiased in sums; a pixel of an integrating detector below
        zero has no less noise than one at zero.
        """
        return self.factor[panel] * np.maximum(counts, 0) + self.read_variance[panel]
