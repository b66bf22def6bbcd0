"""Put the stills on one scale and merge them into a map.

One factor per still is refined by the likelihood of the photon sums, unbiased down to zero counts. The map comes with
maps from random halves of the stills, and with statistics by resolution shell; the number to quote is CC½ of the
anisotropic part. Several pairs of files may be given, if they were gridded alike.

merged.refl: what no still measured (a half map's voxel, or a voxel whose pixels are all under the Bragg mask) has
value 0, variance -1 and multiplicity 0.

Examples:

  diffuse.scale gridded.expt gridded.refl

  diffuse.scale gridded.expt gridded.refl merging.n_splits=20 merging.seed=7

  diffuse.scale gridded.expt gridded.refl assume_consistent_indexing=True
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
from diffuse_dials.algorithms.merging import DiffuseMap, excludes_lattice_points, half_sets, merge
from diffuse_dials.algorithms.pipeline import voxel_columns
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.algorithms.scaling.inputs import Gridded, load_gridded
from diffuse_dials.algorithms.scaling.model import check_registered
from diffuse_dials.algorithms.scaling.quality import counted_voxels, quality
from diffuse_dials.algorithms.scaling.refine import ScaledStills, scale_stills
from diffuse_dials.algorithms.scaling.rows import scaled_rows
from diffuse_dials.algorithms.scaling.trends import PanelPlane, TrendAxes
from diffuse_dials.algorithms.statistics import MapStatistics, isotropic_part
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import save_table
from diffuse_dials.report import plots
from diffuse_dials.report.html import Section, write_report

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.scaling.refine.phil_scope
include scope diffuse_dials.algorithms.merging.phil_scope
include scope diffuse_dials.algorithms.statistics.phil_scope
output {
  experiments = scaled.expt
    .type = path
    .help = "The stills, each with its scaling model."
  reflections = scaled.refl
    .type = path
    .help = "The sums with the scale of their still."
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
  html = diffuse.scale.html
    .type = path
  log = diffuse.scale.log
    .type = path
}
""",
    process_includes=True,
)


