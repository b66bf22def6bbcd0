"""Outputs that appear complete or not at all."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path):
    """Give a path beside ``path`` to write to; rename it to ``path`` when the block ends well.

    Args:
        path: Where the finished file shall appear. Missing folders are made.

    Yields:
        Path of the unfinished file, in the same folder (so that the rename is atomic), with the same suffix.

    Raises:
        ValueError: If the file cannot be written (disk full, no permission); nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}. Check the folder, its permissions and the free space.") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(text: str, path) -> None:
    """Write a text file, complete or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(data: dict, path) -> None:
    """Write JSON (two-space indent, keys in the order given), complete or not at all."""
    write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", path)
