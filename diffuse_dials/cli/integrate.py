"""Index and integrate still images with DIALS, and record what became of each image.

Does what dials.stills_process does, whose parameters are in stills_process { ... }, in blocks of images. resume=True
continues an interrupted run; with more images, or after some were replaced, it processes only what is new. An image
that is broken, blank or cannot be indexed does not stop the run: stills.csv lists it with the reason. If no image at
all is integrated, that is an error.

Examples:

  diffuse.integrate images/*.cbf integrate.phil mp.nproc=4

  diffuse.integrate images/*.cbf integrate.phil mp.nproc=4 resume=True

  diffuse.integrate imported.expt stills_process.indexing.known_symmetry.unit_cell=79,79,38,90,90,90 \\
    stills_process.indexing.known_symmetry.space_group=P43212
"""

from __future__ import annotations

import logging

import libtbx.phil
from dials.util import show_mail_handle_errors, tabulate

from diffuse_dials.algorithms.integration import check_any, counts, find_images, integrate, update_stills
from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.stills import StillsTable

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.integration.phil_scope
include scope diffuse_dials.algorithms.running.parallel.mpi_phil_scope
include scope diffuse_dials.algorithms.running.run_folder.phil_scope
output {
  folder = integrated
    .type = path
    .help = "Folder of the results, a pair of files per block of images: idx-00000_integrated.expt and .refl ..."
  stills = stills.csv
    .type = path
    .help = "One line per still; images that failed are in it. Columns that you added to a file of this name are kept."
  log = diffuse.integrate.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.integrate from the command line."""
    call = start(args, phil, __doc__, "diffuse.integrate [options] images [param=value] [file.phil]", takes_others=True)
    params, comm = call.params, call.comm
    with user_errors(comm, resumes=True):
        with comm.together():
            images, broken = find_images([*call.experiments, *call.others], params.stills_process)
        nproc = n_processes(params.mp)
        results = integrate(images, phil, params, params.output.folder, nproc, comm, params.resume)
        if results is None:
            return  # rank 0 writes
        results += broken
        update_stills(StillsTable.beside(params.output.stills), results).write(params.output.stills)
        headers = ("What became of them", "images", "spots (median)")
        logger.info("\n%s\n", tabulate(counts(results), headers))
        for result in results:
            if not result.outcome.ok:
                logger.warning("%s %s: %s", result.label, result.outcome.kind, result.outcome.reason)
        check_any(results)
        n_integrated = sum(result.outcome.ok for result in results)
        logger.info("%d of %d images integrated: %s", n_integrated, len(results), params.output.folder)
