"""Components refined against observations: factors first, offsets with them once they have converged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks
from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS, Layout, Stacked
from diffuse_dials.algorithms.scaling.newton import Convergence, maximise, start
from diffuse_dials.algorithms.scaling.problem import Problem

_START_OF_ENGINES = 0.01


class Fitter:
    """Refines a list of components against observations; the same for the run and for its cross-validation.

    Attributes:
        cells: Cells of the detector, or None.
        options: PHIL extract of ``scale``.
        s_max: Largest |s| of the voxels used, 1/Å.
        convergence: How the last refinement ended.
        layout: What the components of the last refinement depended on.
    """

    def __init__(self, cells, options, s_max: float, finish=None):
        """
        Args:
            cells: Cells of the detector, or None where no component needs them.
            options: PHIL extract of ``scale``.
            s_max: Largest |s|, 1/Å.
            finish: Called with a problem of factors alone before offsets are added: another engine's turn.
        """
        self.cells, self.options, self.s_max, self._finish = cells, options, s_max, finish
        self.convergence = Convergence(0, 0.0)
        self.layout: Layout | None = None

    def __call__(self, blocks: ScaleBlocks, names: list[str], previous: Problem | None = None) -> Problem:
        """Refine.

        Args:
            blocks: The observations.
            names: Components.
            previous: Starting values, where components have the same names.

        Raises:
            NoSignal: If stills have no signal above their background.
            ValueError: If the parameters do not converge.
        """
        self.new_layout(blocks)
        kinds = {name: SCALE_COMPONENTS[name] for name in names}
        known = {c.name: c.values for c in previous.components} if previous else {}
        factors = [self._stacked(cls, blocks, known) for cls in kinds.values() if cls.kind != "offset"]
        problem = Problem(blocks, factors)
        if previous is None:
            start(problem)
        # Another engine starts where alternating maximum likelihood has brought the factors to a percent.
        self._maximise(problem, self.options.tolerance if self._finish is None else _START_OF_ENGINES)
        if self._finish is not None:
            problem.reweight()
            self._finish(problem)
        offsets = [cls for cls in kinds.values() if cls.kind == "offset"]
        if offsets:
            self.layout = replace(self.layout, intensity=problem.reference.copy())
            problem = Problem(blocks, [*factors, *(self._stacked(cls, blocks, {}) for cls in offsets)])
            self._maximise(problem, self.options.tolerance)
        problem.reweight()
        return problem

    def new_layout(self, blocks: ScaleBlocks) -> Layout:
        """What components may depend on before anything is known of the intensity."""
        n_shells = len(blocks.shells)
        self.layout = Layout(blocks.shells.s, np.ones(n_shells), self.cells, self.options, self.s_max)
        return self.layout

    def _maximise(self, problem: Problem, tolerance: float) -> None:
        self.convergence = maximise(problem, tolerance, self.options.max_cycles)

    def _stacked(self, cls, blocks: ScaleBlocks, known: dict) -> Stacked:
        stacked = Stacked(cls, self.layout, blocks.n_stills)
        if cls.name in known and known[cls.name].shape == stacked.values.shape:
            stacked.values = known[cls.name]
        return stacked
