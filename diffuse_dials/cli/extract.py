"""Measure the diffuse scattering of stills, pixel by pixel.

Reads integrated stills (dials.stills_process) and their images. Each pixel that passes the masks becomes a row
with its photons, the background, its response (solid angle x polarization x efficiency x transmission x exposure
time) and its scattering vector; pixels under the Bragg mask are kept and flagged. Nothing is divided before merging.

Examples:

  diffuse.extract integrated.expt integrated.refl mask=pixels.mask d_min=1.8

  diffuse.extract idx-*_integrated.expt idx-*_integrated.refl background=blank.expt mp.nproc=2

diffuse.grid does the same straight from the images, without writing pixels: use it for many stills.
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.inputs import Stills, load_stills
from diffuse_dials.algorithms.pixel_files import extract_to_files, place_files
from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.algorithms.running.parts import Job
from diffuse_dials.algorithms.running.run_folder import is_complete, parts_key, result_key, run_key
from diffuse_dials.algorithms.stills.pixel_statistics import pixel_statistics
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.report.corrections import correction_sections, factor_figure, totals_section
from diffuse_dials.report.html import write_report
from diffuse_dials.report.plots import save_png

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.extraction.phil_scope
include scope diffuse_dials.algorithms.running.run_folder.phil_scope
include scope diffuse_dials.algorithms.running.parallel.mpi_phil_scope
output {
  experiments = extracted.expt
    .type = path
    .help = "The stills."
  reflections = extracted.refl
    .type = path
    .help = "The pixels: extracted_00000.refl and so on, a block of stills to a file."
  radial_totals = radial_totals.refl
    .type = path
    .help = "Sums by |s| of all good pixels, Bragg spots included, for diffuse.absolute."
  stills = stills.csv
    .type = path
    .help = "One line per still. Columns that you added to a file of this name are kept."
  json = extracted.json
    .type = path
    .help = "What the pixels contain: corrections, background, masks. diffuse.grid reads it."
  html = diffuse.extract.html
    .type = path
    .help = "Report: each correction with its values and its picture. None: none."
  png = diffuse.extract.png
    .type = path
    .help = "Pictures of the corrections: diffuse.extract_polarization.png and so on. None: none."
  pixel_statistics = pixel_statistics.json
    .type = path
    .help = "What a few stills show pixel by pixel, for diffuse.report (see quality). None: none."
  log = diffuse.extract.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.extract from the command line."""
    usage = "diffuse.extract [options] integrated.expt integrated.refl [param=value] [file.phil]"
    call = start(args, phil, __doc__, usage)
    params, output, comm = call.params, call.params.output, call.comm
    with user_errors(comm, resumes=True):
        with comm.together():
            stills = load_stills(call.experiments, call.reflections, params.masking.bragg.method != "lattice")
            key = run_key("diffuse.extract", phil, params, call.files, stills)
            skip_failed, others = params.extraction.skip_failed, (output.experiments, output.stills)
            if params.resume and is_complete(output.json, key, stills, skip_failed, output.reflections, others):
                logger.info("%s is complete: nothing is left to do.", output.experiments)
                return
            measurement = Measurement(params, stills, output.stills)
        job = Job(comm, n_processes(params.mp), params.resume, comm.from_first(parts_key(key, measurement.record)))
        extracted = extract_to_files(params, stills, measurement, job)
        if extracted is None:
            return  # rank 0 writes
        pipeline.log_outcomes(extracted.outcomes, stills)
        names = place_files(extracted, output.reflections)
        identifiers = dict(enumerate(stills.experiments.identifiers()))
        extracted.save_totals(output.radial_totals, identifiers)
        table = StillsTable.beside(output.stills)
        pipeline.update_stills(table, stills, extracted.outcomes)
        table.write(output.stills)
        _write_pictures(measurement, stills, extracted.totals(), output)
        if output.pixel_statistics:
            shown = pixel_statistics(measurement, stills, extracted, params.quality.sample_stills)
            write_json(shown, output.pixel_statistics, indent=None)
        save_experiments(stills.experiments, output.experiments)
        contents = pipeline.contents_record(measurement.record)
        # it comes last and says that the others are complete
        known = extracted.one_still(identifiers, False, True)
        known["run_key"] = result_key(key, stills, extracted.failed)
        write_json({**contents, "d_min": params.d_min, "d_max": params.d_max, **known}, output.json)
        extracted.folder.remove(output.reflections)
        written = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
        logger.info("Wrote %s and %s", output.experiments, written)


def _write_pictures(measurement: Measurement, stills: Stills, totals, output) -> None:
    """The report, and a PNG of each factor of the response."""
    detector = stills.experiments[0].detector
    if output.html:
        sections = correction_sections(measurement.record["corrections"], measurement.factor_maps, detector)
        write_report(output.html, "diffuse.extract", [*sections, totals_section(totals)])
    if output.png:
        path = Path(output.png)
        for factor in measurement.factor_maps:
            save_png(factor_figure(factor, detector), path.with_name(f"{path.stem}_{factor.name}{path.suffix}"))
