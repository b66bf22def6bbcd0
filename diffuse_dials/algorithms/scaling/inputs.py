"""What diffuse.grid wrote, read and checked: stills, sums and the record of the grid.

Under MPI every rank has all stills, and the sums of consecutive ones, about as many as every other rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import StillKey, load_together, name_stills, still_keys
from diffuse_dials.algorithms.belonging import check_experiments, check_sums_record
from diffuse_dials.algorithms.running.mpi import ALONE, Communicator
from diffuse_dials.io.columns import GRIDDED
from diffuse_dials.io.gridded_store import GriddedStore
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import Table, load_table
from diffuse_dials.kernels.sums import unpack
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import VoxelSums

ROWS_PER_BLOCK = 2_000_000
_LEAST_ROWS = 250_000  # smaller blocks cost time and save no more: 0.1 GB while they are worked on
_SUMS = ("counts", "background", "response", "variance")


@dataclass(frozen=True)
class StoredSums:
    """Sums that stay in their store and are read as a stream.

    Attributes:
        store: The open gridded.h5.
        still: Position in the experiment list of each still of the store, shape (n_stills,); ascending where known.
        keep: Stills of the store that are read, same shape, bool; None: all.
    """

    store: GriddedStore
    still: np.ndarray
    keep: np.ndarray | None = None

    def still_rows(self, n_stills: int) -> np.ndarray:
        """Rows of each still of the experiment list in the whole store, shape (n_stills,), int64."""
        rows, known = np.zeros(n_stills, dtype=np.int64), self.still >= 0
        rows[self.still[known]] = self.store.still_rows[known]
        return rows

    def only(self, stills: slice) -> StoredSums:
        """Those of some stills of the experiment list."""
        return replace(self, keep=(self.still >= stills.start) & (self.still < stills.stop))

    def blocks(self, rows_per_block: int) -> Iterator[VoxelSums]:
        """Blocks of whole stills."""
        names = ("asu", "bragg", "counts", "background", "response", "variance", "n_pixels", "panel", "voxel")
        names += ("position",) * ("position" in self.store.columns)
        for block in self.store.blocks(names, max_rows=rows_per_block, keep=self.keep):
            position = None if block.position is None else block.position.astype(np.float64)
            yield VoxelSums(
                self.still[block.still], unpack(block.voxel), self.store.asu_index[block.asu],
                block.panel.astype(np.int32), block.bragg, block.counts, block.background, block.response,
                block.variance, block.n_pixels, position,
            )  # fmt: skip

    def read(self) -> VoxelSums:
        """All rows at once."""
        if self.keep is not None and not self.store.still_rows[self.keep].any():
            return _nothing("position" in self.store.columns)
        sums = self.store.read_sums(self.keep)
        return replace(sums, still=self.still[sums.still])


@dataclass(frozen=True)
class Gridded:
    """Gridded stills.

    Attributes:
        experiments: One per still, each with an identifier.
        keys: What names each, in the same order.
        sums: Rows of all files; ``still`` is the position in ``experiments``. None: they stay in ``store``.
        record: The grid that all share.
        stills: What stills.csv holds of them.
        store: Where the sums are, if they are not in memory.
        comm: The ranks that share the sums; ``sums`` or ``store`` hold what this one has, and so does ``blocks``.
    """

    experiments: ExperimentList
    keys: tuple[StillKey, ...]
    sums: VoxelSums | None
    record: GridRecord
    stills: StillsTable
    store: StoredSums | None = None
    comm: Communicator = ALONE

    @property
    def has_positions(self) -> bool:
        """Whether the sums know their mean position on the detector."""
        return "position" in self.store.store.columns if self.sums is None else self.sums.position is not None

    @property
    def n_rows(self) -> int:
        """Rows of all stills on all ranks; every rank asks."""
        return self.store.store.n_rows if self.sums is None else int(self.comm.sum(np.array(len(self.sums))))

    def in_memory(self) -> Gridded:
        """The same with all sums read."""
        if self.sums is not None:
            return self
        with self.comm.together():
            sums = self.store.read()
        return replace(self, sums=sums, store=None)

    def measured_voxels(self) -> np.ndarray | None:
        """Voxels of the asymmetric unit that a store lists, shape (n, 3), int32; None where nothing lists them."""
        return self.store.store.asu_index if self.sums is None else None

    def blocks(self, rows_per_block: int | None = None) -> Iterator[VoxelSums]:
        """The sums in blocks of whole stills, stills in ascending order; the blocks of many ranks are smaller."""
        if rows_per_block is None:
            rows_per_block = max(ROWS_PER_BLOCK // self.comm.size, _LEAST_ROWS)
        if self.sums is None:
            yield from self.store.blocks(rows_per_block)
            return
        sums = self.sums
        still = sums.still
        if np.any(np.diff(still) < 0):
            order = np.argsort(still, kind="stable")
            sums, still = sums.select(order), still[order]
        last = np.flatnonzero(np.diff(still, append=-1)) + 1
        start = 0
        for number, end in enumerate(last):
            if end - start >= rows_per_block or number + 1 == len(last):
                yield sums.select(slice(start, end))
                start = end


def load_gridded(experiment_files, reflection_files, comm: Communicator = ALONE) -> Gridded:
    """Read one or several pairs of files of diffuse.grid; rows and stills are linked by identifier.

    Args:
        experiment_files: Names of .expt files.
        reflection_files: Names of .refl files or stores (.h5), each with its grid.json beside it.
        comm: Ranks that share the sums. Each reads its own of a store; a table rank 0 reads, and hands on.

    Raises:
        ValueError: If files are missing, do not belong together, lack columns, or were gridded differently.
    """
    if not experiment_files or not reflection_files:
        missing = ".refl" if experiment_files else ".expt"
        raise ValueError(f"No {missing} file was given. Give gridded.expt and gridded.refl of diffuse.grid.")
    stills = StillsTable()
    with comm.together():
        experiments = load_together(experiment_files, _refuse_without_images)
        record = load_grid_record(reflection_files[0])
        for name in reflection_files:
            record = _common_record(record, load_grid_record(name), reflection_files[0], name)
            stills.rows.update(StillsTable.beside(name).rows)
    keys = still_keys(experiments)
    name_stills(experiments, keys)
    number = {identifier: i for i, identifier in enumerate(experiments.identifiers())}
    parts, owner = [], {}
    n_rows = np.zeros(len(experiments), dtype=np.int64)
    for name in reflection_files:
        part, rows = _open(name, number, ", ".join(experiment_files), comm)
        with comm.together():
            if comm.rank == 0:
                some = next(part.blocks(1), None) if isinstance(part, StoredSums) else part
                check_sums_record(name, some, experiments, load_grid_record(name))
        for still in np.flatnonzero(rows):
            if owner.setdefault(still, name) != name:
                raise ValueError(f"{keys[still].label} has rows in {owner[still]} and in {name}. Give each still once.")
        parts.append(part)
        n_rows += rows
    shares = comm.shares(n_rows)
    found = Gridded(experiments, tuple(keys), None, record, stills, comm=comm)
    if len(parts) == 1 and isinstance(parts[0], StoredSums):
        stored = parts[0]
        known = stored.still[stored.still >= 0]
        if np.all(np.diff(known) > 0):
            return replace(found, store=stored if comm.size == 1 else stored.only(shares[comm.rank]))
    read = []
    while parts:  # a table is let go as soon as it is cut
        part = parts.pop(0)
        if isinstance(part, StoredSums):
            with comm.together():
                part = (part if comm.size == 1 else part.only(shares[comm.rank])).read()
        elif comm.size > 1:
            part = _dealt(part, shares, comm)
        read.append(part)
    return replace(found, sums=_concatenate(read))


def _refuse_without_images(name, experiments: ExperimentList) -> None:
    if any(experiment.imageset is None for experiment in experiments):
        raise ValueError(f"{name} has experiments without an image. Give the gridded.expt that diffuse.grid wrote.")


def _open(name, number: dict[str, int], experiment_files: str, comm: Communicator):
    """(the sums of a file, rows of each still): a store on every rank; a table on rank 0, and None on the others."""
    if name.endswith(".h5"):
        with comm.together():
            stored = stored_sums(GriddedStore(name), number, experiment_files)
        return stored, stored.still_rows(len(number))
    sums = rows = None
    with comm.together():
        if comm.rank == 0:
            sums = read_sums(load_table(name, GRIDDED, "diffuse.grid"), number, experiment_files)
            rows = np.bincount(sums.still, minlength=len(number))
    return sums, comm.from_first(rows)


def _dealt(sums: VoxelSums | None, shares: list[slice], comm: Communicator) -> VoxelSums:
    """This rank's rows of a table that rank 0 read; column by column, because a message is below 2 GiB."""
    rows = None
    if comm.rank == 0:
        rows = [np.flatnonzero((sums.still >= share.start) & (sums.still < share.stop)) for share in shares]

    def part(name, rank):
        values = getattr(sums, name)
        return None if values is None else values[rows[rank]]

    names = [field.name for field in fields(VoxelSums)]
    return VoxelSums(*(comm.deal(lambda rank, name=name: part(name, rank)) for name in names))


