"""Maximum of the quasi-likelihood: alternating maximum likelihood, then Newton steps by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.scaling.problem import MergedSums, NoSignal, Problem, Score

_MAX_SWEEPS = 30
_GOOD_SWEEP = 0.3
_LARGEST_STEP = 1.0
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Convergence:
    """How a refinement ended.

    Attributes:
        n_cycles: Cycles needed.
        last_change: Largest relative change of a factor in the last one.
    """

    n_cycles: int
    last_change: float


def start(problem: Problem) -> None:
    """Scales from each still's total over what the shells' mean predicts for it.

    Raises:
        NoSignal: If stills have no signal above their background.
    """
    problem.reweight()
    scale = next(c for c in problem.components if c.name == "scale")
    shell = problem.blocks.shells.of_voxel
    merged = problem.merged()
    mean = MergedSums(merged.numerator, merged.denominator, problem.reference[shell])
    _sweep(problem, problem.score(mean, mean.intensity), scale)
    problem.normalise()


def maximise(problem: Problem, tolerance: float, max_cycles: int) -> Convergence:
    """Refine all components of the problem.

    One factor per still alone is alternated with the map while that gains; otherwise, and for anything more, Newton
    steps are solved by conjugate gradients, nothing dense. A step is halved until it brings the equations closer.

    Args:
        problem: With starting values.
        tolerance: Largest relative change of a factor in the last cycle.
        max_cycles: Cycles before giving up.

    Raises:
        NoSignal: If stills have no signal above their background.
        ValueError: If the parameters do not converge.
    """
    alone = [c.name for c in problem.components] == ["scale"]
    sweeping, change = alone, np.inf
    for cycle in range(1, max_cycles + 1):
        before, previous = problem.tables, change
        problem.reweight()
        merged = problem.merged()
        score = problem.score(merged, problem.positive(merged))
        _check_signal(problem, score)
        if sweeping:
            _sweep(problem, score, problem.components[0])
        else:
            _newton(problem, merged, score, first=cycle == 1)
        problem.normalise()
        # whether to go on, rank 0 says: the last bit may differ between machines
        change = problem.comm.from_first(problem.change(before))
        if change < tolerance:
            return Convergence(cycle, change)
        if sweeping and (change > _GOOD_SWEEP * previous or cycle >= _MAX_SWEEPS):
            sweeping = False
    raise ValueError(
        f"The scales did not converge in {max_cycles} cycles (last change {change:.1e}). The stills may share too "
        "few photons: use larger voxels (grid.ndiv), or raise scale.max_cycles."
    )


def _check_signal(problem: Problem, score: Score) -> None:
    if np.any(score.signal[problem.present] <= 0):
        raise NoSignal(np.flatnonzero(problem.present & (score.signal <= 0)))


def _sweep(problem: Problem, score: Score, scale) -> None:
    """ln b from the map of the present scales."""
    _check_signal(problem, score)
    expected = score.signal - score.score_t
    if np.any(expected[problem.present] <= 0):
        raise NoSignal(np.flatnonzero(problem.present & (expected <= 0)))
    ratio = np.divide(score.signal, expected, out=np.ones_like(expected), where=problem.present)
    scale.values = scale.values + np.log(ratio)[:, None]
    problem.update()


def _newton(problem: Problem, merged: MergedSums, score: Score, first: bool) -> None:
    """One step for all parameters, halved while it takes the equations further from their solution."""
    h = problem.positive(merged)
    null = problem.null_directions()
    step = solve(lambda x: problem.product(x, merged, h), score, problem, null, 0.1 if first else 1e-4)
    before, here = _norm(score, problem, null), problem.vector
    step *= min(1.0, _LARGEST_STEP / max(_largest(problem, step), 1e-300))
    for _ in range(6):
        problem.vector = here + step
        merged = problem.merged()
        after = problem.score(merged, problem.positive(merged))
        closer = _norm(after, problem, null) <= 2 * before + _ROUNDING * np.abs(score.signal).sum()
        if problem.comm.from_first(bool(closer)):
            return
        step = step / 2


def _largest(problem: Problem, step: np.ndarray) -> float:
    """Largest change of ln t that a step makes."""
    stills, _ = problem.split(step)
    width = problem.still_columns.shape[1]
    return float(np.abs(stills[:, :width] @ problem.still_columns.T).max(initial=0))


def _norm(score: Score, problem: Problem, null: np.ndarray) -> float:
    vector = _without(score.vector, null)
    return float(vector @ precondition(vector, score, problem))


def _without(vector: np.ndarray, null: np.ndarray) -> np.ndarray:
    return vector - null.T @ (null @ vector)


def precondition(vector: np.ndarray, score: Score, problem: Problem) -> np.ndarray:
    """Inverse of the information's diagonal blocks, a still or the detector each, times a vector."""
    stills, detector = problem.split(vector)
    solved = np.einsum("ijl,il->ij", score.still_blocks, stills)
    solved[~problem.present] = 0
    return np.concatenate([solved.ravel(), score.detector_block @ detector])


def solve(product, score: Score, problem: Problem, null: np.ndarray, relative: float, max_steps: int = 200):
    """Conjugate gradients for information · x = score.

    Nothing moves along the directions that the map absorbs: the gauge decides there. Every rank works with numbers of
    its own, whose last bit may differ between machines: rank 0 decides when to stop, and its solution is everyone's.

    Args:
        product: Function that multiplies a vector of parameter changes by the information.
        score: Right-hand side, with the blocks that precondition it.
        problem: Its components give the shape of the vectors.
        null: Directions that the map absorbs, orthonormal rows, shape (n, n_parameters).
        relative: Preconditioned norm of the residual, relative to the first one, at which to stop.
        max_steps: Steps after which to stop anyway.

    Returns:
        x, shape (n_parameters,).
    """
    residual = _without(score.vector, null)
    x = np.zeros_like(residual)
    z = _without(precondition(residual, score, problem), null)
    direction, rho = z.copy(), residual @ z
    goal = max(rho * relative**2, np.abs(score.signal).sum() * _ROUNDING**2)
    done = problem.comm.from_first(bool(rho <= goal))
    for _ in range(max_steps):
        if done:
            break
        image = product(direction)
        bend = direction @ image
        step = rho / bend if bend > 0 else 0.0
        x += step * direction
        residual = _without(residual - step * image, null)
        z = _without(precondition(residual, score, problem), null)
        rho, previous = residual @ z, rho
        direction = z + rho / previous * direction
        done = problem.comm.from_first(bool(bend <= 0 or rho <= goal))
    return problem.comm.from_first(x)
