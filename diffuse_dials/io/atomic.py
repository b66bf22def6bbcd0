"""Outputs that appear complete or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path):
    """Give a path beside ``path`` to write to; rename it to ``path`` when the block ends well.

    Args:
        path: Where the finished file is to appear. Missing folders are made.

    Yields:
        Path of the unfinished file, in the same folder (so that the rename is atomic), with the same suffix.

    Raises:
        ValueError: If the file cannot be written (disk full, no permission); nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder, its permissions and the free space."
        ) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            partial.unlink()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove half-written files that killed processes of this machine left in a folder.

    Args:
        folder: The folder.
        name: Of the finished file; None: any.
    """
    for leftover in folder.glob(".*"):
        found = re.fullmatch(r"\.(.*)\.([0-9]+)(\.[^.]*)?", leftover.name)
        if found is None or (name is not None and found[1] + (found[3] or "") != name):
            continue
        if Path("/proc/self").exists() and not Path("/proc", found[2]).exists():
            leftover.unlink(missing_ok=True)


def place(source, path) -> None:
    """Let a finished file appear under another name too, complete or not at all: a hard link, else a copy."""
    with replacing(path) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def write_text(text: str, path) -> None:
    """Write a text file, complete or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(data: dict, path, indent: int | None = 2) -> None:
    """Write JSON (keys in the order given), complete or not at all. Without indent, many numbers are written fast."""
    write_text(json.dumps(data, indent=indent, allow_nan=False) + "\n", path)
