"""dials.stills_process from Python, or with the same arguments as ``python -m diffuse_dials.adapters.stills_process``.

Beyond the program itself: it runs where Debian's cctbx lacks an extension, it names the files it wrote, and it fails
when no still was integrated (the program then ends with status 0 and no output).
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import dials.util

from diffuse_dials.adapters.environment import allow_missing_mono_simulation
from diffuse_dials.adapters.experiments import load_experiments

logger = logging.getLogger(f"dials.{__name__}")

_UP_TO_INDEXING = (
    "None was indexed: check indexing.known_symmetry.unit_cell and space_group, the detector's distance, beam centre "
    "and wavelength (input.reference_geometry), and whether spots were found at all (spotfinder.threshold, mask, "
    "trusted range). dials.process.log and what was printed above give the reason for each still."
)
_AFTER_INDEXING = (
    "Stills were indexed, but spots wider than profile.gaussian_rs.parameters.sigma_b_cutoff are dropped (None keeps "
    "them), and so is a still without significant intensities (significance_filter). "
    "dials.process.log and what was printed above give the reason for each still."
)


@dataclass(frozen=True)
class IntegratedStills:
    """What one worker of stills_process wrote.

    Attributes:
        experiments: The .expt file.
        reflections: The .refl file that belongs to it.
        n_lattices: Experiments in the pair: one per lattice, so several for an image with several crystals.
    """

    experiments: Path
    reflections: Path
    n_lattices: int


def stills_process_module() -> ModuleType:
    """DIALS's stills_process as a module, usable also where ``xfel_mono_sim_ext`` was not packaged."""
    allow_missing_mono_simulation()
    from dials.command_line import stills_process

    return stills_process


def process_stills(arguments: list[str]) -> list[IntegratedStills]:
    """Run dials.stills_process in the current folder.

    Args:
        arguments: Images or .expt files, .phil files and ``parameter=value``, as on the command line. With
            ``mp.nproc`` > 1 or ``mp.method=mpi`` each worker writes a pair of its own.

    Returns:
        The pairs that this run wrote, by file name; not those of an earlier run that it left as they were.

    Raises:
        ValueError: If there are no images, an argument cannot be understood, the output names of several workers
            would be the same, or no still was integrated.
        Sorry: For a parameter that stills_process does not have, and whatever else it refuses.
    """
    program = stills_process_module()
    params = _check_arguments(program, arguments)
    output = params.output
    before = _states(output.integrated_experiments_filename, params), _states(output.indexed_filename, params)
    wait_for_all = _barrier(params.mp.method)
    wait_for_all()
    program.Script().run(list(arguments))
    wait_for_all()
    written = _new_files(output.integrated_experiments_filename, params, before[0])
    if not written:
        indexed = _new_files(output.indexed_filename, params, before[1])
        raise ValueError(f"stills_process integrated no still. {_AFTER_INDEXING if indexed else _UP_TO_INDEXING}")
    reflections = _files(output.integrated_filename, params)
    return [IntegratedStills(expt, reflections[tag], len(load_experiments(expt))) for tag, expt in written.items()]


def _check_arguments(program: ModuleType, arguments: list[str]):
    """The parameters that stills_process will read from the arguments, checked for what it would misunderstand."""
    parser = program.Script().parser
    try:
        params, _, paths = parser.parse_args(
            list(arguments), show_diff_phil=False, return_unhandled=True, quick_parse=True
        )
    except RuntimeError as error:  # DIALS 3.12 lets a value that its type refuses through to here
        raise ValueError(" ".join(str(error).split())) from None
    paths = [*paths, *params.input.glob]
    for path in paths:
        if not glob.glob(path):
            raise ValueError(f"{path} is no file, no .phil file that could be read and no parameter of stills_process.")
        if path.endswith(".phil"):
            raise ValueError(f"{path} is no PHIL file. Look for an unbalanced brace or quotation mark in it.")
    if not paths and params.input.file_list is None:
        raise ValueError("stills_process was given no images. Give image files or an .expt file of stills.")
    output = params.output
    names = (output.integrated_experiments_filename, output.integrated_filename)
    if None in names:
        raise ValueError(
            "output.integrated_experiments_filename and output.integrated_filename name the results and cannot be None."
        )
    if any("%s" not in name for name in names) and (params.mp.nproc > 1 or params.mp.method == "mpi"):
        raise ValueError(
            f"With several workers {names[0]} and {names[1]} would be overwritten by each. Put %s into both names."
        )
    return params


def _barrier(method: str):
    """What lets the ranks of an MPI run wait for each other, so that none looks for files before all have written."""
    if method != "mpi":
        return lambda: None
    from mpi4py import MPI

    return MPI.COMM_WORLD.Barrier


def _files(template: str | None, params) -> dict[str, Path]:
    """Files on disk under an output name of stills_process, by the worker or image that %s stands for."""
    if not template:
        return {}
    if "%s" not in template:
        return {"": Path(template)} if Path(template).is_file() else {}
    start, end = os.path.join(params.output.output_dir, template).split("%s")
    paths = sorted(glob.glob(f"{glob.escape(start)}idx-*{glob.escape(end)}"))
    return {path[len(start) : len(path) - len(end)]: Path(path) for path in paths}


def _states(template: str | None, params) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written again, for each file under an output name."""
    states = {tag: path.stat() for tag, path in _files(template, params).items()}
    return {tag: (state.st_ino, state.st_mtime_ns, state.st_size) for tag, state in states.items()}


def _new_files(template: str | None, params, before: dict) -> dict[str, Path]:
    now = _states(template, params)
    return {tag: path for tag, path in _files(template, params).items() if before.get(tag) != now[tag]}


@dials.util.show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """Do what dials.stills_process does, list what was written, and fail if that is nothing."""
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments:
        stills_process_module().Script().parser.print_help()
        return
    try:
        written = process_stills(arguments)
    except ValueError as error:
        raise dials.util.Sorry(str(error)) from None
    for stills in written:
        logger.info("%d lattices: %s %s", stills.n_lattices, stills.experiments, stills.reflections)


if __name__ == "__main__":
    run()
