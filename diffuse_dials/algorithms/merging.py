"""Scaled sums → the map: one division per voxel, for all stills and for random halves of them.

With C photons, background G, response R and scale b of still i in voxel v, and weights u that do not depend on the
still's own counts (1 without background),

    I = Σ u (C - G) / Σ u b R              unbiased down to zero counts
    σ²(I) = Σ u² var(C - G) / (Σ u b R)²     what counting statistics and detector predict
    σ²(I) = Σ [u (C - G - b R I)]² / [(Σ u b R)² - Σ (u b R)²]     what the stills' scatter about the mean shows

The last is free of bias for photon counts of any response (for equal responses it is the variance of a mean, n - 1).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import libtbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.algorithms.running.mpi import ALONE, Communicator
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.kernels.merging import FURTHER, HALF, WHOLE, WITH_BRAGG, add_stills
from diffuse_dials.models.grid import GridRecord, holds_lattice_point
from diffuse_dials.models.scaled import GOOD, ScaledRows

phil_scope = libtbx.phil.parse(
    """
merging {
  n_splits = 5
    .type = int(value_min=1, value_max=1000)
    .help = "Number of random divisions of the stills into halves; statistics average over them, the map's file holds"
            "the first."
  seed = 0
    .type = int
    .help = "Seed of these random divisions."
  exclude_lattice_points = Auto
    .type = bool
    .help = "Leave voxels that contain a lattice point out of scaling and statistics. Auto: yes if ndiv is above 1 on"
            "all axes; with ndiv=1 on an axis too much of the map would be lost."
}
"""
)

# How DIALS marks a value that was not measured.
NOT_MEASURED = -1.0


@dataclass(frozen=True)
class Intensities:
    """Intensity of each voxel from some of the stills.

    Attributes:
        value: Σ u (C - G) / Σ u b R, shape (n,), units of counts over response; 0 where nothing was measured.
        variance: What the variances of the sums predict for it, same shape; -1 where nothing was measured. None where
            it was not asked for (halves of all splits but the first).
        multiplicity: Stills that measured the voxel, same shape, int32.
    """

    value: np.ndarray
    variance: np.ndarray | None
    multiplicity: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """Where there is a value, shape (n,), bool."""
        return self.multiplicity > 0

    def select(self, which: np.ndarray) -> Intensities:
        """The voxels that a mask or an index array names."""
        variance = None if self.variance is None else self.variance[which]
        return Intensities(self.value[which], variance, self.multiplicity[which])


@dataclass(frozen=True)
class DiffuseMap:
    """The merged map, a row per voxel of the asymmetric unit, ordered by h, k, l.

    Attributes:
        index: Voxels n, shape (n, 3), int32.
        rlp: Their centres B_ref·h, shape (n, 3), 1/Å.
        intensity: From all stills.
        scatter_variance: Variance of the intensity from the scatter of the stills, shape (n,); -1 where fewer than two
            stills measured the voxel.
        n_pixels: Pixels in it, shape (n,), int32.
        with_bragg: Intensity from all stills with the pixels under the Bragg mask included: Σ (C - G) / Σ b R. Its
            variance is the scatter between the stills, which at a lattice point sample a narrow peak; -1 for one still.
        lattice_point: Whether the voxel holds a lattice point, shape (n,), bool.
        exposure: Σ u b R, by which the intensity was divided, shape (n,); 0 where nothing was measured.
        halves: For each random split, the intensities from either half of the stills.
    """

    index: np.ndarray
    rlp: np.ndarray
    intensity: Intensities
    scatter_variance: np.ndarray
    n_pixels: np.ndarray
    with_bragg: Intensities
    lattice_point: np.ndarray
    exposure: np.ndarray
    halves: tuple[tuple[Intensities, Intensities], ...]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def s(self) -> np.ndarray:
        """|s| of the voxels' centres, shape (n,), 1/Å."""
        return np.linalg.norm(self.rlp, axis=1)

    def select(self, which: np.ndarray) -> DiffuseMap:
        """The voxels that a mask or an index array names."""
        return DiffuseMap(
            self.index[which], self.rlp[which], self.intensity.select(which), self.scatter_variance[which],
            self.n_pixels[which], self.with_bragg.select(which), self.lattice_point[which],
            self.exposure[which],
            tuple((first.select(which), second.select(which)) for first, second in self.halves),
        )  # fmt: skip

    def columns(self, ndiv) -> dict[str, np.ndarray]:
        """The columns of merged.refl."""
        columns = {
            "miller_index": self.index, "hkl": self.index / np.asarray(ndiv, dtype=np.float64), "rlp": self.rlp,
            "d": 1 / self.s, "n_pixels": self.n_pixels,
            "intensity.scale.value": self.intensity.value, "intensity.scale.variance": self.intensity.variance,
            "intensity.scatter.variance": self.scatter_variance, "multiplicity": self.intensity.multiplicity,
            "intensity.all.value": self.with_bragg.value, "intensity.all.variance": self.with_bragg.variance,
            "multiplicity.all": self.with_bragg.multiplicity, "lattice_point": self.lattice_point,
        }  # fmt: skip
        for number, half in enumerate(self.halves[0], start=1):
            columns[f"intensity.half{number}.value"] = half.value
            columns[f"intensity.half{number}.variance"] = half.variance
            columns[f"multiplicity.half{number}"] = half.multiplicity
        return columns


