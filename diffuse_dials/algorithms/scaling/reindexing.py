"""Which of several possible indexings each still has, found against the growing map.

Only the anisotropic part tells them apart. With x = C - G - b R I_iso of a still, w = 1/(b R I_iso + V) and the map δ
of the others' excess over I_iso (shrunk towards 0 as its noise demands), the gain in ln likelihood of an indexing is

    L = Σ w b R x δ - ½ Σ w (b R)² δ²                 correlation: Σ w b R x δ / √(Σ w x² · Σ w (b R δ)²)

Stills join the map one after another, the most certain first; then each is held against the map of all others again
until none changes. Several stills take turns as the first, and the assignment of the largest total gain is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Contrast of the map that a voxel is expected to have, relative to the isotropic part.
_CONTRAST = 0.2
_STARTS = 5
_MAX_SWEEPS = 30
# Difference of ln likelihood that decides: 1 in 1000 by chance, were both indexings equally likely.
DECISIVE = np.log(1000)


@dataclass(frozen=True)
class AnisotropicSums:
    """Observations with the isotropic part taken out, voxels numbered for each way of indexing.

    Attributes:
        starts: Rows of still i are starts[i] to starts[i + 1], shape (n_stills + 1,).
        voxel: Number of the voxel under each operator, the identity first, shape (n_operators, n).
        excess: x over b R I_iso, shape (n,).
        weight: (b R I_iso)² w: the information on the relative excess, shape (n,).
        n_voxels: Voxels of all operators together.
    """

    starts: np.ndarray
    voxel: np.ndarray
    excess: np.ndarray
    weight: np.ndarray
    n_voxels: int

    @property
    def n_stills(self) -> int:
        return len(self.starts) - 1

    def rows(self, still: int) -> slice:
        return slice(self.starts[still], self.starts[still + 1])


@dataclass(frozen=True)
class Assignment:
    """How each still is indexed.

    Attributes:
        operator: Number of the operator of each still, shape (n_stills,); 0 leaves it as it is.
        correlation: Of each still with the map of the others, by operator, shape (n_stills, n_operators).
        gain: L of each still by operator, same shape.
        decided: Whether the best is better than the next by more than chance, shape (n_stills,).
    """

    operator: np.ndarray
    correlation: np.ndarray
    gain: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """Gain of the best indexing over the next, shape (n_stills,)."""
        best = np.sort(self.gain, axis=1)
        return best[:, -1] - best[:, -2]

    @property
    def decided(self) -> np.ndarray:
        return self.margin > DECISIVE


def assign(sums: AnisotropicSums, seed: int = 0) -> Assignment:
    """Find the indexing of each still.

    Args:
        sums: The observations.
        seed: Decides in which order stills are looked at again.
    """
    information = np.add.reduceat(sums.weight, sums.starts[:-1]) * (np.diff(sums.starts) > 0)
    firsts = np.argsort(information)[::-1][:_STARTS]
    rng = np.random.default_rng(seed)
    found = [_grow(sums, int(first), rng) for first in firsts]
    return max(found, key=lambda a: a.gain[np.arange(sums.n_stills), a.operator].sum())


class _Map:
    """Sums of the relative excess of the stills that have joined."""

    def __init__(self, sums: AnisotropicSums):
        self.sums = sums
        self.numerator, self.denominator = np.zeros((2, sums.n_voxels))

    def add(self, still: int, operator: int, sign: int = 1) -> None:
        rows = self.sums.rows(still)
        voxel, weight = self.sums.voxel[operator, rows], self.sums.weight[rows]
        np.add.at(self.numerator, voxel, sign * weight * self.sums.excess[rows])
        np.add.at(self.denominator, voxel, sign * weight)

    def judge(self, still: int) -> tuple[np.ndarray, np.ndarray]:
        """(L, correlation) of a still that is not in the map, by operator."""
        rows = self.sums.rows(still)
        weight, excess = self.sums.weight[rows], self.sums.excess[rows]
        voxel = self.sums.voxel[:, rows]
        shrunk = self.numerator[voxel] / (self.denominator[voxel] + _CONTRAST**-2)
        cross, square = shrunk @ (weight * excess), shrunk**2 @ weight
        norm = np.sqrt(square * (weight @ excess**2))
        return cross - square / 2, np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)


def _grow(sums: AnisotropicSums, first: int, rng) -> Assignment:
    n, n_operators = sums.n_stills, len(sums.voxel)
    operator = np.zeros(n, dtype=int)
    growing = _Map(sums)
    growing.add(first, 0)
    waiting = [i for i in range(n) if i != first]
    while waiting:
        gains = np.array([growing.judge(i)[0] for i in waiting])
        ordered = np.sort(gains, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        # a few at a time, as long as they are few beside those that are in
        joining = np.argsort(margin)[::-1][: max(1, (n - len(waiting)) // 4)]
        for place in joining:
            operator[waiting[place]] = int(np.argmax(gains[place]))
            growing.add(waiting[place], operator[waiting[place]])
        waiting = [still for place, still in enumerate(waiting) if place not in set(joining)]
    for _ in range(_MAX_SWEEPS):
        changed = False
        for i in rng.permutation(n):
            growing.add(i, operator[i], -1)
            best = int(np.argmax(growing.judge(i)[0]))
            changed |= best != operator[i]
            operator[i] = best
            growing.add(i, best)
        if not changed:
            break
    gain, correlation = np.zeros((2, n, n_operators))
    for i in range(n):
        growing.add(i, operator[i], -1)
        gain[i], correlation[i] = growing.judge(i)
        growing.add(i, operator[i])
    return Assignment(operator, correlation, gain)


def fewest_changes(assignment: Assignment, products: np.ndarray) -> Assignment:
    """The same agreement with the most frequent indexing left as it is: all stills together may be turned.

    Args:
        assignment: The indexing of each still.
        products: products[i, j] is the operator that does what i does after j is undone, shape (n_operators,) * 2.
    """
    most = int(np.argmax(np.bincount(assignment.operator)))
    turned = products[:, most]
    order = np.argsort(turned)
    return Assignment(turned[assignment.operator], assignment.correlation[:, order], assignment.gain[:, order])
