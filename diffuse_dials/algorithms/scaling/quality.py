"""Statistics of a run of scaling: what statistics.py needs, gathered from stills, sums and map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.scaling.residuals import Grouping, Misfits
from diffuse_dials.algorithms.scaling.symmetry import orbit_sizes, reciprocal_vectors, unique_voxels
from diffuse_dials.algorithms.scaling.trends import Trend, TrendAxes
from diffuse_dials.algorithms.statistics import MapStatistics, equal_volume_edges, map_statistics, shell_of
from diffuse_dials.models.grid import GridRecord, holds_lattice_point
from diffuse_dials.models.scaled import ScaledRows


@dataclass(frozen=True)
class Quality:
    """How good a map and its scales are.

    Attributes:
        statistics: By resolution shell and overall.
        still_chi_square: χ² per degree of freedom of each still, shape (n_stills,); NaN for stills without a scale.
        trends: Residuals against panel, place on the detector, |s|, order and scale.
    """

    statistics: MapStatistics
    still_chi_square: np.ndarray
    trends: tuple[Trend, ...]


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
) -> Quality:
    """Statistics by shell and overall, χ² of each still, and residuals against all that may need a correction.

    Args:
        counted: Voxels of the diffuse map.
        blocks: The scaled sums; read once.
        index: The voxels that the rows number, shape (n_voxels, 3).
        record: The grid.
        exclude_lattice_points: Whether lattice points are left out of what could have been measured.
        n_shells: Shells of equal volume, from the lowest to the highest |s| measured.
        axes: Stills and detector that the residuals are held against.
    """
    s = counted.s
    edges = equal_volume_edges(s.min(), s.max(), n_shells)
    n_stills = len(axes.scale)
    groupings = {
        "shell": Grouping(lambda rows, s: shell_of(s, edges), n_shells),
        "all": Grouping(lambda rows, s: np.where(shell_of(s, edges) >= 0, 0, -1), 1),
        "still": Grouping(lambda rows, s: rows.still, n_stills),
        **axes.groupings(edges),
    }
    misfits = Misfits(counted, index, groupings)
    for rows in blocks:
        misfits.add(rows)
    statistics = map_statistics(
        counted,
        orbit_sizes(counted.index, record),
        edges,
        possible_voxels(record, edges, exclude_lattice_points),
        np.append(misfits.of("shell").chi_square, misfits.of("all").chi_square),
    )
    return Quality(statistics, misfits.of("still").chi_square, axes.trends(misfits, edges))


def possible_voxels(record: GridRecord, edges: np.ndarray, exclude_lattice_points: bool) -> np.ndarray:
    """Voxels of the asymmetric unit in each shell, measured or not, shape (n_shells,)."""
    unique = unique_voxels(record, (1 - 1e-9) / edges[-1])
    if exclude_lattice_points:
        unique = unique[~holds_lattice_point(unique, record.ndiv)]
    shell = shell_of(np.linalg.norm(reciprocal_vectors(unique, record), axis=1), edges)
    return np.bincount(shell[shell >= 0], minlength=len(edges) - 1)
