"""Statistics of a run of scaling: what statistics.py needs, gathered from stills, sums and map."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.scaling.refine import ScaledStills
from diffuse_dials.algorithms.scaling.residuals import residuals
from diffuse_dials.algorithms.scaling.symmetry import orbit_sizes, reciprocal_vectors, unique_voxels
from diffuse_dials.algorithms.statistics import MapStatistics, equal_volume_edges, map_statistics, shell_of
from diffuse_dials.models.grid import GridRecord, holds_lattice_point


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
    counted: DiffuseMap, scaled: ScaledStills, record: GridRecord, exclude_lattice_points: bool, n_shells: int
) -> tuple[MapStatistics, np.ndarray]:
    """Statistics by shell and overall, and χ² per degree of freedom of each still.

    Args:
        counted: Voxels of the diffuse map.
        scaled: Scales and sums.
        record: The grid.
        exclude_lattice_points: Whether lattice points are left out of what could have been measured.
        n_shells: Shells of equal volume, from the lowest to the highest |s| measured.

    Returns:
        (statistics, χ² of shape (n_stills,), NaN for stills without a scale).
    """
    s = counted.s
    edges = equal_volume_edges(s.min(), s.max(), n_shells)
    unique = unique_voxels(record, (1 - 1e-9) / s.max())
    if exclude_lattice_points:
        unique = unique[~holds_lattice_point(unique, record.ndiv)]
    possible = _shells(unique, record, edges)
    misfit = residuals(scaled.observations, scaled.scales, scaled.use)
    shell = _shells(scaled.observations.index, record, edges)[misfit.voxel]
    overall = misfit.chi_square(np.where(shell >= 0, 0, -1), 1)
    statistics = map_statistics(
        counted,
        orbit_sizes(counted.index, record),
        edges,
        np.bincount(possible[possible >= 0], minlength=n_shells),
        np.append(misfit.chi_square(shell, n_shells), overall),
    )
    return statistics, misfit.chi_square(misfit.still, scaled.observations.n_stills)


def _shells(index: np.ndarray, record: GridRecord, edges: np.ndarray) -> np.ndarray:
    return shell_of(np.linalg.norm(reciprocal_vectors(index, record), axis=1), edges)
