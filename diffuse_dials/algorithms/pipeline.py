"""The steps from stills to sums, still by still: what diffuse.extract and diffuse.grid run."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.algorithms.extraction import S_BIN_WIDTH, Measurement, PanelPixels, StillMeasurement
from diffuse_dials.algorithms.gridding import Grid, voxel_sums, with_asu_index, without_origin
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.parallel import each
from diffuse_dials.io.columns import EXTRACTED
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import MAX_ROWS, load_table, save_table
from diffuse_dials.models.exposure import Exposure
from diffuse_dials.models.sums import RadialTotals, VoxelSums

logger = logging.getLogger(f"dials.{__name__}")

ROWS_PER_FILE = 5_000_000  # about 0.5 GB: a block of stills that a worker holds at once


@dataclass(frozen=True)
class Outcome:
    """What became of one still.

    Attributes:
        number: Its position in the experiment list.
        status: "ok", "skipped" (another lattice of a used image) or "failed".
        reason: Why it is not ok.
        exposure: Time, time stamp and monitor; None if not measured.
        n_accepted: Pixels that pass all masks.
    """

    number: int
    status: str
    reason: str = ""
    exposure: Exposure | None = None
    n_accepted: int = 0


def _measure(measurement: Measurement, number: int, skip_failed: bool) -> tuple[Outcome, StillMeasurement | None]:
    if not measurement.uses(number):
        return Outcome(number, "skipped", "another lattice of an image that is used"), None
    try:
        measured = measurement.measure(number)
    except ValueError as error:
        if not skip_failed:
            raise
        return Outcome(number, "failed", str(error)), None
    return Outcome(number, "ok", "", measured.exposure, measured.n_accepted), measured


def grid_images(params, stills: Stills, measurement: Measurement, grid: Grid, nproc: int):
    """Measure each still and sum its pixels at once; no pixel is stored.

    Args:
        params: Extract of diffuse.grid.
        stills: The stills.
        measurement: Set up for them.
        grid: The grid they share.
        nproc: Processes.

    Returns:
        (VoxelSums, RadialTotals, outcomes), rows in the order of the stills.

    Raises:
        ValueError: If a still fails (unless skip_failed), or none is left.
    """

    def work(number):
        outcome, measured = _measure(measurement, number, params.extraction.skip_failed)
        if measured is None:
            return outcome, None, None
        return outcome, _sums_of(number, measured.pixels, stills, grid), measured.totals

    outcomes, sums, totals = [], [], []
    for outcome, still_sums, still_totals in each(work, range(len(stills)), nproc, "grid"):
        outcomes.append(outcome)
        if still_sums is not None:
            sums.append(still_sums)
            totals.append(still_totals)
    return _all_sums(sums, grid), RadialTotals.concatenate(totals), outcomes


def _sums_of(number: int, pixels, stills: Stills, grid: Grid) -> VoxelSums:
    return without_origin(voxel_sums(number, pixels, grid.to_hkl(stills.experiments[number]), grid.ndiv, grid.positions))


def _all_sums(parts: list[VoxelSums], grid: Grid) -> VoxelSums:
    if not parts:
        raise ValueError("No still could be measured. The log and stills.csv say why for each.")
    n_rows = sum(len(part) for part in parts)
    if n_rows > MAX_ROWS:
        raise ValueError(f"The sums would have {n_rows} rows, more than the {MAX_ROWS} that a .refl file holds. Use a larger d_min, a smaller ndiv, or fewer stills.")
    return with_asu_index(VoxelSums.concatenate(parts), grid.symmetry_group)


def extract_to_files(params, stills: Stills, measurement: Measurement, nproc: int):
    """Measure each still and write its pixels, a block of stills to a file.

    Files of an earlier run with the same name and a higher number are removed at the end: a later command
    that is given all of them must not count photons of two runs.

    Args:
        params: Extract of diffuse.extract.
        stills: The stills.
        measurement: Set up for them.
        nproc: Processes.

    Returns:
        (names of the files, RadialTotals, outcomes).

    Raises:
        ValueError: If a still fails (unless skip_failed), none is left, or a file cannot be written.
    """
    n_pixels = sum(int(np.prod(p.get_image_size())) for p in stills.experiments[0].detector)
    per_file = max(1, int(ROWS_PER_FILE * params.extraction.pixel_step**2 / n_pixels))
    blocks = [range(start, min(start + per_file, len(stills))) for start in range(0, len(stills), per_file)]
    names = [_block_name(params.output.reflections, number) for number in range(len(blocks))]

    def work(number):
        outcomes, totals, columns = [], [], []
        for still in blocks[number]:
            outcome, measured = _measure(measurement, still, params.extraction.skip_failed)
            outcomes.append(outcome)
            if measured is not None:
                totals.append(measured.totals)
                columns += [_pixel_columns(still, pixels) for pixels in measured.pixels]
        if columns:
            table = {name: np.concatenate([c[name] for c in columns]) for name in EXTRACTED}
            ids = np.unique(table["id"])
            save_table(table, names[number], {int(i): stills.experiments[int(i)].identifier for i in ids})
        return outcomes, totals, bool(columns)

    outcomes, totals, written = [], [], []
    for name, (block_outcomes, block_totals, has_rows) in zip(names, each(work, range(len(blocks)), nproc, "extract")):
        outcomes += block_outcomes
        totals += block_totals
        written += [name] if has_rows else []
    if not written:
        raise ValueError("No still could be measured. The log and stills.csv say why for each.")
    _remove_stale(params.output.reflections, set(written))
    return written, RadialTotals.concatenate(totals), outcomes


def _pixel_columns(number: int, pixels: PanelPixels) -> dict[str, np.ndarray]:
    n = len(pixels.counts)
    return {
        "id": np.full(n, number, dtype=np.int32),
        "panel": np.full(n, pixels.panel, dtype=np.int32),
        "xyzobs.px.value": np.column_stack([pixels.position, np.zeros(n)]),
        "rlp": pixels.s,
        "counts": pixels.counts,
        "background": pixels.background,
        "response": pixels.response,
        "variance": pixels.variance,
        "bragg": pixels.bragg,
    }


def _block_name(name: str, number: int) -> str:
    """extracted.refl → extracted_00000.refl."""
    path = Path(name)
    return str(path.with_name(f"{path.stem}_{number:05d}{path.suffix}"))


def is_block(name: str) -> bool:
    """Whether a .refl has the name that diffuse.extract gives its files: ..._00000.refl and so on."""
    return re.search(r"_\d{5}\.refl$", name) is not None


def _remove_stale(name: str, written: set[str]) -> None:
    path = Path(name)
    pattern = re.compile(re.escape(path.stem) + r"_\d{5}" + re.escape(path.suffix))
    for other in path.parent.glob(f"{path.stem}_*{path.suffix}"):
        if pattern.fullmatch(other.name) and str(other) not in written:
            other.unlink()
            logger.info("Removed %s of an earlier run.", other)


def grid_files(names, stills: Stills, grid: Grid, params, nproc: int) -> VoxelSums:
    """Sum the pixels of diffuse.extract's files; the same sums as from the images.

    Args:
        names: extracted_*.refl files.
        stills: The stills of extracted.expt.
        grid: The grid they share.
        params: Extract of diffuse.grid, for d_min and d_max.
        nproc: Processes.

    Raises:
        ValueError: If a file is not one of diffuse.extract's, belongs to other stills, or a still is in two files.
    """
    numbers = {identifier: n for n, identifier in enumerate(stills.experiments.identifiers())}

    def work(name):
        table = load_table(name, EXTRACTED, "diffuse.extract")
        strangers = [identifier for identifier in table.identifiers.values() if identifier not in numbers]
        if strangers or not table.identifiers:
            raise ValueError(f"{name} refers to experiment {(strangers or ['(none)'])[0]}, which the .expt file does not hold. Give the .expt and .refl files that one run of diffuse.extract wrote together.")
        sums = []
        for number, identifier in table.identifiers.items():
            panels = _read_pixels(table, number, params)
            if panels:
                sums.append(_sums_of(numbers[identifier], panels, stills, grid))
        return list(table.identifiers.values()), sums

    seen: dict[str, str] = {}
    parts = []
    for name, (identifiers, sums) in zip(names, each(work, names, nproc, "grid")):
        for identifier in identifiers:
            if identifier in seen:
                raise ValueError(f"The pixels of still {identifier} are in {seen[identifier]} and in {name}. Give the files of one run of diffuse.extract.")
            seen[identifier] = name
        parts += sums
    parts.sort(key=lambda part: part.still[0])
    return _all_sums(parts, grid)


def _read_pixels(table, number: int, params) -> list[PanelPixels]:
    """The pixels of one still from a file, panel by panel, within the resolution limits."""
    rows = np.flatnonzero(table["id"] == number)
    s_length = np.linalg.norm(table["rlp"][rows], axis=1)
    inside = np.ones(len(rows), dtype=bool)
    if params.d_min is not None:
        inside &= s_length <= 1 / params.d_min
    if params.d_max is not None:
        inside &= s_length >= 1 / params.d_max
    rows = rows[inside]
    panel = table["panel"][rows].astype(np.int32)
    read = []
    for value in np.unique(panel):
        chosen = rows[panel == value]
        columns = (table[name][chosen] for name in ("rlp", "counts", "background", "response", "variance", "bragg"))
        read.append(PanelPixels(int(value), table["xyzobs.px.value"][chosen, :2], *columns))
    return read


def radial_columns(totals: RadialTotals) -> dict[str, np.ndarray]:
    """The columns of radial_totals.refl."""
    return {
        "id": totals.still, "panel": totals.panel, "s": totals.s, "counts": totals.counts,
        "background": totals.background, "response": totals.response, "variance": totals.variance,
        "n_pixels": totals.n_pixels, "n_overloaded": totals.n_overloaded,
    }  # fmt: skip


def voxel_columns(sums: VoxelSums) -> dict[str, np.ndarray]:
    """The columns of gridded.refl."""
    columns = {
        "id": sums.still, "miller_index": sums.index, "asu_miller_index": sums.asu_index, "panel": sums.panel,
        "bragg": sums.bragg, "counts": sums.counts, "background": sums.background, "response": sums.response,
        "variance": sums.variance, "n_pixels": sums.n_pixels,
    }  # fmt: skip
    if sums.position is not None:
        columns["xyzobs.px.value"] = np.column_stack([sums.position, np.zeros(len(sums))])
    return columns


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
