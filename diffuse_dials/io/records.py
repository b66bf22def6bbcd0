"""grid.json: found beside the .refl by every command after diffuse.grid."""

from __future__ import annotations

import json
from pathlib import Path

from diffuse_dials.io.atomic import write_json
from diffuse_dials.models.grid import GridRecord


def load_grid_record(beside) -> GridRecord:
    """Read the grid.json in the folder of a file.

    Args:
        beside: A .refl or .expt file of diffuse.grid or a later command.

    Raises:
        ValueError: If there is none, or it is incomplete or no JSON.
    """
    path = Path(beside).parent / "grid.json"
    if not path.is_file():
        raise ValueError(
            f"There is no grid.json beside {beside}. Keep it in the folder of the files that diffuse.grid wrote."
        )
    try:
        return GridRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}). Run diffuse.grid again.") from None


def save_grid_record(record: GridRecord, path) -> None:
    """Write grid.json, complete or not at all."""
    write_json(record.to_dict(), path)
