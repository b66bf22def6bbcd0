"""The gridded sums with their scales, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.refine import ScaledStills
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.scaled import GOOD, ScaledRows

ROWS_PER_BLOCK = 4_000_000


def scaled_rows(gridded: Gridded, scaled: ScaledStills, rows_per_block: int = ROWS_PER_BLOCK) -> Iterator[ScaledRows]:
    """Rows of the stills that have a scale, in blocks of whole stills.

    Args:
        gridded: Stills and sums.
        scaled: Their scales; ``ScaledRows.voxel`` numbers ``scaled.observations.index``.
        rows_per_block: About as many rows are held at once.

    Yields:
        The rows; voxel (0, 0, 0) is left out.
    """
    observations, scales, sums = scaled.observations, scaled.scales, gridded.sums
    voxels = pack(observations.index)
    observed = observations.voxel.astype(np.int64) * observations.n_stills + observations.still
    # Both are proportional to the response within a (voxel, still): the scaling's smooth model has them so.
    per_response = np.divide(
        scales.added_variance, observations.response, out=np.zeros(len(observed)), where=observations.response > 0
    )
    good = np.isfinite(scales.scale)
    for rows in _blocks(sums.still, rows_per_block):
        part = sums.select(rows)
        part = part.select(good[part.still] & np.any(part.asu_index != 0, axis=1))
        if not len(part):
            continue
        voxel = np.searchsorted(voxels, pack(part.asu_index)).astype(np.int32)
        row = np.searchsorted(observed, voxel.astype(np.int64) * observations.n_stills + part.still)
        factor = scales.scale[part.still]
        model = part.response * (factor * scales.reference[voxel] + per_response[row])
        yield ScaledRows(
            part.still, voxel, part.index, part.panel, part.bragg, part.counts, part.counts - part.background,
            part.variance, part.response, part.n_pixels, factor, scales.weight[row],
            model, np.full(len(part), GOOD, dtype=np.uint8), part.position,
        )  # fmt: skip


def _blocks(still: np.ndarray, rows_per_block: int) -> Iterator[np.ndarray]:
    """Row numbers, in blocks of whole stills of about ``rows_per_block`` rows."""
    order = np.argsort(still, kind="stable")
    last = np.flatnonzero(np.diff(still[order], append=-1)) + 1
    start = 0
    for number, end in enumerate(last):
        if end - start >= rows_per_block or number + 1 == len(last):
            yield order[start:end]
            start = end
