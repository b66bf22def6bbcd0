"""Stills whose lattice can be indexed in several ways: refused, believed, or made to agree."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from dials.util import tabulate

from diffuse_dials.adapters import symmetry
from diffuse_dials.adapters.experiments import load_experiments, without_images
from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks, VoxelNumbers, compact, make_shells
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.reindexing import (
    AnisotropicSums,
    Assignment,
    assign,
    improbable_by_isotropic,
)
from diffuse_dials.algorithms.scaling.symmetry import laue_operators, reciprocal_vectors
from diffuse_dials.models.sums import VoxelSums

logger = logging.getLogger(f"dials.{__name__}")

_MAX_ROWS = 3_000_000
_IDENTITY = "h,k,l"
_COLUMN = "reindexed_by"  # of stills.csv


def agree_on_indexing(gridded: Gridded, params) -> Gridded:
    """The same stills, indexed alike.

    Args:
        gridded: Stills and sums; under MPI every rank calls with its own.
        params: Extract of ``scale``.

    Raises:
        ValueError: If grid.json says that the lattice is ambiguous and the user has not said what to do, or the
            operators do not map the grid onto itself.
    """
    if not params.reindex:
        for row in gridded.stills.rows.values():
            row.pop(_COLUMN, None)  # of an earlier run
    if not gridded.record.ambiguous:
        if params.reindex:
            logger.info("The lattice can be indexed in one way only: scale.reindex=True has nothing to do.")
        return gridded
    operators = gridded.record.reindexing_operators
    if params.reindex:
        return reindexed(gridded, params.reindexed_experiments, params.outlier.probability)
    if not params.assume_consistent_indexing:
        raise ValueError(
            f"The lattice can be indexed in other ways ({' and '.join(operators)}) that give another map, so stills "
            "indexed one by one are a mixture. Set scale.reindex=True to make them agree; if they do already, set "
            "scale.assume_consistent_indexing=True."
        )
    logger.warning(
        "The indexing is taken to be consistent, as demanded; the lattice also allows %s.", " and ".join(operators)
    )
    return gridded


def reindexed(gridded: Gridded, experiments_file=None, probability: float = 1e-6) -> Gridded:
    """Stills with the indexing that agrees with the others: sums and crystals re-mapped.

    Args:
        gridded: Stills and sums.
        experiments_file: Experiments of the same stills that another program made agree (dials.cosym); None: from the
            sums.
        probability: Sums less probable than this have no part in the decision; 0: all have.

    Raises:
        ValueError: If operators do not map the grid onto itself, or the experiments do not fit.
    """
    gridded = gridded.in_memory()
    names = (_IDENTITY, *gridded.record.reindexing_operators)
    matrices = [symmetry.index_matrix(name) for name in names]
    voxel_matrices = [_voxel_matrix(m, gridded.record.ndiv, name) for m, name in zip(matrices, names)]
    if experiments_file is not None:
        with gridded.comm.together():
            operator = _from_experiments(gridded, experiments_file, matrices)
        logger.info("Indexing taken from %s", experiments_file)
    else:
        operator = _from_sums(gridded, names, matrices, voxel_matrices, probability)
    for number, name in enumerate(names[1:], start=1):
        logger.info("%d of %d stills are re-indexed by %s", int((operator == number).sum()), len(operator), name)
    for identifier, number in zip(gridded.experiments.identifiers(), operator):
        gridded.stills.update(identifier, **{_COLUMN: names[number]})
    return _apply(gridded, operator, names, voxel_matrices)


def _voxel_matrix(matrix: np.ndarray, ndiv, name: str) -> np.ndarray:
    """The operator on voxel indices n = h·ndiv, row vectors, shape (3, 3), int."""
    scaled = matrix * np.asarray(ndiv)[None, :] / np.asarray(ndiv)[:, None]
    if not np.allclose(scaled, np.rint(scaled)):
        raise ValueError(
            f"The operator {name} mixes axes of different grid.ndiv ({','.join(map(str, ndiv))}), so that sums cannot "
            "be re-indexed. Run diffuse.grid again with the same number on all of them."
        )
    return np.rint(scaled).astype(np.int64)


def _from_sums(gridded: Gridded, names, matrices, voxel_matrices, probability: float) -> np.ndarray:
    """Operator of each still from the sums; rank 0 decides, with the rows of all."""
    comm = gridded.comm
    parts = comm.gather(_chosen_rows(gridded))
    operator = None
    with comm.together():
        if parts is not None:
            products = _products(matrices, laue_operators(gridded.record))
            sums, n_outliers = _anisotropic(gridded, VoxelSums.concatenate(parts), voxel_matrices, probability)
            found = assign(sums, products, probability)
            n_outliers += found.n_outliers
            if n_outliers:
                logger.info(
                    "%d sums are improbable in every indexing (below %g) and have no part in the decision", n_outliers,
                    probability,
                )  # fmt: skip
            _log(gridded, names, found)
            operator = found.operator
    return comm.from_first(operator)


def _chosen_rows(gridded: Gridded) -> VoxelSums:
    """This rank's part of the rows that the indexing is decided by, ordered by still."""
    whole = gridded.sums
    keep = ~whole.bragg & (whole.response > 0) & (whole.n_pixels > 0) & np.any(whole.asu_index != 0, axis=1)
    sums = gridded.sums.select(keep)
    sums = sums.select(np.argsort(sums.still, kind="stable"))
    n_rows = gridded.comm.everywhere(len(sums))
    if sum(n_rows) <= _MAX_ROWS:
        return sums
    # whole voxels of the lattice's own symmetry would be best; at random is good enough and as unbiased
    rng = np.random.default_rng(0)
    rng.bit_generator.advance(sum(n_rows[: gridded.comm.rank]))  # one number for each row of the ranks before
    return sums.select(rng.random(len(sums)) < _MAX_ROWS / sum(n_rows))


