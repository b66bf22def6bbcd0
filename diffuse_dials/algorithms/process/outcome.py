"""The outcome of a run, in one line."""

from __future__ import annotations

from pathlib import Path

from diffuse_dials.algorithms.process.base import Run
from diffuse_dials.algorithms.process.mapping import Export
from diffuse_dials.io.stills import StillsTable


def last_line(run: Run) -> str:
    """The map, its files, and how many images are in it."""
    expt, refl = Export().inputs(run)[:2]
    text = f"The map is {refl} (with {expt}), its files for other programs are map.*, its report is diffuse.report.html"
    if not Path("stills.csv").is_file():
        return f"{text}."
    rows = StillsTable.read("stills.csv").rows.values()
    images = {(row["image"], row["index"]) for row in rows}
    used = {(row["image"], row["index"]) for row in rows if row.get("status") == "ok"}
    return f"{text}; {len(used)} of {len(images)} images are in it. stills.csv says what became of each."
