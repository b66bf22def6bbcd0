"""Scaled sums → the map: one division per voxel, for all stills and for random halves of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import libtbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.algorithms.scaling.observations import Observations
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.models.grid import GridRecord, holds_lattice_point

phil_scope = libtbx.phil.parse(
    """
merging {
  n_splits = 5
    .type = int(value_min=1, value_max=1000)
    .help = "Random divisions of the stills into halves; statistics average over them, the map's file holds the first."
  seed = 0
    .type = int
    .help = "Another seed draws other halves."
  exclude_lattice_points = Auto
    .type = bool
    .help = "Leave voxels that hold a lattice point out of scaling and statistics. Auto: yes if ndiv is above 1 on all"
            "axes; with ndiv=1 on an axis too much of the map would go."
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
        variance: Its variance, same shape; -1 where nothing was measured.
        multiplicity: Stills that measured the voxel, same shape, int32.
    """

    value: np.ndarray
    variance: np.ndarray
    multiplicity: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """Where there is a value, shape (n,), bool."""
        return self.multiplicity > 0

    def select(self, which: np.ndarray) -> Intensities:
        """The voxels that a mask or an index array names."""
        return Intensities(self.value[which], self.variance[which], self.multiplicity[which])


@dataclass(frozen=True)
class DiffuseMap:
    """The merged map, a row per voxel of the asymmetric unit, ordered by h, k, l.

    Attributes:
        index: Voxels n, shape (n, 3), int32.
        rlp: Their centres B_ref·h, shape (n, 3), 1/Å.
        intensity: From all stills.
        n_pixels: Pixels in it, shape (n,), int32.
        with_bragg: Intensity from all stills with the pixels under the Bragg mask included: Σ (C - G) / Σ b R. Its
            variance is the scatter between the stills, which at a lattice point sample a narrow peak; -1 for one still.
        lattice_point: Whether the voxel holds a lattice point, shape (n,), bool.
        halves: For each random split, the intensities from either half of the stills.
    """

    index: np.ndarray
    rlp: np.ndarray
    intensity: Intensities
    n_pixels: np.ndarray
    with_bragg: Intensities
    lattice_point: np.ndarray
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
            self.index[which], self.rlp[which], self.intensity.select(which), self.n_pixels[which],
            self.with_bragg.select(which), self.lattice_point[which],
            tuple((first.select(which), second.select(which)) for first, second in self.halves),
        )  # fmt: skip

    def columns(self, ndiv) -> dict[str, np.ndarray]:
        """The columns of merged.refl."""
        columns = {
            "miller_index": self.index, "hkl": self.index / np.asarray(ndiv, dtype=np.float64), "rlp": self.rlp,
            "d": 1 / self.s, "n_pixels": self.n_pixels,
            "intensity.scale.value": self.intensity.value, "intensity.scale.variance": self.intensity.variance,
            "multiplicity": self.intensity.multiplicity,
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


def merge(
    observations: Observations, scale: np.ndarray, weight: np.ndarray, record: GridRecord, splits: np.ndarray
) -> DiffuseMap:
    """Merge scaled sums.

    The weights u do not depend on an observation's own counts, so every sum, and with it the map, is unbiased down
    to zero counts; u = 1 where there is no background. Lattice-point voxels are kept, with a flag.

    Args:
        observations: Sums per (voxel, still).
        scale: b of each still, shape (n_stills,); stills with NaN are left out.
        weight: u of each observation, shape (n,).
        record: The grid.
        splits: For each random split, which stills are in its first half, shape (n_splits, n_stills), bool.

    Returns:
        The map.
    """
    usable = np.isfinite(scale)
    b = np.where(usable, scale, 0)[observations.still]
    inside = usable[observations.still]
    rlp = reciprocal_vectors(observations.index, record)
    terms = _Terms(observations, b, weight)
    with_bragg = _with_bragg(observations, inside, b)
    return DiffuseMap(
        index=observations.index,
        rlp=rlp,
        intensity=terms.intensities(usable),
        n_pixels=observations.sum_by_voxel(inside * observations.n_pixels).astype(np.int32),
        with_bragg=with_bragg,
        lattice_point=holds_lattice_point(observations.index, record.ndiv),
        halves=tuple((terms.intensities(usable & half), terms.intensities(usable & ~half)) for half in splits),
    ).select(with_bragg.measured)


def _with_bragg(observations: Observations, inside: np.ndarray, b: np.ndarray) -> Intensities:
    """Intensities of all pixels, those under the Bragg mask too; the variance is that of a ratio of sums over stills."""
    signal = inside * (observations.signal + observations.bragg_signal)
    response = b * (observations.response + observations.bragg_response)
    multiplicity = observations.sum_by_voxel(response > 0).astype(np.int32)
    total = observations.sum_by_voxel(response)
    measured = np.where(multiplicity > 0, total, 1)
    value = observations.sum_by_voxel(signal) / measured
    squares = observations.sum_by_voxel((signal - value[observations.voxel] * response) ** 2)
    several = multiplicity > 1
    spread = squares / measured**2 * multiplicity / np.maximum(multiplicity - 1, 1)
    return Intensities(value, np.where(several, spread, NOT_MEASURED), multiplicity)


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
    """Labels of the stills; those of equal file names in different folders are told apart by the folders' order."""
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


class _Terms:
    """What each observation adds to numerator, denominator and variance."""

    def __init__(self, observations: Observations, b: np.ndarray, weight: np.ndarray):
        self.observations = observations
        self.numerator = weight * observations.signal
        self.denominator = weight * b * observations.response
        self.variance = weight**2 * observations.variance
        self.weight, self.measured = weight, observations.n_pixels > 0

    def intensities(self, stills: np.ndarray) -> Intensities:
        """Intensities from the stills that the mask (n_stills,) names."""
        observations = self.observations
        part = np.flatnonzero(stills[observations.still] & self.measured)
        voxel = observations.voxel[part]

        def total(values):
            # Of no rows at all (the empty half of a single still) NumPy returns integers.
            return np.bincount(voxel, values[part], observations.n_voxels).astype(np.float64, copy=False)

        multiplicity = np.bincount(voxel, minlength=observations.n_voxels)
        seen = multiplicity > 0
        denominator = np.where(seen, total(self.denominator), 1)
        variance = total(self.variance)
        # No photon at all has an uncertainty too: that of one photon (physics.md F).
        dark = seen & (total(observations.counts) == 0)
        variance[dark] += (total(self.weight**2) / np.maximum(multiplicity, 1))[dark]
        return Intensities(
            total(self.numerator) / denominator,
            np.where(seen, variance / denominator**2, NOT_MEASURED),
            multiplicity.astype(np.int32),
        )