def _anisotropic(gridded: Gridded, sums: VoxelSums, matrices, probability: float) -> tuple[AnisotropicSums, int]:
    """Relative excess of the observations over the isotropic part, and how many were left out as improbable."""
    n_stills, space_group = len(gridded.experiments), symmetry.parse_space_group(gridded.record.space_group)
    mapped = [sums.asu_index] + [
        symmetry.map_to_asu((sums.index @ m).astype(np.int32), space_group) for m in matrices[1:]
    ]
    numbers = VoxelNumbers.of([replace(sums, asu_index=np.concatenate(mapped))])
    s = np.linalg.norm(reciprocal_vectors(numbers.index, gridded.record), axis=1)
    use = np.ones(len(numbers), dtype=bool)
    shells = make_shells(s, use)
    voxel = np.stack([numbers(m) for m in mapped])
    n_rows = len(sums)
    while True:
        blocks, _ = compact([sums], n_stills, numbers, use, shells)
        found = _excess(blocks, voxel, gridded.record.isotropic_removed)
        keep = ~improbable_by_isotropic(found, probability)
        if keep.all():
            return found, n_rows - len(sums)
        # scales and isotropic part were wrong by them
        sums, voxel = sums.select(keep), voxel[:, keep]


def _excess(blocks: ScaleBlocks, voxel: np.ndarray, isotropic_removed: bool) -> AnisotropicSums:
    still, shell = blocks.still, blocks.shells.of_voxel[blocks.voxel]
    signal, response = blocks.signal.astype(float), blocks.response.astype(float)
    added = response * blocks.added[still, shell] if blocks.added.size else np.zeros(len(blocks))
    if isotropic_removed:
        # What was subtracted stands in for the isotropic part that is in it.
        mean, added = np.maximum(added, 1e-6), 0.0
        excess = signal / mean
    else:
        n_stills, n_shells = blocks.n_stills, len(blocks.shells)
        scale = np.ones(n_stills)
        for _ in range(5):
            expected = np.bincount(shell, scale[still] * response, n_shells)
            isotropic = np.bincount(shell, signal, n_shells) / np.where(expected > 0, expected, 1)
            isotropic = np.maximum(isotropic, 1e-6 * np.abs(isotropic).max())
            predicted = np.bincount(still, response * isotropic[shell], n_stills)
            scale = np.maximum(np.bincount(still, signal, n_stills) / np.where(predicted > 0, predicted, 1), 1e-6)
        mean = scale[still] * response * isotropic[shell]
        excess = (signal - mean) / mean
    return AnisotropicSums(blocks.starts, voxel, excess, mean**2 / (mean + added), mean, blocks.n_voxels)


