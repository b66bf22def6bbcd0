"""The ranks of an MPI job (mpi4py): one command, run by all of them; rank 0 logs and writes.

Every rank parses the same arguments and sets up the same things; then the ranks share the tasks, and rank 0 alone
goes on with the results.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from contextlib import contextmanager, suppress

import numpy as np

from diffuse_dials.algorithms.running.stopping import ToldToStop

_ALIGNED = 64  # bytes: where an array may begin in shared memory
_ASK, _DONE, _FAILED, _TOLD, _TASK, _STOP, _ITEM = range(1, 8)


def _n_started() -> int:
    """Processes of this command by what mpirun (Open MPI, or one that speaks PMI) tells them."""
    return max(int(os.environ.get(name, 1)) for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))


class Communicator:
    """The processes of one run. Without MPI there is one, and everything here is the identity.

    Attributes:
        rank: Number of this process; 0 speaks and writes.
        size: Number of processes.
    """

    def __init__(self, comm=None):
        self._comm = comm
        self._windows: list = []
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()

    @classmethod
    def of(cls, method: str) -> Communicator:
        """The ranks that mpirun started, for ``mp.method=mpi``; else this process alone.

        Raises:
            ValueError: If mpi4py is missing, or mpirun started several processes that do not know of each other.
        """
        if method != "mpi":
            if _n_started() > 1:
                why = f"but mp.method is {method}. Add mp.method=mpi" if method else "which uses one. Leave mpirun out"
                raise ValueError(f"MPI started {_n_started()} processes of this command, {why}.")
            return cls()
        try:
            from mpi4py import MPI
        except ImportError as error:
            hint = "Install it, or use mp.nproc."
            raise ValueError(f"mp.method=mpi needs the package mpi4py ({error}). {hint}") from None
        return cls(MPI.COMM_WORLD)

    @classmethod
    def started(cls) -> Communicator:
        """The processes that mpirun started, whatever mp.method says, so that one of them speaks; else this one."""
        if _n_started() > 1:
            with suppress(ImportError):
                from mpi4py import MPI

                return cls(MPI.COMM_WORLD)
        return cls()

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of an array over all ranks, on every rank (Allreduce); float64 and integers.

        Sums of floats depend on the number of ranks in the last bit, sums of integers do not.
        """
        if self.size == 1:
            return array
        array = np.asarray(array, order="C")
        total = np.empty_like(array)
        self._comm.Allreduce(array, total)
        return total

    def sums(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The sums of several arrays of float64 over all ranks, on every rank, in one message."""
        if self.size == 1:
            return list(arrays)
        total = self.sum(np.concatenate([array.ravel() for array in arrays]))
        ends = np.cumsum([array.size for array in arrays])
        return [total[end - array.size : end].reshape(array.shape) for end, array in zip(ends, arrays)]

    def sum_on_first(self, array: np.ndarray) -> np.ndarray | None:
        """The sum of an array over all ranks, on rank 0 (Reduce); None on the others."""
        if self.size == 1:
            return array
        total = np.empty_like(array) if self.rank == 0 else None
        self._comm.Reduce(np.ascontiguousarray(array), total)
        return total

    def least(self, array: np.ndarray) -> np.ndarray:
        """The smallest value of each element over all ranks, on every rank."""
        if self.size == 1:
            return array
        from mpi4py import MPI

        least = np.empty_like(array)
        self._comm.Allreduce(np.ascontiguousarray(array), least, MPI.MIN)
        return least

    def union(self, values: np.ndarray) -> np.ndarray:
        """The distinct values of all ranks in ascending order, on every rank; each gives its own, such already."""
        return values if self.size == 1 else self._comm.allreduce(values, np.union1d)

    def everywhere(self, value) -> list:
        """The values of all ranks in their order, on every rank (picklable)."""
        return [value] if self.size == 1 else self._comm.allgather(value)

    def from_first(self, value):
        """Rank 0's value, on every rank (picklable)."""
        return value if self.size == 1 else self._comm.bcast(value)

    def gather(self, value) -> list | None:
        """The values of all ranks in their order, on rank 0 (picklable); None on the others."""
        return [value] if self.size == 1 else self._comm.gather(value)

    def deal(self, make):
        """``make(rank)``, which only rank 0 calls, for each rank in turn, and which that rank is given (picklable)."""
        if self.rank:
            return self._comm.recv(source=0, tag=_ITEM)
        for rank in range(1, self.size):
            self._comm.send(make(rank), rank, _ITEM)
        return make(0)

    def in_order(self, items):
        """The items of all ranks in the order of the ranks, one at a time, on rank 0; the others yield nothing.

        Raises:
            ValueError: What making an item raised, on that rank and on rank 0.
        """
        if self.rank:
            try:
                for item in items:
                    self._comm.send((item, None), 0, _ITEM)
            except ValueError as error:
                self._comm.send((None, str(error)), 0, _ITEM)
                raise
            self._comm.send(None, 0, _ITEM)
            return
        failed = None
        try:
            yield from items
        except ValueError as error:
            failed = str(error)
        for rank in range(1, self.size):
            while (sent := self._comm.recv(source=rank, tag=_ITEM)) is not None:
                item, error = sent
                if error is not None:
                    failed = failed or error
                    break
                if failed is None:
                    yield item
        if failed is not None:
            raise ValueError(failed)

    def share(self, n: int) -> slice:
        """This rank's contiguous part of ``n`` things."""
        return self.shares(np.ones(n, dtype=np.int64))[self.rank]

    def shares(self, weight: np.ndarray) -> list[slice]:
        """Each rank's contiguous part of things of a weight (integers), about equal in their sums of weights."""
        goals = weight.sum() * np.arange(1, self.size) // self.size
        ends = np.minimum(np.searchsorted(np.cumsum(weight), goals) + 1, len(weight))
        ends = [0, *ends.tolist(), len(weight)]
        return [slice(first, last) for first, last in zip(ends, ends[1:])]

    def shared(self, make):
        """What ``make()`` returns, made by one rank of each machine; its arrays are in memory that its ranks share.

        Args:
            make: Function without arguments; what it returns can be pickled. Nobody may change the arrays.

        Raises:
            ValueError: What ``make`` raised, on every rank of the machine.
        """
        if self.size == 1:
            return make()
        from mpi4py import MPI

        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        head, buffers, error = None, [], None
        if node.rank == 0:
            try:
                head = pickle.dumps(make(), 5, buffer_callback=buffers.append)  # arrays stay apart from the rest
            except ValueError as caught:
                error = str(caught)
        views = [buffer.raw() for buffer in buffers]
        head, error, sizes = node.bcast((head, error, [view.nbytes for view in views]))
        if error is not None:
            raise ValueError(error)
        ends = np.cumsum([-(-size // _ALIGNED) * _ALIGNED for size in sizes], dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        window = MPI.Win.Allocate_shared(total if node.rank == 0 else 0, 1, comm=node)
        self._windows.append(window)  # the memory lives as long
        memory = np.frombuffer(window.Shared_query(0)[0], dtype=np.uint8)
        parts = [memory[end - -(-size // _ALIGNED) * _ALIGNED :][:size] for end, size in zip(ends, sizes)]
        for part, view in zip(parts, views):
            part[:] = np.frombuffer(view, dtype=np.uint8)
        node.Barrier()
        return pickle.loads(head, buffers=parts)

    @contextmanager
    def together(self):
        """A step that every rank takes: if it fails on one, every rank raises that ValueError, none waits for ever."""
        error = None
        try:
            yield
        except ValueError as caught:
            error = caught
        if self.size > 1:
            failed = [text for text in self._comm.allgather(None if error is None else str(error)) if text is not None]
            if failed and error is None:
                raise ValueError(failed[0])
        if error is not None:
            raise error

    def abort(self, is_bug: bool = True) -> None:
        """End all ranks at once, after a bug on this one, whose traceback is shown, or an interruption of it."""
        if self.size > 1:
            if is_bug:
                traceback.print_exc()
            sys.stderr.flush()
            self._comm.Abort(1)

    # What spread() needs: messages of small Python objects.

    def send(self, value, rank: int, tag: int) -> None:
        self._comm.send(value, rank, tag)

    def receive(self):
        """(rank, tag, value) of the next message; waits without using the processor."""
        from mpi4py import MPI

        status = MPI.Status()
        while not self._comm.iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG):
            time.sleep(0.001)
        value = self._comm.recv(None, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        return status.Get_source(), status.Get_tag(), value

    def has_message(self) -> bool:
        from mpi4py import MPI

        return self._comm.iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)


ALONE = Communicator()


def spread(comm: Communicator, work, tasks: list, name):
    """Run ``work(task)`` on the ranks: two of them halve the tasks, more are given them one by one by rank 0.

    Every rank calls this with the same tasks.

    Args:
        comm: The ranks, two or more.
        work: Function of one task.
        tasks: The same on every rank.
        name: What to call a task in a message.

    Yields:
        On rank 0 (position in ``tasks``, result), in the order in which they are done; nothing on the others.

    Raises:
        ValueError: What ``work`` raised on any rank (a bug there ends all ranks), or that one was told to stop.
    """
    if comm.rank:
        _work_for_first(comm, work, tasks)
        return
    n_done, at_work = 0, {}
    waiting = list(range(len(tasks)))[::-1]
    mine = range(0, len(tasks), 2) if comm.size == 2 else ()
    stopped = False
    try:
        for position in mine:
            yield position, work(tasks[position])
            n_done += 1
            while comm.has_message():
                _, answer = _answer(comm, tasks, at_work, waiting)
                if answer:
                    yield answer
                    n_done += 1
        while n_done < len(tasks):
            _, answer = _answer(comm, tasks, at_work, waiting)
            if answer:
                yield answer
                n_done += 1
    except ToldToStop as told:
        stopped = True
        lost = ", ".join(name(tasks[position]) for position in at_work.values())
        raise ValueError(f"{told} The other ranks were working on {lost or 'their share'}.") from None
    finally:
        if not stopped:  # a rank that is dead would never take the message
            for rank in range(1, comm.size):
                comm.send(None, rank, _STOP)


def _answer(comm: Communicator, tasks, at_work: dict, waiting: list):
    """Rank 0 takes one message: a result, a failure, or the wish for a task."""
    rank, tag, value = comm.receive()
    at_work.pop(rank, None)
    if tag == _FAILED:
        raise ValueError(value)
    if tag == _TOLD:
        raise ToldToStop
    if comm.size > 2:
        if waiting:
            at_work[rank] = waiting.pop()
            comm.send(at_work[rank], rank, _TASK)
    return rank, value if tag == _DONE else None


def _work_for_first(comm: Communicator, work, tasks) -> None:
    """The other ranks: work until rank 0 says stop."""
    if comm.size == 2:
        for position in range(1, len(tasks), 2):
            if comm.has_message() or not _try(comm, work, tasks, position):
                break
    else:
        comm.send(None, 0, _ASK)
    while True:
        _, tag, position = comm.receive()
        if tag == _STOP:
            return
        _try(comm, work, tasks, position)


def _try(comm: Communicator, work, tasks, position: int) -> bool:
    try:
        result = work(tasks[position])
    except ValueError as error:
        comm.send(str(error), 0, _FAILED)
        return False
    except ToldToStop:
        comm.send(None, 0, _TOLD)
        return False
    comm.send((position, result), 0, _DONE)
    return True
