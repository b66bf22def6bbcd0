"""Bragg intensities from the map itself: what Bragg pixels add to the box of voxels around each lattice point.

Averaged over randomly oriented stills, a voxel mean is the mean of the intensity over the voxel's volume, whatever
the profile of the lattice points, so that no partiality is needed (the principle of Kirian et al. (2010) Opt. Express
18, 5713). Over a box of one reciprocal cell, I = |F|² p(s - h)/V + I_D has the mean |F|² + <I_D>.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from diffuse_dials.adapters.symmetry import epsilons, fractionalization, map_to_asu, systematically_absent
from diffuse_dials.models.grid import GridRecord

MIN_BOX = 0.8  # part of a box that must have been measured
_BLOCK = 50_000  # lattice points worked on at once, for the memory of their boxes


@dataclass(frozen=True)
class BraggIntensities:
    """Box-integrated intensities of the lattice points of the asymmetric unit.

    Attributes:
        hkl: Miller indices, shape (n, 3), int32; cctbx's representatives for the point group.
        s: |s|, shape (n,), 1/Å.
        intensity: K·|F|², shape (n,), units of the map.
        variance: Of the intensity by the scatter between stills, shape (n,); NaN where only one still saw it.
        multiplicity: Stills with pixels in the voxel of the lattice point, shape (n,).
        epsilon: How much the symmetry raises the mean |F|² of the class, shape (n,).
    """

    hkl: np.ndarray
    s: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    multiplicity: np.ndarray
    epsilon: np.ndarray

    def __len__(self) -> int:
        return len(self.s)

    def select(self, which) -> BraggIntensities:
        """The reflections that a mask or an index array names."""
        return BraggIntensities(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def box_offsets(ndiv) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of the box |h - h0| ≤ ½ around a lattice point.

    With an even ndiv the outermost voxels lie astride the border and count half.

    Args:
        ndiv: Voxels from one lattice point to the next, three integers.

    Returns:
        (offsets, weights): shape (m, 3), int, the lattice point's own voxel first; shape (m,), of sum 1.
    """
    axes, weights = [], []
    for n in ndiv:
        numbers = np.arange(-(n // 2), n // 2 + 1)
        axes.append(numbers)
        weights.append(np.where(2 * np.abs(numbers) == n, 0.5, 1.0) / n)
    offsets = np.array(list(itertools.product(*axes)))
    weight = np.array([np.prod(parts) for parts in itertools.product(*weights)])
    first = np.argsort(np.any(offsets != 0, axis=1), kind="stable")
    return offsets[first], weight[first]


def box_integrated(columns, record: GridRecord, space_group) -> BraggIntensities | None:
    """Integrate Bragg intensities over boxes of the map.

        K|F|² = Σ_voxels w (I_all - I_D),  w = 1/(ndiv_h ndiv_k ndiv_l)

    I_D is the voxel's intensity without Bragg pixels; in the voxel of the lattice point, and where the Bragg mask
    left nothing, it is the mean of the box's other voxels (with ndiv = 1 on all axes: the voxel's own). An isotropic
    background that was left in the data cancels.

    Args:
        columns: Columns of merged.refl.
        record: grid.json.
        space_group: cctbx space group of the crystal, translations included.

    Returns:
        Reflections of which at least 80 % of the box was measured, without systematic absences; None if there is
        none, or the map has no intensities with Bragg pixels.
    """
    if "intensity.all.value" not in columns:
        return None
    lookup = _Lookup(columns)
    points = np.flatnonzero(columns["lattice_point"])
    hkl = columns["miller_index"][points] // np.asarray(record.ndiv)
    hkl = hkl[~systematically_absent(hkl, space_group)].astype(np.int32)
    parts = np.array_split(hkl, max(1, len(hkl) // _BLOCK))
    blocks = [_integrate(part, lookup, record.ndiv, space_group) for part in parts]
    usable, intensity, variance, multiplicity = (np.concatenate(column) for column in zip(*blocks))
    if not usable.any():
        return None
    s = np.linalg.norm(hkl @ fractionalization(record.unit_cell).T, axis=1)
    found = BraggIntensities(hkl, s, intensity, variance, multiplicity, epsilons(hkl, space_group))
    return found.select(usable)


def _integrate(hkl, lookup, ndiv, space_group):
    """(usable, intensity, variance, multiplicity) of the boxes around some lattice points, each of shape (n,)."""
    offsets, weights = box_offsets(ndiv)
    rows = np.stack([lookup.row(hkl * np.asarray(ndiv) + offset, space_group) for offset in offsets])
    seen = rows >= 0
    outer = seen & (lookup.variance[rows] >= 0)
    outer[0] &= len(offsets) == 1
    mean = _weighted(np.where(outer, lookup.diffuse[rows], 0), weights, outer)
    diffuse = np.where(outer, lookup.diffuse[rows], mean)
    added = np.where(seen, lookup.everything[rows] - diffuse, 0.0)
    measured = (weights[:, None] * seen).sum(axis=0)
    usable = seen[0] & outer.any(axis=0) & (measured >= MIN_BOX)
    # the other voxels' noise is in I_all and in I_D and cancels: what is left is that of the lattice point's voxel
    spread = lookup.variance_all[rows[0]]
    variance = np.where(spread >= 0, weights[0] ** 2 * spread, np.nan)
    return usable, (weights[:, None] * added).sum(axis=0), variance, lookup.multiplicity[rows[0]]


def _weighted(values, weights, which):
    total = (weights[:, None] * which).sum(axis=0)
    return (weights[:, None] * values).sum(axis=0) / np.where(total > 0, total, 1)


class _Lookup:
    """Finds the row of a voxel, symmetry mates included; row -1 stands for what was not measured."""

    def __init__(self, columns):
        index = columns["miller_index"].astype(np.int64)
        self.low = index.min(axis=0)
        self.span = index.max(axis=0) - self.low + 1
        code = self._code(index)
        self.order = np.argsort(code)
        self.code = code[self.order]
        self.everything = columns["intensity.all.value"]
        self.diffuse = columns["intensity.scale.value"]
        self.variance = columns["intensity.scale.variance"]
        self.variance_all = columns["intensity.all.variance"]
        self.multiplicity = columns["multiplicity.all"]

    def _code(self, index):
        h, k, l = (index - self.low).T
        return (h * self.span[1] + k) * self.span[2] + l

    def row(self, index, space_group) -> np.ndarray:
        """Row of each voxel n, shape (n,); -1 where there is none."""
        mapped = map_to_asu(index, space_group).astype(np.int64)
        inside = np.all((mapped >= self.low) & (mapped < self.low + self.span), axis=1)
        code = np.where(inside, self._code(mapped), -1)
        place = np.minimum(np.searchsorted(self.code, code), len(self.code) - 1)
        return np.where(inside & (self.code[place] == code), self.order[place], -1)
