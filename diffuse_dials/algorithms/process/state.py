"""process.json: which steps are done, and what they were made from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from diffuse_dials.io.atomic import write_json

FILE = "process.json"
_WAIT = 30  # s for the processes of a run that was killed to end


class State:
    """The steps of a run, kept on the disk.

    Attributes:
        steps: ``{name: {"status": "running" or "done", "key": ..., "outputs": {file: mark}, ...}}``.
    """

    def __init__(self, resume: bool):
        self._lock = _lock()
        self.steps = {}
        if resume and Path(FILE).is_file():
            try:
                self.steps = json.loads(Path(FILE).read_text("utf-8"))["steps"]
            except (ValueError, KeyError) as error:
                raise ValueError(f"{FILE} cannot be read ({error}). Delete it, or leave resume out.") from None
        self._write()

    def is_done(self, name: str, key: str) -> bool:
        """Whether a step was made from the same things, and its files are as it left them."""
        step = self.steps.get(name, {})
        same = step.get("status") == "done" and step.get("key") == key
        return same and all(mark(file) == known for file, known in step["outputs"].items())

    def was_done(self, name: str) -> bool:
        """Whether a step was made, from the same things or not."""
        return self.steps.get(name, {}).get("status") == "done"

    def was_interrupted(self, name: str, key: str) -> bool:
        """Whether a step was begun with the same things, and did not end."""
        step = self.steps.get(name, {})
        return step.get("status") == "running" and step.get("key") == key

    def begin(self, name: str, key: str, command: str) -> None:
        self.steps[name] = {"status": "running", "key": key, "command": command}
        self._write()

    def end(self, name: str, outputs, seconds: float) -> None:
        self.steps[name].update(
            status="done", outputs={file: mark(file) for file in outputs}, seconds=round(seconds, 1)
        )
        self._write()

    def _write(self) -> None:
        write_json({"steps": self.steps}, FILE)


def _lock():
    """Held by this process and all that it starts, until the last has ended."""
    try:
        lock = open(".process.lock", "w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Cannot write here ({error.strerror}). Check the folder and its permissions.") from None
    os.set_inheritable(lock.fileno(), True)
    for _ in range(10 * _WAIT):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            time.sleep(0.1)
    raise ValueError("Another diffuse.process works in this folder. Wait for it, or work in another folder.")


def mark(name) -> str:
    """What changes when a file does: size and time of change."""
    try:
        found = os.stat(name)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def key_of(*values) -> str:
    """Hash of everything that a step is made from."""
    return hashlib.sha256(json.dumps([str(value) for value in values]).encode()).hexdigest()
