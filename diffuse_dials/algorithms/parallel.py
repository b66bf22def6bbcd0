"""Work on one still after the other in forked processes; results come in the order of the tasks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import libtbx.phil
from libtbx import Auto

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
mp {
  nproc = 1
    .type = int(value_min=1)
    .help = "Processes that work on stills at the same time. Auto: one per processor. Results do not depend on it."
  method = *multiprocessing
    .type = choice
    .help = "How the processes are started."
    .expert_level = 1
}
"""
)

_work = None  # what the forked workers run: inherited, so that images, masks and geometry are never pickled


def n_processes(params) -> int:
    """Number of processes that ``mp`` asks for."""
    return len(os.sched_getaffinity(0)) if params.nproc is Auto else params.nproc


def each(work, tasks, nproc: int, label: str):
    """Run ``work(task)`` for each task and yield the results in the order of the tasks.

    Args:
        work: Function of one task; in a forked process it sees everything that was set up before the call.
        tasks: Small picklable things, such as numbers of stills.
        nproc: Number of processes; 1 works in this one.
        label: Shown beside the progress bar on a terminal.

    Raises:
        ValueError: If a process dies (killed, out of memory); whatever ``work`` raises comes through as it is.
    """
    tasks = list(tasks)
    if nproc == 1 or len(tasks) < 2:
        yield from _progress(map(work, tasks), len(tasks), label)
        return
    global _work
    _work = work
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(nproc, len(tasks)), mp_context=context) as pool:
        try:
            yield from _progress(pool.map(_run, tasks), len(tasks), label)
        except BrokenProcessPool:
            raise ValueError("A worker process was killed, perhaps for lack of memory. Use a smaller mp.nproc and run it again.") from None
        finally:
            _work = None
            pool.shutdown(cancel_futures=True)


def _run(task):
    return _work(task)


def _progress(results, total: int, label: str):
    if not sys.stderr.isatty():
        yield from results
        return
    from tqdm import tqdm  # only a terminal needs it

    yield from tqdm(results, total=total, desc=label, unit="still", leave=False)
