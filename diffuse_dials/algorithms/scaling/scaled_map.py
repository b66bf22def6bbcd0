"""Gridded stills → scales, map and statistics: the core of diffuse.scale."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from dxtbx.model import Experiment, ExperimentList

from diffuse_dials.algorithms.belonging import map_identifier
from diffuse_dials.algorithms.merging import DiffuseMap, excludes_lattice_points, half_sets, merge
from diffuse_dials.algorithms.quality.bragg_statistics import bragg_statistics, load_spots
from diffuse_dials.algorithms.quality.random_orientations import RandomOrientations
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.scaling.indexing import agree_on_indexing
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.model import check_registered
from diffuse_dials.algorithms.scaling.quality import Quality, null_correlations, quality, shell_edges
from diffuse_dials.algorithms.scaling.refine import ScaledStills, order_of_stills, scale_stills
from diffuse_dials.algorithms.scaling.rows import scaled_rows
from diffuse_dials.algorithms.scaling.symmetry import super_cell_experiment
from diffuse_dials.algorithms.scaling.trends import PanelPlane, TrendAxes
from diffuse_dials.models.grid import GridRecord


@dataclass(frozen=True)
class ScaledMap:
    """The relative map, and what led to it.

    Attributes:
        gridded: Stills and sums, indexed alike.
        scaled: The scaling: ``scaled.scales.scale`` is b of each still, shape (n_stills,).
        map: The map; None on the ranks of MPI but the first.
        splits: Which stills are in the first half of each random split, shape (n_splits, n_stills), bool.
        excludes_lattice_points: Whether voxels with a lattice point stay out of scaling and statistics.
        integrated: The stills in the settings in which they came.
    """

    gridded: Gridded
    scaled: ScaledStills
    map: DiffuseMap | None
    splits: np.ndarray
    excludes_lattice_points: bool
    integrated: ExperimentList

    @property
    def record(self) -> GridRecord:
        """The grid, and what the sums contain."""
        return self.gridded.record

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of merged.refl."""
        return self.map.columns(self.record.ndiv)

    @property
    def map_experiment(self) -> Experiment:
        """merged.expt: the crystal of the super-cell whose Miller indices are the voxels."""
        identifier = map_identifier(self.experiments(), self.record)
        return super_cell_experiment(self.record, self.gridded.experiments[0], identifier)

    def experiments(self) -> ExperimentList:
        """scaled.expt: each still that has a scale, with its scaling model, in the order of the stills."""
        stills = ExperimentList()
        for i in sorted(self.scaled.models):
            still = self.gridded.experiments[i]
            stills.append(
                Experiment(
                    beam=still.beam, detector=still.detector, goniometer=still.goniometer, scan=still.scan,
                    crystal=still.crystal, profile=still.profile, imageset=still.imageset,
                    scaling_model=self.scaled.models[i], identifier=still.identifier,
                )
            )  # fmt: skip
        return stills


def scale_and_merge(gridded: Gridded, params) -> ScaledMap:
    """Make the stills agree on their indexing, refine their scales, and merge.

    Args:
        gridded: Stills and sums. Under MPI every rank calls with its own sums.
        params: Extract of diffuse.scale: ``scale`` and ``merging``.

    Raises:
        ValueError: If options do not fit the data, or the stills cannot be put on one scale.
    """
    check_registered()
    integrated = gridded.experiments
    gridded = agree_on_indexing(gridded, params.scale)
    scaled = scale_stills(gridded, params)
    splits = half_sets(list(gridded.keys), params.merging.seed, params.merging.n_splits)
    merged = merge(scaled_rows(gridded, scaled), scaled.observations.index, gridded.record, splits, gridded.comm)
    excluded = excludes_lattice_points(params.merging.exclude_lattice_points, gridded.record.ndiv)
    return ScaledMap(gridded, scaled, merged, splits, excluded, integrated)


def judge(result: ScaledMap, counted: DiffuseMap | None, params) -> Quality | None:
    """All statistics of the map, its stills and, on request, of random orientations and Bragg reflections.

    Args:
        result: The map. Under MPI every rank calls, and the first is given the statistics, the others None.
        counted: The voxels of it that are diffuse scattering (``quality.counted_voxels``); None where there is no map.
        params: Extract of diffuse.scale.

    Raises:
        ValueError: If the files of Bragg reflections do not fit the stills.
    """
    gridded, scaled, splits, excluded = result.gridded, result.scaled, result.splits, result.excludes_lattice_points
    record, scale, n_shells = gridded.record, scaled.scales.scale, params.statistics.n_shells
    comm = gridded.comm
    if comm.size > 1:
        counted = _on_all_ranks(counted, comm)
    name = params.scale.order or "file"
    axes = TrendAxes(
        scale, order_of_stills(gridded, name), "order of the stills in the files" if name == "file" else name,
        PanelPlane.of(gridded.experiments[0].detector), gridded.has_positions,
    )  # fmt: skip
    rows = scaled_rows(gridded, scaled)
    found = quality(counted, rows, scaled.observations.index, record, excluded, n_shells, axes, comm)
    if params.statistics.random_orientations:
        labels, d_min = [key.label for key in gridded.keys], 1 / counted.s.max()
        edges, draws = shell_edges(counted, n_shells), []
        for draw in range(params.statistics.random_orientations):
            null = RandomOrientations(gridded.experiments, labels, record, d_min, f"{params.merging.seed}:{draw}")
            turned = null.turn(scaled_rows(gridded, scaled))
            draws.append(null_correlations(turned, null.index, record, splits, edges, excluded, comm))
        found = None if found is None else replace(found, null=np.array(draws))
    if params.input.bragg:
        with comm.together():
            if comm.rank == 0:
                spots = load_spots(params.input.bragg, gridded.experiments, scale, record, result.integrated)
                bragg = bragg_statistics(spots, scale, splits, record, n_shells, params.scale.min_partiality)
                found = replace(found, bragg=bragg)
    return found


def _on_all_ranks(counted: DiffuseMap | None, comm: Communicator) -> DiffuseMap:
    """Rank 0's map as it is there, on the others without half maps; column by column: a message is below 2 GiB."""
    values = {
        field.name: () if field.name == "halves" else comm.from_first(getattr(counted, field.name, None))
        for field in fields(DiffuseMap)
    }
    return DiffuseMap(**values) if counted is None else counted