def _nothing(positions: bool) -> VoxelSums:
    """Sums without rows."""
    whole, real = np.empty(0, dtype=np.int32), np.empty(0)
    index = np.empty((0, 3), dtype=np.int32)
    position = np.empty((0, 2)) if positions else None
    return VoxelSums(whole, index, index, whole, np.empty(0, dtype=bool), real, real, real, real, whole, position)


def read_sums(table: Table, number: dict[str, int], experiment_files: str) -> VoxelSums:
    """Rows of gridded.refl.

    Args:
        table: The file's columns.
        number: Position of each experiment, by identifier.
        experiment_files: Named in messages.

    Raises:
        ValueError: If rows refer to an experiment that is not there, or hold what no sum can be.
    """
    ids, inverse = np.unique(table["id"], return_inverse=True)
    unnamed = [int(i) for i in ids if i not in table.identifiers]
    if unnamed:
        raise ValueError(
            f"{table.path} has rows of id {unnamed[0]} without an experiment identifier. Run diffuse.grid again."
        )
    check_experiments(table.path, [table.identifiers[i] for i in ids], number, experiment_files)
    for name in _SUMS:
        if not np.all(np.isfinite(table[name])):
            raise ValueError(f"{table.path} has values in column {name} that are no numbers. Run diffuse.grid again.")
    if np.any(table["response"] <= 0):
        raise ValueError(
            f"{table.path} has rows with a response of 0 or less. Check the corrections and run diffuse.grid again."
        )
    still = np.array([number[table.identifiers[i]] for i in ids], dtype=np.int32)[inverse]
    position = table["xyzobs.px.value"][:, :2] if "xyzobs.px.value" in table else None
    return VoxelSums(
        still, table["miller_index"], table["asu_miller_index"], table["panel"].astype(np.int32), table["bragg"],
        *(table[name] for name in _SUMS), table["n_pixels"], position,
    )  # fmt: skip


