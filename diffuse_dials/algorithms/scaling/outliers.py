"""Sums and stills that do not agree with the others.

A sum is compared with what the other observations of its voxel predict: two-sided in probability, against the expected
count. A cut in the intensity itself would bias the map, because it truncates a Poisson variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from diffuse_dials.algorithms.scaling.problem import MergedSums, Problem
from diffuse_dials.kernels import scaling as kernels

# Shape of the prior of a voxel's intensity about the shell's mean: contrast 1, so that no real feature is improbable.
_PRIOR = 1.0
_CHUNK = 1_000_000
_SCREEN = 3.0
# A still is said to disagree when it is this many standard uncertainties below the typical slope, and below half of it.
MAX_DEVIATION = 5.0
MAX_SLOPE = 0.5


@dataclass(frozen=True)
class Prediction:
    """What the other observations say of those of some stills.

    Attributes:
        first, last: The stills are first to last.
        rows: The rows.
        mean, variance: Of the signal, shape (n,), photons, photons².
        counts: Signal and expected counts of everything else, same shape.
        crystal: u t p R, same shape.
        intensity: Of the voxel without the observation, same shape.
    """

    first: int
    last: int
    rows: slice
    mean: np.ndarray
    variance: np.ndarray
    counts: np.ndarray
    crystal: np.ndarray
    intensity: np.ndarray


def predictions(problem: Problem, merged: MergedSums) -> Iterator[Prediction]:
    """Predictions of all observations, about a million at a time."""
    b = problem.blocks
    ends = np.searchsorted(b.starts, np.arange(_CHUNK, len(b) + _CHUNK, _CHUNK), side="left")
    first = 0
    for last in np.unique(np.minimum(ends, b.n_stills)):
        if last > first:
            values = kernels.predict(
                b.starts, first, last, b.voxel, b.signal, b.response, b.shells.of_voxel, b.cell, *problem.tables,
                *problem.weights, merged.numerator, merged.denominator, problem.reference, _PRIOR,
            )  # fmt: skip
            yield Prediction(int(first), int(last), slice(int(b.starts[first]), int(b.starts[last])), *values)
            first = last


def improbable(counts: np.ndarray, mean: np.ndarray, variance: np.ndarray, probability: float) -> np.ndarray:
    """Whether counts lie outside the central 1 - probability of what is expected, shape (n,), bool.

    Negative binomial, a Poisson count whose rate is known to a gamma distribution; incomplete beta functions extend
    it to the counts of integrating detectors, which are no whole numbers.

    Args:
        counts: Shape (n,).
        mean, variance: Expected; variance not below the mean, shape (n,).
        probability: Of both tails together.
    """
    found = np.zeros(len(counts), dtype=bool)
    candidates = np.flatnonzero(np.abs(counts - mean) > _SCREEN * np.sqrt(variance))
    n, m = np.maximum(counts[candidates], 0), mean[candidates]
    shape = m**2 / np.maximum(variance[candidates] - m, 1e-9 * m)
    at_most = special.betainc(shape, n + 1, shape / (shape + m))
    at_least = np.where(n > 0, special.betainc(np.maximum(n, 1e-9), shape, m / (shape + m)), 1)
    found[candidates] = np.minimum(at_most, at_least) < probability / 2
    return found


def find_outliers(problem: Problem, probability: float) -> np.ndarray:
    """Observations that the others of the voxel make improbable, the worst of each voxel, shape (n,), bool.

    Those of this rank; the voxel's others may be on other ranks.

    One at a time, because an outlier makes the others of its voxel look improbable until it is gone.

    Args:
        problem: With refined parameters.
        probability: Two-sided; 0 finds none.
    """
    found = np.zeros(len(problem.blocks), dtype=bool)
    if probability <= 0:
        return found
    deviation = np.zeros(len(found), dtype=np.float32)
    for part in predictions(problem, problem.merged()):
        own = part.counts - problem.blocks.signal[part.rows] + part.mean
        expected = np.maximum(own, 1e-6)
        variance = np.maximum(part.variance, expected)
        found[part.rows] = improbable(part.counts, expected, variance, probability)
        deviation[part.rows] = np.abs(part.counts - expected) / np.sqrt(variance)
    rows = np.flatnonzero(found & (problem.blocks.response > 0))
    rows = rows[worst_of_voxels(problem.blocks.voxel[rows], deviation[rows])]
    # the worst of this rank's stills, compared with those of the others
    comm = problem.comm
    candidates = comm.everywhere((problem.blocks.voxel[rows], deviation[rows]))
    worst = worst_of_voxels(*(np.concatenate(values) for values in zip(*candidates)))
    first = sum(len(voxel) for voxel, _ in candidates[: comm.rank])
    found[:] = False
    found[rows[worst[(worst >= first) & (worst < first + len(rows))] - first]] = True
    return found


def worst_of_voxels(voxel: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Positions of the largest deviation of each voxel, the last of equal ones."""
    order = np.lexsort((deviation, voxel))
    return order[np.append(np.diff(voxel[order]) > 0, True)] if len(order) else order


