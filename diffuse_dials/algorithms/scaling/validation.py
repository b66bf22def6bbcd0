"""Has a component earned its parameters? It must predict observations that it was not refined against.

Components of the detector are refined on half of the stills and judged on the others, whose own scales are refined
with them. Components of the stills are refined on half of the voxels and judged on the other half. In both cases an
observation is predicted from the other observations of its voxel, and the squared error over the expected variance,
halved, is its loss of ln likelihood.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks
from diffuse_dials.algorithms.scaling.outliers import predictions
from diffuse_dials.algorithms.scaling.problem import Problem

MIN_SIGNIFICANCE = 3.0
_MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Verdict:
    """What a component is worth.

    Attributes:
        name: The component.
        n_parameters: Its parameters.
        gain: ln likelihood that it gains on the observations left out, summed over the stills.
        gain_esd: Its uncertainty, from the scatter over the stills.
        n_observations: Observations left out, each once.
    """

    name: str
    n_parameters: int
    gain: float
    gain_esd: float
    n_observations: int

    @property
    def earned(self) -> bool:
        """Whether the gain is beyond chance."""
        return self.gain > MIN_SIGNIFICANCE * self.gain_esd

    def row(self) -> list[str]:
        """A line of the table."""
        return [
            self.name, str(self.n_parameters), f"{self.gain:.1f}", f"{self.gain_esd:.1f}", str(self.n_observations),
            "yes" if self.earned else "no",
        ]  # fmt: skip


HEADERS = ["component", "parameters", "Δ ln likelihood\nleft out", "esd", "observations", "earned"]


def validate(name: str, names: list[str], blocks: ScaleBlocks, fit: Callable, seed: int = 0) -> Verdict:
    """Cross-validate one component of a model.

    Args:
        name: The component.
        names: All components of the model.
        blocks: The observations.
        fit: ``fit(blocks, names)`` returns the problem with refined parameters.
        seed: Of the division into halves.
    """
    rng = np.random.default_rng(seed)
    blocks = _subsample(blocks, rng)
    without = [n for n in names if n != name]
    gain = np.zeros(blocks.n_stills)
    n_observations = 0
    reference = fit(blocks, names)
    component = next(c for c in reference.components if c.name == name)
    halves = _still_halves(blocks, rng) if component.kind == "detector" else _voxel_halves(blocks, rng)
    for training in halves:
        fits = [fit(blocks.select(training), model) for model in (names, without)]
        left_out = blocks.select(~training)
        errors = []
        for fitted in fits:
            judged = _by_still(fitted, left_out, fit) if component.kind == "detector" else _by_voxel(fitted, left_out)
            errors.append(_squared_errors(judged))
        variance = errors[1][1]
        gain += np.bincount(left_out.still, (errors[1][0] - errors[0][0]) / variance / 2, blocks.n_stills)
        n_observations += left_out.n_rows
    gain = blocks.comm.sum(gain)
    used = blocks.still_rows > 0
    esd = float(np.sqrt(used.sum()) * np.std(gain[used], ddof=1)) if used.sum() > 1 else float("inf")
    return Verdict(name, component.n_params, float(gain.sum()), esd, n_observations)


def _subsample(blocks: ScaleBlocks, rng) -> ScaleBlocks:
    """Whole voxels, so that about a million observations remain."""
    n_rows = blocks.n_rows
    if n_rows <= _MAX_ROWS:
        return blocks
    keep = rng.random(blocks.n_voxels) < _MAX_ROWS / n_rows
    return blocks.select(keep[blocks.voxel])


def _still_halves(blocks: ScaleBlocks, rng):
    first = rng.permutation(blocks.n_stills) % 2 == 0
    rows = np.repeat(first, np.diff(blocks.starts))
    return rows, ~rows


def _voxel_halves(blocks: ScaleBlocks, rng):
    first = rng.random(blocks.n_voxels) < 0.5
    rows = first[blocks.voxel]
    return rows, ~rows


def _by_still(fitted: Problem, left_out: ScaleBlocks, fit: Callable) -> Problem:
    """The detector's factors taken to other stills, which keep their own components."""
    factor = fitted.p[left_out.cell] if len(fitted.p) > 1 else fitted.p[0]
    corrected = replace(left_out, response=(left_out.response * factor).astype(np.float32))
    return fit(corrected, [c.name for c in fitted.components if c.kind != "detector"])


def _by_voxel(fitted: Problem, left_out: ScaleBlocks) -> Problem:
    """All refined parameters, taken to other voxels."""
    judged = Problem(left_out, copy.deepcopy(fitted.components))
    judged.reweight()
    judged.reweight()
    return judged


def _squared_errors(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """(squared error of each observation, its expected variance)."""
    square, variance = np.empty((2, len(problem.blocks)))
    for part in predictions(problem, problem.merged()):
        square[part.rows] = (problem.blocks.signal[part.rows] - part.mean) ** 2
        variance[part.rows] = part.variance
    return square, variance
