"""How well scales and map explain the sums: residuals C - G - b R I, added up over groups of rows.

χ² of a group is Σ r²/V over Σ f σ²/V: r the residual, σ² the variance of the sum as it was measured, f what the fit of
the map leaves free of it, and V a smooth model of the variance that knows nothing of the row's own counts. As V stands
on both sides it only says how much each row counts; an error in it, or a zero count, brings no bias. Rows that have a
voxel to themselves, of which the map leaves nothing free, are in no group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.scaled import ScaledRows

# Fewer degrees of freedom than this say nothing.
_LEAST_FREEDOM = 0.5
# Of one row: below this it is alone in its voxel, the map follows it, and its residual is 0 whatever it is.
_ALONE = 1e-6


@dataclass(frozen=True)
class Grouping:
    """One way to divide the rows.

    Attributes:
        number: Function of (rows, |s| of each row) that gives the group of each row; negative: in none.
        n_groups: How many groups there are.
    """

    number: Callable[[ScaledRows, np.ndarray], np.ndarray]
    n_groups: int


@dataclass(frozen=True)
class Misfit:
    """Residuals of groups of rows.

    Attributes:
        n_rows: Rows in each group that share their voxel with others, shape (n_groups,), int.
        excess: Σ(C - G - b R I) / Σ b R I: the part by which the group measures more than the map says, same shape; NaN
            without rows.
        esd: Its standard uncertainty from the variances of the sums, same shape.
        chi_square: χ² per degree of freedom, same shape; NaN where there are none.
    """

    n_rows: np.ndarray
    excess: np.ndarray
    esd: np.ndarray
    chi_square: np.ndarray

    def reshape(self, *shape: int) -> Misfit:
        """The same groups in an array of another shape."""
        return Misfit(*(getattr(self, field.name).reshape(shape) for field in fields(self)))


class Misfits:
    """Adds up residuals about a map, block by block."""

    def __init__(self, merged: DiffuseMap, index: np.ndarray, groupings: dict[str, Grouping]):
        """
        Args:
            merged: The map that the residuals are about; rows of voxels that it lacks are left out.
            index: The voxels that ``ScaledRows.voxel`` numbers, shape (n_voxels, 3), in ascending order.
            groupings: By name.
        """
        self._place = np.full(len(index), -1, dtype=np.int64)
        self._place[np.searchsorted(pack(index), pack(merged.index))] = np.arange(len(merged))
        self._merged, self._s = merged, merged.s
        self._groupings = groupings
        self._sums = {name: np.zeros((8, grouping.n_groups)) for name, grouping in groupings.items()}

    def add(self, rows: ScaledRows) -> None:
        """Add a block of rows."""
        rows = rows.diffuse
        known = self._place[rows.voxel] >= 0
        rows = rows if known.all() else rows.select(known)
        free = 1 - rows.weight * rows.expected / self._merged.exposure[self._place[rows.voxel]]
        shared = free > _ALONE
        rows, free = rows.select(shared), free[shared]
        voxel = self._place[rows.voxel]
        expected = rows.expected * self._merged.intensity.value[voxel]
        residual = rows.signal - expected
        variance = free * rows.variance
        terms = (
            residual**2 / rows.model_variance, variance / rows.model_variance, residual, expected, variance,
            np.ones(len(rows)), np.abs(residual), np.sqrt(2 / np.pi * free * rows.model_variance),
        )  # fmt: skip
        for name, grouping in self._groupings.items():
            group = grouping.number(rows, self._s[voxel])
            part = group >= 0
            for sums, values in zip(self._sums[name], terms):
                sums += np.bincount(group[part], values[part], grouping.n_groups)

    def add_ranks(self, comm: Communicator) -> None:
        """Add up what all ranks have."""
        self._sums = {name: comm.sum(sums) for name, sums in self._sums.items()}

    @property
    def names(self) -> set[str]:
        """The groupings."""
        return set(self._groupings)

    def of(self, name: str) -> Misfit:
        """The misfit of the groups of one grouping."""
        square, freedom, residual, expected, variance, n_rows = self._sums[name][:6]
        excess = _quotient(residual, expected)
        esd = _quotient(np.sqrt(variance), expected)
        return Misfit(n_rows.astype(np.int64), excess, esd, _quotient(square, freedom, _LEAST_FREEDOM))

    def r_factors(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """R = Σ|C - G - b R I| / Σ b R I of the groups of one grouping, and what the noise alone makes of it.

        Rows with a voxel to themselves are left out, as reflections measured once are of R_merge. The mean deviation of
        a Gaussian is √(2/π) σ; for sums below about one photon that is too much.
        """
        expected, deviation, noise = self._sums[name][[3, 6, 7]]
        return _quotient(deviation, expected), _quotient(noise, expected)


def _quotient(a: np.ndarray, b: np.ndarray, least: float = 0.0) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > least)