def improbable_rows(
    problem: Problem, merged: MergedSums, signal, expected, weight, voxel, shell, probability: float
) -> np.ndarray:
    """The same test for rows that may or may not be in the map: those that it left out are improbable still.

    Args:
        problem: With refined parameters.
        merged: Its map.
        signal: Photons less background and offset, shape (n,).
        expected: t p R, same shape.
        weight: u, same shape.
        voxel, shell: Same shape.
        probability: Two-sided.
    """
    reference = problem.reference[shell]
    # Without their own part in the map, which rows left out do not have: the map is then a little wrong for them, by
    # less than the own part of a row that passes.
    rate = merged.denominator[voxel] + _PRIOR / reference
    intensity = np.maximum(merged.numerator[voxel] + _PRIOR, 0.01 * _PRIOR) / rate
    mean = np.maximum(expected * intensity / weight, 1e-6)
    variance = mean + expected**2 * intensity / rate
    return improbable(signal + mean * (1 - weight), mean, variance, probability)


@dataclass(frozen=True)
class StillAgreement:
    """How much of the anisotropic map each still shows: slope of its residuals against the map of the others.

    Attributes:
        slope: Shape (n_stills,), relative to the typical still; 1 is full agreement, 0 none; NaN where unknown.
        esd: From counting statistics, same shape.
        typical: Median slope before it was divided out: below 1 by the noise of the map.
        disagrees: Stills that lie significantly below half the typical slope, same shape, bool.
        judged: Stills for which a slope of 0 would have been found, same shape, bool.
    """

    slope: np.ndarray
    esd: np.ndarray
    typical: float
    disagrees: np.ndarray
    judged: np.ndarray


def agreement(problem: Problem) -> StillAgreement:
    """Compare every still with the map of the others; the isotropic part, which any orientation shows, is left out."""
    b, n = problem.blocks, problem.blocks.n_stills
    merged = problem.merged()
    cross, square = np.zeros((2, n))
    for part in predictions(problem, merged):
        still = np.repeat(np.arange(part.first, part.last), np.diff(b.starts[part.first : part.last + 1]))
        shell = b.shells.of_voxel[b.voxel[part.rows]]
        reference = problem.reference[shell]
        contrast = part.intensity / reference - 1
        # the residual about the isotropic part, times its weight times the expected contrast
        cross += np.bincount(still, _isotropic_residual(problem, part, still, shell, reference) * contrast, n)
        square += np.bincount(still, part.crystal * reference * contrast**2, n)
    cross, square = problem.comm.sum(cross), problem.comm.sum(square)
    known = square > 0
    slope = np.divide(cross, square, out=np.full(n, np.nan), where=known)
    esd = np.divide(1, np.sqrt(square), out=np.full(n, np.nan), where=known)
    typical = float(np.nanmedian(slope)) if known.any() else float("nan")
    if not typical > 0:
        return StillAgreement(slope, esd, typical, np.zeros(n, dtype=bool), np.zeros(n, dtype=bool))
    slope, esd = slope / typical, esd / typical
    low = (1 - slope > MAX_DEVIATION * esd) & (slope < MAX_SLOPE)
    return StillAgreement(slope, esd, typical, low & known, known & (esd * MAX_DEVIATION < 1))


def _isotropic_residual(problem: Problem, part: Prediction, still, shell, reference) -> np.ndarray:
    """u (C - G - p R a - t p R I_ref), less the still's mean over each shell: a wrong fall-off is no orientation."""
    b = problem.blocks
    weight, response = problem.row_weights(np.arange(part.rows.start, part.rows.stop))
    signal = b.signal[part.rows] - (response * problem.a[still, shell] if problem.a.size else 0)
    group = still.astype(np.int64) * len(b.shells) + shell
    expected = part.crystal * reference
    measured = np.bincount(group, weight * signal)[group]
    total = np.bincount(group, expected)[group]
    return weight * signal - expected * np.divide(measured, total, out=np.ones_like(total), where=total > 0)
