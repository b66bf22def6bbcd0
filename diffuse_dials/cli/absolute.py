"""Put the merged map on the scale of electrons squared per unit cell and subtract Compton scattering.

By default the scale comes from the total scattering (radial totals, Bragg peaks included), which must be that of the
atoms in the cell: give what the cell holds as a model, a sequence or a formula. absolute.method=reference compares
Bragg intensities from the map with |F|² of a model or of a file instead, and is not affected by a background. All
methods that can run are printed side by side. The map is I/K - Compton, its sigmas are sigma/K; the error of K, common
to all voxels, is reported separately. docs/absolute.md explains the methods.

Examples:

  diffuse.absolute merged.expt merged.refl scaled.expt radial_totals.refl absolute.model=model.pdb

  diffuse.absolute merged.* scaled.expt radial_totals.refl absolute.sequence=protein.fasta copies=1 disulfides=4

  diffuse.absolute merged.* scaled.expt radial_totals.refl absolute.formula="C613 H951 N193 O185 S10" s_max=0.6

  diffuse.absolute merged.* scaled.expt radial_totals.refl model.cif Fmodel.mtz method=reference

  diffuse.absolute merged.* scaled.expt absolute.sequence=protein.fasta absolute.scale=0.0123
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors, tabulate

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.algorithms.absolute.evaluation import put_on_absolute_scale
from diffuse_dials.algorithms.absolute.inputs import load_inputs
from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.algorithms.absolute.output import absolute_columns, absolute_models, summary
from diffuse_dials.algorithms.absolute.reference_data import is_reflection_file
from diffuse_dials.algorithms.belonging import absolute_identifier
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import save_map
from diffuse_dials.report import absolute as report
from diffuse_dials.report.html import write_report
from diffuse_dials.report.plots import save_png

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.absolute.composition.phil_scope
include scope diffuse_dials.algorithms.absolute.scale.phil_scope
input {
  composition = None
    .type = path
    .help = "Model (PDB, mmCIF) or sequence (FASTA): the same as absolute.model or absolute.sequence."
  bragg = None
    .type = path
    .multiple = True
    .help = "integrated.refl of dials.stills_process, for a Wilson plot and B. Intensities of single stills give no"
            "scale of a diffuse map."
}
output {
  experiments = absolute.expt
    .type = path
    .help = "The map's experiment."
  reflections = absolute.refl
    .type = path
    .help = "The map: all columns of merged.refl, and the absolute intensities."
  models = absolute_models.expt
    .type = path
    .help = "The stills with scaling models in absolute units: counts - background = b' x response x (I + Compton)."
  json = diffuse.absolute.json
    .type = path
    .help = "The numbers of the run. None: none is written."
  html = diffuse.absolute.html
    .type = path
    .help = "The report. None: none is written."
  png = diffuse.absolute.png
    .type = path
    .help = "The report's plots on one picture. None: no picture."
  log = diffuse.absolute.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)

_MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".cif.gz", ".ent.gz")
_SEQUENCE_SUFFIXES = (".fasta", ".fa", ".seq", ".pir")


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.absolute from the command line."""
    usage = "diffuse.absolute [options] merged.expt merged.refl scaled.expt radial_totals.refl absolute.model=model.pdb"
    call = start(args, phil, __doc__, usage, takes_others=True)
    params = call.params.absolute
    with user_errors():
        _take_files(params, [*filter(None, [call.params.input.composition]), *call.others])
        inputs = load_inputs(call.experiments, [*call.reflections, *call.params.input.bragg])
        outcome, result = put_on_absolute_scale(inputs, params)
        record = summary(outcome)
        _log_estimates(record)
        for warning in outcome.warnings:
            logger.warning("%s", warning)
        _write(call.params.output, inputs, outcome.chosen.k, record, result)


def _take_files(params, names) -> None:
    """Models, sequences and reflections may stand on the command line without a parameter's name."""
    for name in names:
        if is_reflection_file(name):
            kind, scope, attribute = "sets of reference data", params.reference, "file"
        elif name.lower().endswith(_MODEL_SUFFIXES):
            kind, scope, attribute = "models", params, "model"
        elif name.lower().endswith(_SEQUENCE_SUFFIXES):
            kind, scope, attribute = "sequences", params, "sequence"
        else:
            raise ValueError(
                f"{name} is no .expt, .refl, model, sequence or reflection file and no parameter of this command. See "
                "-h for what it takes."
            )
        if getattr(scope, attribute):
            raise ValueError(f"{getattr(scope, attribute)} and {name} are both {kind}. Give one.")
        setattr(scope, attribute, name)


def _log_estimates(record: dict) -> None:
    section = report.estimates_section(record, METHODS)
    logger.info("\n%s\n\n%s", tabulate(section.rows, section.headers), section.text)


def _write(output, inputs, k: float, record: dict, result) -> None:
    experiment = inputs.map_experiments[0]
    experiment.identifier = absolute_identifier(experiment.identifier, k)
    save_map(absolute_columns(inputs.merged, result), experiment.identifier, output.reflections)
    save_experiments(inputs.map_experiments, output.experiments)
    save_experiments(absolute_models(inputs.stills, k), output.models)
    _keep_records(inputs, Path(output.reflections).parent)
    if output.json:
        write_json(record, output.json)
    if output.html:
        write_report(output.html, "diffuse.absolute", report.sections(record, METHODS))
    if output.png:
        save_png(report.picture(record, METHODS), output.png)
    logger.info("\nWrote %s, %s and %s", output.experiments, output.reflections, output.models)


def _keep_records(inputs, folder) -> None:
    """grid.json and stills.csv stay beside the map, also where it is written to another folder."""
    if folder.resolve() == Path(inputs.merged.path).parent.resolve():
        return
    save_grid_record(inputs.record, folder / "grid.json")
    stills = StillsTable.beside(inputs.merged.path)
    if stills.rows:
        stills.write(folder / "stills.csv")
