"""Put the stills on one scale and merge them into a map.

Refines one factor per still from the likelihood of the photon sums, which is unbiased down to zero counts. The map
comes with maps from random halves of the stills, and with statistics by resolution shell; the number to quote is CC½ of
the anisotropic part. Several pairs of files may be given if they were gridded in the same way.

In merged.refl, what no still measured (a voxel of a half map, or a voxel with all its pixels under the Bragg mask) has
value 0, variance -1 and multiplicity 0.

Examples:

  diffuse.scale gridded.expt gridded.refl

  diffuse.scale gridded.expt gridded.refl merging.n_splits=20 merging.seed=7

  diffuse.scale gridded.expt gridded.refl assume_consistent_indexing=True

  diffuse.scale gridded.expt gridded.refl random_orientations=5 bragg=integrated.refl

  mpirun -n 8 diffuse.scale gridded.expt gridded.h5 mp.method=mpi
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
import numpy as np
from dials.util import show_mail_handle_errors, tabulate
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.belonging import check_folder
from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.quality.statistics import isotropic_part
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.algorithms.scaling.inputs import Gridded, load_gridded
from diffuse_dials.algorithms.scaling.output import scaled_columns, scaling_record, still_columns
from diffuse_dials.algorithms.scaling.quality import Quality, counted_voxels
from diffuse_dials.algorithms.scaling.refine import ScaledStills
from diffuse_dials.algorithms.scaling.rows import scaled_rows
from diffuse_dials.algorithms.scaling.scaled_map import ScaledMap, judge, scale_and_merge
from diffuse_dials.algorithms.scaling.trends import TREND_HEADERS, trend_rows
from diffuse_dials.algorithms.scaling.validation import HEADERS
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import save_map, save_table
from diffuse_dials.report import plots
from diffuse_dials.report import scale as report
from diffuse_dials.report.html import Section, write_report

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.scaling.options.phil_scope
include scope diffuse_dials.algorithms.merging.phil_scope
include scope diffuse_dials.algorithms.quality.statistics.phil_scope
include scope diffuse_dials.algorithms.quality.bragg_statistics.phil_scope
include scope diffuse_dials.algorithms.running.parallel.ranks_phil_scope
output {
  experiments = scaled.expt
    .type = path
    .help = "The stills, each with its scaling model."
  reflections = scaled.refl
    .type = path
    .help = "The sums with their scale factors, outliers flagged. Not written if the sums come from a store (.h5)."
  merged_experiments = merged.expt
    .type = path
    .help = "One experiment: the super-cell whose Miller indices are the voxels."
  merged_reflections = merged.refl
    .type = path
    .help = "The map. grid.json is written beside it."
  stills = stills.csv
    .type = path
    .help = "One line per still: the input's, with scale and status."
  json = diffuse.scale.json
    .type = path
    .help = "The numbers of the run. None: none is written."
  html = diffuse.scale.html
    .type = path
    .help = "The report. None: none is written."
  log = diffuse.scale.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.scale from the command line."""
    call = start(
        args, phil, __doc__, "diffuse.scale [options] gridded.expt gridded.refl|gridded.h5 [param=value] [file.phil]",
        takes_stores=True,
    )  # fmt: skip
    params, comm = call.params, call.comm
    with user_errors(comm):
        gridded = load_gridded(call.experiments, call.reflections, comm)
        with comm.together():
            for folder in _folders(params.output) & _inputs(call.reflections):
                check_folder(folder, gridded.record)
        result = scale_and_merge(gridded, params)
        with comm.together():
            counted = counted_voxels(result.map, result.excludes_lattice_points) if comm.rank == 0 else None
        found = judge(result, counted, params)
        from_store = any(name.endswith(".h5") for name in call.reflections)
        columns = None if from_store else _scaled_columns(result)
        if found is None:
            return  # rank 0 writes
        _log(found)
        _write_stills(result, columns, found.still_chi_square, params.output)
        _write_map(result, params.output, call.reflections)
        _write_summary(result.gridded, result.scaled, counted, found, params)
        logger.info("Wrote %s%s", params.output.experiments, "" if from_store else f" and {params.output.reflections}")
        logger.info("Wrote %s and %s", params.output.merged_experiments, params.output.merged_reflections)


def _log(found: Quality) -> None:
    """The tables that the page holds too."""

    def table(title, headers, rows, explanation):
        text = tabulate(rows, headers=headers, disable_numparse=True)
        logger.info("\n%s\n%s\n%s", title, text, explanation)

    statistics = found.statistics
    table("Statistics by resolution shell", statistics.headers, statistics.rows(), report.STATISTICS)
    table("Equivalents before merging", found.symmetry.headers, found.symmetry.rows(), report.SYMMETRY)
    table("Residuals", TREND_HEADERS, trend_rows(found.trends), report.RESIDUALS)
    if found.null is not None:
        table("Random orientations", found.null_headers, found.null_rows(), report.NULL)
    if found.bragg is not None:
        table("Bragg reflections", found.bragg.headers, found.bragg.rows(), report.BRAGG)
        if found.bragg.n_low_partiality:
            logger.info(
                "%d spots have a partiality below %g: counted, kept, and not divided by it",
                found.bragg.n_low_partiality, found.bragg.min_partiality,
            )  # fmt: skip


