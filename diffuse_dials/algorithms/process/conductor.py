"""Runs the steps that are not done yet."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import time
from pathlib import Path

import iotbx.phil
from dials.util.version import dials_version

from diffuse_dials.algorithms.process import STEPS, Run, Step, checks
from diffuse_dials.algorithms.process.child import run_module
from diffuse_dials.algorithms.process.state import State, key_of, mark
from diffuse_dials.algorithms.running.run_folder import code_hash
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.io.atomic import write_text

logger = logging.getLogger(f"dials.{__name__}")

_NOT_HELD = ("mp.", "resume")  # change no result
HEADER = "# Written by diffuse.process: parameters of "


def conduct(run: Run) -> list[str]:
    """Do all steps of a run that were not done before.

    Returns:
        Names of the steps that were done now.

    Raises:
        ValueError: If a step fails, with what it said; or the files given are not those of the stage.
    """
    checks.check_files(run)
    checks.check_parameters(run)
    steps = [cls() for cls in STEPS]
    reasons = [step.why_not(run) for step in steps]
    active = [step for step, reason in zip(steps, reasons) if reason is None]
    checks.refuse_to_overwrite(run, active, {parameter_file(step): step for step in active}, HEADER)
    state = State(run.params.resume)
    done = []
    for step, reason in zip(steps, reasons):
        if reason:
            logger.info("%s is left out: %s", step.command, reason)
        if reason is None and _do(step, run, state):
            done.append(step.name)
    return done


def parameters_of(step: Step, run: Run):
    """Extract of a step's scope, with the values of the run; ranks of MPI are only for steps that can use them."""
    values = run.scope.format(python_object=run.params)
    if not step.uses_mpi:
        values = run.scope.fetch(sources=[values, iotbx.phil.parse("mp.method = multiprocessing")])
    return step.scope.fetch(source=values).extract()


def parameter_file(step: Step) -> str:
    """Where the parameters of a step are written."""
    return f"{step.command}.phil"


def _do(step: Step, run: Run, state: State) -> bool:
    inputs = step.inputs(run)
    params = parameters_of(step, run)
    step.adapt(params, run)
    working = step.scope.format(python_object=params)
    changed = step.scope.fetch_diff(source=working)
    text = changed.as_str()
    key = _key(step, run, inputs, working)
    if state.is_done(step.name, key):
        logger.info("%-10s done before", step.name)
        return False
    arguments = list(step.arguments(run))
    name = parameter_file(step)
    if text.strip():
        write_text(f"{HEADER}{step.command}\n{text}", name)
        arguments = [name, *arguments]
    else:
        Path(name).unlink(missing_ok=True)
    again = run.params.resume if step.name == "integrate" else state.was_interrupted(step.name, key)
    if step.resumes and again:
        arguments.append("resume=True")
    launcher = run.params.mp.launcher if step.uses_mpi and run.params.mp.method == "mpi" else None
    command = " ".join([*filter(None, [launcher]), step.command, *shortened(inputs), *arguments])
    if state.was_done(step.name):
        logger.info("\n%s was made before, from other files, parameters or programs: again", step.name)
    logger.info("\n$ %s", command)
    state.begin(step.name, key, command)
    started = time.monotonic()
    failure = run_module(step.module, [*inputs, *arguments], launcher)
    if failure is not None:
        raise ValueError(
            f"{step.command} stopped: {sentence(failure)} What it said is in diffuse.process.log. Correct it and go on "
            "with resume=True."
        )
    missing = [name for name in step.outputs(run) if not os.path.isfile(name)]
    if missing:
        raise ValueError(
            f"{step.command} ended without writing {missing[0]}: check the files that it was given. What it said is in "
            "diffuse.process.log. Correct it and go on with resume=True."
        )
    seconds = time.monotonic() - started
    state.end(step.name, step.outputs(run), seconds)
    logger.info("%s (%.0f s)", ". ".join(["done", *step.summary(run)]), seconds)
    return True


def _key(step: Step, run: Run, inputs: list[str], working) -> str:
    values = [step.command, *step.arguments(run), dials_version()]
    if step.module.startswith("diffuse_dials") and step.name != "integrate":  # not to index again after an update
        values.append(code_hash())
    for name in [*(found for name in inputs for found in (sorted(glob.glob(name)) or [name])), *step.read_too(run)]:
        values += [name, mark(name)]
    for found in working.all_definitions():
        if found.path.startswith(_NOT_HELD):
            continue
        value = found.object.extract()
        values += [found.path, value]
        values += [mark(name) for name in ([value] if isinstance(value, str) else []) if os.path.isfile(name)]
    return key_of(*values)


def shortened(names: list[str]) -> list[str]:
    """File names as a user types them: with a pattern where it stands for just these."""
    shown, rest = [], list(names)
    while rest:
        first = rest[0]
        folder, suffix = os.path.dirname(first), os.path.splitext(first)[1]
        alike = [n for n in rest if os.path.dirname(n) == folder and os.path.splitext(n)[1] == suffix]
        pattern = None
        if len(alike) > 2:
            stems = [os.path.basename(name) for name in alike]
            start, end = os.path.commonprefix(stems), os.path.commonprefix([s[::-1] for s in stems])[::-1]
            pattern = os.path.join(folder, f"{start.rstrip('0123456789')}*{end.lstrip('0123456789')}")
            if len(fnmatch.filter(glob.glob(pattern), "*")) != len(alike):
                pattern = None
        shown += [pattern] if pattern else alike
        rest = [name for name in rest if name not in set(alike)]
    return shown
