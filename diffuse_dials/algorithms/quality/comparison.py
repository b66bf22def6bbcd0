"""A map compared with another on the same grid, such as the truth of a simulation."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.merging import excludes_lattice_points
from diffuse_dials.algorithms.quality.statistics import correlation, equal_volume_edges, isotropic_part, shell_of
from diffuse_dials.algorithms.scaling.symmetry import orbit_sizes, reciprocal_vectors
from diffuse_dials.algorithms.wording import without_nan
from diffuse_dials.io.tables import Table
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.grid import GridRecord, holds_lattice_point

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1)
  .help = "Compare to this resolution (Å). None: as far as both maps reach."
d_max = None
  .type = float(value_min=0.1)
  .help = "Compare from this resolution on (Å). None: from the lowest that both have."
compare {
  column = *Auto absolute scale
    .type = choice
    .help = "Intensities to compare: intensity.absolute.value or intensity.scale.value. Auto: absolute if both have it."
  free_scale = Auto
    .type = bool
    .help = "Put the map on the truth's scale first. Auto: only if the intensities are not absolute in both."
  exclude_lattice_points = Auto
    .type = bool
    .help = "Leave voxels that hold a lattice point out. Auto: yes if ndiv is above 1 on all axes."
  n_shells = 10
    .type = int(value_min=1, value_max=100)
    .help = "Shells of equal volume in reciprocal space, by which the agreement is listed."
  min_counts = 20
    .type = float(value_min=1)
    .help = "χ² is taken over voxels where the truth predicts (I/σ)² of this or more; without background (I/σ)² is the"
            "number of photons."
}
stills {
  truth = None
    .type = path
    .help = "Table (.csv) with columns image and scale: the true scales of the stills."
  scaled = None
    .type = path
    .help = "stills.csv of diffuse.scale, to compare with them."
}
"""
)


@dataclass(frozen=True)
class Agreement:
    """One line of a comparison; NaN where a number is undefined.

    Attributes:
        d_max, d_min: Limits, Å.
        n_voxels: Voxels in both maps.
        cc: Correlation of the intensities.
        cc_anisotropic: Correlation after the mean over fine shells was subtracted from each map.
        cc_weighted: The same with each voxel weighted by 1/σ²: voxels that few pixels saw do not dominate it.
        slope: Regression of the map on the truth, through the origin (after ``Comparison.scale``).
        slope_anisotropic: The same for the anisotropic parts.
        mean_ratio: Mean of the map over mean of the truth.
        chi_square: Mean of (map - truth)²/σ² over voxels of enough counts.
        n_chi_square: Their number.
    """

    d_max: float
    d_min: float
    n_voxels: int
    cc: float
    cc_anisotropic: float
    cc_weighted: float
    slope: float
    slope_anisotropic: float
    mean_ratio: float
    chi_square: float
    n_chi_square: int

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Comparison:
    """Two maps compared.

    Attributes:
        column: The intensities compared, "absolute" or "scale" for the map and the truth.
        scale: By which the map was divided; 1 unless the scale is free.
        shells: By shell, from low to high resolution.
        overall: All shells.
        index: Voxels in both, shape (n, 3), int32.
        value, truth: Their intensities on the truth's scale, shape (n,).
        anisotropic, truth_anisotropic: The same without the mean over fine shells.
    """

    column: tuple[str, str]
    scale: float
    shells: tuple[Agreement, ...]
    overall: Agreement
    index: np.ndarray
    value: np.ndarray
    truth: np.ndarray
    anisotropic: np.ndarray
    truth_anisotropic: np.ndarray

    headers = (
        "d (Å)", "voxels", "CC", "CC anis.", "weighted", "slope", "slope anis.", "mean ratio", "χ²", "voxels of χ²",
    )  # fmt: skip

    def to_dict(self) -> dict:
        """The numbers, for JSON."""
        return {
            "columns": {"map": self.column[0], "truth": self.column[1]},
            "scale": self.scale,
            "shells": [shell.to_dict() for shell in self.shells],
            "overall": self.overall.to_dict(),
        }

    def rows(self) -> list[tuple]:
        """Rows of the table, the last overall."""
        rows = []
        for name, a in [*(("", shell) for shell in self.shells), ("all ", self.overall)]:
            numbers = (a.cc, a.cc_anisotropic, a.cc_weighted, a.slope, a.slope_anisotropic, a.mean_ratio, a.chi_square)
            limits = f"{name}{a.d_max:.2f} - {a.d_min:.2f}"
            rows.append((limits, a.n_voxels, *(f"{x:.3f}" for x in numbers), a.n_chi_square))
        return without_nan(rows)


