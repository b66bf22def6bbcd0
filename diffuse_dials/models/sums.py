"""Sums over pixels, kept apart until merging: all that scaling and merging need."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from diffuse_dials.models.exposure import Exposure


@dataclass(frozen=True)
class _Rows:
    """Arrays of equal length, one element per row."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def select(self, which):
        """The rows that an index array, a mask or a slice names."""
        return type(self)(*(None if v is None else v[which] for v in self._values()))

    def _values(self):
        return (getattr(self, f.name) for f in fields(self))

    @classmethod
    def concatenate(cls, parts):
        """All rows of ``parts``, in their order."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(part._values() for part in parts))
        return cls(*(None if column[0] is None else np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class VoxelSums(_Rows):
    """One row per (still, voxel, panel, bragg); arrays must not be changed, as equal columns may share one.

    Attributes:
        still: Position of the still in the experiment list, shape (n,), int32.
        index: Voxel n as measured (P1), h = n / ndiv, shape (n, 3), int32.
        asu_index: Representative of n under the Laue group of the super-cell, shape (n, 3), int32.
        panel: Shape (n,), int32.
        bragg: True: pixels that the Bragg mask removed, shape (n,), bool.
        counts: Photons, shape (n,).
        background: Photons not from the crystal, shape (n,).
        response: Σ Ω·P·ε·T·t, shape (n,), sr s.
        variance: Variance of counts - background, shape (n,), photons².
        n_pixels: Shape (n,), int32.
        position: Mean fast and slow pixel coordinate, shape (n, 2), or None.
    """

    still: np.ndarray
    index: np.ndarray
    asu_index: np.ndarray
    panel: np.ndarray
    bragg: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    n_pixels: np.ndarray
    position: np.ndarray | None = None


@dataclass(frozen=True)
class RadialTotals(_Rows):
    """One row per (still, panel, |s| bin), Bragg pixels included; units as in VoxelSums.

    Attributes:
        still: Position of the still in the experiment list, shape (n,), int32.
        panel: Shape (n,), int32.
        s: Centre of the bin, shape (n,), 1/Å.
        counts, background, response, variance, n_pixels: Sums, as in VoxelSums; never a radial background.
        n_overloaded: Overloaded pixels, which the sums leave out, shape (n,), int32.
    """

    still: np.ndarray
    panel: np.ndarray
    s: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    n_pixels: np.ndarray
    n_overloaded: np.ndarray


@dataclass(frozen=True)
class StillSums:
    """What one still measured, summed per voxel.

    Attributes:
        voxels: Rows sorted by panel, voxel and bragg, without the voxel around s = 0.
        totals: Radial totals, Bragg pixels included.
        exposure: Time, monitor and what multiplied the response.
        n_accepted: Pixels that pass all masks, the Bragg mask too.
    """

    voxels: VoxelSums
    totals: RadialTotals
    exposure: Exposure
    n_accepted: int

    @property
    def exposure_time(self) -> float:
        """Exposure time, s."""
        return self.exposure.time

    @property
    def time_stamp(self) -> float | None:
        """Seconds since 1970, None if unknown."""
        return self.exposure.time_stamp