_EXPLANATION = (
    "Scales come from all stills; CC½ correlates maps of random halves of the stills, averaged over the splits, "
    "after the "
    "isotropic part of each half was taken out of it. CC½ total leaves it in, and the fall-off inflates it."
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.scale from the command line."""
    call = start(
        args, phil, __doc__, "diffuse.scale [options] gridded.expt gridded.refl|gridded.h5 [param=value] [file.phil]",
        takes_stores=True,
    )  # fmt: skip
    params = call.params
    with user_errors():
        check_registered()
        gridded = load_gridded(call.experiments, call.reflections)
        scaled = scale_stills(gridded, params)
        splits = half_sets(list(gridded.keys), params.merging.seed, params.merging.n_splits)
        index = scaled.observations.index
        merged = merge(scaled_rows(gridded, scaled), index, gridded.record, splits)
        excluded = excludes_lattice_points(params.merging.exclude_lattice_points, gridded.record.ndiv)
        counted = counted_voxels(merged, excluded)
        axes = TrendAxes(
            scaled.scales.scale, np.arange(len(gridded.keys), dtype=float), "order of the stills in the files",
            PanelPlane.of(gridded.experiments[0].detector), gridded.sums.position is not None,
        )  # fmt: skip
        found = quality(
            counted, scaled_rows(gridded, scaled), index, gridded.record, excluded, params.statistics.n_shells, axes
        )
        statistics, chi_square = found.statistics, found.still_chi_square
        logger.info("\n%s", tabulate(statistics.rows(), headers=statistics.headers, disable_numparse=True))
        logger.info("%s", _EXPLANATION)
        _write_stills(gridded, scaled, chi_square, params.output)
        _write_map(gridded, merged, params.output, call.reflections)
        _write_summary(gridded, scaled, counted, statistics, chi_square, params)
        logger.info("Wrote %s and %s", params.output.experiments, params.output.reflections)
        logger.info("Wrote %s and %s", params.output.merged_experiments, params.output.merged_reflections)


def _write_stills(gridded: Gridded, scaled: ScaledStills, chi_square: np.ndarray, output) -> None:
    """scaled.expt, scaled.refl and stills.csv; stills without a scale appear in the last only."""
    order = sorted(scaled.models)
    experiments = ExperimentList()
    for i in order:
        experiment = gridded.experiments[i]
        experiment.scaling_model = scaled.models[i]
        experiments.append(experiment)
    position = np.full(len(gridded.keys), -1, dtype=np.int32)
    position[order] = np.arange(len(order))
    rows = gridded.sums.select(position[gridded.sums.still] >= 0)
    columns = {
        **voxel_columns(rows),
        "id": position[rows.still],
        "inverse_scale_factor": scaled.scales.scale[rows.still],
        "flags": np.zeros(len(rows), dtype=np.uint64),
    }
    save_table(columns, output.reflections, dict(enumerate(experiments.identifiers())))
    save_experiments(experiments, output.experiments)
    for i, (identifier, key) in enumerate(zip(gridded.experiments.identifiers(), gridded.keys)):
        gridded.stills.update(identifier, image=key.image, index=key.index, lattice=key.lattice)
        if i in scaled.failed:
            known = gridded.stills.rows[identifier]
            status = known["status"] if known.get("reason") == scaled.failed[i] else "failed"
            gridded.stills.update(identifier, scale=None, status=status, reason=scaled.failed[i])
        else:
            gridded.stills.update(
                identifier, scale=float(scaled.scales.scale[i]), scale_esd=float(scaled.scales.esd[i]),
                chi_square=float(chi_square[i]), status="ok", reason="",
            )  # fmt: skip
    gridded.stills.write(output.stills)


def _write_map(gridded: Gridded, merged: DiffuseMap, output, inputs) -> None:
    """merged.expt, merged.refl and the grid.json that later commands look for beside them."""
    save_table(merged.columns(gridded.record.ndiv), output.merged_reflections)
    experiment = symmetry.super_cell_experiment(gridded.record, like=gridded.experiments[0])
    save_experiments(ExperimentList([experiment]), output.merged_experiments)
    folders = {Path(name).resolve().parent for name in (output.merged_reflections, output.reflections)}
    for folder in folders - {Path(name).resolve().parent for name in inputs}:
        save_grid_record(gridded.record, folder / "grid.json")


def _write_summary(gridded, scaled, counted, statistics: MapStatistics, chi_square, params) -> None:
    """The same numbers as JSON and as a page with pictures."""
    order = sorted(scaled.models)
    scale, esd = scaled.scales.scale[order], scaled.scales.esd[order]
    labels = [gridded.keys[i].label for i in order]
    if params.output.json:
        write_json(
            {
                "n_stills": len(order),
                "failed": {gridded.keys[i].label: reason for i, reason in scaled.failed.items()},
                "cycles": scaled.scales.n_cycles,
                "last_change": scaled.scales.last_change,
                "seed": params.merging.seed,
                "n_splits": params.merging.n_splits,
                "half_maps": "scales from all stills",
                "esd": scaled.scales.esd_method,
                **statistics.to_dict(),
                "stills": {
                    label: {"scale": float(b), "esd": float(e), "chi_square": _number(chi_square[i])}
                    for label, b, e, i in zip(labels, scale, esd, order)
                },
            },
            params.output.json,
        )
    if params.output.html:
        write_report(params.output.html, "diffuse.scale", _sections(gridded, scaled, counted, statistics, scale, esd))


def _sections(gridded, scaled, counted, statistics: MapStatistics, scale, esd) -> list[Section]:
    record = gridded.record
    d_min = [shell.d_min for shell in statistics.shells]
    series = {
        "CC½, anisotropic part": np.array([shell.cc_half for shell in statistics.shells]),
        "CC½, total": np.array([shell.cc_half_total for shell in statistics.shells]),
    }
    multiplicity = [shell.multiplicity for shell in statistics.shells]
    orbits = symmetry.orbit_sizes(counted.index, record)
    anisotropic = counted.intensity.value - isotropic_part(counted.s, counted.intensity.value, orbits)
    frame = plots.VoxelFrame(record.ndiv, fractionalization(record.unit_cell), symmetry.laue_operators(record))
    failed = [(gridded.keys[i].label, reason) for i, reason in scaled.failed.items()]
    return [
        Section(
            "Statistics by resolution shell",
            f"{len(scale)} stills, {len(counted)} voxels of the asymmetric unit. {_EXPLANATION}",
            statistics.headers,
            tuple(statistics.rows()),
            plots.correlations(d_min, series, "Correlation of random half maps"),
        ),
        Section("Multiplicity", figure=plots.by_shell(d_min, multiplicity, "stills per voxel", "Multiplicity")),
        Section("Scales", "Error bars: counting statistics only.", figure=plots.scales(scale, esd)),
        Section("Stills left out", "" if failed else "None.", ("still", "reason"), tuple(failed)),
        Section(
            "Sections of the map",
            "Isotropic part removed, symmetry mates filled in, voxels with lattice points left out where the "
            "statistics do so.",
            figure=plots.sections({"anisotropic part": anisotropic}, counted.index, frame),
        ),
    ]


def _number(value: float) -> float | None:
    return None if value != value else float(value)
