"""gridded.h5: the sums of many stills in HDF5, written part by part and read as a stream.

A part holds the rows of consecutive stills and is written by one process; gridded.h5 beside the folder of parts is an
index of virtual datasets, so that nothing is copied. Any h5py reads both (compression: lzf, which h5py brings along)::

    gridded.h5   stills/identifier, stills/n_rows, stills/first_row   one per still
                 asu/id, asu/index                                    voxels of the asymmetric unit that were measured
                 rows/<column>                                        virtual: the parts one after the other
                 parts/name, parts/n_rows
    part         stills/number, stills/n_rows, rows/<column>, asu/id, totals/<column>, outcomes (JSON)

Columns: ``voxel`` (int64, ``kernels.sums.pack`` of the index as measured), ``asu_id`` (int32, ``models.asu.AsuBox``),
``panel`` (int16), ``bragg`` (bool), ``counts`` (int32; float32 for integrating detectors), ``n_pixels`` (int32),
``response`` (float32), ``background`` (float32, absent if 0), ``variance`` (float32, absent if equal to the counts),
``position`` (float32 x 2, only if kept). float32 rounds by 6e-8 of the value, independently for
each row, far below the counting error of any row; readers add up in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from diffuse_dials.io.store_parts import COMPACT, PART, VERSION, Part, box_of, opened, writing_hdf5
from diffuse_dials.kernels.sums import unpack
from diffuse_dials.models.sums import VoxelSums

INDEX = "diffuse_dials gridded"
MAX_BLOCK = 2_000_000  # rows that a reader holds at once: 0.1 GB
_MAX_LOOKUP = 1 << 28


def write_index(path, parts: list[Part], identifiers, key: str = "") -> None:
    """Write gridded.h5 over finished parts, complete or not at all.

    Args:
        path: The index; the parts are named relative to its folder.
        parts: In the order of their stills.
        identifiers: Experiment identifier of every still of the experiment list.
        key: Of the run.

    Raises:
        ValueError: If parts do not belong together, or the file cannot be written.
    """
    path, box = Path(path), parts[0].box
    if any(part.box != box or part.exact for part in parts):
        raise ValueError(f"The parts of {path} have different limits. Run diffuse.grid again.")
    order = np.concatenate([part.numbers for part in parts])
    if np.any(np.diff(order) <= 0) or order[0] < 0 or order[-1] >= len(identifiers):
        raise ValueError(f"The parts of {path} hold stills twice or in a wrong order. Run diffuse.grid again.")
    n_rows = np.zeros(len(identifiers), dtype=np.int64)
    n_rows[order] = np.concatenate([part.still_rows for part in parts])
    seen = np.zeros(box.size, dtype=bool)
    for part in parts:
        seen[part.asu_ids()] = True
    asu_id = np.flatnonzero(seen).astype(np.int32)
    names = [part.path.absolute().relative_to(path.absolute().parent).as_posix() for part in parts]
    text = h5py.string_dtype()
    with writing_hdf5(path) as file:
        file.attrs.update({"format": INDEX, "version": VERSION, "key": key, "low": box.low, "shape": box.shape})
        file.attrs["n_rows"] = int(n_rows.sum())
        file.create_dataset("stills/identifier", data=np.array(list(identifiers), dtype=object), dtype=text)
        file["stills/n_rows"], file["stills/first_row"] = n_rows, np.cumsum(n_rows) - n_rows
        file["asu/id"], file["asu/index"] = asu_id, box.index(asu_id)
        file.create_dataset("parts/name", data=np.array(names, dtype=object), dtype=text)
        file["parts/n_rows"] = np.array([part.n_rows for part in parts])
        for name in COMPACT:
            _virtual(file, name, names, parts)
        file.attrs["complete"] = True


def _virtual(file: h5py.File, name: str, names: list[str], parts: list[Part]) -> None:
    """One column over all parts; where a part lacks it, it is 0 (background) or the counts (variance)."""
    found = [part.columns[name] for part in parts if name in part.columns]
    if not found:
        return
    kinds, width = [kind for kind, _ in found], found[0][1]
    kind = np.dtype(np.float32) if len(set(kinds)) > 1 else kinds[0]
    layout = h5py.VirtualLayout((sum(part.n_rows for part in parts), *width), kind)
    start = 0
    for part_name, part in zip(names, parts):
        source = name if name in part.columns else "counts" if name == "variance" else None
        if source and part.n_rows:
            stored = part.columns[source][0]
            layout[start : start + part.n_rows] = h5py.VirtualSource(
                part_name, f"rows/{source}", (part.n_rows, *width), stored
            )
        start += part.n_rows
    file.create_virtual_dataset(f"rows/{name}", layout, fillvalue=0)


def part_folder(path) -> Path | None:
    """The folder of the parts that a gridded.h5 points at; None where there is no such file."""
    try:
        with h5py.File(path, "r") as file:
            return Path(path).parent / Path(file["parts/name"].asstr()[0]).parent
    except (OSError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Block:
    """Rows of consecutive stills; a column that was not asked for is None.

    Attributes:
        still: Position of the still in ``GriddedStore.identifiers``, shape (n,), int32.
        asu: Row of ``GriddedStore.asu_index``, shape (n,), int32.
        bragg: True: pixels that the Bragg mask removed, shape (n,).
        counts, background, response, variance: As in VoxelSums, shape (n,), float64.
        n_pixels: Shape (n,), int32.
        panel: Shape (n,), int16.
        voxel: ``kernels.sums.pack`` of the index as measured, shape (n,), int64.
        position: Mean pixel coordinate, shape (n, 2), float32; None also where the store has none.
    """

    still: np.ndarray
    asu: np.ndarray | None = None
    bragg: np.ndarray | None = None
    counts: np.ndarray | None = None
    background: np.ndarray | None = None
    response: np.ndarray | None = None
    variance: np.ndarray | None = None
    n_pixels: np.ndarray | None = None
    panel: np.ndarray | None = None
    voxel: np.ndarray | None = None
    position: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.still)


_SUMS = ("asu", "bragg", "counts", "background", "response", "variance", "n_pixels")
_FLOATS = ("counts", "background", "response", "variance")


class GriddedStore:
    """An open gridded.h5: what it holds at a glance, and its rows as a stream.

    Attributes:
        path: The file.
        key: Of the run that wrote it.
        identifiers: Experiment identifier of each still.
        still_rows: Rows of each still, shape (n_stills,), int64.
        n_rows: Rows of all.
        asu_index: Measured voxels of the asymmetric unit, ordered by h, k, l, shape (n_voxels, 3), int32.
        columns: Columns that rows have in the files.
    """

    def __init__(self, path):
        """Open and check a store.

        Raises:
            ValueError: If it is no store, is incomplete, or a part is missing or another than was written.
        """
        self.path = str(path)
        with opened(path, INDEX) as file:
            self.key = str(file.attrs["key"])
            self.identifiers = tuple(file["stills/identifier"].asstr()[:])
            self.still_rows = file["stills/n_rows"][:]
            self.n_rows = int(file.attrs["n_rows"])
            self.asu_index = file["asu/index"][:]
            self._asu_id = file["asu/id"][:]
            self._box = box_of(file)
            self.columns = tuple(file["rows"])
            names, n_rows = file["parts/name"].asstr()[:], file["parts/n_rows"][:]
        self.parts = []
        for name, n in zip(names, n_rows):
            part_path = Path(path).parent / name
            if not part_path.is_file():
                raise ValueError(
                    f"{path} needs {part_path}, which is missing. Keep the folder {Path(name).parent} beside it."
                )
            part = Part.open(part_path)
            if part.n_rows != n or part.key != self.key:
                raise ValueError(f"{part_path} is not the part that {path} was written with. Run diffuse.grid again.")
            self.parts.append(part)

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def _row_of_id(self) -> np.ndarray | None:
        """Row of ``asu_index`` by number; None where the box is too large for a table."""
        if self._box.size > _MAX_LOOKUP:
            return None
        table = np.full(self._box.size, -1, dtype=np.int32)
        table[self._asu_id] = np.arange(len(self._asu_id), dtype=np.int32)
        return table

    def _asu_rows(self, asu_id: np.ndarray) -> np.ndarray:
        if self._row_of_id is not None:
            return self._row_of_id[asu_id]
        return np.searchsorted(self._asu_id, asu_id).astype(np.int32)

    def blocks(self, columns=_SUMS, max_rows: int = MAX_BLOCK, keep=None):
        """Rows of all stills in their order, some whole stills at a time.

        Args:
            columns: Fields of Block to fill, besides ``still``.
            max_rows: Rows of a block at most; a still that has more comes by itself.
            keep: Positions of the stills that are wanted, bool, shape (n_stills,); None: all.

        Yields:
            Block

        Raises:
            ValueError: If a part cannot be read, or holds what no sum can be.
        """
        for part in self.parts:
            with opened(part.path, PART) as file:
                ends = np.cumsum(part.still_rows)
                for first, last in _runs(part, keep, max_rows):
                    start, stop = int(ends[first] - part.still_rows[first]), int(ends[last - 1])
                    still = np.repeat(part.numbers[first:last].astype(np.int32), part.still_rows[first:last])
                    yield Block(still, **{name: self._column(file, part, name, start, stop) for name in columns})

    def _column(self, file: h5py.File, part: Part, name: str, start: int, stop: int) -> np.ndarray | None:
        rows = file["rows"]
        stored = {"asu": "asu_id"}.get(name, name)
        if name == "variance" and name not in rows:
            stored = "counts"
        if stored not in rows:
            return np.zeros(stop - start) if name in _FLOATS else None
        try:
            values = rows[stored][start:stop]
        except OSError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{part.path} cannot be read ({reason}). Run diffuse.grid again.") from None
        if name == "asu":
            return self._asu_rows(values)
        if name not in _FLOATS:
            return values
        values = values.astype(np.float64)
        if not np.isfinite(values).all() or (name == "response" and len(values) and values.min() <= 0):
            what = "a response of 0 or less" if name == "response" else f"a value in column {name} that is no number"
            raise ValueError(f"{part.path} has {what}. Check the corrections and run diffuse.grid again.")
        return values

    def read_sums(self, keep=None) -> VoxelSums:
        """All rows at once, as they would be in gridded.refl; for stores that fit in memory."""
        names = [*_SUMS, "panel", "voxel", "position"]
        parts = []
        for block in self.blocks(names, keep=keep):
            position = None if block.position is None else block.position.astype(np.float64)
            parts.append(VoxelSums(
                block.still, unpack(block.voxel), self.asu_index[block.asu], block.panel.astype(np.int32), block.bragg,
                block.counts, block.background, block.response, block.variance, block.n_pixels, position,
            ))  # fmt: skip
        if not parts:
            raise ValueError(f"{self.path} has no row of the stills that are wanted. Look at stills.csv.")
        return VoxelSums.concatenate(parts)


def _runs(part: Part, keep, max_rows: int):
    """(first, last) of consecutive stills of a part that are wanted and together have at most ``max_rows`` rows."""
    wanted = np.ones(len(part.numbers), dtype=bool) if keep is None else np.asarray(keep)[part.numbers]
    first, total = None, 0
    for i, n in enumerate(part.still_rows):
        if first is not None and (not wanted[i] or total + n > max_rows):
            yield first, i
            first = None
        if wanted[i] and n:
            if first is None:
                first, total = i, 0
            total += int(n)
    if first is not None:
        yield first, len(part.still_rows)
