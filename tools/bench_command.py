"""diffuse.grid with its CPU time told apart; what it prints last is JSON. Arguments: those of diffuse.grid.

Each second counts for the innermost of the parts below that it was spent in, so that they add up to the whole.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from contextlib import ExitStack, contextmanager

import diffuse_dials.cli  # noqa: F401  (first, as in the command: it prepares the environment of DIALS)

# isort: split
from diffuse_dials.adapters import images
from diffuse_dials.adapters.direct import DirectReader
from diffuse_dials.algorithms import pipeline
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.running.parts import PartedSums
from diffuse_dials.cli import grid
from diffuse_dials.io import store_parts
from diffuse_dials.kernels.accumulator import Accumulator

spent = {"start-up": time.process_time()}
_stack, _since = [], 0.0


def _switch(to: str | None) -> None:
    """Charge what has passed to the part at work, and begin with another (None: go back to the one around it)."""
    global _since
    now = time.process_time()
    if _stack:
        spent[_stack[-1]] = spent.get(_stack[-1], 0.0) + now - _since
    if to is None:
        _stack.pop()
    else:
        _stack.append(to)
    _since = now


def count(owner, name: str, part: str) -> None:
    """Let the time inside a function count for a part."""
    work = getattr(owner, name)

    @functools.wraps(work)
    def timed(*args, **kwargs):
        _switch(part)
        try:
            return work(*args, **kwargs)
        finally:
            _switch(None)

    setattr(owner, name, timed)


def count_ends(owner, name: str, part: str) -> None:
    """Let what a context manager does first and last count for a part."""
    made = getattr(owner, name)

    @contextmanager
    def timed(*args, **kwargs):
        with ExitStack() as stack:
            _switch(part)
            value = stack.enter_context(made(*args, **kwargs))
            _switch(None)
            yield value
            _switch(part)
        _switch(None)

    setattr(owner, name, timed)


def main() -> None:
    count(Measurement, "__init__", "set-up")
    count(Measurement, "prepare", "set-up")
    count(images, "read_raw", "read")
    count(DirectReader, "read", "read")
    count(Accumulator, "sum_panel", "kernel")
    count(pipeline, "make_parts", "rest of the stills")
    count(pipeline, "open_run", "rest of the stills")
    count(store_parts.PartWriter, "append", "writing parts")
    for writer in store_parts.PartWriter.__subclasses__():
        count(writer, "finish", "writing parts")
    count_ends(pipeline, "writing_part", "writing parts")
    count(PartedSums, "save_sums", "writing the table")
    count(PartedSums, "save_totals", "writing the table")
    count(grid, "pixel_statistics", "pixel statistics")
    count(grid, "_write", "closing")
    _switch("the rest")
    grid.run(sys.argv[1:])
    _switch(None)
    print(json.dumps({name: round(seconds, 3) for name, seconds in spent.items()}))


if __name__ == "__main__":
    main()
