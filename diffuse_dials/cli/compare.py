"""Compare a map with another on the same grid: the truth of a simulation, or the map of another crystal.

Prints correlation, slope, ratio of means and χ² by resolution shell, of the intensities and of their anisotropic
part (the mean over fine shells subtracted), and draws sections of both maps side by side.

Examples:

  diffuse.compare absolute.refl truth.refl d_max=10 d_min=1.8

  diffuse.compare merged.refl truth.refl stills.scaled=stills.csv stills.truth=truth_stills.csv
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors, tabulate

from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.belonging import check_map_record, map_differs
from diffuse_dials.algorithms.quality.comparison import Comparison, check_columns, compare_maps
from diffuse_dials.algorithms.scaling.agreement import compare_scales
from diffuse_dials.algorithms.scaling.symmetry import laue_operators
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.report import plots

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.quality.comparison.phil_scope
output {
  json = diffuse.compare.json
    .type = path
    .help = "The numbers of the run. None: none is written."
  png = diffuse.compare.png
    .type = path
    .help = "Sections of the map beside the other's. None: none is drawn."
  isotropic_part = False
    .type = bool
    .help = "Draw the intensities as they are. False: the mean over fine shells is taken out."
  log = diffuse.compare.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.compare from the command line."""
    call = start(args, phil, __doc__, "diffuse.compare [options] map.refl truth.refl [param=value]")
    params = call.params
    with user_errors():
        if len(call.reflections) != 2:
            raise ValueError(f"{len(call.reflections)} .refl files were given. Give two: the map, then the truth.")
        if bool(params.stills.truth) != bool(params.stills.scaled):
            raise ValueError("Only one of stills.truth and stills.scaled was given. Give both or neither.")
        first, second = (load_table(name) for name in call.reflections)
        record = _record(*call.reflections)
        check_columns(first, second, params.compare.column)
        check_map_record(first, record)
        differs = map_differs(second, record)
        if differs:
            raise ValueError(f"{second.path} has another grid than {first.path}: {differs}. Give two maps of one grid.")
        comparison = compare_maps(first, second, record, params)
        logger.info("Map: intensity.%s.value, truth: intensity.%s.value", *comparison.column)
        logger.info("The map was divided by %.6g", comparison.scale)
        logger.info("\n%s", tabulate(comparison.rows(), headers=comparison.headers, disable_numparse=True))
        result = comparison.to_dict()
        if params.stills.truth:
            scales = compare_scales(params.stills.scaled, params.stills.truth)
            logger.info(
                "Scales of %d stills (%d missing): rms relative error %.3f %%, worst %.3f %% (%s)",
                scales.n_stills, scales.n_missing, 100 * scales.rms_relative_error, 100 * scales.worst,
                scales.worst_still,
            )  # fmt: skip
            result["stills"] = asdict(scales)
        if params.output.json:
            write_json(result, params.output.json)
        if params.output.png:
            plots.save_png(_picture(comparison, record, params.output.isotropic_part), params.output.png)
            logger.info("Wrote %s", params.output.png)


def _record(first: str, second: str) -> GridRecord:
    """The grid of the map, which the truth's, where it has a grid.json of its own, must equal."""
    record = load_grid_record(first)
    if (Path(second).parent / "grid.json").is_file():
        other = load_grid_record(second)
        differs = [name for name in ("ndiv", "laue_group") if getattr(record, name) != getattr(other, name)]
        if differs:
            name = differs[0]
            raise ValueError(
                f"{first} has {name} {getattr(record, name)}, {second} has {getattr(other, name)}. Give two maps of "
                "one grid."
            )
    return record


def _picture(comparison: Comparison, record: GridRecord, isotropic_part: bool):
    frame = plots.VoxelFrame(record.ndiv, fractionalization(record.unit_cell), laue_operators(record))
    if isotropic_part:
        maps = {"map": comparison.value, "truth": comparison.truth}
    else:
        maps = {"map, anisotropic": comparison.anisotropic, "truth, anisotropic": comparison.truth_anisotropic}
    return plots.sections(maps, comparison.index, frame, signed=not isotropic_part)
