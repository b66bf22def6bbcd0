"""Put the merged map on the scale of electrons squared per unit cell and subtract Compton scattering.

The scale comes from the total scattering (radial totals, Bragg peaks included), which must be that of the atoms in
the cell: give what the cell holds as a model, a sequence or a formula. The map is I/K - Compton, its sigmas are
sigma/K; the error of K, common to all voxels, is reported apart.

Examples:

  diffuse.absolute merged.expt merged.refl scaled.expt radial_totals.refl absolute.model=model.pdb

  diffuse.absolute merged.* scaled.expt radial_totals.refl absolute.sequence=protein.fasta copies=1 disulfides=4

  diffuse.absolute merged.* scaled.expt radial_totals.refl absolute.formula="C613 H951 N193 O185 S10" s_max=0.6

  diffuse.absolute merged.* scaled.expt absolute.sequence=protein.fasta absolute.scale=0.0123
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors, tabulate

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.algorithms.absolute import scale
from diffuse_dials.algorithms.absolute.composition import composition_from_phil, log_composition
from diffuse_dials.algorithms.absolute.inputs import describe, load_inputs, total_scattering
from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.absolute.output import absolute_columns, absolute_models, summary
from diffuse_dials.algorithms.absolute.theory import Theory
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import save_table
from diffuse_dials.report import absolute as report
from diffuse_dials.report.html import write_report

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.absolute.composition.phil_scope
include scope diffuse_dials.algorithms.absolute.scale.phil_scope
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
  html = diffuse.absolute.html
    .type = path
  log = diffuse.absolute.log
    .type = path
}
""",
    process_includes=True,
)

_MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".cif.gz", ".ent.gz")


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.absolute from the command line."""
    usage = "diffuse.absolute [options] merged.expt merged.refl scaled.expt radial_totals.refl absolute.model=model.pdb"
    call = start(args, phil, __doc__, usage, takes_others=True)
    params = call.params.absolute
    with user_errors():
        _take_models(params, call.others)
        inputs = load_inputs(call.experiments, call.reflections)
        evidence = _evidence(inputs, params)
        chosen, estimates, refusals = scale.find_scale(evidence, params)
        relative, variance = (inputs.merged[f"intensity.scale.{name}"] for name in ("value", "variance"))
        result = scale.absolute_map(relative, variance, inputs.s, chosen, evidence)
        _log_estimates(estimates, refusals)
        shells, means = scale.shell_means(result.value, inputs.s, inputs.merged["multiplicity"])
        warnings = [*chosen.notes, *scale.warnings(estimates, evidence, shells, means)]
        for warning in warnings:
            logger.warning("WARNING: %s", warning)
        _write(call.params.output, inputs, evidence, chosen, estimates, refusals, result, shells, means, warnings)


def _take_models(params, others) -> None:
    """A model file may stand on the command line without the parameter's name."""
    for name in others:
        if not name.lower().endswith(_MODEL_SUFFIXES):
            raise ValueError(
                f"{name} is no .expt, .refl or model file and no parameter of this command. See -h for what it takes."
            )
        if params.model:
            raise ValueError(f"{params.model} and {name} are both models. Give one.")
        params.model = name


def _evidence(inputs, params) -> Evidence:
    space_group = inputs.space_group(params.space_group)
    describe(inputs, space_group)
    totals = total_scattering(inputs, params.min_pixels)
    theory = None
    stays_relative = params.scale is None and not scale.method_named(params.method).sets_units
    needed = not (stays_relative or inputs.record.isotropic_removed)
    if needed or params.model or params.sequence or params.formula:
        composition = composition_from_phil(params, inputs.unit_cell, space_group)
        logger.info("\nThe unit cell:")
        log_composition(composition)
        integrating = params.detector == "integrating"
        theory = Theory(composition, inputs.wavelength, params.bonds, params.anomalous, integrating)
    return Evidence(theory, totals, inputs.record.isotropic_removed)


def _log_estimates(estimates, refusals) -> None:
    section = report.estimates_section(estimates, refusals, {name: method.expected for name, method in METHODS.items()})
    logger.info("\n%s\n\n%s", tabulate(section.rows, section.headers), section.text)


def _write(output, inputs, evidence, chosen, estimates, refusals, result, shells, means, warnings) -> None:
    save_table(absolute_columns(inputs.merged, result), output.reflections)
    save_experiments(inputs.map_experiments, output.experiments)
    save_experiments(absolute_models(inputs.stills, chosen.k), output.models)
    _keep_records(inputs, Path(output.reflections).parent)
    compton = scale.subtracts_compton(chosen, evidence)
    if output.json:
        write_json(summary(evidence, chosen, estimates, refusals, shells, means, compton, warnings), output.json)
    if output.html:
        sections = _sections(evidence, chosen, estimates, refusals, shells, means, compton, warnings)
        write_report(output.html, "diffuse.absolute", sections)
    logger.info("\nWrote %s, %s and %s", output.experiments, output.reflections, output.models)


def _keep_records(inputs, folder) -> None:
    """grid.json and stills.csv stay beside the map, also where it is written to another folder."""
    if folder.resolve() == Path(inputs.merged.path).parent.resolve():
        return
    save_grid_record(inputs.record, folder / "grid.json")
    stills = StillsTable.beside(inputs.merged.path)
    if stills.rows:
        stills.write(folder / "stills.csv")


def _sections(evidence, chosen, estimates, refusals, shells, means, compton, warnings):
    expected = {name: method.expected for name, method in METHODS.items()}
    yield report.estimates_section(estimates, refusals, expected)
    if warnings:
        yield report.Section("Warnings", rows=tuple((warning,) for warning in warnings))
    if evidence.theory is not None:
        yield report.composition_section(evidence.theory.composition)
    if evidence.totals is not None and evidence.theory is not None and chosen.method != "none":
        yield report.totals_section(evidence.totals, evidence.theory, chosen.k)
    yield report.diffuse_section(shells, means, evidence.theory if chosen.method != "none" else None, compton)
    limits = report.limits_section(estimates)
    if limits is not None:
        yield limits
    if evidence.totals is not None:
        yield report.overloads_section(evidence.totals.s, evidence.totals.overloaded_fraction())
