"""Parts of gridded.h5: the sums of consecutive stills in a file that one process writes, complete or not at all.

What gridded.h5 points at is compact and compressed; see io.gridded_store for the format. A part with ``exact=True`` is
made to put gridded.refl together and then removed: its columns have that file's names and lose nothing, and it is no
HDF5 (see io.array_file).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from diffuse_dials.io.array_file import Arrays, ArrayWriter, is_array_file, writing_arrays
from diffuse_dials.io.atomic import replacing
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.asu import AsuBox
from diffuse_dials.models.sums import RadialTotals, VoxelSums

VERSION = 1
PART = "diffuse_dials part"
COMPACT = {
    "voxel": np.int64, "asu_id": np.int32, "panel": np.int16, "bragg": np.bool_, "counts": np.int32,
    "n_pixels": np.int32, "response": np.float32, "background": np.float32, "variance": np.float32,
    "position": np.float32,
}  # fmt: skip
_CHUNK = 65536  # rows
_GROWTH = 1 << 22  # bytes by which a file in memory grows


class PartWriter(ABC):
    """Appends the sums of one still after the other to an open part; made by :func:`writing_part`."""

    def __init__(self):
        self._stills: list[tuple[int, int]] = []
        self._totals: list[RadialTotals] = []
        self._n_rows = self._n_pixels = 0

    def append(self, number: int, sums: VoxelSums | None, totals: RadialTotals | None = None) -> None:
        """Add the rows of one still.

        Args:
            number: Its position in the experiment list; stills of a part come in ascending order.
            sums: Its rows, with ``asu_index``; None: its totals only.
            totals: Its radial totals.

        Raises:
            ValueError: If the rows do not fit into the part's types.
        """
        self._stills.append((number, 0 if sums is None else len(sums)))
        if totals is not None:
            self._totals.append(totals)
        if sums is not None:
            self._add(sums)
            self._n_rows += len(sums)
            self._n_pixels += int(sums.n_pixels.sum())

    @abstractmethod
    def _add(self, sums: VoxelSums) -> None:
        """Append the rows."""

    @abstractmethod
    def finish(self, outcomes: list[dict]) -> None:
        """Write what describes the part as a whole; ``outcomes`` is what became of each still, for JSON."""

    def _all_totals(self) -> dict[str, np.ndarray]:
        """The fields of RadialTotals of all stills; empty if there were none."""
        if not self._totals:
            return {}
        totals = RadialTotals.concatenate(self._totals)
        return {field.name: getattr(totals, field.name) for field in fields(RadialTotals)}


class _ExactWriter(PartWriter):
    """Columns as they are, still by still, but for those that are 0 (panel, background) or the counts (variance)."""

    def __init__(self, file: ArrayWriter):
        super().__init__()
        self._file = file
        self._blocks: list[tuple[int, dict[str, list]]] = []

    def _add(self, sums: VoxelSums) -> None:
        columns = {
            "miller_index": sums.index, "asu_miller_index": sums.asu_index, "bragg": sums.bragg, "counts": sums.counts,
            "n_pixels": sums.n_pixels, "response": sums.response,
        }  # fmt: skip
        for name, values in (("panel", sums.panel), ("background", sums.background)):
            if values.any():
                columns[name] = values
        if sums.variance is not sums.counts and not np.array_equal(sums.variance, sums.counts):
            columns["variance"] = sums.variance
        if sums.position is not None:
            columns["position"] = sums.position
        self._blocks.append((self._stills[-1][0], self._file.put(columns)))

    def finish(self, outcomes: list[dict]) -> None:
        self._file.description.update(
            stills=self._stills, rows=self._blocks, totals=self._file.put(self._all_totals()), outcomes=outcomes,
            n_pixels=self._n_pixels, complete=True,
        )  # fmt: skip


def _fits_int32(values: np.ndarray) -> bool:
    return bool(np.array_equal(values, np.rint(values)) and np.abs(values).max(initial=0) < 2**31)


class _CompactWriter(PartWriter):
    """The types of gridded.h5, written as they come, in compressed chunks."""

    def __init__(self, file: h5py.File, box: AsuBox):
        super().__init__()
        self._file, self._box, self._kinds = file, box, COMPACT
        self._seen = np.zeros(box.size, dtype=bool)

    def _add(self, sums: VoxelSums) -> None:
        if len(sums) and sums.panel.max() > np.iinfo(np.int16).max:
            raise ValueError(f"Panel {sums.panel.max()} has a number above 32767. Use grid.store=False.")
        asu_id = self._box.number(sums.asu_index)
        self._seen[asu_id] = True
        columns = {
            "voxel": pack(sums.index), "asu_id": asu_id, "panel": sums.panel, "bragg": sums.bragg,
            "counts": sums.counts, "n_pixels": sums.n_pixels, "response": sums.response,
            "background": sums.background, "variance": sums.variance,
        }  # fmt: skip
        if sums.position is not None:
            columns["position"] = sums.position
        for name, values in columns.items():
            self._put(name, values, sums)

    def _put(self, name: str, values: np.ndarray, sums: VoxelSums) -> None:
        rows = self._file["rows"]
        if name not in rows:
            implied = {"background": 0.0, "variance": sums.counts}.get(name)
            if implied is not None and np.all(values == implied):
                return
        if name == "counts" and (name not in rows or rows[name].dtype.kind == "i") and not _fits_int32(values):
            self._kinds = {**self._kinds, "counts": np.float32}
            self._make_float(rows)
        if name not in rows:
            self._create(name, values.shape[1:])
            if name == "variance" and self._n_rows:
                rows[name][:] = rows["counts"][: self._n_rows]
        data = rows[name]
        data.resize(self._n_rows + len(values), axis=0)
        if len(values):
            data[self._n_rows :] = values.astype(data.dtype, copy=False)

    def _create(self, name: str, width: tuple[int, ...]) -> None:
        self._file["rows"].create_dataset(
            name, (self._n_rows, *width), self._kinds[name], maxshape=(None, *width), chunks=(_CHUNK, *width),
            compression="lzf", shuffle=True,
        )  # fmt: skip

    def _make_float(self, rows: h5py.Group) -> None:
        """The first counts that are no integers: those before them become floats as well."""
        if "counts" in rows:
            earlier = rows["counts"][:]
            del rows["counts"]
            self._create("counts", ())
            rows["counts"][:] = earlier

    def finish(self, outcomes: list[dict]) -> None:
        stills = np.array(self._stills, dtype=np.int64).reshape(-1, 2)
        self._file["asu/id"] = np.flatnonzero(self._seen).astype(np.int32)
        self._file["stills/number"], self._file["stills/n_rows"] = stills[:, 0], stills[:, 1]
        self._file["outcomes"] = json.dumps(outcomes)
        for name, values in self._all_totals().items():
            self._file[f"totals/{name}"] = values
        self._file.attrs.update({"n_rows": self._n_rows, "n_pixels": self._n_pixels})
        self._file.attrs["complete"] = True


@contextmanager
def writing_part(path, key: str, box: AsuBox, exact: bool = False, mark: str = ""):
    """Write a part; it appears under its name only when the block ends well and everything is on the disk.

    Args:
        path: The part's file.
        key: Of the run it belongs to.
        box: Numbering of the asymmetric unit.
        exact: For gridded.refl, rather than gridded.h5.
        mark: Of the images it is made from.

    Yields:
        A PartWriter, whose ``finish`` must be called.

    Raises:
        ValueError: If the file cannot be written.
    """
    low, shape = ([int(n) for n in place] for place in (box.low, box.shape))
    head = {"format": PART, "version": VERSION, "key": key, "low": low, "shape": shape, "mark": mark, "complete": False}
    if exact:
        with writing_arrays(path) as arrays:
            arrays.description.update(head)
            yield _ExactWriter(arrays)
        return
    with writing_hdf5(path) as file:
        file.attrs.update(head)
        file.create_group("rows")
        yield _CompactWriter(file, box)


@contextmanager
def writing_hdf5(path):
    """An HDF5 file that is made in memory and then written as a whole.

    HDF5 on a full disk ends in a segmentation fault when it is closed (seen with 1.10); writing bytes does not.

    Yields:
        The h5py.File.

    Raises:
        ValueError: If the file cannot be written.
    """
    with h5py.File(f"{path} in memory", "w", driver="core", backing_store=False, block_size=_GROWTH) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with replacing(path) as partial:
        partial.write_bytes(image)


@contextmanager
def opened(path, kind: str):
    """The HDF5 file, if it is of our format ``kind`` and complete."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}. Check the name and the folder.") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as HDF5 ({reason}). Run diffuse.grid again.") from None
    with file:
        if file.attrs.get("format") != kind:
            what = kind.split()[1]
            raise ValueError(f"{path} is HDF5, but no {what} file of diffuse.grid. Give the gridded.h5 that it wrote.")
        if file.attrs["version"] > VERSION:
            raise ValueError(
                f"{path} was written by a newer version of diffuse_dials. Use that version, or run diffuse.grid again."
            )
        if not file.attrs.get("complete"):
            raise ValueError(f"{path} is not complete. Run diffuse.grid again.")
        yield file


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        path: Its file.
        key: Of the run it belongs to.
        mark: Of the images it was made from.
        n_pixels: Pixels in all its sums.
        box: Numbering of the asymmetric unit.
        exact: Whether it is for gridded.refl.
        numbers: Positions of its stills in the experiment list.
        still_rows: Rows of each.
        n_totals: Rows of its radial totals.
        outcomes: What became of each still of the block.
        columns: Type and width of each column, by name.
    """

    path: Path
    key: str
    mark: str
    n_pixels: int
    box: AsuBox
    exact: bool
    numbers: np.ndarray
    still_rows: np.ndarray
    n_totals: int
    outcomes: list[dict]
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]]

    @classmethod
    def open(cls, path) -> Part:
        """Read what describes a part.

        Raises:
            ValueError: If it is missing, broken or incomplete.
        """
        if is_array_file(path):
            return cls._of_arrays(path)
        with opened(path, PART) as file:
            numbers, still_rows = file["stills/number"][:], file["stills/n_rows"][:]
            columns = {name: (data.dtype, data.shape[1:]) for name, data in file["rows"].items()}
            if any(len(data) != still_rows.sum() for data in file["rows"].values()):
                raise ValueError(f"{path} has columns of different length. Run diffuse.grid again.")
            n_totals = len(file["totals/still"]) if "totals" in file else 0
            return cls(
                Path(path), str(file.attrs["key"]), str(file.attrs["mark"]), int(file.attrs["n_pixels"]), box_of(file),
                False, numbers, still_rows, n_totals, json.loads(file["outcomes"][()]), columns,
            )  # fmt: skip

    @classmethod
    def _of_arrays(cls, path) -> Part:
        found = Arrays(path).description
        if not found.get("complete"):
            raise ValueError(f"{path} is not complete. Run diffuse.grid again.")
        stills = np.array(found["stills"], dtype=np.int64).reshape(-1, 2)
        n_totals = found["totals"]["still"][1][0] if found["totals"] else 0
        columns = {
            name: (np.dtype(dtype), tuple(shape[1:]))
            for _, places in found["rows"] for name, (dtype, shape, _) in places.items()
        }  # fmt: skip
        box = AsuBox(tuple(found["low"]), tuple(found["shape"]))
        return cls(
            Path(path), found["key"], found["mark"], found["n_pixels"], box, True,
            stills[:, 0], stills[:, 1], n_totals, found["outcomes"], columns,
        )  # fmt: skip

    @property
    def n_rows(self) -> int:
        return int(self.still_rows.sum())

    def asu_ids(self) -> np.ndarray:
        """Numbers of the asymmetric unit's voxels in it, ascending (compact parts only)."""
        with opened(self.path, PART) as file:
            return file["asu/id"][:]

    def rows_by_still(self):
        """The rows of one still after the other, of exact parts.

        Yields:
            (position in the experiment list, the columns by name: to be read only, and gone with the part's file;
            without ``panel`` or ``background`` if that is 0).
        """
        arrays = Arrays(self.path)
        for number, places in arrays.description["rows"]:
            columns = arrays.get(places)
            columns.setdefault("variance", columns["counts"])
            yield number, columns

    def first_still(self) -> tuple[int, dict[str, np.ndarray]]:
        """The first still that has rows: its position in the experiment list, and its columns by name."""
        if self.exact:
            return next((number, rows) for number, rows in self.rows_by_still() if len(rows["counts"]))
        first = int(np.flatnonzero(self.still_rows)[0])
        with opened(self.path, PART) as file:
            rows = {name: data[: self.still_rows[first]] for name, data in file["rows"].items()}
        return int(self.numbers[first]), rows

    def totals(self) -> dict[str, np.ndarray]:
        """The fields of RadialTotals, by name, of all its stills."""
        if self.exact:
            arrays = Arrays(self.path)
            return arrays.get(arrays.description["totals"])
        with opened(self.path, PART) as file:
            return {field.name: file[f"totals/{field.name}"][:] for field in fields(RadialTotals)}


def box_of(file: h5py.File) -> AsuBox:
    """Numbering of the asymmetric unit that a part or a store was written with."""
    return AsuBox(tuple(int(x) for x in file.attrs["low"]), tuple(int(x) for x in file.attrs["shape"]))
