"""The files of diffuse.extract, a row per pixel: writing them, and summing what is in them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from diffuse_dials.adapters.images import panel_shapes
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import Grid
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.limits import asu_box, largest_s
from diffuse_dials.algorithms.pipeline import measure_still, sums_of
from diffuse_dials.algorithms.running.forecast import forecast
from diffuse_dials.algorithms.running.parallel import working_on
from diffuse_dials.algorithms.running.parts import Job, PartedSums, log_forecast, make_parts, open_run, still_names
from diffuse_dials.algorithms.running.run_folder import images_mark
from diffuse_dials.algorithms.stills.still_pixels import PanelPixels
from diffuse_dials.io.atomic import place
from diffuse_dials.io.columns import EXTRACTED
from diffuse_dials.io.store_parts import writing_part
from diffuse_dials.io.tables import load_table, save_table
from diffuse_dials.models.asu import AsuBox

logger = logging.getLogger(f"dials.{__name__}")

ROWS_PER_FILE = 5_000_000  # about 0.5 GB: a block of stills that a worker holds at once
_BYTES_PER_PIXEL = 100
_NO_BOX = AsuBox((0, 0, 0), (1, 1, 1))  # a part that holds no voxel


def extract_to_files(params, stills: Stills, measurement: Measurement, job: Job) -> PartedSums | None:
    """Measure each still and write its pixels, a block of stills to a file.

    The files wait in the run's folder; :func:`place_files` puts them where the user wants them.

    Args:
        params: Extract of diffuse.extract.
        stills: The stills.
        measurement: Set up for them.
        job: How the run is carried out.

    Returns:
        Outcomes and radial totals, in parts; None on other ranks than 0.

    Raises:
        ValueError: If a still fails (unless skip_failed), none is left, a process is killed, or a file cannot be
            written.
    """

    def plan():
        n_pixels = sum(slow * fast for slow, fast in panel_shapes(stills.experiments[0].detector))
        per_file = max(1, int(ROWS_PER_FILE * params.extraction.pixel_step**2 / n_pixels))
        n = len(stills)
        return {"blocks": [[start, min(start + per_file, n)] for start in range(0, n, per_file)]}

    folder = open_run(job, params.output.reflections, plan)
    blocks = folder.plan["blocks"]

    def mark(block):
        return images_mark(stills.keys[slice(*blocks[block])])

    def make(block, path):
        before = mark(block)
        outcomes, columns = [], []
        with writing_part(path, job.key, _NO_BOX, True, before) as part:
            for number in range(*blocks[block]):
                outcome, measured = measure_still(measurement, number, params.extraction.skip_failed)
                outcomes.append(outcome.to_dict())
                if measured is not None:
                    part.append(number, None, measured.totals)
                    columns += [_pixel_columns(number, pixels) for pixels in measured.pixels]
            if columns:
                table = {name: np.concatenate([c[name] for c in columns]) for name in EXTRACTED}
                ids = np.unique(table["id"])
                identifiers = {int(i): stills.experiments[int(i)].identifier for i in ids}
                save_table(table, path.with_suffix(".refl"), identifiers)
            part.finish(outcomes)

    parts = make_parts(
        job, folder, make, mark, "extract", still_names(stills), params.extraction.skip_failed,
        lambda part: not len(part.numbers) or part.path.with_suffix(".refl").is_file(),
    )  # fmt: skip
    return None if parts is None else PartedSums.of(folder, parts)


def place_files(extracted: PartedSums, name: str) -> list[str]:
    """Put the pixel files of a run in place, and remove those of an earlier run.

    Files with the same name and a higher number would make a later command, given all of them, count photons of
    two runs. The run's folder keeps its own until the run is complete, so that any moment can be resumed from.

    Args:
        extracted: What extract_to_files returned.
        name: extracted.refl for extracted_00000.refl and so on.

    Returns:
        Names of the files.

    Raises:
        ValueError: If a file cannot be written.
    """
    written = []
    for part in extracted.parts:
        written.append(_block_name(name, int(part.path.stem)))
        place(part.path.with_suffix(".refl"), written[-1])
    _remove_stale(name, set(written))
    return written


def grid_files(names, stills: Stills, grid: Grid, params, job: Job) -> PartedSums | None:
    """Sum the pixels of diffuse.extract's files; the same sums as from the images.

    Args:
        names: extracted_*.refl files.
        stills: The stills of extracted.expt.
        grid: The grid they share.
        params: Extract of diffuse.grid, for d_min and d_max.
        job: How the run is carried out.

    Returns:
        The sums, in parts; None on other ranks than 0.

    Raises:
        ValueError: If a file is not one of diffuse.extract's, belongs to other stills, or a still is in two files.
    """
    numbers = {identifier: n for n, identifier in enumerate(stills.experiments.identifiers())}
    box = asu_box(grid, stills, largest_s(stills, params.d_min))

    def read(name):
        table = load_table(name, EXTRACTED, "diffuse.extract")
        strangers = [identifier for identifier in table.identifiers.values() if identifier not in numbers]
        if strangers or not table.identifiers:
            raise ValueError(
                f"{name} refers to experiment {(strangers or ['(none)'])[0]}, which the .expt file does not hold. "
                "Give the .expt and .refl files that one run of diffuse.extract wrote together."
            )
        for number, identifier in sorted(table.identifiers.items(), key=lambda item: numbers[item[1]]):
            panels = _read_pixels(table, number, params)
            if panels:
                yield numbers[identifier], sums_of(numbers[identifier], panels, stills, grid)

    def plan():
        most = max(Path(name).stat().st_size for name in names) // _BYTES_PER_PIXEL

        def count(name):
            return sum(len(sums) for _, sums in read(name))

        found = forecast(count, list(names), most, params.output.reflections)
        store = log_forecast(found, params.grid.store, job)
        return {"store": store, "blocks": [[number, number + 1] for number in range(len(names))]}

    folder = open_run(job, params.output.reflections, plan)
    store = folder.plan["store"]

    def make(block, path):
        working_on(block)
        with writing_part(path, job.key, box, not store) as part:
            for number, sums in read(names[block]):
                part.append(number, sums)
            part.finish([])

    parts = make_parts(job, folder, make, lambda block: "", "grid", lambda number: names[number])
    if parts is None:
        return None
    owner: dict[int, str] = {}
    for part in parts:
        for number in part.numbers:
            name = names[int(part.path.stem)]
            if owner.setdefault(int(number), name) != name:
                folder.remove(params.output.reflections)
                still = stills.experiments[int(number)].identifier
                raise ValueError(
                    f"The pixels of still {still} are in {owner[int(number)]} and in {name}. "
                    "Give the files of one run of diffuse.extract."
                )
    return PartedSums.of(folder, parts)


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
