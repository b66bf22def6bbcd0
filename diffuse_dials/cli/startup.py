"""What every command does first and last: parse, log, and turn a user's mistake into one line."""

from __future__ import annotations

import copy
import gc
import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dials.util.log
import libtbx.phil
from dials.util import Sorry
from dials.util.options import ArgumentParser
from dials.util.version import dials_version

from diffuse_dials import __version__
from diffuse_dials.adapters.parameters import refuse_missing, settle_values, why_refused
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.running.stopping import ToldToStop
from diffuse_dials.io.stills import StillsTable

logger = logging.getLogger(f"dials.{__name__}")

gc.freeze()  # what DIALS's modules made stays to the end: Python need not look through it for reference cycles


@dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        params: The extract of the command's PHIL scope.
        experiments: Names of the .expt files given.
        reflections: Names of the .refl files (and stores) given.
        others: Arguments that are neither files of DIALS nor parameters (images, model files).
        verbose: How often -v was given.
        comm: The ranks of MPI that run this command, one where mp.method is not mpi.
    """

    params: object
    experiments: tuple[str, ...]
    reflections: tuple[str, ...]
    others: tuple[str, ...]
    verbose: int
    comm: Communicator

    @property
    def files(self) -> tuple[str, ...]:
        """All input files."""
        return self.experiments + self.reflections


def start(
    args, phil, help_message: str, usage: str, *, takes_others=False, needs_files=True, takes_stores=False,
    conducts=False,
) -> Invocation:  # fmt: skip
    """Parse the command line, start the log, and write version and changed parameters into it.

    Files are named, not read: algorithms read them one by one, so that memory stays bounded and a bad file
    gets a message of its own.

    Args:
        args: Arguments without the program's name; None takes them from the shell.
        phil: The command's scope.
        help_message: Shown by -h below the options.
        usage: First line of the help.
        takes_others: Whether arguments that are no .expt and .refl are allowed.
        needs_files: Whether a call without any argument shows the help and stops.
        conducts: Whether mp.method and the files that parameters name are for the commands that this one starts: it
            is one process itself.
        takes_stores: Whether a gridded.h5 may stand in place of gridded.refl; it is among ``reflections`` then.

    Returns:
        The invocation.

    Raises:
        Sorry: For an unknown parameter, a value out of range or a file that does not exist.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    parser = ArgumentParser(
        usage=usage, phil=phil, epilog=help_message, read_experiments=False, read_reflections=False, check_format=False
    )
    ranks = Communicator.started()
    if needs_files and not arguments:
        if ranks.rank == 0:
            parser.print_help()
        raise SystemExit(0 if ranks.rank else 2)
    tables = (".refl", ".h5") if takes_stores else (".refl",)
    files = [a for a in arguments if a.endswith((".expt", *tables)) and "=" not in a]
    with user_errors(ranks), ranks.together():  # a mistake of the user's is said once, and not by each rank
        if conducts and ranks.size > 1:
            raise ValueError(
                f"MPI started {ranks.size} processes of this command, which is one process and starts the ranks of its "
                'steps itself. Leave mpirun out, and give mp.method=mpi and mp.launcher, such as "mpirun -n 4".'
            )
        try:
            params, options, others = _read(parser, phil, arguments, files, takes_others, conducts)
        except Sorry as error:
            raise ValueError(str(error)) from None
        comm = Communicator.of(params.mp.method if hasattr(params, "mp") and not conducts else "")
    if comm.rank:
        logging.disable(logging.CRITICAL)  # rank 0 speaks for all
    output = getattr(params, "output", None)
    with user_errors(comm), comm.together():
        if comm.rank == 0:
            _start_log(getattr(output, "log", None), options.verbose)
            if getattr(output, "stills", None):
                StillsTable.beside(output.stills)  # if it cannot be read, say so before the work and not after it
    logger.info("diffuse_dials %s, %s", __version__, dials_version())
    changed = parser.diff_phil.as_str()
    if changed:
        logger.info("The following parameters have been modified:\n\n%s", changed)
    return Invocation(
        params,
        tuple(f for f in files if f.endswith(".expt")),
        tuple(f for f in files if f.endswith(tables)),
        tuple(others),
        options.verbose,
        comm,
    )


def _read(parser, phil, arguments, files, takes_others: bool, conducts: bool):
    """Parameters, options, and arguments that are neither files of DIALS nor parameters, held against what is there."""
    for name in files:
        if not Path(name).is_file():
            raise Sorry(f"There is no file {name}. Check the name and the folder.")
    params, options, others = _parse(parser, phil, [a for a in arguments if a not in files])
    for name in others:
        _refuse_parameters(name)
    ambiguous = [name for name in others if "=" in name]
    if ambiguous:
        raise Sorry(
            f"{ambiguous[0]} names no parameter of this command, or more than one: write its whole path. -c -e2 lists "
            "all of them."
        )
    if others and not takes_others:
        raise Sorry(
            f"{others[0]} is no .expt or .refl file and no parameter of this command. See -h for what it takes and "
            "-c -e2 for its parameters."
        )
    settle_values(phil, params)
    if not conducts:  # diffuse.process takes patterns of names, and looks after them itself
        refuse_missing(phil, params)
    output = getattr(params, "output", None)
    defaults = getattr(phil.extract(), "output", None)
    _refuse_names(output, defaults)
    _refuse_places(output, defaults, [*files, *others, *_paths(getattr(params, "input", None), "monitor")])
    return params, options, others


