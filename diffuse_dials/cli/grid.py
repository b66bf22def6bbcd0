"""Sum diffuse scattering over the voxels of reciprocal space, still by still.

Takes integrated stills and their images (pixels stream through memory, none is written), or the files of
diffuse.extract; the sums are the same. Writes one row per still, voxel and panel, with Bragg pixels in separate rows;
symmetry mates stay separate until diffuse.scale merges them.

Examples:

  diffuse.grid integrated.expt integrated.refl mask=pixels.mask d_min=1.8 ndiv=3,3,3 mp.nproc=2

  diffuse.grid extracted.expt extracted_*.refl ndiv=3,3,3
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.adapters.heap import keep_heap
from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import define_grid
from diffuse_dials.algorithms.inputs import Stills, load_stills
from diffuse_dials.algorithms.limits import corner_resolution
from diffuse_dials.algorithms.pixel_files import grid_files, is_block
from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.algorithms.running.parts import Job, PartedSums
from diffuse_dials.algorithms.running.run_folder import is_complete, parts_key, result_key, run_key
from diffuse_dials.algorithms.stills.pixel_statistics import pixel_statistics
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.stills import StillsTable

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.gridding.phil_scope
include scope diffuse_dials.algorithms.extraction.phil_scope
include scope diffuse_dials.algorithms.pipeline.phil_scope
include scope diffuse_dials.algorithms.running.parallel.mpi_phil_scope
output {
  experiments = gridded.expt
    .type = path
    .help = "The stills."
  reflections = gridded.refl
    .type = path
    .help = "The sums. If they go to a store (see grid.store), its name is the same with .h5, and the folder"
            "gridded_parts beside it belongs to it."
  radial_totals = radial_totals.refl
    .type = path
    .help = "From images: sums by |s| of all good pixels, Bragg spots included, for diffuse.absolute."
  grid = grid.json
    .type = path
    .help = "The grid and what the sums contain; later commands look for it beside the .refl."
  stills = stills.csv
    .type = path
    .help = "One line per still. Columns that you added to a file of this name are kept."
  pixel_statistics = pixel_statistics.json
    .type = path
    .help = "From images: what a few stills show pixel by pixel, for diffuse.report (see quality). None: none."
  log = diffuse.grid.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.grid from the command line."""
    call = start(args, phil, __doc__, "diffuse.grid [options] stills.expt stills.refl [param=value] [file.phil]")
    params, comm = call.params, call.comm
    if params.grid.keep_heap:
        keep_heap()
    with user_errors(comm, resumes=True):
        with comm.together():
            extracted = _contents_of_extracted(call)
            read_tables = params.masking.bragg.method != "lattice"
            stills = load_stills(call.experiments, () if extracted else call.reflections, read_tables)
            key = run_key("diffuse.grid", phil, params, call.files, stills)
            if params.resume and _is_complete(params, key, stills):
                logger.info("%s is complete: nothing is left to do.", params.output.reflections)
                return
            grid = define_grid(params.grid, stills, params.d_min or corner_resolution(stills.experiments[0]))
            measurement = None if extracted else Measurement(params, stills, params.output.stills)
        parts = parts_key(key, measurement.record if measurement else extracted)
        job = Job(comm, n_processes(params.mp), params.resume, comm.from_first(parts))
        if extracted:
            sums = grid_files(call.reflections, stills, grid, params, job)
        else:
            sums = pipeline.grid_images(params, stills, measurement, grid, job)
        if sums is None:
            return  # rank 0 writes
        sums.log()
        contents = extracted or pipeline.contents_record(measurement.record)
        identifiers = dict(enumerate(stills.experiments.identifiers()))
        known = {**sums.one_still(identifiers, True, not extracted), "run_key": result_key(key, stills, sums.failed)}
        record = grid.record(params, {**contents, **known})
        shown = None
        if measurement is not None and params.output.pixel_statistics:
            shown = pixel_statistics(measurement, stills, sums, params.quality.sample_stills)
        _write(sums, stills, record, params.output, bool(extracted), shown)


def _write(sums: PartedSums, stills: Stills, record, output, from_files: bool, shown: dict | None) -> None:
    """Write all outputs; grid.json comes last and says that the others are complete."""
    identifiers = dict(enumerate(stills.experiments.identifiers()))
    table, store = output.reflections, str(Path(output.reflections).with_suffix(".h5"))
    if sums.store:
        sums.save_index(store, stills.experiments.identifiers())
    else:
        sums.save_sums(table, identifiers)
    stills_table = StillsTable.beside(output.stills)
    if not from_files:
        sums.save_totals(output.radial_totals, identifiers)
        pipeline.update_stills(stills_table, stills, sums.outcomes)
        pipeline.log_outcomes(sums.outcomes, stills)
    stills_table.write(output.stills)
    save_experiments(stills.experiments, output.experiments)
    if shown is not None:
        write_json(shown, output.pixel_statistics, indent=None)
    save_grid_record(record, output.grid)
    # an earlier run's file of the other kind would look like this run's
    if sums.store:
        Path(table).unlink(missing_ok=True)
        sums.folder.keep_only_this(table)
    else:
        Path(store).unlink(missing_ok=True)
        sums.folder.remove(table)
    logger.info("Wrote %s, %s and %s", output.experiments, store if sums.store else table, output.grid)


def _is_complete(params, key: str, stills: Stills) -> bool:
    output, skip_failed = params.output, params.extraction.skip_failed
    return any(
        is_complete(
            output.grid, key, stills, skip_failed, output.reflections, (name, output.experiments, output.stills)
        )
        for name in (output.reflections, Path(output.reflections).with_suffix(".h5"))
    )


def _contents_of_extracted(call) -> dict | None:
    """The record beside diffuse.extract's files, if those were given: then no image is opened."""
    if not any(is_block(name) for name in call.reflections):
        return None
    path = Path(call.reflections[0]).parent / "extracted.json"
    if not path.is_file():
        raise ValueError(
            f"There is no extracted.json beside {call.reflections[0]}. Keep it in the folder of the files that "
            "diffuse.extract wrote."
        )
    contents = json.loads(path.read_text(encoding="utf-8"))
    for name in ("d_min", "d_max"):
        limit, wanted = contents.pop(name), getattr(call.params, name)
        if wanted is None:
            setattr(call.params, name, limit)
    return contents
