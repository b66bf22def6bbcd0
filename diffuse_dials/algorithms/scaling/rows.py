"""The gridded sums with what scaling found for each, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.outliers import improbable_rows
from diffuse_dials.algorithms.scaling.refine import ScaledStills
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.models.scaled import GOOD, OUTLIER, ScaledRows


def scaled_rows(gridded: Gridded, scaled: ScaledStills, rows_per_block: int | None = None) -> Iterator[ScaledRows]:
    """Rows of the stills that have a scale, in blocks of whole stills.

    Args:
        gridded: Stills and sums.
        scaled: Their scaling; ``ScaledRows.voxel`` numbers ``scaled.observations.index``.
        rows_per_block: Rows in memory at once, about; None: as in ``gridded.blocks``.

    Yields:
        The rows; voxel (0, 0, 0) is left out. Offsets are subtracted from the signal.
    """
    problem, numbers = scaled.problem, scaled.observations
    good = np.isfinite(scaled.scales.scale)
    shells = problem.blocks.shells
    s = np.linalg.norm(reciprocal_vectors(numbers.index, gridded.record), axis=1)
    layout = replace(scaled.fitter.layout, s=s, intensity=scaled.fitter.layout.intensity[shells.of_voxel])
    columns = {c.name: c.component.columns(layout) for c in problem.components if c.kind != "detector"}
    merged = scaled.merged if scaled.outlier_probability > 0 else None
    for part in gridded.blocks(rows_per_block):
        voxel = numbers(part.asu_index)
        keep = good[part.still] & (voxel >= 0)
        part, voxel = part.select(keep), voxel[keep]
        if not len(part):
            continue
        shell = shells.of_voxel[voxel]
        cell = scaled.fitter.cells(part) if scaled.fitter.cells is not None else np.zeros(len(part), dtype=np.int32)
        factor, offset = np.ones(len(part)), np.zeros(len(part))
        logarithm = np.zeros(len(part))
        for component in problem.components:
            if component.kind == "detector":
                factor *= component.table()[cell]
                continue
            values = np.einsum("rj,rj->r", component.values[part.still], columns[component.name][voxel])
            if component.kind == "offset":
                offset += values
            else:
                logarithm += values
        offset *= factor * part.response
        factor *= np.exp(logarithm)
        weight = problem.weight(part.still, shell, cell)
        signal = part.counts - part.background - offset
        expected = factor * part.response
        flags = np.full(len(part), GOOD, dtype=np.uint8)
        if merged is not None:
            tested = np.flatnonzero(~part.bragg & scaled.use[voxel])
            values = (signal, expected, weight, voxel, shell)
            outlier = improbable_rows(problem, merged, *(v[tested] for v in values), scaled.outlier_probability)
            flags[tested[outlier]] = OUTLIER
        yield ScaledRows(
            part.still, voxel, part.index, part.panel, part.bragg, part.counts, signal, part.variance, part.response,
            part.n_pixels, factor, weight, expected * problem.reference[shell] / weight, flags, part.position,
        )  # fmt: skip