def excludes_lattice_points(setting, ndiv) -> bool:
    """What merging.exclude_lattice_points means on this grid."""
    return all(n > 1 for n in ndiv) if setting in (None, Auto) else bool(setting)


class Merger:
    """Adds up scaled sums, block by block; its memory grows with the number of voxels only, not of stills.

    A still's symmetry mates and panels count as one measurement of the voxel.
    """

    def __init__(self, n_voxels: int, splits: np.ndarray):
        """
        Args:
            n_voxels: Voxels that the rows number.
            splits: For each random split, which stills are in its first half, shape (n_splits, n_stills), bool.
        """
        self._splits = np.ascontiguousarray(splits)
        self._whole = _Sums.empty((n_voxels,), WHOLE)
        self._with_bragg = _Sums.empty((n_voxels,), WITH_BRAGG)
        self._half = _Sums.empty((n_voxels,), HALF)
        self._further = _Sums.empty((len(splits) - 1, n_voxels), FURTHER)
        self._n_pixels = np.zeros(n_voxels, dtype=np.int64)
        self._slot = np.full(n_voxels, -1, dtype=np.int32)

    def add(self, rows: ScaledRows) -> None:
        """Add a block; all rows of a still must come in one block."""
        if np.any(np.diff(rows.still) < 0):
            rows = rows.select(np.argsort(rows.still, kind="stable"))
        add_stills(
            rows.still, rows.voxel, rows.bragg, rows.flags != GOOD, rows.weight, rows.signal, rows.expected,
            rows.variance, rows.counts, rows.n_pixels, self._splits, *self._whole.arrays, self._n_pixels,
            *self._with_bragg.arrays, *self._half.arrays, *self._further.arrays, self._slot,
        )  # fmt: skip

    def add_ranks(self, comm: Communicator) -> None:
        """Add up on rank 0 what all ranks have; nothing is left on the others."""
        self._whole, self._with_bragg = self._whole.on_first(comm), self._with_bragg.on_first(comm)
        self._half, self._further = self._half.on_first(comm), self._further.on_first(comm)
        self._n_pixels = comm.sum_on_first(self._n_pixels)

    def result(self, index: np.ndarray, record: GridRecord) -> DiffuseMap:
        """Divide. Lattice-point voxels are kept, with a flag; voxels without any pixel are left out.

        Args:
            index: The voxels that the rows numbered, shape (n_voxels, 3).
            record: The grid.
        """
        whole, with_bragg = self._whole.intensities(), self._with_bragg.intensities()
        halves = [self._half, *(self._further.split(number) for number in range(len(self._splits) - 1))]
        return DiffuseMap(
            index=index,
            rlp=reciprocal_vectors(index, record),
            intensity=whole,
            scatter_variance=self._whole.scatter_variance(),
            n_pixels=self._n_pixels.astype(np.int32),
            with_bragg=replace(with_bragg, variance=self._with_bragg.scatter_variance()),
            lattice_point=holds_lattice_point(index, record.ndiv),
            exposure=self._whole["denominator"],
            halves=tuple((half.intensities(), half.rest_of(self._whole).intensities()) for half in halves),
        ).select(with_bragg.measured)


