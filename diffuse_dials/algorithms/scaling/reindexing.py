"""Which of several possible indexings each still has, found against the growing map.

Only the anisotropic part tells them apart. With x = C - G - b R I_iso of a still, w = 1/(b R I_iso + V) and the map δ
of the others' excess over I_iso (shrunk towards 0 as its noise demands), the gain in ln likelihood of an indexing is

    L = Σ w b R x δ - ½ Σ w (b R)² δ²                 correlation: Σ w b R x δ / √(Σ w x² · Σ w (b R δ)²)

Stills join the map one after another, the most certain first; then each is compared with the map of all others again
until none changes. Several stills take turns as the first, and the assignment of the largest total gain is kept. Sums
that the map of the others makes improbable in every indexing are then left out, and the stills looked at again.

A still that was turned to agree with the noise of the others does agree with it, so the same numbers do not say whether
the choice is certain. The margin is therefore found on voxels that had no part in it: stills are assigned by one half
of the voxels and judged by the other, and the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_dials.algorithms.scaling.outliers import improbable, worst_of_voxels

# Contrast of the map that a voxel is expected to have, relative to the isotropic part.
_CONTRAST = 0.2
# Shape of the prior of a voxel's intensity when a sum is called improbable: contrast 1, as in outliers.py.
_PRIOR = 1.0
_STARTS = 5
_MAX_SWEEPS = 30
_OUTLIER_ROUNDS = 5
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
        expected: b R I_iso, shape (n,), photons.
        n_voxels: Voxels of all operators together.
    """

    starts: np.ndarray
    voxel: np.ndarray
    excess: np.ndarray
    weight: np.ndarray
    expected: np.ndarray
    n_voxels: int

    @property
    def n_stills(self) -> int:
        return len(self.starts) - 1

    def rows(self, still: int) -> slice:
        return slice(self.starts[still], self.starts[still + 1])

    def select(self, keep: np.ndarray) -> AnisotropicSums:
        """The rows that a mask (n,) keeps; stills and voxels keep their numbers."""
        starts = np.concatenate(([0], np.cumsum(keep)))[self.starts]
        return replace(
            self, starts=starts, voxel=self.voxel[:, keep], excess=self.excess[keep], weight=self.weight[keep],
            expected=self.expected[keep],
        )  # fmt: skip

    def improbable(self, relative, variance, probability: float, rows=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """(whether rows are improbable, their deviation in standard uncertainties), each of shape (n,).

        Args:
            relative, variance: Of the voxel's intensity, in units of I_iso.
            probability: Two-sided.
            rows: Which rows.
        """
        isotropic = self.expected[rows]
        total = isotropic**2 / self.weight[rows]  # with the photons of everything else
        counts, mean = total + isotropic * self.excess[rows], np.maximum(total + isotropic * (relative - 1), 1e-6)
        spread = mean + isotropic**2 * variance
        return improbable(counts, mean, spread, probability), np.abs(counts - mean) / np.sqrt(spread)


def improbable_by_isotropic(sums: AnisotropicSums, probability: float) -> np.ndarray:
    """Sums that no voxel of any map is likely to have, whatever the indexing, shape (n,), bool."""
    return sums.improbable(1.0, 1 / _PRIOR, probability)[0]


@dataclass(frozen=True)
class Assignment:
    """How each still is indexed.

    Attributes:
        operator: Number of the operator of each still, shape (n_stills,); 0 leaves it as it is.
        correlation: Of each still with the map of the others, by operator, shape (n_stills, n_operators).
        margin: Gain in ln likelihood of the operator over the next, on voxels that had no part in the choice; negative
            if they speak for another, shape (n_stills,).
        n_outliers: Sums that the maps of the others make improbable, left out.
    """

    operator: np.ndarray
    correlation: np.ndarray
    margin: np.ndarray
    n_outliers: int

    @property
    def decided(self) -> np.ndarray:
        """Whether the operator is better than the next by more than chance, shape (n_stills,)."""
        return self.margin > DECISIVE


def assign(sums: AnisotropicSums, products: np.ndarray, probability: float, seed: int = 0) -> Assignment:
    """Find the indexing of each still, the most frequent one left as it is: all stills together may be turned.

    Args:
        sums: The observations.
        products: products[i, j] is the operator that does what i does after j is undone, shape (n_operators,) * 2.
        probability: Sums less probable than this in every indexing are left out; 0: none are.
        seed: Decides in which order stills are looked at again, and the halves of the voxels.
    """
    rng = np.random.default_rng(seed)
    growing = _best(sums, rng)
    n_rows = len(sums.excess)
    for _ in range(_OUTLIER_ROUNDS if probability > 0 else 0):
        outliers = growing.outliers(probability)
        if not outliers.any():
            break
        sums = sums.select(~outliers)
        growing = _Map(sums, growing.operator)
        growing.settle(rng)
    most = int(np.argmax(np.bincount(growing.operator)))
    operator = products[growing.operator, most]
    correlation = growing.judge_all()[1][:, np.argsort(products[:, most])]
    return Assignment(operator, correlation, _margins(sums, operator, products, rng), n_rows - len(sums.excess))


def _best(sums: AnisotropicSums, rng, n_starts: int = _STARTS) -> _Map:
    """The assignment of the largest total gain, whichever still was the first."""
    information = np.add.reduceat(np.append(sums.weight, 0), sums.starts[:-1]) * (np.diff(sums.starts) > 0)
    firsts = np.argsort(information)[::-1][:n_starts]
    found = [_grow(sums, int(first), rng) for first in firsts]
    return max(found, key=lambda one: one.judge_all()[0][np.arange(sums.n_stills), one.operator].sum())


class _Map:
    """Sums of the relative excess of the stills that have joined.

    Attributes:
        operator: Of each still, -1 for those that have not joined, shape (n_stills,).
    """

    def __init__(self, sums: AnisotropicSums, operator: np.ndarray):
        self.sums = sums
        self.numerator, self.denominator = np.zeros((2, sums.n_voxels))
        self.operator = np.full(sums.n_stills, -1)
        for still in np.flatnonzero(operator >= 0):
            self.add(still, operator[still])

    def add(self, still: int, operator: int) -> None:
        self.operator[still] = operator
        self._sum(still, 1)

    def remove(self, still: int) -> int:
        """Take a still out; what its operator was."""
        self._sum(still, -1)
        operator, self.operator[still] = self.operator[still], -1
        return operator

    def _sum(self, still: int, sign: int) -> None:
        rows = self.sums.rows(still)
        voxel, weight = self.sums.voxel[self.operator[still], rows], self.sums.weight[rows]
        np.add.at(self.numerator, voxel, sign * weight * self.sums.excess[rows])
        np.add.at(self.denominator, voxel, sign * weight)

    def excess(self, still: int) -> np.ndarray:
        """δ of the rows of a still that is not in the map, by operator, shape (n_operators, n)."""
        voxel = self.sums.voxel[:, self.sums.rows(still)]
        return self.numerator[voxel] / (self.denominator[voxel] + _CONTRAST**-2)

    def judge(self, still: int) -> tuple[np.ndarray, np.ndarray]:
        """(L, correlation) of a still that is not in the map, by operator."""
        rows = self.sums.rows(still)
        weight, excess = self.sums.weight[rows], self.sums.excess[rows]
        shrunk = self.excess(still)
        cross, square = shrunk @ (weight * excess), shrunk**2 @ weight
        norm = np.sqrt(square * (weight @ excess**2))
        return cross - square / 2, np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)

    def judge_all(self) -> tuple[np.ndarray, np.ndarray]:
        """(L, correlation) of each still with the map of the others, by operator, shape (n_stills, n_operators)."""
        return tuple(np.array(values) for values in zip(*(self.judge(i) for i in self.each_alone())))

    def each_alone(self):
        """The stills one after another, each while it is out of the map."""
        for still in range(self.sums.n_stills):
            operator = self.remove(still)
            yield still
            self.add(still, operator)

    def settle(self, rng) -> None:
        """Compare each still with the map of all others until none changes."""
        for _ in range(_MAX_SWEEPS):
            changed = False
            for still in rng.permutation(self.sums.n_stills):
                before = self.remove(still)
                best = int(np.argmax(self.judge(still)[0]))
                changed |= best != before
                self.add(still, best)
            if not changed:
                break

    def outliers(self, probability: float) -> np.ndarray:
        """Rows that the others of their voxel make improbable in every indexing, the worst of each, shape (n,), bool.

        In every one, because a still that is turned the wrong way would else lose the sums that show it.
        """
        sums = self.sums
        found, deviation = np.zeros(len(sums.excess), dtype=bool), np.zeros(len(sums.excess))
        own = np.empty(len(sums.excess), dtype=sums.voxel.dtype)
        chosen = self.operator.copy()
        for still in self.each_alone():
            rows = sums.rows(still)
            voxel = sums.voxel[:, rows]
            rate = self.denominator[voxel] + _PRIOR
            relative = np.maximum(self.numerator[voxel] + rate, 0.01 * _PRIOR) / rate
            judged = [sums.improbable(r, r / w, probability, rows) for r, w in zip(relative, rate)]
            found[rows] = np.all([outlying for outlying, _ in judged], axis=0)
            deviation[rows], own[rows] = judged[chosen[still]][1], voxel[chosen[still]]
        candidates = np.flatnonzero(found)
        found[:] = False
        found[candidates[worst_of_voxels(own[candidates], deviation[candidates])]] = True
        return found


