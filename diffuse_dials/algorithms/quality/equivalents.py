"""Do symmetry-related voxels agree before they are merged? Correlations for each operator of the Laue group.

Intensities are merged per voxel n as it was measured (P1), and those of n and n R correlated after the isotropic part
is taken out. Where the symmetry holds, only noise keeps the correlation below 1: ``expected`` says how far, from the
variances of the sums. A correlation well below it for one operator means a lower symmetry, a wrong indexing of some
stills, or an error of the correction of the images; for all operators, sigmas that are too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.merging import DiffuseMap
from diffuse_dials.algorithms.quality.statistics import correlation, isotropic_part, shell_of
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.wording import without_nan
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.scaled import ScaledRows

# So many P1 voxels give a correlation to better than 0.01; more only cost time and memory.
MAX_VOXELS = 500_000
_KINDS = {
    (1, -1): "2", (1, 0): "3", (1, 1): "4", (1, 2): "6",
    (-1, -3): "-1", (-1, 1): "m", (-1, 0): "-3", (-1, -1): "-4", (-1, -2): "-6",
}  # fmt: skip


@dataclass(frozen=True)
class OperatorAgreement:
    """Agreement of voxels that one operator relates.

    Attributes:
        name: Where it takes h, k, l.
        kind: Its symbol: 2, 3, 4, 6, m, -1 (Friedel's law) ...
        n_pairs: Pairs of voxels, both measured.
        cc: Correlation of their anisotropic parts; NaN for too few pairs.
        expected: What the noise alone would leave of a perfect correlation, from the variances of the sums.
        shells: ``cc`` by resolution shell, shape (n_shells,).
        shell_pairs: Pairs in each, same shape.
    """

    name: str
    kind: str
    n_pairs: int
    cc: float
    expected: float
    shells: np.ndarray
    shell_pairs: np.ndarray


@dataclass(frozen=True)
class SymmetryStatistics:
    """Agreement of unmerged equivalents.

    Attributes:
        operators: One per operator of the Laue group and its inverse, without the identity.
        cc_sym: Correlation of each voxel with the mean of all its equivalents but itself.
        cc_sym_shells: By resolution shell, shape (n_shells,).
        n_voxels: P1 voxels measured, of those looked at.
        fraction: Part of the asymmetric unit that was looked at.
    """

    operators: tuple[OperatorAgreement, ...]
    cc_sym: float
    cc_sym_shells: np.ndarray
    n_voxels: int
    fraction: float

    headers = ("operator", "takes h,k,l to", "pairs", "CC", "expected")

    def rows(self) -> list[tuple]:
        """Rows of the table; the last is the mean of all equivalents."""
        rows = [(o.kind, o.name, o.n_pairs, _cell(o.cc, o.n_pairs), f"{o.expected:.3f}") for o in self.operators]
        n_pairs = sum(o.n_pairs for o in self.operators)
        return without_nan([*rows, ("all others", "CC_sym", self.n_voxels, _cell(self.cc_sym, n_pairs), "")])

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        return {
            "operators": [
                {
                    "name": o.name, "kind": o.kind, "n_pairs": o.n_pairs, "cc": _number(o.cc),
                    "expected": _number(o.expected), "shells": [_number(x) for x in o.shells],
                    "shell_pairs": o.shell_pairs.tolist(),
                }
                for o in self.operators
            ],
            "cc_sym": _number(self.cc_sym),
            "cc_sym_shells": [_number(x) for x in self.cc_sym_shells],
            "n_voxels": self.n_voxels,
            "fraction": self.fraction,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: dict) -> SymmetryStatistics:
        """The statistics that ``to_dict`` gave."""
        operators = tuple(
            OperatorAgreement(
                o["name"], o["kind"], o["n_pairs"], _value(o["cc"]), _value(o["expected"]),
                np.array(o["shells"], dtype=float), np.array(o["shell_pairs"], dtype=int),
            )
            for o in content["operators"]
        )  # fmt: skip
        shells = np.array(content["cc_sym_shells"], dtype=float)
        return cls(operators, _value(content["cc_sym"]), shells, content["n_voxels"], content["fraction"])


class Equivalents:
    """Adds up scaled sums per voxel as measured, block by block."""

    def __init__(self, index: np.ndarray, operators: np.ndarray, max_voxels: int = MAX_VOXELS):
        """
        Args:
            index: The voxels of the asymmetric unit that the rows number, shape (n_voxels, 3).
            operators: Integer matrices of the Laue group, shape (order, 3, 3); n' = n R.
            max_voxels: Where the asymmetric unit times the order exceeds it, every second, third ... voxel is taken.
        """
        self._operators = operators
        self._every = max(1, -(-len(index) * len(operators) // max_voxels))
        chosen = index[:: self._every].astype(np.int64)
        codes = np.stack([pack(chosen @ operator) for operator in operators], axis=1)
        self._codes, place = np.unique(codes, return_inverse=True)
        # Row in the list of P1 voxels of voxel v of the asymmetric unit under operator i.
        self._place = place.reshape(codes.shape)
        self._sums = np.zeros((3, len(self._codes)))

    def add(self, rows: ScaledRows) -> None:
        """Add a block of rows."""
        rows = rows.diffuse
        rows = rows.select(rows.voxel % self._every == 0)
        place = np.searchsorted(self._codes, pack(rows.index))
        u = rows.weight
        for sums, values in zip(self._sums, (u * rows.signal, u * rows.expected, u**2 * rows.variance)):
            sums += np.bincount(place, values, len(sums))

    def add_ranks(self, comm: Communicator) -> None:
        """Add up what all ranks have."""
        self._sums = comm.sum(self._sums)

    def statistics(self, counted: DiffuseMap, edges: np.ndarray) -> SymmetryStatistics:
        """The correlations.

        Args:
            counted: Voxels of the diffuse map; others are left out.
            edges: Shell edges in |s|, shape (n_shells + 1,), 1/Å.
        """
        s, owner = self._of_map(counted)
        numerator, denominator, variance = self._sums
        measured = (s > 0) & (denominator > 0)
        value = np.zeros(len(s))
        value[measured] = numerator[measured] / denominator[measured]
        if measured.any():
            value[measured] -= isotropic_part(s[measured], value[measured], np.ones(measured.sum()))
        noise = np.divide(variance, denominator**2, out=np.zeros_like(variance), where=denominator > 0)
        shell = np.where(measured, shell_of(s, edges), -1)
        n_shells = len(edges) - 1
        operators = tuple(
            self._agreement(number, value, noise, shell, n_shells) for number in self._distinct_operators()
        )
        total, by_shell = self._leave_one_out(owner, s, value, measured, shell, n_shells)
        return SymmetryStatistics(operators, total, by_shell, int(measured.sum()), 1 / self._every)

    def _of_map(self, counted: DiffuseMap) -> tuple[np.ndarray, np.ndarray]:
        """|s| of each P1 voxel (0: not part of the map) and the voxel of the asymmetric unit it belongs to."""
        owner = np.zeros(len(self._codes), dtype=np.int64)
        owner[self._place] = np.arange(len(self._place))[:, None]
        s = np.zeros(len(self._codes))
        known = pack(counted.index)
        row = np.minimum(np.searchsorted(self._codes, known), len(self._codes) - 1)
        inside = self._codes[row] == known
        of_voxel = np.zeros(len(self._place))
        of_voxel[owner[row[inside]]] = counted.s[inside]
        s = of_voxel[owner]
        return s, owner

    def _distinct_operators(self) -> list[int]:
        """Numbers of the operators, without the identity and one of each inverse pair."""
        seen, chosen = {_key(np.eye(3))}, []
        for number, operator in enumerate(self._operators):
            if _key(operator) not in seen:
                seen |= {_key(operator), _key(np.linalg.inv(operator))}
                chosen.append(number)
        return sorted(chosen, key=lambda i: (_kind(self._operators[i]) != "-1", np.linalg.det(self._operators[i]) < 0))

    def _agreement(self, number: int, value, noise, shell, n_shells: int) -> OperatorAgreement:
        operator = self._operators[number]
        numbers = {_key(one): i for i, one in enumerate(self._operators)}
        pairs = []
        for i, first in enumerate(self._operators):
            a, b = self._place[:, i], self._place[:, numbers[_key(first @ operator)]]
            good = (a != b) & (shell[a] >= 0) & (shell[b] >= 0)
            pairs.append(np.minimum(a, b)[good].astype(np.int64) * len(value) + np.maximum(a, b)[good])
        a, b = np.divmod(np.unique(np.concatenate(pairs)), len(value))
        x, y = value[a], value[b]
        square = np.sum(x**2) + np.sum(y**2)
        expected = 1 - (np.sum(noise[a]) + np.sum(noise[b])) / square if square > 0 else float("nan")
        shells = np.array([correlation(x[shell[a] == i], y[shell[a] == i]) for i in range(n_shells)])
        pairs = np.bincount(shell[a], minlength=n_shells)
        return OperatorAgreement(
            _name(operator), _kind(operator), len(a), correlation(x, y), float(np.clip(expected, 0, 1)), shells, pairs
        )

    def _leave_one_out(self, owner, s, value, measured, shell, n_shells: int) -> tuple[float, np.ndarray]:
        numerator, denominator, _ = self._sums
        n = len(self._place)
        rest = [np.bincount(owner, sums, n)[owner] - sums for sums in (numerator, denominator)]
        both = measured & (rest[1] > 1e-9 * denominator)
        if not both.any():
            return float("nan"), np.full(n_shells, np.nan)
        others = rest[0][both] / rest[1][both]
        others -= isotropic_part(s[both], others, np.ones(both.sum()))
        own, shell = value[both], shell[both]
        by_shell = np.array([correlation(own[shell == i], others[shell == i]) for i in range(n_shells)])
        return correlation(own[shell >= 0], others[shell >= 0]), by_shell


def _key(operator: np.ndarray) -> tuple[int, ...]:
    return tuple(int(x) for x in np.rint(operator).ravel())


def _kind(operator: np.ndarray) -> str:
    return _KINDS[round(np.linalg.det(operator)), round(np.trace(operator))]


def _name(operator: np.ndarray) -> str:
    """Where it takes h, k, l: row vectors, n' = n R."""
    terms = []
    for column in np.rint(operator).astype(int).T:
        parts = [f"{'+' if x > 0 else '-'}{axis}" for x, axis in zip(column, "hkl") if x]
        terms.append("".join(parts).lstrip("+"))
    return ",".join(terms)


def _cell(cc: float, n_pairs: int) -> str:
    """A correlation, or why there is none."""
    if cc == cc:
        return f"{cc:.3f}"
    return "too few pairs" if n_pairs else "no pairs"


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def _value(number: float | None) -> float:
    return float("nan") if number is None else number
