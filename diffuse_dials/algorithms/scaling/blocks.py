"""Compact observations of the stills, 12 bytes each, and the numbering of the voxels: what scaling works on.

They take the place of DIALS's IhTable, which needs 270 bytes. An observation is one row of the gridded sums: symmetry
mates and panels of a still stay apart, which changes no likelihood. Factors and expected noise are tables over stills
and shells of |s|, or over cells of the detector.

Under MPI every rank holds the observations of its own stills, the other stills' ranges of rows are empty, and whatever
is summed over stills is summed over ranks; then all ranks go on with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_dials.algorithms.running.mpi import ALONE, Communicator
from diffuse_dials.kernels.sums import pack, unpack
from diffuse_dials.models.sums import VoxelSums

# A table of all codes between the smallest and the largest index finds a voxel ten times faster than bisection.
_MAX_TABLE = 50_000_000
_VOXELS_PER_SHELL = 200
MAX_SHELLS = 128


class VoxelNumbers:
    """Numbers of the voxels of the asymmetric unit that were measured, in the order of h, k, l.

    Attributes:
        index: The voxels, shape (n_voxels, 3), int32.
    """

    def __init__(self, index: np.ndarray):
        self.index = index
        self._code = pack(index)
        self._low = index.min(axis=0).astype(np.int64)
        self._span = index.max(axis=0).astype(np.int64) - self._low + 1
        self._table = None
        if np.prod(self._span.astype(float)) <= _MAX_TABLE:
            self._table = np.full(int(np.prod(self._span)), -1, dtype=np.int32)
            self._table[self._place(index)] = np.arange(len(index), dtype=np.int32)

    @classmethod
    def of(cls, blocks: Iterable[VoxelSums], comm: Communicator = ALONE) -> VoxelNumbers:
        """Number the voxels of gridded sums, of all ranks. (0, 0, 0) is left out: no program of DIALS takes it.

        Raises:
            ValueError: If nothing remains.
        """
        found = np.empty(0, dtype=np.int64)
        with comm.together():
            for sums in blocks:
                found = np.union1d(found, np.unique(pack(sums.asu_index)))
        return cls.listed(unpack(comm.union(found)))

    @classmethod
    def listed(cls, index: np.ndarray) -> VoxelNumbers:
        """Number voxels that are listed in the order of h, k, l; as :meth:`of`."""
        index = index[np.any(index != 0, axis=1)]
        if not len(index):
            raise ValueError("No voxel but (0, 0, 0) was measured. Use more voxels (grid.ndiv) or a smaller d_min.")
        return cls(index)

    def __len__(self) -> int:
        return len(self.index)

    def __call__(self, asu_index: np.ndarray) -> np.ndarray:
        """Number of each voxel, -1 for those that are not in the list, shape (n,), int32."""
        if self._table is not None:
            inside = np.all((asu_index >= self._low) & (asu_index < self._low + self._span), axis=1)
            if inside.all():
                return self._table[self._place(asu_index)]
            number = np.full(len(asu_index), -1, dtype=np.int32)
            number[inside] = self._table[self._place(asu_index[inside])]
            return number
        code = pack(asu_index)
        number = np.minimum(np.searchsorted(self._code, code), len(self._code) - 1)
        return np.where(self._code[number] == code, number, -1).astype(np.int32)

    def _place(self, index: np.ndarray) -> np.ndarray:
        h, k, l = (index[:, i] - self._low[i] for i in range(3))
        return (h * self._span[1] + k) * self._span[2] + l


@dataclass(frozen=True)
class Shells:
    """Shells of |s|.

    Attributes:
        of_voxel: Shell of each voxel, shape (n_voxels,), uint8.
        s: Root mean square |s| of the used voxels of each shell, shape (n_shells,), 1/Å.
    """

    of_voxel: np.ndarray
    s: np.ndarray

    def __len__(self) -> int:
        return len(self.s)


def make_shells(s: np.ndarray, use: np.ndarray) -> Shells:
    """Shells of equal width in |s|², at most 128, each with 200 used voxels or more, so that means carry little noise.

    Args:
        s: |s| of the voxels, shape (n_voxels,), 1/Å.
        use: Which of them the scaling uses, same shape, bool.
    """
    square = s**2
    used = np.sort(square[use])
    edges, taken = [], 0
    n_shells = max(1, min(MAX_SHELLS, len(used) // _VOXELS_PER_SHELL))
    for edge in np.linspace(used[0], used[-1], n_shells + 1)[1:-1]:
        below = int(np.searchsorted(used, edge))
        if below - taken >= _VOXELS_PER_SHELL and len(used) - below >= _VOXELS_PER_SHELL:
            edges.append(edge)
            taken = below
    shell = np.searchsorted(edges, square, side="right").astype(np.uint8)
    n = len(edges) + 1
    mean = np.bincount(shell[use], square[use], n) / np.bincount(shell[use], minlength=n)
    return Shells(shell, np.sqrt(mean))


@dataclass(frozen=True)
class ScaleBlocks:
    """Observations, ordered by still.

    Attributes:
        starts: Rows of still i are starts[i] to starts[i + 1], shape (n_stills + 1,), int64.
        voxel: Number of the voxel, shape (n,), int32.
        signal: Photons less background, shape (n,), float32.
        response: Shape (n,), float32; 0 takes the row out.
        cell: Cell of the detector, shape (n,), int32; empty if no component needs it.
        shells: Of the voxels.
        added: Variance from other sources than the crystal's photons, per response, by a smooth model: factor of the
            still × factor of the shell, shape (n_stills, n_shells); empty where there is none.
        comm: The ranks that hold the observations of all stills.
    """

    starts: np.ndarray
    voxel: np.ndarray
    signal: np.ndarray
    response: np.ndarray
    cell: np.ndarray
    shells: Shells
    added: np.ndarray
    comm: Communicator = ALONE

    def __len__(self) -> int:
        return len(self.voxel)

    @property
    def n_stills(self) -> int:
        return len(self.starts) - 1

    @property
    def n_voxels(self) -> int:
        return len(self.shells.of_voxel)

    @property
    def still_rows(self) -> np.ndarray:
        """Rows of each still on whichever rank, shape (n_stills,), int64; every rank asks."""
        return self.comm.sum(np.diff(self.starts))

    @property
    def n_rows(self) -> int:
        """Rows on all ranks; every rank asks."""
        return int(self.comm.sum(np.array(len(self))))

    @property
    def still(self) -> np.ndarray:
        """Still of each row, shape (n,), int32; made anew at each call."""
        return np.repeat(np.arange(self.n_stills, dtype=np.int32), np.diff(self.starts))

    def select(self, keep: np.ndarray) -> ScaleBlocks:
        """The rows that a mask (n,) keeps; stills keep their numbers."""
        counts = np.add.reduceat(np.append(keep, False), self.starts[:-1]) * (np.diff(self.starts) > 0)
        return replace(
            self,
            starts=np.concatenate(([0], np.cumsum(counts))),
            voxel=self.voxel[keep], signal=self.signal[keep], response=self.response[keep],
            cell=self.cell[keep] if len(self.cell) else self.cell,
        )  # fmt: skip

    def without_stills(self, stills) -> ScaleBlocks:
        """The rows of all other stills."""
        if not len(stills):
            return self
        leave = np.zeros(self.n_stills, dtype=bool)
        leave[np.asarray(stills, dtype=int)] = True
        return self.select(~np.repeat(leave, np.diff(self.starts)))


@dataclass(frozen=True)
class Totals:
    """What was added up while the observations were read.

    Attributes:
        photons: Counts of each still, shape (n_stills,).
        variance, response: Sums of stills and shells, shape (n_stills, n_shells).
    """

    photons: np.ndarray
    variance: np.ndarray
    response: np.ndarray


def compact(
    blocks: Iterable[VoxelSums], n_stills: int, numbers: VoxelNumbers, use: np.ndarray, shells: Shells, cells=None,
    comm: Communicator = ALONE,
) -> tuple[ScaleBlocks, Totals]:  # fmt: skip
    """Observations of the rows that pass the Bragg mask, in voxels that the scaling uses.

    Args:
        blocks: Gridded sums, block by block; all rows of a still in one block, stills in ascending order.
        n_stills: Length of the experiment list.
        numbers: Numbering of the voxels.
        use: Voxels that take part, shape (n_voxels,), bool.
        shells: Of the voxels.
        cells: Returns the cell of each row; None where no component asks.
        comm: Ranks of which each gives the sums of its own stills.

    Returns:
        (the observations, their totals over all ranks).

    Raises:
        ValueError: What the blocks raise, on every rank.
    """
    kinds = {"voxel": np.int32, "signal": np.float32, "response": np.float32, "cell": np.int32}
    parts = {name: [] for name in kinds}
    counts = np.zeros(n_stills, dtype=np.int64)
    shape = (n_stills, len(shells))
    photons = np.zeros(n_stills)
    # added: the background's own Poisson noise, and what the variance holds beyond the counts, that is the noise of a
    # subtracted background and of the detector
    added, variance, response = np.zeros((3, *shape))
    with comm.together():
        for sums in blocks:
            voxel = numbers(sums.asu_index)
            keep = ~sums.bragg & (voxel >= 0) & (sums.response > 0) & (sums.n_pixels > 0)
            keep[keep] = use[voxel[keep]]
            still, voxel = sums.still[keep], voxel[keep]
            signal = sums.counts[keep] - sums.background[keep]
            counts += np.bincount(still, minlength=n_stills)
            photons += np.bincount(still, sums.counts[keep], n_stills)
            parts["voxel"].append(voxel)
            parts["signal"].append(signal.astype(np.float32))
            parts["response"].append(sums.response[keep].astype(np.float32))
            if cells is not None:
                parts["cell"].append(cells(sums.select(keep)).astype(np.int32))
            table = still.astype(np.int64) * len(shells) + shells.of_voxel[voxel]
            beyond = sums.background + (sums.variance - sums.counts)
            for total, values in ((added, beyond), (variance, sums.variance), (response, sums.response)):
                total += np.bincount(table, values[keep], total.size).reshape(shape)
    join = {name: np.concatenate(part) if part else np.empty(0, dtype=kinds[name]) for name, part in parts.items()}
    starts = np.concatenate(([0], np.cumsum(counts)))
    added, variance, response, photons = (comm.sum(total) for total in (added, variance, response, photons))
    observations = ScaleBlocks(starts, **join, shells=shells, added=_smooth(added, response), comm=comm)
    return observations, Totals(photons, variance, response)


def _smooth(added: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Factor of the still × factor of the shell, from totals; empty if nothing is added."""
    if not added.any():
        return np.empty((0, 0))

    def ratio(a, b):
        return np.maximum(np.divide(a, b, out=np.zeros_like(a), where=b > 0), 0)

    of_shell = ratio(added.sum(axis=0), response.sum(axis=0))
    of_still = ratio(added.sum(axis=1), response @ of_shell)
    return of_still[:, None] * of_shell[None, :]