def _grow(sums: AnisotropicSums, first: int, rng) -> _Map:
    n = sums.n_stills
    growing = _Map(sums, np.where(np.arange(n) == first, 0, -1))
    waiting = [i for i in range(n) if i != first]
    while waiting:
        gains = np.array([growing.judge(i)[0] for i in waiting])
        ordered = np.sort(gains, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        # a few at a time, as long as they are few beside those that are in
        joining = np.argsort(margin)[::-1][: max(1, (n - len(waiting)) // 4)]
        for place in joining:
            growing.add(waiting[place], int(np.argmax(gains[place])))
        waiting = [still for place, still in enumerate(waiting) if place not in set(joining)]
    growing.settle(rng)
    return growing


def _margins(sums: AnisotropicSums, operator: np.ndarray, products: np.ndarray, rng) -> np.ndarray:
    """Gain of the chosen operators over the next, each half of the voxels judged with what the other chose."""
    # The voxels that the operators make of one are in one half.
    half = (rng.random(sums.n_voxels) < 0.5)[sums.voxel.min(axis=0)]
    maps = []
    for chosen, judged in ((half, ~half), (~half, half)):
        found = _best(sums.select(chosen), rng, n_starts=2).operator
        # as the whole is turned
        turned = max((products[found, j] for j in range(len(products))), key=lambda one: (one == operator).sum())
        maps.append(_Map(sums.select(judged), turned))
    slope = _slope(maps)
    margins = np.zeros((sums.n_stills, len(products)))
    variance = np.zeros((2, *margins.shape))
    for one in maps:
        for still in one.each_alone():
            rows = one.sums.rows(still)
            weight, excess = one.sums.weight[rows], one.sums.excess[rows]
            shrunk = slope * one.excess(still)
            best = shrunk[operator[still]]
            better = weight * (best - shrunk)
            margins[still] += better @ excess - (better * (best + shrunk) / 2).sum(axis=1)
            variance[0, still] += (better * (best - shrunk)).sum(axis=1)
            variance[1, still] += better**2 @ (excess - best) ** 2
    # What the sums that matter scatter beyond their counting statistics makes the margin so much less certain.
    margins *= np.divide(variance[0], variance[1], out=np.ones_like(margins), where=variance[1] > variance[0])
    margins[np.arange(sums.n_stills), operator] = np.inf
    return margins.min(axis=1)


def _slope(maps: list[_Map]) -> float:
    """How much of the map of the others all stills show, between 0 (it is noise or a mixture) and 1."""
    cross = square = 0.0
    for one in maps:
        chosen = one.operator.copy()
        for still in one.each_alone():
            rows = one.sums.rows(still)
            shrunk = one.excess(still)[chosen[still]]
            cross += shrunk @ (one.sums.weight[rows] * one.sums.excess[rows])
            square += shrunk**2 @ one.sums.weight[rows]
    return float(np.clip(cross / square, 0, 1)) if square > 0 else 0.0
