"""The steps as functions: dataclasses of NumPy arrays in and out, without files in between.

    from diffuse_dials import library as diffuse

    stills = diffuse.load_stills("integrated.expt")
    sums, totals = diffuse.grid(stills, "mask=pixels.mask", "d_min=1.8", "ndiv=3,3,3")
    scaled = diffuse.scale(sums)
    found = diffuse.absolute(scaled, totals, "model=model.pdb")

Each function takes the parameters of the command with its name, written as on the command line (``"d_min=2"``), or
names of .phil files. Bad input and bad parameters raise ValueError with one line. Messages go to Python's
logging, below "dials". Sums are held in memory; the command diffuse.grid can process more stills than fit there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import libtbx.phil
import numpy as np
from dials.util import Sorry
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.parameters import settle_values, why_refused
from diffuse_dials.algorithms import inputs
from diffuse_dials.algorithms.absolute.evaluation import put_on_absolute_scale
from diffuse_dials.algorithms.absolute.inputs import Inputs
from diffuse_dials.algorithms.absolute.output import Outcome, absolute_columns
from diffuse_dials.algorithms.absolute.scale import AbsoluteMap
from diffuse_dials.algorithms.export import choose, write_all
from diffuse_dials.algorithms.export.content import map_content
from diffuse_dials.algorithms.in_memory import extract_stills, grid_stills
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.masking.pixels import PixelMask, make_pixel_mask
from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.algorithms.scaling.inputs import Gridded, load_gridded
from diffuse_dials.algorithms.scaling.quality import Quality, counted_voxels
from diffuse_dials.algorithms.scaling.scaled_map import ScaledMap, judge, scale_and_merge
from diffuse_dials.io.masks import save_mask
from diffuse_dials.io.tables import Table
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import RadialTotals

__all__ = [
    "Absolute", "absolute", "export", "extract", "grid", "load_gridded", "load_stills", "make_mask", "parameters",
    "save_mask", "scale", "statistics",
]  # fmt: skip


@dataclass(frozen=True)
class Absolute:
    """The map in e² per cell.

    Attributes:
        outcome: The scale, all estimates of it, and what to doubt (``outcome.warnings``).
        map: Intensities of the voxels, in the order of ``columns["miller_index"]``.
        columns: The columns of absolute.refl, arrays with a row per voxel.
        record: The grid.
    """

    outcome: Outcome
    map: AbsoluteMap
    columns: dict[str, np.ndarray]
    record: GridRecord

    @property
    def k(self) -> float:
        """K, units of the relative map per e²."""
        return self.outcome.chosen.k


def parameters(command: str, *given: str):
    """The extract of a command's PHIL scope.

    Args:
        command: "grid" for diffuse.grid, and so on.
        given: ``"d_min=2"``, as on the command line, or names of .phil files; later ones win.

    Raises:
        ValueError: For a parameter that does not exist or is ambiguous, or a value that its type refuses.
    """
    scope = import_module(f"diffuse_dials.cli.{command}").phil_scope
    try:
        interpreter = scope.command_line_argument_interpreter()
        sources = [
            libtbx.phil.parse(file_name=str(one)) if Path(one).suffix == ".phil" else interpreter.process(one)
            for one in given
        ]
        params = scope.fetch(sources=sources).extract()
    except (Sorry, RuntimeError, ValueError, OverflowError) as error:  # what libtbx.phil raises for names and values
        raise ValueError(why_refused(scope, given, error)) from None
    settle_values(scope, params)
    return params


def load_stills(*names: str) -> Stills:
    """Integrated stills.

    Args:
        names: .expt files of dials.stills_process, and their .refl files where spots are masked by them
            (``masking.bragg.method=predicted`` or ``shoebox``).

    Raises:
        ValueError: If a file cannot be read, or they do not belong together.
    """
    tables = [name for name in names if str(name).endswith(".refl")]
    return inputs.load_stills([name for name in names if name not in tables], tables)


def make_mask(stills: Stills, *given: str) -> PixelMask:
    """The pixels that no still should use.

    Args:
        stills: The stills.
        given: Parameters of diffuse.make_mask.

    Returns:
        ``.mask`` is a bool array (slow, fast) per panel, True = use; ``save_mask`` writes it for ``grid``.
    """
    params = parameters("make_mask", *given)
    files = [name for name in params.input.mask if name]
    nproc = n_processes(params.mp)
    return make_pixel_mask(stills.experiments, params.masking, files, params.d_min, params.d_max, nproc)


def extract(stills: Stills, *given: str) -> Iterator:
    """The pixels of one still after the other: ``for number, measured in extract(stills): ...``.

    Args:
        stills: The stills.
        given: Parameters of diffuse.extract.

    Yields:
        Position of the still, and its StillMeasurement: counts, background, response and s of its pixels.
    """
    return extract_stills(stills, parameters("extract", *given))


def grid(stills: Stills, *given: str) -> tuple[Gridded, RadialTotals]:
    """Sums of counts, background and response per still and voxel (``.sums``), and radial totals.

    Args:
        stills: The stills.
        given: Parameters of diffuse.grid.
    """
    return grid_stills(stills, parameters("grid", *given))


def scale(gridded: Gridded, *given: str) -> ScaledMap:
    """One scale for all stills, and the relative map (``.map``).

    Args:
        gridded: From ``grid``, or ``load_gridded`` for files of diffuse.grid.
        given: Parameters of diffuse.scale.
    """
    return scale_and_merge(gridded, parameters("scale", *given))


def statistics(scaled: ScaledMap, *given: str) -> Quality:
    """How good the map is: ``.statistics.overall.cc_half`` and the same by shell, χ² of each still, equivalents.

    Args:
        scaled: From ``scale``.
        given: Parameters of diffuse.scale, those that ``scale`` was given first.
    """
    counted = counted_voxels(scaled.map, scaled.excludes_lattice_points)
    return judge(scaled, counted, parameters("scale", *given))


def absolute(scaled: ScaledMap, totals: RadialTotals | None, *given: str) -> Absolute:
    """The map in e² per cell.

    Args:
        scaled: From ``scale``.
        totals: From ``grid``; None allows only what needs none: ``"method=reference"``, ``"absolute.scale=..."``.
        given: Parameters of diffuse.absolute.
    """
    stills = scaled.experiments()
    radial = None
    if totals is not None:
        columns = {name: getattr(totals, name) for name in totals.__dataclass_fields__ if name != "still"}
        identifiers = dict(enumerate(scaled.gridded.experiments.identifiers()))
        radial = Table({"id": totals.still, **columns}, identifiers, "the radial totals")
    scales = {still.identifier: still.scaling_model.scale for still in stills}
    merged = Table(scaled.columns, path="the map")
    given_inputs = Inputs(merged, ExperimentList([scaled.map_experiment]), stills, scales, radial, scaled.record)
    outcome, result = put_on_absolute_scale(given_inputs, parameters("absolute", *given).absolute)
    return Absolute(outcome, result, absolute_columns(merged, result), scaled.record)


def export(found: ScaledMap | Absolute, prefix, *given: str) -> list[str]:
    """Write the map for other programs.

    Args:
        found: From ``scale`` or ``absolute``.
        prefix: Path of the files without their suffix.
        given: Parameters of diffuse.export.

    Returns:
        Names of the files.
    """
    params = parameters("export", *given)
    content = map_content(Table(found.columns, path="the map"), found.record, params)
    return list(write_all(choose(params.export, of_sums=False), content, Path(prefix)))
