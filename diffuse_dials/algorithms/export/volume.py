"""The map in a box of voxels, with all symmetry mates: the sphere of reciprocal space that was measured."""

from __future__ import annotations

from dataclasses import dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.running.forecast import available_memory
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.models.grid import GridRecord

phil_scope = libtbx.phil.parse(
    """
region {
  hkl_min = None
    .type = floats(size=3)
    .expert_level = 1
    .help = "Smallest h, k, l of the box that ccp4, h5, vtk and npz hold (fractional Miller indices). None: the box"
            "around the sphere that was measured."
  hkl_max = None
    .type = floats(size=3)
    .expert_level = 1
    .help = "Largest h, k, l of the box."
}
"""
)

# One int32 per voxel stays in memory while the formats are written, one block of voxels at a time.
_BYTES_PER_VOXEL = 4
_VOXELS_A_TIME = 1 << 23
_MEMORY_FRACTION = 0.8
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Region:
    """Limits in h, k, l, each included.

    Attributes:
        low, high: Three fractional Miller indices, or None: no limit.
    """

    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @classmethod
    def from_phil(cls, params) -> Region:
        """The limits of the scope ``region``.

        Raises:
            ValueError: If the largest index is below the smallest.
        """
        low, high = (None if value is None else tuple(value) for value in (params.hkl_min, params.hkl_max))
        if low and high and any(a > b for a, b in zip(low, high)):
            raise ValueError(f"region.hkl_min={_text(low)} is above region.hkl_max={_text(high)}. Exchange them.")
        return cls(low, high)


@dataclass(frozen=True)
class Volume:
    """A box of voxels, each pointing at its row in the table of the asymmetric unit.

    Attributes:
        start: Voxel n of the first element, three int.
        rows: Row of each voxel, shape (n_h, n_k, n_l), int32; −1: not measured.
    """

    start: tuple[int, int, int]
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along h, k, l."""
        return self.rows.shape

    def axis(self, number: int, ndiv) -> np.ndarray:
        """h, k or l of the voxels along an axis, shape (n,)."""
        return (self.start[number] + np.arange(self.shape[number])) / ndiv[number]

    def blocks(self, axis: int, multiple: int = 1):
        """Slices of an axis, of a few million voxels each, that together make the box; starts are multiples."""
        layers = _VOXELS_A_TIME * self.shape[axis] // self.rows.size
        size = max(1, layers // multiple) * multiple
        for first in range(0, self.shape[axis], size):
            yield slice(first, min(first + size, self.shape[axis]))


def box(s_max: float, record: GridRecord, region: Region) -> tuple[np.ndarray, np.ndarray]:
    """First and last voxel of the box around a sphere, cut by the region.

    |h| along an axis is at most s_max times the length of the cell's edge, whatever the angles are.

    Args:
        s_max: Radius, 1/Å.
        record: The grid.
        region: Limits in h, k, l.

    Returns:
        Two arrays of three int.

    Raises:
        ValueError: If nothing of the region is inside the sphere's box.
    """
    ndiv = np.asarray(record.ndiv)
    last = np.floor(s_max * np.asarray(record.unit_cell[:3]) * ndiv + _ROUNDING).astype(int)
    first = -last
    if region.low is not None:
        first = np.maximum(first, _whole(np.ceil(np.asarray(region.low) * ndiv - _ROUNDING)))
    if region.high is not None:
        last = np.minimum(last, _whole(np.floor(np.asarray(region.high) * ndiv + _ROUNDING)))
    if np.any(first > last):
        raise ValueError(
            f"The region {_text(region.low or '-')} to {_text(region.high or '-')} holds no voxel of the map, which "
            f"reaches {1 / s_max:.2f} Å. Give hkl_min and hkl_max inside it."
        )
    return first, last


def _whole(values: np.ndarray) -> np.ndarray:
    """As int; what is beyond any map, infinity too, would wrap around."""
    return np.clip(values, -(2.0**31), 2.0**31).astype(np.int64)


def expand(index: np.ndarray, operators: np.ndarray, record: GridRecord, region: Region) -> Volume:
    """Fill a box with the voxels and all their symmetry mates.

    Args:
        index: Voxels n of the asymmetric unit, shape (n, 3), int32.
        operators: Integer matrices of the Laue group, shape (order, 3, 3); row vectors: n' = n R.
        record: The grid.
        region: Limits of the box.

    Raises:
        ValueError: If the box would not fit into memory, or the region is empty.
    """
    s_max = float(np.linalg.norm(reciprocal_vectors(index, record), axis=1).max())
    first, last = box(s_max, record, region)
    shape = tuple(int(n) for n in last - first + 1)
    check_memory(
        _BYTES_PER_VOXEL * float(np.prod([float(n) for n in shape])),
        f"The map to {1 / s_max:.2f} Å, a box of {' x '.join(map(str, shape))} voxels,",
        "Use a larger d_min, or a part of it: region.hkl_min and region.hkl_max. format=mtz needs no box.",
    )
    rows = np.full(shape, -1, dtype=np.int32)
    flat = rows.reshape(-1)
    for operator in operators:
        moved = index.astype(np.int64) @ operator - first
        inside = np.flatnonzero(np.all((moved >= 0) & (moved < shape), axis=1))
        flat[np.ravel_multi_index(tuple(moved[inside].T), shape)] = inside
    return Volume(tuple(int(n) for n in first), rows)


def check_memory(needed: float, what: str, advice: str) -> None:
    """Refuse what would take more than 80 % of the memory that is free, to this process and its control groups.

    Args:
        needed: Bytes.
        what: Subject of the message.
        advice: What to do instead.

    Raises:
        ValueError: With the three.
    """
    free = available_memory()
    if needed > _MEMORY_FRACTION * free:
        raise ValueError(f"{what} needs {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free. {advice}")


def _text(values) -> str:
    return values if isinstance(values, str) else ",".join(f"{value:g}" for value in values)
