"""Forked processes that share what their parent set up; none outlives the parent, and none dies unnoticed."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import numpy as np

_slot = None  # (shared array, place in it) of a worker: the item it is at, and how many it has begun


def in_worker() -> bool:
    """Whether this process is a worker."""
    return _slot is not None


def at(item: int) -> None:
    """A worker says which item it begins."""
    if _slot is not None:
        shared, place = _slot
        shared[2 * place] = item
        shared[2 * place + 1] += 1


class WorkerDied(ValueError):
    """A worker was killed or ended; ``item`` is what it was :func:`at`, -1 if it had not said."""

    def __init__(self, message: str, item: int):
        super().__init__(message)
        self.item = item


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: Connection
    place: int
    position: int | None = None


def spread(work, tasks: list, nproc: int, name, task_name, show):
    """Run ``work(task)`` in ``nproc`` forked processes; each is given the next task as soon as it is free.

    Args:
        work: Function of one task.
        tasks: Small picklable things.
        nproc: Number of processes.
        name: What to call an item that a worker was :func:`at` in a message.
        task_name: What to call a task.
        show: Called now and then with the number of items that were begun.

    Yields:
        (position in ``tasks``, result), in the order in which they are done.

    Raises:
        WorkerDied: If a worker dies, with what it was working on; whatever ``work`` raises comes through as it is.
    """
    context = multiprocessing.get_context("fork")
    nproc = min(nproc, len(tasks))
    shared = np.frombuffer(mmap.mmap(-1, 16 * nproc), dtype=np.int64)  # anonymous: a full disk does not matter
    sys.stdout.flush()
    workers: list[_Worker] = []
    waiting = list(enumerate(tasks))[::-1]
    try:
        for place in range(nproc):
            ours, theirs = context.Pipe()
            arguments = (work, theirs, [ours, *(worker.pipe for worker in workers)], shared, place, os.getpid())
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            shared[2 * place] = -1
            workers.append(_Worker(process, ours, place))
            _give(workers[-1], waiting)
        busy = list(workers)
        while busy:
            ready = wait([end for worker in busy for end in (worker.pipe, worker.process.sentinel)], timeout=0.5)
            show(int(shared[1::2].sum()))
            for worker in [w for w in busy if w.pipe in ready or w.process.sentinel in ready]:
                position = worker.position
                try:
                    fine, result = pickle.loads(worker.pipe.recv_bytes())
                except (EOFError, ConnectionResetError):
                    words = _last_words(worker, shared, tasks, name, task_name)
                    raise WorkerDied(words, int(shared[2 * worker.place])) from None
                if not fine:
                    raise result
                _give(worker, waiting)
                if worker.position is None:
                    busy.remove(worker)
                yield position, result
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


def _give(worker: _Worker, waiting: list) -> None:
    """The next task, if there is one. A worker that died meanwhile is noticed by the next wait."""
    worker.position = None
    if waiting:
        worker.position, task = waiting.pop()
        try:
            worker.pipe.send(task)
        except BrokenPipeError:
            pass


def _last_words(worker: _Worker, shared, tasks, name, task_name) -> str:
    worker.process.join()
    item, code = int(shared[2 * worker.place]), worker.process.exitcode
    what = name(item) if item >= 0 else task_name(tasks[worker.position])
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit status {code}"
    killed = code == -signal.SIGKILL
    advice = "perhaps for lack of memory: use a smaller mp.nproc" if killed else "perhaps because of a broken file"
    return f"The process that worked on {what} {how}, {advice}."


def _serve(work, pipe: Connection, others: list[Connection], shared, place: int, parent: int) -> None:
    global _slot
    _slot = (shared, place)
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()  # else this process would keep them open when the parent is gone
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        shared[2 * place] = -1
        try:
            message = pickle.dumps((True, work(task)), pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # whatever it is, the parent raises it
            message = _packed(error)
        pipe.send_bytes(message)


def _packed(error: BaseException) -> bytes:
    """An exception that the parent can raise; a bug brings its traceback along."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        if isinstance(error, (ValueError, MemoryError)):
            pickle.loads(pickle.dumps(error))
            return pickle.dumps((False, error))
    except Exception:  # an exception of another package that cannot be pickled, each in its own way
        pass
    return pickle.dumps((False, RuntimeError(f"in a worker process:\n{text}")))


def _die_with(parent: int) -> None:
    """End when the parent does, even by kill -9 (Linux; elsewhere after the task, when the pipe is closed)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)
