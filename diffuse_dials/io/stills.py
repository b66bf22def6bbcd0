"""stills.csv: one line per still, which travels with every stage."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from diffuse_dials.io.atomic import write_text

COLUMNS = (
    "identifier", "image", "index", "lattice", "order", "time_stamp", "exposure_time", "monitor", "wavelength",
    "a", "b", "c", "alpha", "beta", "gamma", "mosaicity", "n_accepted", "scale", "status", "reason",
)  # fmt: skip


def read_csv(path, **options) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns of a CSV file, and its lines; ``options`` are those of csv.DictReader.

    Raises:
        ValueError: If it is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:  # spreadsheets put a mark before the first name
            reader = csv.DictReader(handle, **options)
            return list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a CSV file in UTF-8 ({error}). Restore or save it again.") from None


class StillsTable:
    """What is known of each still, by experiment identifier; columns that a user adds are kept.

    Attributes:
        rows: ``{identifier: {column: text}}`` in the order in which the stills came.
    """

    def __init__(self, rows: dict[str, dict[str, str]] | None = None):
        self.rows = rows if rows is not None else {}

    @classmethod
    def read(cls, path) -> StillsTable:
        """Read a stills.csv.

        Raises:
            ValueError: If it is no CSV file, has no column ``identifier``, or an identifier stands there twice.
        """
        _, lines = read_csv(path)
        rows = {line.get("identifier"): line for line in lines}
        if None in rows or len(rows) != len(lines):
            raise ValueError(
                f"{path} needs a column 'identifier' with a different value in each line. Restore the file or "
                "delete it."
            )
        return cls(rows)

    @classmethod
    def beside(cls, path) -> StillsTable:
        """The stills.csv in the folder of ``path``, or an empty table where there is none."""
        found = Path(path).parent / "stills.csv"
        return cls.read(found) if found.is_file() else cls()

    def update(self, identifier: str, **values) -> None:
        """Set values of one still; floats are written with 13 digits."""
        row = self.rows.setdefault(identifier, {"identifier": identifier})
        row.update({name: _text(value) for name, value in values.items()})

    def write(self, path) -> None:
        """Write all stills, our columns first, complete or not at all."""
        extra = {name: None for row in self.rows.values() for name in row if name not in COLUMNS}
        handle = io.StringIO()
        writer = csv.DictWriter(handle, (*COLUMNS, *extra), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_text(handle.getvalue(), path)


def _text(value) -> str:
    if value is None:
        return ""
    return f"{value:.13g}" if isinstance(value, float) else str(value)
