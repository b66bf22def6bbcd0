"""Sums of the stills with the results of scaling for each row: what merging and statistics read, block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

GOOD = 0
OUTLIER = 1


@dataclass(frozen=True)
class ScaledRows:
    """Rows of gridded sums of some stills; a block holds all rows of each of its stills.

    The model of a row is counts = factor x response x intensity + background.

    Attributes:
        still: Position of the still in the experiment list, shape (n,), int32.
        voxel: Row of the list of voxels of the asymmetric unit, shape (n,), int32.
        index: Voxel n as measured (P1), shape (n, 3), int32.
        panel: Shape (n,), int32.
        bragg: True: pixels that the Bragg mask removed, shape (n,), bool.
        counts: Photons, shape (n,).
        signal: counts - background, shape (n,), photons.
        variance: Variance of the signal, shape (n,), photons².
        response: Photons that unit intensity would leave at scale 1, shape (n,).
        n_pixels: Shape (n,), int32.
        factor: Inverse scale factor of the row, shape (n,), positive.
        weight: u, by which merging multiplies signal and response: no function of the row's own counts, shape (n,).
        model_variance: Variance of the signal by a smooth model that does not know the row's own counts, shape (n,),
            photons², positive. It sets how much each row counts in χ², not what χ² is.
        flags: ``GOOD``, or ``OUTLIER`` for rows left out of merging, shape (n,).
        position: Mean fast and slow pixel coordinate, shape (n, 2), or None.
    """

    still: np.ndarray
    voxel: np.ndarray
    index: np.ndarray
    panel: np.ndarray
    bragg: np.ndarray
    counts: np.ndarray
    signal: np.ndarray
    variance: np.ndarray
    response: np.ndarray
    n_pixels: np.ndarray
    factor: np.ndarray
    weight: np.ndarray
    model_variance: np.ndarray
    flags: np.ndarray
    position: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.still)

    @property
    def expected(self) -> np.ndarray:
        """Photons that unit intensity leaves at the still's scale, shape (n,)."""
        return self.factor * self.response

    @property
    def diffuse(self) -> ScaledRows:
        """The rows that make the map: no Bragg pixels, no outliers."""
        keep = ~self.bragg & (self.flags == GOOD)
        return self if keep.all() else self.select(keep)

    def select(self, which) -> ScaledRows:
        """The rows that an index array, a mask or a slice names."""
        values = (getattr(self, field.name) for field in fields(self))
        return ScaledRows(*(None if v is None else v[which] for v in values))