def stored_sums(store: GriddedStore, number: dict[str, int], experiment_files: str) -> StoredSums:
    """Rows of gridded.h5; arguments and errors as in :func:`read_sums`."""
    measured = store.still_rows > 0
    named = [identifier for identifier, has_rows in zip(store.identifiers, measured) if has_rows]
    check_experiments(store.path, named, number, experiment_files)
    return StoredSums(store, np.array([number.get(name, -1) for name in store.identifiers], dtype=np.int32))


def _concatenate(parts: list[VoxelSums]) -> VoxelSums:
    """All rows; mean positions only if every file has them."""
    if len(parts) == 1:
        return parts[0]
    if any(part.position is None for part in parts):
        parts = [replace(part, position=None) for part in parts]
    return VoxelSums.concatenate(parts)


def _common_record(first: GridRecord, other: GridRecord, first_name: str, name: str) -> GridRecord:
    """``first``, if ``other`` describes the same grid and the same contents of the sums."""
    same = ("ndiv", "space_group", "laue_group", "cell_policy", "isotropic_removed", "corrections")
    differs = [field for field in same if getattr(first, field) != getattr(other, field)]
    if not np.allclose(first.unit_cell, other.unit_cell, rtol=1e-6):
        differs.append("unit_cell")
    if differs:
        raise ValueError(
            f"The grid.json beside {first_name} and beside {name} differ in {', '.join(differs)}. "
            "Grid all stills in one run of diffuse.grid, or with the same parameters and grid.unit_cell."
        )
    return replace(
        first,
        ambiguous=first.ambiguous or other.ambiguous,
        rms_delta_hkl=max(first.rms_delta_hkl, other.rms_delta_hkl),
    )
