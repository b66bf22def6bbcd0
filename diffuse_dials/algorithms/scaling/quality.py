"""Statistics of a run of scaling: what statistics.py needs, gathered from stills, sums and map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap, merge
from diffuse_dials.algorithms.quality.bragg_statistics import BraggStatistics
from diffuse_dials.algorithms.quality.equivalents import Equivalents, SymmetryStatistics
from diffuse_dials.algorithms.quality.statistics import MapStatistics, equal_volume_edges, map_statistics, shell_of
from diffuse_dials.algorithms.running.mpi import ALONE, Communicator
from diffuse_dials.algorithms.scaling.residuals import Grouping, Misfits
from diffuse_dials.algorithms.scaling.symmetry import laue_operators, orbit_sizes, reciprocal_vectors, unique_voxels
from diffuse_dials.algorithms.scaling.trends import Trend, TrendAxes
from diffuse_dials.algorithms.wording import without_nan
from diffuse_dials.models.grid import GridRecord, holds_lattice_point
from diffuse_dials.models.scaled import ScaledRows


@dataclass(frozen=True)
class Quality:
    """How good a map and its scales are.

    Attributes:
        statistics: By resolution shell and overall.
        still_chi_square: χ² per degree of freedom of each still, shape (n_stills,); NaN for stills without a scale.
        trends: Residuals against panel, place on the detector, |s|, order, scale and noise.
        symmetry: Agreement of unmerged equivalents.
        r_factors: R of the scaling by shell and, last, of all, and what noise alone makes of it, shape
            (2, n_shells + 1).
        null: CC½ of the anisotropic part by shell and, last, of all, with every still turned at random, shape
            (n_draws, n_shells + 1); None if not asked for.
        bragg: Of integrated reflections; None if none were given.
    """

    statistics: MapStatistics
    still_chi_square: np.ndarray
    trends: tuple[Trend, ...]
    symmetry: SymmetryStatistics
    r_factors: np.ndarray
    null: np.ndarray | None = None
    bragg: BraggStatistics | None = None

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null; χ² of the stills is left to whoever knows their names."""
        return {
            **self.statistics.to_dict(),
            "r_factor": {
                name: {"shells": _known(values[:-1]), "overall": _known(values[-1:])[0]}
                for name, values in zip(("observed", "noise_alone"), self.r_factors)
            },
            "symmetry": self.symmetry.to_dict(),
            "random_orientations": None if self.null is None else self._null_to_dict(),
            "residuals": {trend.name: trend.to_dict() for trend in self.trends},
            "bragg": None if self.bragg is None else self.bragg.to_dict(),
        }

    def _null_to_dict(self) -> dict:
        mean, spread = (_known(values) for values in self.null_mean_and_spread())
        return {
            "n_draws": len(self.null), "cc_half_shells": mean[:-1], "cc_half": mean[-1],
            "spread_shells": spread[:-1], "spread": spread[-1], "draws": [_known(draw) for draw in self.null],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: dict) -> Quality:
        """What ``to_dict`` gave, within diffuse.scale.json, where χ² of the stills stands beside their scales.

        Raises:
            ValueError: If something is missing.
        """
        null, bragg = content.get("random_orientations"), content.get("bragg")
        try:
            ratios = [content["r_factor"][name] for name in ("observed", "noise_alone")]
            return cls(
                MapStatistics.from_dict(content),
                np.array([still["chi_square"] for still in content["stills"].values()], dtype=float),
                tuple(Trend.from_dict(*item) for item in content["residuals"].items()),
                SymmetryStatistics.from_dict(content["symmetry"]),
                np.array([[*ratio["shells"], ratio["overall"]] for ratio in ratios], dtype=float),
                None if null is None else np.array(null["draws"], dtype=float),
                None if bragg is None else BraggStatistics.from_dict(bragg),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"diffuse.scale.json is incomplete ({error}): another version wrote it. Run diffuse.scale again."
            ) from None

    def null_mean_and_spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of ``null`` over the draws; NaN for the deviation of one."""
        spread = np.std(self.null, axis=0, ddof=1) if len(self.null) > 1 else np.full(self.null.shape[1], np.nan)
        return np.mean(self.null, axis=0), spread

    null_headers = ("d (Å)", "CC½", "CC½, random orientations", "spread")

    def null_rows(self) -> list[tuple]:
        """Rows of the table of the null test, the last overall."""
        lines = (*self.statistics.shells, self.statistics.overall)
        names = [""] * len(self.statistics.shells) + ["all "]
        return without_nan(
            (f"{name}{line.d_max:.2f} - {line.d_min:.2f}", f"{line.cc_half:.3f}", f"{mean:.3f}", f"{spread:.3f}")
            for name, line, mean, spread in zip(names, lines, *self.null_mean_and_spread())
        )


def counted_voxels(merged: DiffuseMap, exclude_lattice_points: bool) -> DiffuseMap:
    """The voxels that are part of the diffuse map: measured, and without a lattice point if those are excluded.

    Raises:
        ValueError: If there are none.
    """
    counted = merged.intensity.measured & ~(merged.lattice_point & exclude_lattice_points)
    if not counted.any():
        raise ValueError(
            f"None of the {len(merged)} voxels is part of the diffuse map: all hold lattice points or lie under the "
            "Bragg mask. "
            "Use a smaller masking.bragg.radius or a larger grid.ndiv, or set merging.exclude_lattice_points=False."
        )
    return merged.select(counted)


def quality(
    counted: DiffuseMap,
    blocks: Iterable[ScaledRows],
    index: np.ndarray,
    record: GridRecord,
    exclude_lattice_points: bool,
    n_shells: int,
    axes: TrendAxes,
    comm: Communicator = ALONE,
) -> Quality | None:
    """Statistics by shell and overall, χ² of each still, equivalents, and residuals against what may need a correction.

    Args:
        counted: Voxels of the diffuse map.
        blocks: The scaled sums; read once.
        index: The voxels that the rows number, shape (n_voxels, 3).
        record: The grid.
        exclude_lattice_points: Whether lattice points are left out of what could have been measured.
        n_shells: Shells of equal volume, from the lowest to the highest |s| measured.
        axes: Stills and detector against which the residuals are plotted.
        comm: Ranks of which each reads the rows of its own stills; rank 0 is given the statistics, the others None.

    Raises:
        ValueError: What the blocks raise, on every rank.
    """
    edges = shell_edges(counted, n_shells)
    groupings = {
        "shell": Grouping(lambda rows, s: shell_of(s, edges), n_shells),
        "all": Grouping(lambda rows, s: np.where(shell_of(s, edges) >= 0, 0, -1), 1),
        "still": Grouping(lambda rows, s: rows.still, len(axes.scale)),
        **axes.groupings(edges),
    }
    misfits = Misfits(counted, index, groupings)
    equivalents = Equivalents(index, laue_operators(record))
    with comm.together():
        for block in blocks:
            rows = block.diffuse
            misfits.add(rows)
            equivalents.add(rows)
    misfits.add_ranks(comm)
    equivalents.add_ranks(comm)
    if comm.rank:
        return None
    statistics = map_statistics(
        counted,
        orbit_sizes(counted.index, record),
        edges,
        possible_voxels(record, edges, exclude_lattice_points),
        np.append(misfits.of("shell").chi_square, misfits.of("all").chi_square),
    )
    trends = axes.trends(misfits, edges)
    r_factors = np.array([np.append(*pair) for pair in zip(misfits.r_factors("shell"), misfits.r_factors("all"))])
    symmetry = equivalents.statistics(counted, edges)
    return Quality(statistics, misfits.of("still").chi_square, trends, symmetry, r_factors)


def null_correlations(
    turned: Iterable[ScaledRows],
    index: np.ndarray,
    record: GridRecord,
    splits: np.ndarray,
    edges: np.ndarray,
    exclude_lattice_points: bool,
    comm: Communicator = ALONE,
) -> np.ndarray | None:
    """CC½ of the anisotropic part by shell and, last, of all, from rows of stills turned at random.

    Args:
        turned: The rows.
        index: The voxels that they number, shape (n_voxels, 3).
        record: The grid.
        splits: As in :class:`~diffuse_dials.algorithms.merging.Merger`.
        edges: Of the shells, 1/Å.
        exclude_lattice_points: As for the map itself.
        comm: Ranks of which each turns the rows of its own stills; rank 0 is given the result, the others None.

    Raises:
        ValueError: What turning them raises, on every rank, or if no voxel is counted.
    """
    merged = merge(turned, index, record, splits, comm)
    with comm.together():
        counted = None if merged is None else counted_voxels(merged, exclude_lattice_points)
    if counted is None:
        return None
    n = len(edges) - 1
    statistics = map_statistics(counted, orbit_sizes(counted.index, record), edges, np.ones(n), np.full(n + 1, np.nan))
    return np.array([line.cc_half for line in (*statistics.shells, statistics.overall)])


def shell_edges(counted: DiffuseMap, n_shells: int) -> np.ndarray:
    """Edges in |s| (1/Å) of shells of equal volume over what was measured, shape (n_shells + 1,)."""
    s = counted.s
    return equal_volume_edges(s.min(), s.max(), n_shells)


def possible_voxels(record: GridRecord, edges: np.ndarray, exclude_lattice_points: bool) -> np.ndarray:
    """Voxels of the asymmetric unit in each shell, measured or not, shape (n_shells,)."""
    unique = unique_voxels(record, (1 - 1e-9) / edges[-1])
    if exclude_lattice_points:
        unique = unique[~holds_lattice_point(unique, record.ndiv)]
    shell = shell_of(np.linalg.norm(reciprocal_vectors(unique, record), axis=1), edges)
    return np.bincount(shell[shell >= 0], minlength=len(edges) - 1)


def _known(values) -> list[float | None]:
    return [None if value != value else float(value) for value in values]
