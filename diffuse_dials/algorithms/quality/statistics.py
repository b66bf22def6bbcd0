"""How good a map is: correlations of random halves, by resolution shell and overall."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.wording import without_nan

phil_scope = libtbx.phil.parse(
    """
statistics {
  n_shells = 10
    .type = int(value_min=1, value_max=100)
    .help = "Shells of equal volume in reciprocal space, by which statistics are listed."
  random_orientations = 0
    .type = int(value_min=0, value_max=1000)
    .help = "Null test: merge this many times with every still turned by a random rotation. Half maps must then not"
            "agree: CC1/2 near 0 in every shell. Needs grid.positions=True; each time costs as much as the merging. 0:"
            "no test."
}
"""
)

_VOXELS_PER_FINE_SHELL = 100
_MAX_FINE_SHELLS = 500
_FEWEST = 3
_ROUNDING = 1e-12  # of a correlation: exchanged halves are the same split


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Pearson's correlation coefficient, weighted if weights are given; NaN for less than three pairs or a constant."""
    if len(x) < _FEWEST:
        return float("nan")
    w = np.ones(len(x)) if weights is None else weights / weights.sum()
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    norm = np.sqrt(((w * x) @ x) * ((w * y) @ y))
    return float((w * x) @ y / norm) if norm > 0 else float("nan")


def cc_star(cc_half: float) -> float:
    """Expected correlation with the noise-free map, √(2 CC½/(1 + CC½)) (Karplus & Diederichs 2012); NaN below 0."""
    return float(np.sqrt(2 * cc_half / (1 + cc_half))) if cc_half >= 0 else float("nan")


def r_split(x: np.ndarray, y: np.ndarray) -> float:
    """2^(-1/2) Σ|x - y| / ½Σ(x + y) (White et al. 2012); NaN if the sum is not positive."""
    total = 0.5 * np.sum(x + y)
    return float(np.sum(np.abs(x - y)) / np.sqrt(2) / total) if total > 0 else float("nan")


def equal_volume_edges(s_low: float, s_high: float, n_shells: int) -> np.ndarray:
    """Edges in |s| (1/Å) of shells of equal volume in reciprocal space, shape (n_shells + 1,)."""
    edges = np.cbrt(np.linspace(s_low**3, s_high**3, n_shells + 1))
    edges[[0, -1]] = s_low, s_high
    return edges


