"""Runs one command in its own process: its log goes into ours, its progress bar to the terminal, its error to us."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import diffuse_dials

logger = logging.getLogger(f"dials.{__name__}")

# SIGTERM ends a command by an exception, so that it removes what it has half written; a second one (a signal to the
# group comes from there and from us) does not interrupt that. Lines that DIALS cannot write to its log (disk full) must
# not each give a traceback on the terminal.
_CODE = """
import logging, signal, sys
logging.raiseExceptions = False
def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
sys.path.append({root!r})
import diffuse_dials
from {module} import run
run()
"""
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_WARNING = "WARNING: "  # as cli.startup marks warnings on the screen
_SHOWN = 20  # warnings of a step on the screen; thousands of blanks would hide all else
_KEPT = 20_000  # characters of the end of what a command says on stderr


def run_module(module: str, arguments: list[str], launcher: str | None) -> str | None:
    """Call ``module.run()`` in a new process, in the current folder, and wait for it.

    Args:
        module: Name of a module with a function ``run`` that reads sys.argv.
        arguments: Of the command.
        launcher: What starts the ranks of MPI; None: one process.

    Returns:
        None if it ended well, else what it said, in one line.
    """
    root = str(Path(diffuse_dials.__file__).resolve().parent.parent)
    code = _CODE.format(root=root, module=module)
    command = [*shlex.split(launcher or ""), sys.executable, "-c", code, *arguments]
    on_terminal = sys.stderr.isatty()
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    if on_terminal:
        _same_size(theirs)
    parent = os.getpid()
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, close_fds=False,
            preexec_fn=lambda: _prepare(parent), text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        os.close(ours), os.close(theirs)
        return f"{command[0]} cannot be started ({error.strerror}). Check mp.launcher."
    os.close(theirs)
    said: list[str] = []
    quiet = threading.Event()
    reader = threading.Thread(target=_forward, args=(ours, said, quiet), daemon=True)
    reader.start()
    try:
        n_warnings = 0
        for line in child.stdout:
            text = line.rstrip()
            if not text.startswith(_WARNING):
                _to_log(text)
                continue
            n_warnings += 1
            if n_warnings <= _SHOWN:
                logger.warning("%s", text.removeprefix(_WARNING))
            else:
                _to_log(text.removeprefix(_WARNING), logging.WARNING)
        if n_warnings > _SHOWN:
            logger.warning("%d more warnings are in diffuse.process.log", n_warnings - _SHOWN)
        status = child.wait()
    except BaseException:  # Ctrl-C and the like: no process is left behind, and what it says of that is not shown
        quiet.set()
        _stop(child)
        raise
    finally:
        child.stdout.close()
    reader.join(5)
    os.close(ours)
    return None if status == 0 else _reason(status, "".join(said))


def _to_log(line: str, level: int = logging.INFO) -> None:
    """Into the log file; on the screen it would hide what this command says itself."""
    record = logging.LogRecord(logger.name, level, __file__, 0, line, None, None)
    for handler in logging.getLogger("dials").handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _forward(end: int, said: list[str], quiet: threading.Event) -> None:
    """What a command says on stderr: to ours if that is a terminal and until ``quiet`` is set, and kept."""
    while True:
        try:
            data = os.read(end, 4096)
        except OSError:  # a pseudo-terminal whose other end is closed
            return
        if not data:
            return
        if sys.stderr.isatty() and not quiet.is_set():
            shown, *error = re.split(rb"(?=Sorry: |Traceback \(most)", data, maxsplit=1)
            sys.stderr.buffer.write(shown)
            sys.stderr.flush()
            if error:  # which we say ourselves, once
                quiet.set()
        said.append(data.decode("utf-8", "replace"))
        if sum(map(len, said)) > 2 * _KEPT:
            said[:] = ["".join(said)[-_KEPT:]]


def _reason(status: int, said: str) -> str:
    text = _TERMINAL_CODES.sub("\n", said)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        _to_log(line)
    sorry = next((k for k in reversed(range(len(lines))) if lines[k].startswith("Sorry: ")), None)
    if sorry is not None:
        return " ".join(lines[sorry:]).removeprefix("Sorry: ")
    if status < 0:
        return f"It was killed ({signal.Signals(-status).name}), perhaps for lack of memory: use a smaller mp.nproc."
    return f"It ended with exit status {status}: {lines[-1] if lines else 'it said nothing'}"


def _stop(child: subprocess.Popen) -> None:
    try:
        child.terminate()
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _same_size(terminal: int) -> None:
    """A progress bar is as wide as our terminal."""
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return


def _prepare(parent: int) -> None:
    """In the new process: Ctrl-C is for the parent, which stops this one; end when it does, even by kill -9 (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(1)
