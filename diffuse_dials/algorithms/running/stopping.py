"""SIGTERM (a batch system's time limit, mpirun after the death of a rank) ends a run with a message."""

from __future__ import annotations

import signal
from contextlib import contextmanager


class ToldToStop(BaseException):
    """SIGTERM came. It is not an Exception, so that no code mistakes it for the failure of one still and carries on."""

    def __init__(self):
        super().__init__("The run was told to stop (SIGTERM): a rank was killed, or the time limit of the job is over.")


@contextmanager
def stoppable():
    """SIGTERM ends what is done within.

    Raises:
        ValueError: If it came, with the message of ToldToStop.
    """

    def stop(_signal, _frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told again, it goes on removing what is half written
        raise ToldToStop

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where no signal arrives either
        yield
        return
    try:
        yield
    except ToldToStop as told:
        raise ValueError(str(told)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