def shell_of(s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of the shell of each |s|; limits are inside, to rounding; -1 outside."""
    shell = np.searchsorted(edges[1:-1], s, side="right")
    rounding = 1e-9 * edges[-1]
    return np.where((s >= edges[0] - rounding) & (s <= edges[-1] + rounding), shell, -1)


def isotropic_part(s: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """I_iso(|s|): means over fine shells of about 100 voxels, interpolated to each voxel.

    Args:
        s: |s|, shape (n,), 1/Å.
        values: Intensities, same shape.
        weights: Voxels that the symmetry makes of each, same shape: the mean is one over the sphere.

    Returns:
        I_iso at each voxel, shape (n,).
    """
    n_shells = int(np.clip(len(s) // _VOXELS_PER_FINE_SHELL, 1, _MAX_FINE_SHELLS))
    order = np.argsort(s, kind="stable")
    starts = np.linspace(0, len(s), n_shells, endpoint=False).astype(int)
    total = np.add.reduceat(weights[order], starts)
    centre = np.add.reduceat((weights * s)[order], starts) / total
    return np.interp(s, centre, np.add.reduceat((weights * values)[order], starts) / total)


@dataclass(frozen=True)
class ShellStatistics:
    """One line of the table; NaN where a number is undefined.

    Attributes:
        d_max, d_min: Limits of the shell, Å.
        n_voxels: Voxels measured.
        completeness: Their fraction of all voxels of the asymmetric unit.
        multiplicity: Stills per measured voxel.
        mean: Mean intensity of the voxels.
        isotropic_mean: The same with each voxel counted as often as the symmetry makes it: the mean over the sphere.
        i_over_sigma: Mean of I/σ(I), σ as the sums' variances predict it.
        sigma_ratio: σ from the scatter of the stills over the predicted one, root of the ratio of mean variances over
            voxels of two stills or more; 1 where the sums' variances are right and the stills agree.
        cc_half: Correlation of half maps less their isotropic parts, mean over the splits: the number to quote.
        cc_half_spread: Standard deviation of ``cc_half`` over the splits; NaN where all are one split (two stills).
        cc_star: From ``cc_half``.
        cc_half_total: Correlation of the half maps as they are; over a wide range the fall-off inflates it.
        r_split: Of the half maps as they are.
        contrast: Standard deviation of the anisotropic part, without noise, over the mean.
        chi_square: Of counts about scales and map, per degree of freedom.
    """

    d_max: float
    d_min: float
    n_voxels: int
    completeness: float
    multiplicity: float
    mean: float
    isotropic_mean: float
    i_over_sigma: float
    sigma_ratio: float
    cc_half: float
    cc_half_spread: float
    cc_star: float
    cc_half_total: float
    r_split: float
    contrast: float
    chi_square: float

    @property
    def s(self) -> float:
        """Mean |s| over the volume of the shell, 1/Å: where it is drawn."""
        low, high = 1 / self.d_max, 1 / self.d_min
        return 0.75 * (high**4 - low**4) / (high**3 - low**3)

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict) -> ShellStatistics:
        """The line that ``to_dict`` gave."""
        return cls(**{name: float("nan") if value is None else value for name, value in content.items()})


@dataclass(frozen=True)
class MapStatistics:
    """Statistics by shell, from low to high resolution, and overall.

    Attributes:
        shells: One per shell.
        overall: All shells together.
    """

    shells: tuple[ShellStatistics, ...]
    overall: ShellStatistics

    def to_dict(self) -> dict:
        """For JSON."""
        return {"shells": [shell.to_dict() for shell in self.shells], "overall": self.overall.to_dict()}

    @classmethod
    def from_dict(cls, content: dict) -> MapStatistics:
        """The statistics that ``to_dict`` gave; other keys are left alone."""
        shells = tuple(ShellStatistics.from_dict(shell) for shell in content["shells"])
        return cls(shells, ShellStatistics.from_dict(content["overall"]))

    headers = (
        "d (Å)", "voxels", "complete", "stills", "<I>", "I_iso", "<I/σ>", "σ ratio",
        "CC½", "±", "CC*", "CC½ total", "R_split", "contrast", "χ²",
    )  # fmt: skip

    def rows(self) -> list[tuple]:
        """Rows of the table, the last overall."""
        rows = []
        for name, line in [*(("", shell) for shell in self.shells), ("all ", self.overall)]:
            rows.append((
                f"{name}{line.d_max:.2f} - {line.d_min:.2f}", line.n_voxels, f"{line.completeness:.3f}",
                f"{line.multiplicity:.1f}", f"{line.mean:.4g}", f"{line.isotropic_mean:.4g}",
                f"{line.i_over_sigma:.1f}", f"{line.sigma_ratio:.2f}", f"{line.cc_half:.3f}",
                f"{line.cc_half_spread:.3f}", f"{line.cc_star:.3f}", f"{line.cc_half_total:.3f}",
                f"{line.r_split:.3f}", f"{line.contrast:.3f}", f"{line.chi_square:.4g}",
            ))  # fmt: skip
        return without_nan(rows)


def map_statistics(
    merged: DiffuseMap, orbits: np.ndarray, edges: np.ndarray, possible: np.ndarray, chi_square: np.ndarray
) -> MapStatistics:
    """Statistics of a map.

    Args:
        merged: The voxels that count (lattice points left out where they are excluded), with at least one measured.
        orbits: Voxels that the symmetry makes of each, shape (n_voxels,).
        edges: Shell edges in |s|, shape (n_shells + 1,), 1/Å.
        possible: Voxels of the asymmetric unit in each shell, measured or not, shape (n_shells,).
        chi_square: χ² of each shell and, last, of all, shape (n_shells + 1,).

    Returns:
        The statistics; correlations average over the random splits.
    """
    s = merged.s
    shell = np.where(merged.intensity.measured, shell_of(s, edges), -1)
    pairs = [_Pair.of(first, second, s, orbits) for first, second in merged.halves]
    n = len(edges) - 1
    limits = [(1 / edges[i] if edges[i] > 0 else np.inf, 1 / edges[i + 1]) for i in range(n)]
    lines = [_line(merged, orbits, shell == i, pairs, limits[i], possible[i], chi_square[i]) for i in range(n)]
    ends = (limits[0][0], limits[-1][1])
    overall = _line(merged, orbits, shell >= 0, pairs, ends, possible.sum(), chi_square[-1])
    return MapStatistics(tuple(lines), overall)


@dataclass(frozen=True)
class _Pair:
    """Two half maps and their anisotropic parts at the voxels that both measured; each half has its own isotropic
    part."""

    both: np.ndarray
    total: tuple[np.ndarray, np.ndarray]
    anisotropic: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, first, second, s, orbits) -> _Pair:
        both = first.measured & second.measured
        total = (first.value, second.value)
        anisotropic = tuple(np.zeros_like(half) for half in total)
        if both.any():
            for half, rest in zip(total, anisotropic):
                rest[both] = half[both] - isotropic_part(s[both], half[both], orbits[both])
        return cls(both, total, anisotropic)


def _line(
    merged: DiffuseMap, orbits: np.ndarray, part: np.ndarray, pairs, limits, possible, chi_square
) -> ShellStatistics:
    value, variance = merged.intensity.value[part], merged.intensity.variance[part]
    scatter = merged.scatter_variance[part]
    mean = _mean(value)
    cc, total, split, covariance = [], [], [], []
    for pair in pairs:
        both = pair.both & part
        x, y = (half[both] for half in pair.anisotropic)
        cc.append(correlation(x, y))
        covariance.append(_mean((x - x.mean()) * (y - y.mean())) if len(x) else float("nan"))
        total.append(correlation(*(half[both] for half in pair.total)))
        split.append(r_split(*(half[both] for half in pair.total)))
    spread = np.sqrt(max(_mean(covariance), 0.0)) if np.isfinite(_mean(covariance)) else float("nan")
    sigma = np.sqrt(np.where(variance > 0, variance, np.nan))
    return ShellStatistics(
        d_max=float(limits[0]),
        d_min=float(limits[1]),
        n_voxels=int(part.sum()),
        completeness=float(part.sum() / possible) if possible else float("nan"),
        multiplicity=_mean(merged.intensity.multiplicity[part]),
        mean=mean,
        isotropic_mean=float(np.average(value, weights=orbits[part])) if part.any() else float("nan"),
        i_over_sigma=_mean((value / sigma)[np.isfinite(sigma)]),
        sigma_ratio=float(np.sqrt(_mean(scatter[scatter >= 0]) / _mean(variance[scatter >= 0]))),
        cc_half=_mean(cc),
        cc_half_spread=float(np.std(cc, ddof=1)) if len(cc) > 1 and np.ptp(cc) > _ROUNDING else float("nan"),
        cc_star=cc_star(_mean(cc)),
        cc_half_total=_mean(total),
        r_split=_mean(split),
        contrast=float(spread / mean) if mean > 0 else float("nan"),
        chi_square=float(chi_square),
    )


def _mean(values) -> float:
    """Mean of what is defined; NaN if nothing is."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
