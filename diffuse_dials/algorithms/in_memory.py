"""Stills → sums in memory, without a file: for programs that use the package as a library.

The same measurement, still by still, as diffuse.grid; that command also works in parts on the disk, which can be
resumed and need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import define_grid
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.limits import corner_resolution
from diffuse_dials.algorithms.running.parallel import each, n_processes
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.stills.still_pixels import StillMeasurement
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.models.sums import RadialTotals, VoxelSums


def extract_stills(stills: Stills, params) -> Iterator[tuple[int, StillMeasurement]]:
    """The pixels of each still, one still at a time.

    Args:
        stills: The stills.
        params: Extract of diffuse.extract.

    Yields:
        Position of the still, and what it measured; stills that fail (with skip_failed) or are not used are left out.

    Raises:
        ValueError: If a still cannot be measured, or parameters do not fit.
    """
    measurement = Measurement(params, stills)
    for number in range(len(stills)):
        _, measured = pipeline.measure_still(measurement, number, params.extraction.skip_failed)
        if measured is not None:
            yield number, measured


def grid_stills(stills: Stills, params) -> tuple[Gridded, RadialTotals]:
    """The sums of all stills, and their radial totals.

    Args:
        stills: The stills.
        params: Extract of diffuse.grid.

    Raises:
        ValueError: If a still cannot be measured (unless skip_failed), none is left, or parameters do not fit.
    """
    grid = define_grid(params.grid, stills, params.d_min or corner_resolution(stills.experiments[0]))
    measurement = Measurement(params, stills)
    measurement.prepare(grid)

    def work(number):
        return pipeline.measure_still(measurement, number, params.extraction.skip_failed, grid)

    outcomes, measured = zip(*each(work, range(len(stills)), n_processes(params.mp), "grid"))
    sums = [still for still in measured if still is not None]
    if not sums:
        raise ValueError(f"No still could be measured. The first: {sentence(outcomes[0].reason)}")
    table = StillsTable()
    pipeline.update_stills(table, stills, outcomes)
    record = grid.record(params, pipeline.contents_record(measurement.record))
    voxels = VoxelSums.concatenate([still.voxels for still in sums])
    totals = RadialTotals.concatenate([still.totals for still in sums])
    return Gridded(stills.experiments, stills.keys, voxels, record, table), totals
