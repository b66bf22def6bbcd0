"""From images to the map with one command.

Runs dials.import (for blanks), diffuse.integrate, diffuse.make_mask, diffuse.grid, diffuse.scale, diffuse.absolute,
diffuse.export and diffuse.report, one after the other, in the current folder. Each command is printed as you would
type it, and gets a parameter file of its own (diffuse.integrate.phil, diffuse.grid.phil ...), so that any step can be
run again by hand. The parameters of all steps are this command's; those of dials.stills_process are in
stills_process { ... }.

After an interruption, or with more images or other parameters, resume=True continues: what was made from the same files
and parameters as now is kept. Images that are broken, blank or cannot be indexed are listed in stills.csv with the
reason.

Examples:

  diffuse.process images/*.cbf process.phil mp.nproc=4

  diffuse.process images/*.cbf process.phil mp.nproc=4 resume=True

  diffuse.process images/*.cbf unit_cell=79,79,38,90,90,90 space_group=P43212 d_min=1.8 \\
    background="blanks/*.cbf" composition=model.pdb

  diffuse.process integrated.expt integrated.refl start_from=integrated process.phil
"""

from __future__ import annotations

import logging
import signal
import sys
import time

import iotbx.phil
from dials.util import show_mail_handle_errors

from diffuse_dials.algorithms.process import Run
from diffuse_dials.algorithms.process.conductor import conduct
from diffuse_dials.algorithms.process.outcome import last_line
from diffuse_dials.cli.startup import start, user_errors

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = iotbx.phil.parse(
    """
include scope diffuse_dials.algorithms.process.phil_scope
output {
  log = diffuse.process.log
    .type = path
    .help = "What this command and all steps say. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.process from the command line."""
    arguments = _whole_names(list(sys.argv[1:] if args is None else args), phil)
    usage = "diffuse.process [options] images [param=value] [file.phil]"
    call = start(arguments, phil, __doc__, usage, takes_others=True, takes_stores=True, conducts=True)
    given = (*call.experiments, *call.reflections, *call.others)
    started = time.monotonic()
    before = signal.signal(signal.SIGTERM, _stop)
    with user_errors(resumes=True):
        try:
            run = Run(call.params, given, phil)
            conduct(run)
        finally:
            signal.signal(signal.SIGTERM, before)
        logger.info("\n%s (%.0f s)", last_line(run), time.monotonic() - started)


def _stop(_signal, _frame):
    raise KeyboardInterrupt


def _whole_names(arguments: list[str], phil) -> list[str]:
    """Complete shortened names of our parameters, so that none is taken for one of stills_process."""
    ours = [found.path for found in phil.all_definitions() if not found.path.startswith("stills_process.")]
    whole = []
    for argument in arguments:
        name, sign, value = argument.partition("=")
        fitting = {path for path in ours if path == name or path.endswith(f".{name}")}
        if name in fitting:
            fitting = {name}
        whole.append(f"{fitting.pop()}={value}" if sign and len(fitting) == 1 else argument)
    return whole