def _scaled_columns(result: ScaledMap) -> dict[str, np.ndarray]:
    """The columns of scaled.refl, of the rows of all ranks, on rank 0; none on the others."""
    gridded, scaled = result.gridded, result.scaled
    order = sorted(scaled.models)
    place = np.full(len(gridded.keys), -1, dtype=np.int32)
    place[order] = np.arange(len(order))
    with gridded.comm.together():
        rows = gridded.comm.in_order(scaled_rows(gridded, scaled))
        return scaled_columns(rows, scaled.observations.index, place)


def _write_stills(result: ScaledMap, columns: dict | None, chi_square: np.ndarray, output) -> None:
    """scaled.expt, scaled.refl (from its columns) and stills.csv; stills without a scale appear in the last only."""
    gridded, scaled = result.gridded, result.scaled
    experiments = result.experiments()
    if columns is None:
        logger.info(
            "The sums come from a store and are not written again as %s: %s holds their factors.",
            output.reflections, output.experiments,
        )  # fmt: skip
    else:
        save_table(columns, output.reflections, dict(enumerate(experiments.identifiers())))
    save_experiments(experiments, output.experiments)
    for i, (identifier, key) in enumerate(zip(gridded.experiments.identifiers(), gridded.keys)):
        gridded.stills.update(identifier, image=key.image, index=key.index, lattice=key.lattice)
        if i in scaled.failed:
            known = gridded.stills.rows[identifier]
            status = known["status"] if known.get("reason") == scaled.failed[i] else "failed"
            gridded.stills.update(identifier, scale=None, status=status, reason=scaled.failed[i])
        else:
            gridded.stills.update(identifier, **still_columns(scaled, chi_square, i), status="ok", reason="")
    gridded.stills.write(output.stills)


def _write_map(result: ScaledMap, output, inputs) -> None:
    """merged.expt, merged.refl and the grid.json that later commands look for beside them."""
    experiment = result.map_experiment
    save_map(result.columns, experiment.identifier, output.merged_reflections)
    save_experiments(ExperimentList([experiment]), output.merged_experiments)
    for folder in _folders(output) - _inputs(inputs):
        save_grid_record(result.record, folder / "grid.json")


def _folders(output) -> set[Path]:
    """Where later commands look for a grid.json."""
    return {Path(name).resolve().parent for name in (output.merged_reflections, output.reflections)}


def _inputs(names) -> set[Path]:
    """Where one lies that stays as it is."""
    return {Path(name).resolve().parent for name in names}


def _write_summary(gridded: Gridded, scaled: ScaledStills, counted: DiffuseMap, found: Quality, params) -> None:
    """The same numbers as JSON and as a page with pictures."""
    order = sorted(scaled.models)
    scale, esd, chi_square = scaled.scales.scale[order], scaled.scales.esd[order], found.still_chi_square[order]
    labels = [gridded.keys[i].label for i in order]
    if params.output.json:
        write_json(
            {
                "n_stills": len(order),
                "failed": {gridded.keys[i].label: reason for i, reason in scaled.failed.items()},
                "seed": params.merging.seed,
                "n_splits": params.merging.n_splits,
                "half_maps": "scales from all stills",
                **scaling_record(scaled),
                **found.to_dict(),
                "stills": {label: still_columns(scaled, found.still_chi_square, i) for label, i in zip(labels, order)},
            },
            params.output.json,
        )
    if params.output.html:
        failed = tuple((gridded.keys[i].label, reason) for i, reason in scaled.failed.items())
        sections = report.statistics_sections(found.statistics)
        sections += [report.r_factor_section(found), report.symmetry_section(found.symmetry, found.statistics)]
        sections += [report.null_section(found)] if found.null is not None else []
        sections += [report.map_section(*_pictures(counted, gridded.record)), report.trends_section(found.trends)]
        sections += [report.scales_section(labels, scale, esd, chi_square)]
        if scaled.verdicts:
            rows = tuple(tuple(verdict.row()) for verdict in scaled.verdicts)
            sections += [report.components_section(HEADERS, rows)]
        sections += [report.bragg_section(found.bragg)] if found.bragg is not None else []
        sections += [Section("Stills left out", "" if failed else "None.", ("still", "reason"), failed)]
        write_report(params.output.html, "diffuse.scale", sections)


def _pictures(counted: DiffuseMap, record):
    """Sections of the map, and of its anisotropic part."""
    orbits = symmetry.orbit_sizes(counted.index, record)
    value = counted.intensity.value
    anisotropic = value - isotropic_part(counted.s, value, orbits)
    frame = plots.VoxelFrame(record.ndiv, fractionalization(record.unit_cell), symmetry.laue_operators(record))
    yield plots.sections({"intensity": value}, counted.index, frame, signed=False)
    yield plots.sections({"anisotropic part": anisotropic}, counted.index, frame)
