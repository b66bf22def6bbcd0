"""Bragg intensities of the stills, merged per h: for statistics and the Wilson plot, never for scales or the map.

A still's Bragg intensity is |F|² times λ² g/V, and g, the height of the lattice point's profile where the Ewald sphere
cuts it, differs from still to still and spot to spot (docs/physics.md, "Absolute units"). So these numbers show how
good the crystals and their indexing are, but give no absolute scale. Intensities are never divided by the partiality,
which for stills is a placeholder of 1 or is not relative to the largest g; low ones are only counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.adapters.scattering import sum_f0_squared
from diffuse_dials.adapters.symmetry import count_unique, fractionalization, map_to_asu, parse_space_group
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.quality.statistics import correlation, equal_volume_edges, shell_of
from diffuse_dials.algorithms.wording import without_nan
from diffuse_dials.io.tables import load_table
from diffuse_dials.kernels.physics import polarization
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.grid import GridRecord

phil_scope = libtbx.phil.parse(
    """
input {
  bragg = None
    .type = path
    .multiple = True
    .help = "Integrated reflections (.refl) of the same stills, for Bragg statistics and a Wilson plot. Neither the"
            "scales nor the map use them."
}
"""
)

REQUIRED = ("id", "miller_index", "intensity.sum.value", "intensity.sum.variance", "s1")
# Atoms of an average residue of protein; the shape of the Wilson plot needs no more.
_RESIDUE = {"C": 4.9, "N": 1.35, "O": 1.5, "H": 7.8, "S": 0.03}


@dataclass(frozen=True)
class BraggShell:
    """One line of the table; NaN where a number is undefined.

    Attributes:
        d_max, d_min: Limits of the shell, Å.
        n_observed: Spots integrated.
        n_unique: Different h among them.
        completeness: Their part of all h of the asymmetric unit.
        multiplicity: Spots per h.
        mean: Mean of the merged intensities, over scales.
        i_over_sigma: Mean of I/σ(I) of the spots.
        r_merge: Σ |J - <J>| / Σ J over h of two spots or more; large for stills, whose spots are partial.
        cc_half: Correlation of the merged intensities of random halves of the stills.
        wilson: ln(mean / Σ f0² of an average protein), arbitrary origin.
    """

    d_max: float
    d_min: float
    n_observed: int
    n_unique: int
    completeness: float
    multiplicity: float
    mean: float
    i_over_sigma: float
    r_merge: float
    cc_half: float
    wilson: float


@dataclass(frozen=True)
class BraggStatistics:
    """Bragg statistics by shell and overall.

    Attributes:
        shells: From low to high resolution.
        overall: All shells.
        n_stills: Stills with spots.
        n_low_partiality: Spots whose partiality is below the limit: counted, kept.
        min_partiality: That limit.
        has_partiality: Whether the files hold a partiality.
    """

    shells: tuple[BraggShell, ...]
    overall: BraggShell
    n_stills: int
    n_low_partiality: int
    min_partiality: float
    has_partiality: bool

    headers = ("d (Å)", "spots", "unique", "complete", "spots/h", "<J>", "<J/σ>", "R_merge", "CC½", "ln <J>/Σf²")

    def rows(self) -> list[tuple]:
        """Rows of the table, the last overall."""
        return without_nan(
            (
                f"{name}{b.d_max:.2f} - {b.d_min:.2f}", b.n_observed, b.n_unique, f"{b.completeness:.3f}",
                f"{b.multiplicity:.1f}", f"{b.mean:.4g}", f"{b.i_over_sigma:.1f}", f"{b.r_merge:.3f}",
                f"{b.cc_half:.3f}", f"{b.wilson:.2f}",
            )
            for name, b in [*(("", shell) for shell in self.shells), ("all ", self.overall)]
        )  # fmt: skip

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        lines = [{k: None if v != v else v for k, v in asdict(line).items()} for line in (*self.shells, self.overall)]
        return {
            "shells": lines[:-1], "overall": lines[-1], "n_stills": self.n_stills,
            "n_low_partiality": self.n_low_partiality, "min_partiality": self.min_partiality,
            "has_partiality": self.has_partiality, "divided_by_partiality": False,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: dict) -> BraggStatistics:
        """The statistics that ``to_dict`` gave."""
        lines = [
            BraggShell(**{name: float("nan") if value is None else value for name, value in line.items()})
            for line in (*content["shells"], content["overall"])
        ]
        names = ("n_stills", "n_low_partiality", "min_partiality", "has_partiality")
        return cls(tuple(lines[:-1]), lines[-1], *(content[name] for name in names))


@dataclass(frozen=True)
class Spots:
    """Bragg spots of stills that have a scale.

    Attributes:
        still: Position of the still, shape (n,), int.
        asu: Representative of h, shape (n, 3), int32.
        intensity: Summed photons over polarization, as integrated, shape (n,).
        sigma: Its standard uncertainty, same shape.
        partiality: As the file gives it, same shape; None where it gives none.
    """

    still: np.ndarray
    asu: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    partiality: np.ndarray | None


def load_spots(names, experiments, scale: np.ndarray, record: GridRecord, integrated=None) -> Spots:
    """Read integrated reflections.

    Args:
        names: .refl files.
        experiments: The stills, found by identifier; spots of others are left out.
        scale: Of each still, shape (n_stills,), NaN without one.
        record: The grid: symmetry, and the polarization that the map was corrected for.
        integrated: The stills as they were integrated, where some were re-indexed since; None: as ``experiments``.

    Raises:
        ValueError: If columns are missing, or no spot belongs to a still with a scale.
    """
    number = {identifier: i for i, identifier in enumerate(experiments.identifiers()) if np.isfinite(scale[i])}
    settings = None if integrated is None else _changes_of_setting(integrated, experiments)
    parts = []
    for name in names:
        table = load_table(name, REQUIRED, "dials.stills_process")
        still = np.full(max(int(table["id"].max()), max(table.identifiers, default=0)) + 2, -1)
        for i, identifier in table.identifiers.items():
            still[i] = number.get(identifier, -1)
        still = still[table["id"]]
        keep = (still >= 0) & (table["intensity.sum.variance"] > 0) & np.any(table["miller_index"] != 0, axis=1)
        factor = _polarization(table["s1"][keep], still[keep], experiments, record)
        hkl = table["miller_index"][keep]
        if settings is not None:
            hkl = np.einsum("nij,nj->ni", settings[still[keep]], hkl).astype(hkl.dtype)
        parts.append((
            still[keep], hkl, table["intensity.sum.value"][keep] / factor,
            np.sqrt(table["intensity.sum.variance"][keep]) / factor,
            table["partiality"][keep] if "partiality" in table else np.full(keep.sum(), np.nan),
        ))  # fmt: skip
    still, hkl, intensity, sigma, partiality = (np.concatenate(columns) for columns in zip(*parts))
    if not len(still):
        raise ValueError(
            f"No reflection of {', '.join(names)} belongs to a still that was scaled. Give the integrated .refl files "
            "of the stills that were gridded."
        )
    asu = map_to_asu(hkl, parse_space_group(record.space_group))
    return Spots(still, asu, intensity, sigma, None if np.all(np.isnan(partiality)) else partiality)


def _changes_of_setting(before, after) -> np.ndarray:
    """Integer matrix of each still that takes its indices from one setting to the other, shape (n, 3, 3)."""
    matrices = [
        np.linalg.inv(setting_matrix(new)) @ setting_matrix(old) for old, new in zip(before, after, strict=True)
    ]
    return np.rint(matrices).astype(int)


def bragg_statistics(
    spots: Spots, scale: np.ndarray, splits: np.ndarray, record: GridRecord, n_shells: int, min_partiality: float
) -> BraggStatistics:
    """Merge spots per h, Σ J / Σ b, and judge them by shell.

    Args:
        spots: The spots.
        scale: b of each still, shape (n_stills,).
        splits: For each random split, which stills are in its first half, shape (n_splits, n_stills), bool.
        record: The grid.
        n_shells: Shells of equal volume.
        min_partiality: Spots below it are counted.
    """
    codes, first, h = np.unique(pack(spots.asu), return_index=True, return_inverse=True)
    n, b = len(codes), scale[spots.still]

    def merged(part):
        exposure = np.bincount(h[part], b[part], n)
        total = np.bincount(h[part], spots.intensity[part], n)
        return np.divide(total, exposure, out=np.full(n, np.nan), where=exposure > 0)

    value = merged(np.ones(len(h), dtype=bool))
    halves = [(merged(half[spots.still]), merged(~half[spots.still])) for half in splits]
    s = np.linalg.norm(spots.asu[first] @ fractionalization(record.unit_cell).T, axis=1)
    edges = equal_volume_edges(s.min(), s.max(), n_shells)
    shell = shell_of(s, edges)
    several = np.bincount(h, minlength=n) > 1
    deviation, total = np.abs(spots.intensity - b * value[h]), b * np.abs(value[h])
    group = parse_space_group(record.space_group)

    def line(low: int, high: int) -> BraggShell:
        of_h = (shell >= low) & (shell < high)
        part = of_h[h]
        limits = (1 / edges[low] if edges[low] > 0 else np.inf, 1 / edges[high])
        possible = count_unique(record.unit_cell, group, *limits)
        pairs = [(x[of_h], y[of_h]) for x, y in halves]
        cc = [correlation(x[both], y[both]) for x, y in pairs for both in [np.isfinite(x + y)]]
        used = part & several[h]
        mean = _mean(value[of_h])
        ratio = mean / _mean(sum_f0_squared(_RESIDUE, s[of_h])) if of_h.any() else np.nan
        return BraggShell(
            *(float(x) for x in limits), int(part.sum()), int(of_h.sum()),
            float(of_h.sum() / possible) if possible else np.nan, float(part.sum() / max(of_h.sum(), 1)), mean,
            _mean((spots.intensity / spots.sigma)[part]),
            float(deviation[used].sum() / total[used].sum()) if used.any() else np.nan,
            _mean(np.array(cc)[np.isfinite(cc)]), float(np.log(ratio)) if ratio > 0 else np.nan,
        )  # fmt: skip

    low = 0 if spots.partiality is None else int(np.sum(spots.partiality < min_partiality))
    return BraggStatistics(
        tuple(line(i, i + 1) for i in range(n_shells)), line(0, n_shells), len(np.unique(spots.still)), low,
        min_partiality, spots.partiality is not None,
    )  # fmt: skip


def _polarization(s1: np.ndarray, still: np.ndarray, experiments, record: GridRecord) -> np.ndarray:
    """P of each spot, as the map was corrected for it; 1 where it was not."""
    values = record.corrections.get("polarization", {})
    if not values.get("applied"):
        return np.ones(len(s1))
    direction = s1 / np.linalg.norm(s1, axis=1)[:, None]
    factor = np.ones(len(s1))
    for i in np.unique(still):
        part, beam = still == i, np.array(experiments[int(i)].beam.get_unit_s0())
        factor[part] = polarization(direction[part], beam, np.array(values["normal"]), values["fraction"])
    return factor


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
