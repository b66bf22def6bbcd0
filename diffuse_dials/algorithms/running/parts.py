"""A run in parts: some stills each, made by whichever process is free, kept on the disk, and made once."""

from __future__ import annotations

import glob
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from diffuse_dials.algorithms.belonging import one_still
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.running.forecast import Forecast
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.running.parallel import each
from diffuse_dials.algorithms.running.run_folder import RunFolder
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.io.atomic import remove_leftovers
from diffuse_dials.io.gridded_store import write_index
from diffuse_dials.io.store_parts import Part
from diffuse_dials.io.table_stream import write_table
from diffuse_dials.io.tables import MAX_ROWS
from diffuse_dials.models.exposure import Exposure
from diffuse_dials.models.sums import RadialTotals

logger = logging.getLogger(f"dials.{__name__}")

_STORED_ROWS, _TABLE_ROWS = 4_000_000, 500_000  # of a part; one for the store is in memory until complete: below 0.1 GB
_PARTS_PER_PROCESS = 16
_MAX_PARTS = 2000


@dataclass(frozen=True)
class Job:
    """How a run is carried out; none of it changes a number.

    Attributes:
        comm: Ranks that share the work.
        nproc: Processes that do, where there is one rank.
        resume: Whether finished parts of an earlier run are used.
        key: Of the run (see run_folder.run_key).
    """

    comm: Communicator
    nproc: int
    resume: bool
    key: str

    @property
    def n_workers(self) -> int:
        """Processes that work."""
        return max(self.nproc if self.comm.size == 1 else self.comm.size - (self.comm.size > 2), 1)


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

    def to_dict(self) -> dict:
        """For JSON; from_dict reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Outcome:
        exposure = None if data["exposure"] is None else Exposure(**data["exposure"])
        return cls(**{**data, "exposure": exposure})


def split(n_stills: int, rows_per_still: float, n_workers: int, store: bool) -> list[list[int]]:
    """Blocks of consecutive stills, [first, end): small enough to share out and to lose, not too many for a folder."""
    most = _STORED_ROWS if store else _TABLE_ROWS
    size = min(most / max(rows_per_still, 1), n_stills / (_PARTS_PER_PROCESS * n_workers))
    size = max(int(size), -(-n_stills // _MAX_PARTS), 1)
    return [[first, min(first + size, n_stills)] for first in range(0, n_stills, size)]


def open_run(job: Job, output: str, make_plan) -> RunFolder:
    """The run's folder and plan, the same on every rank.

    Args:
        job: How the run is carried out.
        output: The file that it will write.
        make_plan: Called on rank 0 if the run begins now; returns a plan for JSON with its ``blocks``.

    Raises:
        ValueError: See RunFolder.open, and what make_plan raises.
    """
    folder, seen = None, None
    with job.comm.together():
        if job.comm.rank == 0:
            folder = RunFolder.open(output, job.key, job.resume)
            if folder.plan is None:
                folder.begin({"key": job.key, **make_plan()})
            seen = folder.path, folder.plan
    path, plan = job.comm.from_first(seen)
    return folder or RunFolder(path, plan)


def make_parts(
    job: Job, folder: RunFolder, make, marks, label: str, name, skip_failed: bool = True, is_whole=lambda part: True
) -> list[Part] | None:
    """Make what is missing of a run's parts.

    Args:
        job: How the run is carried out.
        folder: The run's folder, with its plan.
        make: ``make(number, path)`` writes part ``number``.
        marks: ``marks(number)`` is the mark of its images.
        label: For the progress bar.
        name: ``name(still)`` for messages.
        skip_failed: Whether finished parts with stills that failed are good enough.
        is_whole: ``is_whole(part)`` is whether what belongs to a finished part besides its file exists.

    Returns:
        The parts in their order, on rank 0; None on the others.

    Raises:
        ValueError: What make raises, or if a process is killed; parts that are finished stay.
    """
    blocks = folder.plan["blocks"]
    done = {}
    if job.comm.rank == 0:
        for number in range(len(blocks)):
            part = folder.finished(number, job.key, marks(number))
            failed = part is not None and any(outcome["status"] == "failed" for outcome in part.outcomes)
            if part is not None and is_whole(part) and (skip_failed or not failed):
                done[number] = part
        if done:
            logger.info("%d of %d parts were finished before", len(done), len(blocks))
    missing = job.comm.from_first([number for number in range(len(blocks)) if number not in done])

    def work(number):
        make(number, folder.part(number))

    def called(number):
        first, end = blocks[number]
        return name(first) if end == first + 1 else f"{name(first)} to {name(end - 1)}"

    left = sum(blocks[number][1] - blocks[number][0] for number in missing)
    try:
        for _ in each(work, missing, job.nproc, label, comm=job.comm, total=left, name=name, task_name=called):
            pass
    except ValueError as error:
        if job.comm.rank == 0:
            remove_leftovers(folder.path)  # of processes that were killed because another failed
            kept = sum(folder.part(number).is_file() for number in range(len(blocks)))
            hint = f" {kept} of {len(blocks)} parts are finished: resume=True makes only the others." if kept else ""
            if kept:
                folder.close()
            else:
                folder.discard()
            raise ValueError(f"{sentence(error)}{hint}") from None
        raise
    if job.comm.rank:
        return None
    return [done.get(number) or Part.open(folder.part(number)) for number in range(len(blocks))]


@dataclass(frozen=True)
class PartedSums:
    """What a run of diffuse.grid or diffuse.extract measured, still in its parts.

    Attributes:
        folder: The run's folder.
        parts: In the order of their stills.
        outcomes: What became of each still.
    """

    folder: RunFolder
    parts: list[Part]
    outcomes: list[Outcome]

    @classmethod
    def of(cls, folder: RunFolder, parts: list[Part]) -> PartedSums:
        """The parts of a run, ordered by their stills.

        Raises:
            ValueError: If no still could be measured.
        """
        outcomes = [Outcome.from_dict(outcome) for part in parts for outcome in part.outcomes]
        measured = sorted((part for part in parts if len(part.numbers)), key=lambda part: part.numbers[0])
        if not measured:
            folder.discard()
            reasons = [outcome.reason for outcome in outcomes if outcome.reason]
            raise ValueError(
                f"No still could be measured. The first: {sentence(reasons[0] if reasons else 'it has no pixel')}"
            )
        return cls(folder, measured, outcomes)

    @property
    def store(self) -> bool:
        """Whether the sums stay in a store, rather than go to a table."""
        return self.folder.plan.get("store", False)

    @property
    def failed(self) -> bool:
        """Whether a still could not be measured."""
        return any(outcome.status == "failed" for outcome in self.outcomes)

    @property
    def n_rows(self) -> int:
        return sum(part.n_rows for part in self.parts)

    def log(self) -> None:
        """How much was measured."""
        n_stills = sum(int(np.count_nonzero(part.still_rows)) for part in self.parts)
        n_pixels = sum(part.n_pixels for part in self.parts)
        logger.info("%d sums of %d pixels in %d stills", self.n_rows, n_pixels, n_stills)

    def save_sums(self, path, identifiers: dict[int, str]) -> None:
        """Write gridded.refl, still by still, so that one is in memory.

        Raises:
            ValueError: If there are more rows than a table holds, or it cannot be written.
        """
        names = ["miller_index", "asu_miller_index", "panel", "bragg", "counts", "response", "n_pixels", "background"]
        names += ["id", "variance"]
        if all("position" in part.columns for part in self.parts if part.n_rows):
            names.append("xyzobs.px.value")
        place = np.zeros((max((part.still_rows.max(initial=0) for part in self.parts), default=0), 3))
        rows = (_rows_of(*still, names, place) for part in self.parts for still in part.rows_by_still())
        write_table(names, rows, path, identifiers, self.n_rows)

    def save_index(self, path, identifiers) -> None:
        """Write gridded.h5 over the parts."""
        write_index(path, self.parts, identifiers, self.folder.plan["key"])

    def one_still(self, identifiers: dict[int, str], sums: bool, totals: bool) -> dict:
        """What grid.json and extracted.json keep of the first still, see algorithms.belonging.

        Args:
            identifiers: Of the stills, by their position in the experiment list.
            sums: Whether the sums are written.
            totals: Whether the radial totals are.
        """
        kept = {}
        part = next((part for part in self.parts if part.n_rows), None)
        if sums and part is not None:
            number, rows = part.first_still()
            kept["sums_of_a_still"] = one_still(identifiers[number], rows)
        part = next((part for part in self.parts if part.n_totals), None)
        if totals and part is not None:
            found = part.totals()
            number = int(found["still"][0])
            rows = {name: values[found["still"] == number] for name, values in found.items()}
            kept["totals_of_a_still"] = one_still(identifiers[number], rows)
        return kept

    def totals(self) -> RadialTotals:
        """The radial totals of all stills, for what fits in memory."""
        return RadialTotals.concatenate([RadialTotals(**part.totals()) for part in self.parts if part.n_totals])

    def totals_of(self, number: int) -> RadialTotals:
        """The radial totals of one still, which could be measured."""
        totals = RadialTotals(**next(part for part in self.parts if number in part.numbers).totals())
        return totals.select(totals.still == number)

    def save_totals(self, path, identifiers: dict[int, str]) -> list[str]:
        """Write radial_totals.refl; what is more than a table holds goes to radial_totals_00001.refl and so on.

        A still is in one file. Files of an earlier run with a higher number are removed: they would look like this
        run's.

        Returns:
            Names of the files.
        """
        path, blocks, n_rows = Path(path), [[]], 0
        for part in self.parts:
            if n_rows + part.n_totals > MAX_ROWS:
                blocks.append([])
                n_rows = 0
            n_rows += part.n_totals
            blocks[-1] += [part] if part.n_totals else []
        names = [path, *(path.with_stem(f"{path.stem}_{number:05d}") for number in range(1, len(blocks)))]
        for name, block in zip(names, blocks):
            columns = {field.name: {"still": "id"}.get(field.name, field.name) for field in fields(RadialTotals)}
            rows = ({columns[n]: values for n, values in part.totals().items()} for part in block)
            write_table(list(columns.values()), rows, name, identifiers, sum(part.n_totals for part in block))
        for old in path.parent.glob(f"{glob.escape(path.stem)}_[0-9][0-9][0-9][0-9][0-9]{path.suffix}"):
            if old not in names:
                old.unlink()
        return [str(name) for name in names]


def _rows_of(number: int, rows: dict[str, np.ndarray], names, place: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of gridded.refl for the rows of a still, from a part's; those that are 0 may be missing.

    Args:
        number: Of the still.
        rows: From Part.rows_by_still.
        names: Of the columns.
        place: Zeros of shape (n or more, 3), for the positions until the next still.
    """
    n = len(rows["counts"])
    rows["id"] = np.full(n, number, dtype=np.int32)
    if "xyzobs.px.value" in names:
        place[:n, 0], place[:n, 1] = rows["position"].T  # one after the other, in half the time
        rows["xyzobs.px.value"] = place[:n]
    return {name: rows[name] for name in names if name in rows}


def still_names(stills: Stills):
    """What to call a still in messages."""
    return lambda number: stills.keys[number].label


def log_forecast(forecast: Forecast, choice, job: Job) -> bool:
    """Decide whether the sums go to a store, and log why.

    Args:
        forecast: Of the run.
        choice: ``grid.store``: True, False, or anything else for "as the forecast says".
        job: How the run is carried out.
    """
    store = choice if isinstance(choice, bool) else forecast.needs_store()
    forecast.log(store, job.n_workers)
    return store
