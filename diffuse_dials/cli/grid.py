"""Sum diffuse scattering over the voxels of reciprocal space, still by still.

From integrated stills and their images (the pixels stream through memory and none is written), or from the files
of diffuse.extract: the sums are the same. One row per (still, voxel, panel), Bragg pixels in rows of their own;
symmetry mates stay apart until diffuse.scale merges them.

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
from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.extraction import Measurement, corner_resolution
from diffuse_dials.algorithms.gridding import define_grid
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.algorithms.parallel import n_processes
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import save_table

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.gridding.phil_scope
include scope diffuse_dials.algorithms.extraction.phil_scope
include scope diffuse_dials.algorithms.parallel.phil_scope
output {
  experiments = gridded.expt
    .type = path
    .help = "The stills."
  reflections = gridded.refl
    .type = path
    .help = "The sums."
  radial_totals = radial_totals.refl
    .type = path
    .help = "From images: sums by |s| of all good pixels, Bragg spots included, for diffuse.absolute."
  grid = grid.json
    .type = path
    .help = "The grid and what the sums contain; later commands look for it beside the .refl."
  stills = stills.csv
    .type = path
    .help = "One line per still. Columns that you added to a file of this name are kept."
  log = diffuse.grid.log
    .type = path
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.grid from the command line."""
    call = start(args, phil, __doc__, "diffuse.grid [options] stills.expt stills.refl [param=value] [file.phil]")
    params, nproc = call.params, n_processes(call.params.mp)
    with user_errors():
        extracted = _contents_of_extracted(call)
        stills = load_stills(call.experiments, () if extracted else call.reflections, params.masking.bragg.method != "lattice")
        grid = define_grid(params.grid, stills, params.d_min or corner_resolution(stills.experiments[0]))
        if extracted:
            contents = extracted
            sums, totals, outcomes = pipeline.grid_files(call.reflections, stills, grid, params, nproc), None, None
        else:
            measurement = Measurement(params, stills, params.output.stills)
            contents = pipeline.contents_record(measurement.record)
            sums, totals, outcomes = pipeline.grid_images(params, stills, measurement, grid, nproc)
            pipeline.log_outcomes(outcomes, stills)
        logger.info("%d sums of %d pixels in %d stills", len(sums), sums.n_pixels.sum(), len(set(sums.still.tolist())))
        identifiers = dict(enumerate(stills.experiments.identifiers()))
        save_table(pipeline.voxel_columns(sums), params.output.reflections, identifiers)
        table = StillsTable.beside(params.output.stills)
        if totals is not None:
            save_table(pipeline.radial_columns(totals), params.output.radial_totals, identifiers)
            pipeline.update_stills(table, stills, outcomes)
        table.write(params.output.stills)
        save_grid_record(grid.record(params, contents), params.output.grid)
        save_experiments(stills.experiments, params.output.experiments)
        logger.info("Wrote %s, %s and %s", params.output.experiments, params.output.reflections, params.output.grid)


def _contents_of_extracted(call) -> dict | None:
    """The record beside diffuse.extract's files, if those were given: then no image is opened."""
    if not any(pipeline.is_block(name) for name in call.reflections):
        return None
    path = Path(call.reflections[0]).parent / "extracted.json"
    if not path.is_file():
        raise ValueError(
            f"There is no extracted.json beside {call.reflections[0]}. Keep it in the folder of the files that diffuse.extract wrote."
        )
    contents = json.loads(path.read_text(encoding="utf-8"))
    for name in ("d_min", "d_max"):
        limit, wanted = contents.pop(name), getattr(call.params, name)
        if wanted is None:
            setattr(call.params, name, limit)
    return contents
