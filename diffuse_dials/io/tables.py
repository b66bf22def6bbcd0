"""Reflection tables (.refl) as dictionaries of NumPy arrays, checked on the way in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.io.atomic import replacing
from diffuse_dials.io.columns import COLUMNS

# A column past 4 GiB is silently cut by msgpack's 32-bit lengths; 24 bytes is our widest element.
MAX_ROWS = 150_000_000


@dataclass
class Table:
    """One reflection table.

    Attributes:
        columns: Arrays of equal length, by column name; vectors and Miller indices have shape (n, 3).
        identifiers: Experiment identifier of each ``id`` (empty for tables without ids).
        path: The file it came from, for messages.
    """

    columns: dict[str, np.ndarray]
    identifiers: dict[int, str] = field(default_factory=dict)
    path: str = ""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def require(self, names, written_by: str) -> None:
        """Raise ValueError, with what to do, unless the table has these columns and at least one row."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ValueError(f"{self.path} has no column {', '.join(missing)}. Give the .refl that {written_by} wrote.")
        if not len(self):
            raise ValueError(f"{self.path} is empty. Check the log of {written_by}.")


def _to_flex(values: np.ndarray, kind: str):
    values = np.asarray(values)
    if kind == "miller_index":
        h, k, l = (flumpy.from_numpy(np.ascontiguousarray(values[:, i], dtype=np.int32)) for i in range(3))
        return flex.miller_index(h, k, l)
    if kind == "vec3_double":
        return flumpy.vec_from_numpy(np.ascontiguousarray(values, dtype=np.float64))
    dtype = {"int": np.int32, "size_t": np.uint64, "bool": bool, "double": np.float64}[kind]
    return flumpy.from_numpy(np.ascontiguousarray(values, dtype=dtype))


def _to_numpy(column) -> np.ndarray | None:
    if isinstance(column, flex.miller_index):
        return np.rint(flumpy.to_numpy(column.as_vec3_double())).astype(np.int32)
    if isinstance(column, (flex.int, flex.size_t, flex.bool, flex.double, flex.vec2_double, flex.vec3_double)):
        return flumpy.to_numpy(column)
    return None  # shoeboxes, strings and int6: no command of ours works on them as arrays


def check_n_rows(path, n_rows: int) -> None:
    """Refuse more rows than a .refl file holds.

    Raises:
        ValueError: If there are more than ``MAX_ROWS``.
    """
    if n_rows > MAX_ROWS:
        raise ValueError(f"{path} would have {n_rows} rows, more than the {MAX_ROWS} that a .refl file holds.")


def save_table(columns: dict, path, identifiers: dict[int, str] | None = None) -> None:
    """Write a reflection table, complete or not at all.

    Args:
        columns: Arrays of equal length; names that io.columns does not list are refused.
        path: Output file.
        identifiers: Experiment identifier of each ``id``.

    Raises:
        ValueError: If there are more than ``MAX_ROWS`` rows, or the file cannot be written.
    """
    n_rows = max((len(values) for values in columns.values()), default=0)
    check_n_rows(path, n_rows)
    table = flex.reflection_table()
    for name, values in columns.items():
        column = _to_flex(values, COLUMNS[name].kind)
        if len(column) != n_rows:
            raise AssertionError(f"column {name} has {len(column)} rows, not {n_rows}")
        table[name] = column
    for number, identifier in (identifiers or {}).items():
        table.experiment_identifiers()[int(number)] = identifier
    with replacing(path) as partial:
        try:
            table.as_file(str(partial))
        except RuntimeError as error:  # how DIALS's msgpack writer reports a full disk
            raise OSError(str(error)) from error
        _check_size(partial, columns, n_rows)


def save_map(columns: dict, identifier: str, path) -> None:
    """Write the table of a map, all of whose rows are of one experiment; arguments and errors as in save_table.

    Args:
        identifier: Of the experiment in the .expt file written with it.
    """
    n_rows = len(next(iter(columns.values())))
    save_table({**columns, "id": np.zeros(n_rows, dtype=np.int32)}, path, {0: identifier})


def _check_size(path: Path, columns, n_rows: int) -> None:
    """A full disk can leave DIALS's writer without an exception: compare the size with what must be there."""
    width = {"int": 4, "size_t": 8, "bool": 1, "double": 8, "vec3_double": 24, "miller_index": 12}
    expected = n_rows * sum(width[COLUMNS[name].kind] for name in columns)
    if path.stat().st_size < expected:
        raise OSError(f"only {path.stat().st_size} of {expected} bytes were written")


def load_flex(path) -> flex.reflection_table:
    """Read a .refl file as DIALS does, with one clear line when it cannot be read.

    Raises:
        ValueError: If the file is missing, not a reflection table, or written by a newer DIALS.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check the name and the folder.")
    try:
        return flex.reflection_table.from_file(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as a reflection table ({error}). It may be cut off: make it again."
        ) from error
    except Exception as error:  # unpickling garbage can raise anything: pickle's documentation says so
        raise ValueError(
            f"{path} is no reflection table this DIALS can read: it may be empty, cut off, or written by a newer "
            "DIALS. Make it again."
        ) from error


def load_table(path, required=(), written_by: str = "the previous command") -> Table:
    """Read a .refl file into NumPy arrays.

    Args:
        path: Input file.
        required: Columns that must be there.
        written_by: Named in the message when one is not.

    Returns:
        The table; columns of kinds that have no array form (shoeboxes, strings) are left out.

    Raises:
        ValueError: If the file cannot be read, is empty, or lacks a required column.
    """
    reflections = load_flex(path)
    columns = {}
    for name in reflections.keys():
        values = _to_numpy(reflections[name])
        if values is not None:
            columns[name] = values
    identifiers = dict(zip(reflections.experiment_identifiers().keys(), reflections.experiment_identifiers().values()))
    table = Table(columns, identifiers, str(path))
    if required:
        table.require(required, written_by)
    return table
