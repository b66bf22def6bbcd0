"""Checks of a run before it begins, so that mistakes are reported at once and not after an hour of integration."""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path

from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.adapters.scattering import attenuation
from diffuse_dials.adapters.symmetry import check_cell, check_same_lattice
from diffuse_dials.algorithms.background import chosen_method
from diffuse_dials.algorithms.corrections.air import Window
from diffuse_dials.algorithms.inputs import check_photons_range
from diffuse_dials.algorithms.process.base import Run, Step
from diffuse_dials.io.masks import load_pickle
from diffuse_dials.io.tables import load_table

# What tells the stage of a table; a table of sums is too large to be read for this, and diffuse.scale says it.
_COLUMNS = {
    "integrated": ({"miller_index", "s1"}, "spots"), "scaled": ({"intensity.scale.value"}, "map"),
    "merged": ({"intensity.scale.value"}, "map"),
}  # fmt: skip
_ASKED = {
    "images": "images, or .expt files of dials.import",
    "integrated": ".expt and .refl files of dials.stills_process or diffuse.integrate",
    "gridded": "gridded.expt and gridded.refl (or gridded.h5)",
    "scaled": "merged.expt, merged.refl, scaled.expt and radial_totals.refl",
    "merged": "the .expt and .refl of one map",
}
_ANY_WAVELENGTH = 1.0  # Å
_PATTERNS = ("input.background",)  # may be patterns of file names


def check_files(run: Run) -> None:
    """The files given must be those of the stage.

    Raises:
        ValueError: If they are not, or an .expt file of images cannot be read.
    """
    stage, given = run.params.start_from, run.given
    if not given:
        raise ValueError(f"No files were given. start_from={stage} asks for {_ASKED[stage]}.")
    for name in given:
        if not os.path.isfile(name) and not glob.glob(name):
            raise ValueError(f"There is no file {name}, and it is no parameter of this command. Check name and folder.")
    kinds = {Path(name).suffix for name in given}
    if stage == "images":
        fine = ".refl" not in kinds
    else:
        fine = ".expt" in kinds and bool(kinds & ({".refl", ".h5"} if stage == "gridded" else {".refl"}))
    if not fine:
        raise ValueError(
            f"start_from={stage} asks for {_ASKED[stage]}, and the files given are {', '.join(sorted(kinds))}. "
            "Give those, or another start_from."
        )
    if stage == "images":
        for name in filter(os.path.isfile, run.files(".expt")):
            load_experiments(name)  # the integration would count its images as not read
    if stage in _COLUMNS:
        names, (columns, what) = run.files(".refl"), _COLUMNS[stage]
        if not any(columns <= set(load_table(name).columns) for name in names):
            given = ", ".join(names)
            raise ValueError(f"start_from={stage} asks for {_ASKED[stage]}, and {given} holds no {what}. Give those.")
    if run.params.mp.method == "mpi" and not run.params.mp.launcher:
        raise ValueError('mp.method=mpi needs mp.launcher, such as mp.launcher="mpirun -n 4": what starts the ranks.')


def check_parameters(run: Run) -> None:
    """Files that parameters name must be there, and values must fit together.

    Raises:
        ValueError: If a file is missing, or two parameters contradict each other.
    """
    params = run.params
    for found in run.scope.format(python_object=params).all_definitions():
        if not _names_an_input(found):
            continue
        value = found.object.extract()
        for name in value if isinstance(value, list) else [value]:
            if name and not os.path.isfile(name) and not (found.path in _PATTERNS and glob.glob(name)):
                raise ValueError(f"{found.path}={name}: there is no such file. Check name and folder.")
    for name in filter(None, params.input.mask):
        load_pickle(name)  # stills_process would take a mask that cannot be read for an image that cannot
    chosen_method(params, [name for name in params.input.background if name])
    for text in filter(None, params.corrections.air.window):
        Window.parse(text)
    for material in filter(None, [params.corrections.sensor_efficiency.material]):
        attenuation(material, _ANY_WAVELENGTH)
    check_photons_range(params.extraction.photons_range)
    if params.d_min is not None and params.d_max is not None and params.d_min >= params.d_max:
        raise ValueError(
            f"d_min={params.d_min:g} and d_max={params.d_max:g} leave nothing. d_min, the limit at high resolution, "
            "must be the smaller of the two."
        )
    if params.unit_cell is not None and params.space_group is not None:
        check_cell(params.unit_cell.parameters(), params.space_group.group(), "unit_cell or space_group")
    if params.unit_cell is not None and params.grid.unit_cell is not None:
        check_same_lattice(params.grid.unit_cell, params.unit_cell.parameters(), "unit_cell")


def _names_an_input(found) -> bool:
    kind = found.object.type.phil_type if found.object.type is not None else ""
    if found.path.startswith("stills_process."):
        return found.path.endswith((".lookup.mask", ".reference_geometry"))
    return kind == "path" and found.path.startswith(("input.", "absolute.", "masking."))


def refuse_to_overwrite(run: Run, steps: list[Step], parameter_files: dict[str, Step], header: str) -> None:
    """An input is never changed: no step may write a file of its name, nor a parameter file of the user's.

    Args:
        run: The run.
        steps: Those that have something to do in it.
        parameter_files: The steps, by the name of the file that their parameters are written to.
        header: How such a file begins.

    Raises:
        ValueError: If a file of the user's would be written over.
    """
    here = Path.cwd()
    patterns = {pattern: step for step in steps for pattern in step.writes}
    for parameter, name in run.named_files():
        path = Path(name).resolve()
        for pattern, step in patterns.items():
            if path.parent == here and fnmatch.fnmatchcase(path.name, pattern):
                raise ValueError(
                    f"{step.command} would write {pattern}, and {parameter}{name} is an input of this run. Give it "
                    "another name, or work in another folder."
                )
    for name, step in parameter_files.items():
        file = Path(name)
        if file.is_file() and not file.read_text("utf-8", errors="replace").startswith(header):
            raise ValueError(
                f"The parameters of {step.command} would be written to {file}, which is a file of yours. Rename it."
            )
