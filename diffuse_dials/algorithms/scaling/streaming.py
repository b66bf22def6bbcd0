"""More observations than fit into memory: components from a part of the voxels, then a sweep over all of them."""

from __future__ import annotations

import logging

import numpy as np

from diffuse_dials.algorithms.scaling.blocks import VoxelNumbers, compact
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.problem import MergedSums, Problem
from diffuse_dials.kernels import scaling as kernels

logger = logging.getLogger(f"dials.{__name__}")

# 0.5 GB, twice that while they are read.
MAX_OBSERVATIONS = 40_000_000


def subsample(gridded: Gridded, use: np.ndarray) -> np.ndarray:
    """Voxels from which the components are refined: all that are used, or a random part where the rows are too many.

    Args:
        gridded: The sums.
        use: Voxels that may be used, shape (n_voxels,), bool.

    Returns:
        ``use`` itself, or a part of it.
    """
    if gridded.n_rows <= MAX_OBSERVATIONS:
        return use
    share = MAX_OBSERVATIONS / gridded.n_rows
    logger.info("Components are refined on %.0f %% of the voxels, the scales then on all", 100 * share)
    return use & (np.random.default_rng(0).random(len(use)) < share)


def all_voxels(
    problem: Problem, gridded: Gridded, numbers: VoxelNumbers, use: np.ndarray, cells
) -> tuple[MergedSums, float]:
    """One sweep over all voxels: the map of the present components, then the scales from that map.

    Observations are read twice, block by block; two numbers per voxel are kept. Every rank reads its own.

    Args:
        problem: Refined on a part of the voxels; its scales are replaced.
        gridded: The sums.
        numbers: Numbering of the voxels.
        use: Voxels that take part, shape (n_voxels,), bool.
        cells: Cells of the detector, or None.

    Returns:
        (the map, observations of the part over all observations).
    """
    shells, n_stills, comm = problem.blocks.shells, problem.blocks.n_stills, problem.comm
    absent = np.flatnonzero(~problem.present)

    def blocks():
        for sums in gridded.blocks():
            yield compact([sums], n_stills, numbers, use, shells, cells)[0].without_stills(absent)

    numerator, denominator = np.zeros((2, len(numbers)))
    n_observations = 0
    with comm.together():
        for part in blocks():
            added = kernels.map_sums(
                part.starts, part.voxel, part.signal, part.response, shells.of_voxel, part.cell, *problem.tables,
                *problem.weights, len(numbers),
            )  # fmt: skip
            numerator += added[0]
            denominator += added[1]
            n_observations += len(part)
    numerator, denominator, n_observations = (comm.sum(total) for total in (numerator, denominator, n_observations))
    denominator[denominator <= 0] = 1
    merged = MergedSums(numerator, denominator, numerator / denominator)
    signal, residual = np.zeros((2, n_stills))
    with comm.together():
        for part in blocks():
            score = kernels.scores(
                part.starts, part.voxel, part.signal, part.response, shells.of_voxel, part.cell, *problem.tables,
                *problem.weights, merged.intensity, np.ones(len(numbers)), max(1, len(problem.p)),
            )  # fmt: skip
            residual += score[0].sum(axis=1)
            signal += score[8].sum(axis=1)
    residual, signal = comm.sum(residual), comm.sum(signal)
    scale = next(c for c in problem.components if c.name == "scale")
    expected = signal - residual
    moved = problem.present & (signal > 0) & (expected > 0)
    ratio = np.divide(signal, expected, out=np.ones(n_stills), where=moved)
    scale.values = scale.values + np.log(ratio)[:, None]
    problem.normalise()
    logger.info("Scales from all %d observations changed by %.1e at most", n_observations, np.abs(ratio - 1).max())
    return merged, problem.blocks.n_rows / n_observations