@dataclass(frozen=True)
class _Sums:
    """Sums per voxel over some of the stills.

    Attributes:
        names: Of the columns.
        values: Shape (..., n_voxels, columns).
        multiplicity: Stills, shape (..., n_voxels), int32.
    """

    names: tuple[str, ...]
    values: np.ndarray
    multiplicity: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, ...], names: tuple[str, ...]) -> _Sums:
        """Zeros."""
        return cls(names, np.zeros((*shape, len(names))), np.zeros(shape, dtype=np.int32))

    def on_first(self, comm: Communicator) -> _Sums | None:
        """Sums over all ranks, on rank 0; None on the others."""
        values, multiplicity = comm.sum_on_first(self.values), comm.sum_on_first(self.multiplicity)
        return _Sums(self.names, values, multiplicity) if comm.rank == 0 else None

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and multiplicities, as the kernel takes them."""
        return self.values, self.multiplicity

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[..., self.names.index(name)]

    def split(self, number: int) -> _Sums:
        """One of several splits."""
        return _Sums(self.names, self.values[number], self.multiplicity[number])

    def rest_of(self, whole: _Sums) -> _Sums:
        """What ``whole`` holds beyond these."""
        values = whole.values[:, : len(self.names)] - self.values  # the first columns are the same
        return _Sums(self.names, values, whole.multiplicity - self.multiplicity)

    @property
    def _value(self) -> np.ndarray:
        seen = self.multiplicity > 0
        return np.where(seen, self["numerator"], 0) / np.where(seen, self["denominator"], 1)

    def intensities(self) -> Intensities:
        """The quotients, with the variance that the sums predict if they hold what that needs."""
        if "variance" not in self.names:
            return Intensities(self._value, None, self.multiplicity)
        seen = self.multiplicity > 0
        # A sum without any photon has an uncertainty too: that of one photon.
        dark = seen & (self["counts"] == 0)
        photon = np.where(dark, self["one_photon"] / np.maximum(self.multiplicity, 1), 0)
        variance = (self["variance"] + photon) / np.where(seen, self["denominator"], 1) ** 2
        return Intensities(self._value, np.where(seen, variance, NOT_MEASURED), self.multiplicity)

    def scatter_variance(self) -> np.ndarray:
        """Variance of the quotients from the scatter of the stills about them; -1 for fewer than two stills."""
        value = self._value
        scatter = self["square"] - 2 * value * self["product"] + value**2 * self["response_square"]
        free = self["denominator"] ** 2 - self["response_square"]
        several = (self.multiplicity > 1) & (free > 0)
        return np.divide(np.maximum(scatter, 0), free, out=np.full(len(free), NOT_MEASURED), where=several)


def merge(
    blocks: Iterable[ScaledRows], index: np.ndarray, record: GridRecord, splits: np.ndarray, comm: Communicator = ALONE
) -> DiffuseMap | None:
    """Merge all blocks of scaled sums; arguments as in :class:`Merger`.

    Args:
        comm: Ranks of which each merges the rows of its own stills; rank 0 is given the map, the others None.

    Raises:
        ValueError: What the blocks raise, on every rank.
    """
    merger = Merger(len(index), splits)
    with comm.together():
        for rows in blocks:
            merger.add(rows)
    merger.add_ranks(comm)
    return merger.result(index, record) if comm.rank == 0 else None


def half_sets(keys: list[StillKey], seed: int, n_splits: int) -> np.ndarray:
    """Random halves of the stills, balanced to one.

    Stills are ranked by a hash of image, number, lattice and seed: neither their order, their identifiers nor the
    number of workers matters.

    Args:
        keys: What names each still.
        seed: Another seed gives other halves.
        n_splits: How many divisions.

    Returns:
        True for stills of the first half, shape (n_splits, n_stills), bool.
    """
    labels = _distinct_labels(keys)
    halves = np.zeros((n_splits, len(labels)), dtype=bool)
    for split in range(n_splits):
        ranked = sorted(range(len(labels)), key=lambda i: _hash(f"{labels[i]}:{seed}:{split}"))
        halves[split, ranked[: (len(labels) + 1) // 2]] = True
    return halves


def _distinct_labels(keys: list[StillKey]) -> list[str]:
    """Labels of the stills; equal file names in different folders are distinguished by the order of the folders."""
    labels = [key.label for key in keys]
    seen = Counter(labels)
    if all(n == 1 for n in seen.values()):
        return labels
    number = Counter()
    distinct = list(labels)
    for i in sorted(range(len(keys)), key=lambda i: keys[i].image):
        distinct[i] = f"{labels[i]}:{number[labels[i]]}"
        number[labels[i]] += 1
    return distinct


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
