"""The steps from stills to sums, part by part: what diffuse.grid runs from images, and what commands share."""

from __future__ import annotations

import logging

import libtbx.phil

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.adapters.images import panel_shapes
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import Grid, voxel_sums, with_asu_index, without_origin
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.limits import asu_box, largest_s, table_bytes
from diffuse_dials.algorithms.running.forecast import forecast
from diffuse_dials.algorithms.running.parallel import working_on
from diffuse_dials.algorithms.running.parts import (
    Job,
    Outcome,
    PartedSums,
    log_forecast,
    make_parts,
    open_run,
    split,
    still_names,
)  # fmt: skip
from diffuse_dials.algorithms.running.run_folder import images_mark
from diffuse_dials.algorithms.stills.still_pixels import S_BIN_WIDTH, StillMeasurement
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.store_parts import writing_part
from diffuse_dials.models.sums import StillSums, VoxelSums

logger = logging.getLogger(f"dials.{__name__}")

_KEPT_ROWS = 1_000_000  # of a still: 0.1 GB

phil_scope = libtbx.phil.parse(
    """
grid {
  store = Auto
    .type = bool
    .help = "Write the sums to gridded.h5, which later commands read as a stream, instead of gridded.refl. Auto: if the"
            "table would take more than 30 % of the available memory, or have more than 1.5e8 rows."
    .expert_level = 1
}
include scope diffuse_dials.algorithms.running.run_folder.phil_scope
""",
    process_includes=True,
)


def measure_still(
    measurement: Measurement, number: int, skip_failed: bool, grid: Grid | None = None
) -> tuple[Outcome, StillMeasurement | StillSums | None]:
    """Measure a still, its pixels or (with a grid) its sums per voxel, and record what became of it.

    Args:
        measurement: Set up for the stills.
        number: Position of the still in the experiment list.
        skip_failed: Whether a failure becomes an outcome and is not raised.
        grid: The grid for its sums; None: its pixels are wanted.

    Returns:
        (what became of the still, what it measured; None if it failed or is not used).

    Raises:
        ValueError: If it fails, unless ``skip_failed``.
    """
    working_on(number)
    if not measurement.uses(number):
        return Outcome(number, "skipped", "another lattice of an image that is used"), None
    try:
        measured = measurement.measure(number) if grid is None else measurement.sums(number, grid)
    except ValueError as error:
        if not skip_failed:
            raise
        return Outcome(number, "failed", str(error)), None
    return Outcome(number, "ok", "", measured.exposure, measured.n_accepted), measured


def sums_of(number: int, pixels, stills: Stills, grid: Grid) -> VoxelSums:
    """The sums of one still's pixels, with the representatives of their voxels."""
    to_hkl = grid.to_hkl(stills.experiments[number])
    sums = without_origin(voxel_sums(number, pixels, to_hkl, grid.ndiv, grid.positions))
    return with_asu_index(sums, grid.symmetry_group)


def grid_images(params, stills: Stills, measurement: Measurement, grid: Grid, job: Job) -> PartedSums | None:
    """Measure each still and sum its pixels at once; no pixel is stored.

    Args:
        params: Extract of diffuse.grid.
        stills: The stills.
        measurement: Set up for them.
        grid: The grid they share.
        job: How the run is carried out.

    Returns:
        The sums, in parts; None on other ranks than 0.

    Raises:
        ValueError: If a still fails (unless skip_failed), none is left, or a process is killed.
    """
    box = asu_box(grid, stills, largest_s(stills, params.d_min))
    measurement.prepare(grid, job.comm.shared)
    counted = {}  # stills that the forecast measured; this process and those that it forks need not measure them again

    def plan():
        used = [number for number in range(len(stills)) if measurement.uses(number)]
        most = sum(slow * fast for slow, fast in panel_shapes(stills.experiments[0].detector))

        def count(number):
            outcome, measured = measure_still(measurement, number, False, grid)
            if len(measured.voxels) <= _KEPT_ROWS:
                counted[number] = outcome, measured
            return len(measured.voxels)

        table = table_bytes(grid, stills.experiments[0], params.d_min)
        found = forecast(count, used, most, params.output.reflections, table)
        store = log_forecast(found, params.grid.store, job)
        rows_per_still = found.n_rows / max(len(used), 1)
        return {"store": store, "blocks": split(len(stills), rows_per_still, job.n_workers, store)}

    folder = open_run(job, params.output.reflections, plan)
    store = folder.plan["store"]

    def keys(block):
        return stills.keys[slice(*folder.plan["blocks"][block])]

    def make(block, path):
        with writing_part(path, job.key, box, not store, images_mark(keys(block))) as part:
            outcomes = []
            for number in range(*folder.plan["blocks"][block]):
                if number in counted:
                    working_on(number)
                    outcome, measured = counted.pop(number)
                else:
                    outcome, measured = measure_still(measurement, number, params.extraction.skip_failed, grid)
                outcomes.append(outcome.to_dict())
                if measured is not None:
                    part.append(number, measured.voxels, measured.totals)
            part.finish(outcomes)

    parts = make_parts(
        job, folder, make, lambda block: images_mark(keys(block)), "grid", still_names(stills),
        params.extraction.skip_failed,
    )  # fmt: skip
    return None if parts is None else PartedSums.of(folder, parts)


def contents_record(record: dict) -> dict:
    """The part of grid.json that says what the sums contain, from ``Measurement.record``."""
    return {**record, "s_bin_width": S_BIN_WIDTH}


def update_stills(table: StillsTable, stills: Stills, outcomes: list[Outcome]) -> None:
    """Write models and outcome of each still into stills.csv's table."""
    for outcome in outcomes:
        experiment, key = stills.experiments[outcome.number], stills.keys[outcome.number]
        exposure = outcome.exposure
        light = (exposure.time, exposure.time_stamp, exposure.monitor) if exposure else (None, None, None)
        table.update(
            experiment.identifier,
            **_key_columns(key), order=outcome.number, wavelength=experiment.beam.get_wavelength(),
            **dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), experiment.crystal.get_unit_cell().parameters())),
            mosaicity=_mosaicity(experiment.crystal), **dict(zip(("exposure_time", "time_stamp", "monitor"), light)),
            n_accepted=outcome.n_accepted, status=outcome.status, reason=outcome.reason,
        )  # fmt: skip


def _key_columns(key: StillKey) -> dict:
    return {"image": key.image, "index": key.index, "lattice": key.lattice}


def _mosaicity(crystal) -> float | None:
    """Half mosaicity (degrees) where the crystal model has one."""
    return float(crystal.get_half_mosaicity_deg()) if hasattr(crystal, "get_half_mosaicity_deg") else None


def log_outcomes(outcomes: list[Outcome], stills: Stills) -> None:
    """How many stills were used, and each that was not, with the reason."""
    used = sum(outcome.status == "ok" for outcome in outcomes)
    logger.info("%d of %d stills used", used, len(outcomes))
    for outcome in outcomes:
        if outcome.status == "failed":
            logger.warning("%s failed: %s", stills.keys[outcome.number].label, outcome.reason)
