"""The same work on one still, or block of stills, after the other: here, in forked processes, or on MPI ranks.

A task is a small picklable thing; what a process needs besides (models, masks, geometry) was set up before and is
shared by fork, or set up by each rank. Results come in the order of the tasks, whoever worked on them.
"""

from __future__ import annotations

import logging
import os
import sys

import libtbx.phil
from libtbx import Auto

from diffuse_dials.algorithms.running import forked, mpi
from diffuse_dials.algorithms.running.stopping import stoppable

logger = logging.getLogger(f"dials.{__name__}")

_NPROC = """
  nproc = 1
    .type = int(value_min=1, value_max=10000)
    .help = "Processes that work on stills at the same time. Auto: one per processor. Results do not depend on it."
"""

phil_scope = libtbx.phil.parse(
    f"""
mp {{{_NPROC}
  method = *multiprocessing
    .type = choice
    .help = "How the processes are started."
    .expert_level = 1
}}
"""
)

# For a command that is one process, or the ranks of MPI.
ranks_phil_scope = libtbx.phil.parse(
    """
mp.method = *multiprocessing mpi
  .type = choice
  .help = "multiprocessing: one process. mpi: the ranks that mpirun or srun started, on one machine or many, share the"
          "stills."
  .expert_level = 1
"""
)

mpi_phil_scope = libtbx.phil.parse(
    f"""
mp {{{_NPROC}
  method = *multiprocessing mpi
    .type = choice
    .help = "multiprocessing: mp.nproc processes on this machine. mpi: the ranks that mpirun or srun started, on one"
            "machine or many; mp.nproc is not used then."
    .expert_level = 1
}}
"""
)


def n_processes(params) -> int:
    """Number of processes that ``mp`` asks for."""
    return len(os.sched_getaffinity(0)) if params.nproc is Auto else params.nproc


def working_on(item: int) -> None:
    """``work`` calls this before it begins an item of its task: for the progress bar, and to name it in messages."""
    _reporter(item)


_reporter = lambda item: None  # noqa: E731  (set while each() runs)


def each(
    work, tasks, nproc: int, label: str, *, comm=None, total: int | None = None, name=str, task_name=None,
    isolated=False,
):  # fmt: skip
    """Run ``work(task)`` for each task and yield the results in the order of the tasks.

    Args:
        work: Function of one task; in a forked process it sees everything that was set up before the call.
        tasks: Small picklable things, such as numbers of stills.
        nproc: Number of processes; 1 works in this one.
        label: Shown beside the progress bar on a terminal.
        comm: An mpi.Communicator; its ranks work in place of processes, and only rank 0 is given the results.
        total: Number of items, if ``work`` calls :func:`working_on` for each; None: the tasks are the items.
        name: What to call an item of ``working_on`` in a message.
        task_name: What to call a task in a message; None: as an item.
        isolated: Whether a single process is forked too, so that its death is noticed and not this one's.

    Raises:
        ValueError: If a process dies (killed, out of memory) or this one is told to stop (SIGTERM); whatever ``work``
            raises comes through as it is.
        ToldToStop: If that happens while the caller works on a result.
    """
    tasks = list(tasks)
    task_name = task_name or name
    with _Progress(total or len(tasks), label, total is not None, comm) as progress, stoppable():
        if comm is not None and comm.size > 1:
            results = mpi.spread(comm, work, tasks, task_name)
        elif not isolated and (nproc == 1 or len(tasks) < 2):
            results = _here(work, tasks)
        else:
            results = forked.spread(work, tasks, nproc, name, task_name, progress.show)
        waiting, following = {}, 0
        for position, result in results:
            waiting[position] = result
            progress.task_done()
            while following in waiting:
                yield waiting.pop(following)
                following += 1


def _here(work, tasks):
    for position, task in enumerate(tasks):
        yield position, work(task)


class _Progress:
    """A bar with rate and time left, if there is a terminal to show it on."""

    def __init__(self, total: int, label: str, by_item: bool, comm):
        self._bar = None
        self._by_item = by_item
        self._shown = 0
        if sys.stderr.isatty() and (comm is None or comm.rank == 0):
            from tqdm import tqdm  # only a terminal needs it

            self._bar = tqdm(total=total, desc=label, unit="still", leave=False, smoothing=0.05)

    def __enter__(self):
        global _reporter
        self._before = _reporter
        _reporter = self._count
        return self

    def __exit__(self, *_):
        global _reporter
        _reporter = self._before
        if self._bar is not None:
            self._bar.close()

    def _count(self, item) -> None:
        """An item begins in this process; forked ones tell ``show``."""
        forked.at(item)
        if self._by_item and not forked.in_worker():
            self.show(self._shown + 1)

    def task_done(self) -> None:
        if not self._by_item:
            self.show(self._shown + 1)

    def show(self, done: int) -> None:
        """So many items are done."""
        if self._bar is not None and (self._by_item or done > self._shown):
            self._bar.update(done - self._shown)
        self._shown = max(done, self._shown)