def _parse(parser, phil, arguments):
    """In DIALS 3.12 a value that a type refuses gives a traceback, a wrong choice several lines: make it one line."""
    try:
        return parser.parse_args(args=arguments, show_diff_phil=False, return_unhandled=True, quick_parse=False)
    except (Sorry, RuntimeError, ValueError, OverflowError) as error:  # the last two: nan, cells
        raise Sorry(why_refused(phil, arguments, error)) from None
    except BrokenPipeError:  # the reader of -h or -c (head, less) has closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        raise SystemExit(1) from None


def _refuse_parameters(name: str) -> None:
    """DIALS's parser passes on a parameter file that it cannot read, which would then be taken for an image."""
    if name.endswith((".phil", ".eff", ".def")) and Path(name).is_file():
        try:
            libtbx.phil.parse(file_name=name)
        except RuntimeError as error:
            raise Sorry(f"{name} cannot be read as parameters: {' '.join(str(error).split())}") from None


def _refuse_names(output, defaults) -> None:
    """The next command recognises a file by its suffix, and so does DIALS when it writes experiments."""
    for name, default in vars(defaults).items() if defaults is not None else ():
        suffixes = {".expt": (".expt",), ".refl": (".refl", ".h5")}.get(Path(str(default)).suffix)
        given = getattr(output, name)
        if suffixes and given is not None and not str(given).endswith(suffixes):
            raise Sorry(f"output.{name}={given} must end in {' or '.join(suffixes)}.")


def _paths(scope, *without: str) -> list[str]:
    """The files that a PHIL scope names."""
    names = []
    for name, value in vars(scope).items() if scope is not None else ():
        if not name.startswith("__") and name not in without:
            names += [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, str)]
    return names


def _refuse_places(output, defaults, inputs) -> None:
    """An input is never changed, no output takes the place of another, and each can be written."""
    taken = {Path(name).resolve(): None for name in inputs}
    for name, value in vars(output).items() if output is not None else ():
        if name.startswith("__") or not isinstance(value, str):
            continue
        place = Path(value).resolve()
        default = getattr(defaults, name)
        if place.is_dir() and (default is None or Path(str(default)).suffix):
            raise Sorry(f"output.{name}={value} is no name of a file. Give one, such as {default or f'{name}.out'}.")
        folder = next(folder for folder in (*place.parents, place) if os.path.exists(folder))
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise Sorry(f"output.{name}={value} cannot be written: {folder} is no folder that you may write to.")
        if place in taken:
            other = "an input of this run" if taken[place] is None else f"output.{taken[place]} of the same name"
            raise Sorry(f"output.{name}={value} would replace {other}. Give it another name.")
        taken[place] = name


def _start_log(log, verbose: int) -> None:
    logging.raiseExceptions = False  # a log that cannot be written (disk full) is not worth a traceback per line
    try:
        dials.util.log.config(verbosity=verbose, logfile=log)
    except OSError as error:
        raise ValueError(
            f"Cannot write {log}: {error.strerror}. Check the folder, its permissions and the free space."
        ) from None
    _mark_warnings()


class _Marked(logging.Formatter):
    """Puts WARNING before warnings on the screen, where DIALS marks them by a colour at most."""

    def __init__(self, inner: logging.Formatter | None):
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record):
        if record.levelno == logging.WARNING and record.name != "py.warnings":
            record = copy.copy(record)
            record.msg, record.args = f"WARNING: {record.getMessage().lstrip()}", ()
        return self._inner.format(record)


def _mark_warnings() -> None:
    for handler in logging.getLogger("dials").handlers:
        if type(handler) is logging.StreamHandler and not isinstance(handler.formatter, _Marked):
            handler.setFormatter(_Marked(handler.formatter))


@contextmanager
def user_errors(comm: Communicator | None = None, resumes: bool = False):
    """Show a ValueError, which our algorithms raise for bad input, as one clean line; anything else is a bug.

    With several ranks, rank 0 shows it; a bug on one ends all. Ctrl-C is no bug: a line, and exit status 130.

    Args:
        comm: The ranks.
        resumes: Whether an interrupted run of this command can go on.
    """
    try:
        yield
    except (ValueError, ToldToStop) as error:
        if comm is not None and comm.rank:
            raise SystemExit(0) from None  # a failure here would make mpirun kill rank 0 before it has said why
        raise Sorry(" ".join(str(error).split())) from None  # other programs' messages have lines
    except KeyboardInterrupt:
        logger.error("Interrupted. Go on with resume=True." if resumes else "Interrupted.")
        if comm is not None:
            comm.abort(is_bug=False)
        raise SystemExit(130) from None
    except (Exception, MemoryError) as error:
        if comm is not None and comm.size > 1:
            comm.abort()
        if not isinstance(error, MemoryError):
            raise
        raise Sorry(
            "There is not enough memory. Use a larger d_min or pixel_step, fewer processes (mp.nproc) or fewer stills."
        ) from None