def _products(matrices, laue) -> np.ndarray:
    """products[i, j]: the operator that is i after j was undone, up to the Laue group."""
    keys = {}
    for number, matrix in enumerate(matrices):
        for rotation in laue:
            keys[tuple(np.rint(matrix @ rotation).astype(int).ravel())] = number
    inverse = [np.linalg.inv(m) for m in matrices]
    return np.array([
        [keys[tuple(np.rint(inverse[j] @ matrices[i]).astype(int).ravel())] for j in range(len(matrices))]
        for i in range(len(matrices))
    ])  # fmt: skip


def _from_experiments(gridded: Gridded, path, matrices) -> np.ndarray:
    """Operator of each still from experiments that another program re-indexed."""
    others = {e.identifier: e for e in load_experiments(path)}
    laue = laue_operators(gridded.record)
    operator = np.zeros(len(gridded.experiments), dtype=int)
    for i, experiment in enumerate(gridded.experiments):
        other = others.get(experiment.identifier)
        if other is None or other.crystal is None:
            raise ValueError(
                f"{path} has no crystal of {gridded.keys[i].label}. Give the experiments that dials.cosym wrote of the "
                "same stills."
            )
        ours, theirs = (np.array(e.crystal.get_A()).reshape(3, 3) for e in (experiment, other))
        change = np.linalg.solve(theirs, ours).T  # h' = h M
        matches = [n for n, m in enumerate(matrices) if any(np.allclose(change, m @ r, atol=0.05) for r in laue)]
        if not matches:
            raise ValueError(
                f"The crystal of {gridded.keys[i].label} in {path} is no re-indexing of the one that was gridded "
                f"(h' = h·{np.round(change, 2).tolist()}). Give experiments of the same stills in the same setting."
            )
        operator[i] = matches[0]
    return operator


def _apply(gridded: Gridded, operator: np.ndarray, names, matrices) -> Gridded:
    sums, space_group = gridded.sums, symmetry.parse_space_group(gridded.record.space_group)
    index, asu = sums.index.copy(), sums.asu_index.copy()
    for number in range(1, len(names)):
        rows = np.flatnonzero(operator[sums.still] == number)
        index[rows] = (sums.index[rows] @ matrices[number]).astype(np.int32)
        asu[rows] = symmetry.map_to_asu(index[rows], space_group)
    experiments = without_images(gridded.experiments)
    for experiment, number in zip(experiments, operator):
        if number:
            experiment.crystal = symmetry.change_basis(experiment.crystal, names[number])
    return replace(gridded, experiments=experiments, sums=replace(sums, index=index, asu_index=asu))


def _log(gridded: Gridded, names, found: Assignment) -> None:
    rows = [
        [gridded.keys[i].label, names[found.operator[i]], *(f"{c:.3f}" for c in found.correlation[i]),
         f"{found.margin[i]:.1f}"]
        for i in range(len(found.operator))
    ]  # fmt: skip
    headers = ["still", "operator", *(f"correlation\n{name}" for name in names), "Δ ln likelihood\nto the next"]
    logger.info("\n%s", tabulate(rows, headers=headers, disable_numparse=True))
    open_stills = np.flatnonzero(~found.decided)
    if len(open_stills):
        labels = ", ".join(gridded.keys[i].label for i in open_stills[:10])
        logger.warning(
            "The indexing of %d stills is not decided by their counts: %s%s. They are taken with the more likely one.",
            len(open_stills), labels, " ..." if len(open_stills) > 10 else "",
        )  # fmt: skip