def compare_maps(table: Table, truth: Table, record: GridRecord, params) -> Comparison:
    """Compare two maps voxel by voxel.

    Args:
        table: The map, merged.refl or absolute.refl.
        truth: The map to compare with; the same columns.
        record: The grid of both.
        params: Extract of diffuse.compare.

    Raises:
        ValueError: If columns are missing, or the maps have no voxels in common.
    """
    names = check_columns(table, truth, params.compare.column)
    value, variance, truth_value, index = _common(table, truth, names)
    s = np.linalg.norm(reciprocal_vectors(index, record), axis=1)
    keep = np.ones(len(s), dtype=bool)
    if excludes_lattice_points(params.compare.exclude_lattice_points, record.ndiv):
        keep &= ~holds_lattice_point(index, record.ndiv)
    keep &= s <= (1 / params.d_min if params.d_min else np.inf)
    keep &= s >= (1 / params.d_max if params.d_max else 0)
    if not keep.any():
        raise ValueError(
            f"No voxel of {table.path} is left to compare with {truth.path}. Check d_min, d_max and "
            "exclude_lattice_points."
        )
    value, variance, truth_value, index, s = value[keep], variance[keep], truth_value[keep], index[keep], s[keep]
    free = params.compare.free_scale
    free = names != ("absolute", "absolute") if free is None or not isinstance(free, bool) else free
    scale = _slope(value, truth_value) if free else 1.0
    if not scale > 0:
        raise ValueError(
            f"{table.path} and {truth.path} are not correlated (slope {scale:.3g}): no common scale. Check that they "
            "belong together."
        )
    value, variance = value / scale, variance / scale**2
    orbits = orbit_sizes(index, record)
    anisotropic = value - isotropic_part(s, value, orbits)
    truth_anisotropic = truth_value - isotropic_part(s, truth_value, orbits)
    # Chosen by the truth's intensity: a choice by the map's own would favour its upward errors.
    enough = (truth_value > 0) & (truth_value**2 >= params.compare.min_counts * variance)
    square = (value - truth_value) ** 2 / variance
    edges = equal_volume_edges(s.min(), s.max(), params.compare.n_shells)
    shell = shell_of(s, edges)

    def line(part, low, high):
        counted = square[part & enough]
        return Agreement(
            1 / low, 1 / high, int(part.sum()), correlation(value[part], truth_value[part]),
            correlation(anisotropic[part], truth_anisotropic[part]),
            correlation(anisotropic[part], truth_anisotropic[part], 1 / variance[part]),
            _slope(value[part], truth_value[part]),
            _slope(anisotropic[part], truth_anisotropic[part]), _ratio(value[part].sum(), truth_value[part].sum()),
            _ratio(counted.sum(), len(counted)), len(counted),
        )  # fmt: skip

    shells = tuple(line(shell == i, edges[i], edges[i + 1]) for i in range(params.compare.n_shells))
    overall = line(np.ones(len(s), dtype=bool), edges[0], edges[-1])
    return Comparison(names, scale, shells, overall, index, value, truth_value, anisotropic, truth_anisotropic)


def check_columns(table: Table, truth: Table, wanted: str) -> tuple[str, str]:
    """Kind of intensity, "absolute" or "scale", taken from either table.

    Args:
        table, truth: The two maps.
        wanted: One of the two, or "Auto": absolute if both have it.

    Raises:
        ValueError: If a table has none.
    """
    kinds = ("absolute", "scale") if wanted in (None, "Auto") else (wanted,)

    def has(one, kind):
        return f"intensity.{kind}.value" in one

    for kind in kinds:
        if has(table, kind) and has(truth, kind):
            return kind, kind
    found = [next((kind for kind in kinds if has(one, kind)), None) for one in (table, truth)]
    for one, kind in zip((table, truth), found):
        if kind is None:
            columns = " or ".join(f"intensity.{kind}.value" for kind in kinds)
            raise ValueError(
                f"{one.path} has no column {columns}. Give the .refl that diffuse.scale, diffuse.absolute or "
                "diffuse.simulate wrote."
            )
    return tuple(found)


def _common(table: Table, truth: Table, names) -> tuple[np.ndarray, ...]:
    """Intensities and variances of the voxels measured in both, and their indices."""
    table.require(("miller_index", f"intensity.{names[0]}.variance"), "diffuse.scale or diffuse.absolute")
    truth.require(("miller_index",), "diffuse.simulate")
    codes = []
    for one in (table, truth):
        code = pack(one["miller_index"])
        if len(np.unique(code)) < len(code):
            raise ValueError(f"{one.path} has voxels more than once. Give a merged map.")
        codes.append(code)
    variance = table[f"intensity.{names[0]}.variance"]
    measured = variance > 0
    if f"intensity.{names[1]}.variance" in truth:
        truth_measured = truth[f"intensity.{names[1]}.variance"] >= 0
    else:
        truth_measured = np.ones(len(truth), dtype=bool)
    first, second = np.flatnonzero(measured), np.flatnonzero(truth_measured)
    _, i, j = np.intersect1d(codes[0][first], codes[1][second], assume_unique=True, return_indices=True)
    if not len(i):
        raise ValueError(
            f"{table.path} and {truth.path} have no voxel in common. Give two maps of one grid and symmetry."
        )
    i, j = first[i], second[j]
    value, other = table[f"intensity.{names[0]}.value"][i], truth[f"intensity.{names[1]}.value"][j]
    return value, variance[i], other, table["miller_index"][i]


def _slope(y: np.ndarray, x: np.ndarray) -> float:
    """Regression of y on x through the origin, errors in y only: Σ x y / Σ x²."""
    return _ratio(float(x @ y), float(x @ x))


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b != 0 else float("nan")
