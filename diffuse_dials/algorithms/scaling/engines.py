"""DIALS's refinement engines on the likelihood of the sums.

Scaler, target, parameter manager and refiners are subclasses of DIALS's, and its engines run unchanged; what they are
given is the quasi-likelihood of :class:`Problem` with the map eliminated, in place of residuals of an IhTable.
Parameters are refined in units of their uncertainty, without which LBFGS stalls. Gauss-Newton and Levenberg-Marquardt
get the reduced normal matrix by its Cholesky factor, because cctbx's accumulation of one equation per observation
takes minutes a step.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
from dials.algorithms.scaling.active_parameter_managers import active_parameter_manager, multi_active_parameter_manager
from dials.algorithms.scaling.scaler import MultiScalerBase
from dials.algorithms.scaling.scaling_refiner import (
    ScalingGaussNewtonIterations,
    ScalingLevenbergMarquardtIterations,
    ScalingSimpleLBFGS,
)
from dials.algorithms.scaling.target_function import ScalingTarget
from dials.array_family import flex
from scitbx import sparse

from diffuse_dials.algorithms.scaling.newton import precondition
from diffuse_dials.algorithms.scaling.problem import Problem, Score

logger = logging.getLogger(f"dials.{__name__}")

MAX_MATRIX = 1500
# rms distance from the maximum, in standard uncertainties, at which an engine has arrived
_ARRIVED = 1e-4
_MAX_ITERATIONS = 200


class SumsTable:
    """The observations, where DIALS's refiners expect an IhTable.

    Attributes:
        blocked_data_list: The one block: the problem.
        size: Number of observations.
    """

    def __init__(self, problem: Problem):
        self.blocked_data_list = [problem]
        self.size = len(problem.blocks)


class DiffuseTarget(ScalingTarget):
    """Minus the quasi-likelihood with the map eliminated, and the score as its gradient.

    The map is the maximum for the present parameters, so that its change adds nothing to the gradient.

    Attributes:
        distance: From the maximum at the last evaluation, rms in standard uncertainties of the parameters.
    """

    rmsd_names = ["distance"]
    rmsd_units = ["esd"]

    def __init__(self):
        super().__init__()
        self.rmsd_names, self.rmsd_units = ["distance"], ["esd"]
        self.param_restraints = False  # in the objective already
        self._start: float | None = None
        self.distance = np.inf

    def evaluate(self, problem: Problem) -> tuple[float, Score]:
        """(objective, its value at the first call being 0; the score)."""
        merged = problem.merged()
        score = problem.score(merged, problem.positive(merged))
        objective = problem.objective(merged)
        self._start = objective if self._start is None else self._start
        null = problem.null_directions()
        vector = score.vector - null.T @ (null @ score.vector)
        length = vector @ precondition(vector, score, problem)
        self.distance = float(np.sqrt(max(length, 0) / problem.n_parameters))
        return objective - self._start, score

    def compute_functional_gradients(self, problem):
        objective, score = self.evaluate(problem)
        return objective, flex.double(-score.vector)

    def compute_restraints_functional_gradients(self, apm):
        return None

    def compute_restraints_residuals_and_gradients(self, apm):
        return None

    def rmsds(self, table, apm):
        """rms distance from the maximum, in standard uncertainties of the parameters."""
        self._rmsds = [self.distance]
        return self._rmsds

    def achieved(self):
        """Whether the maximum is reached to a ten-thousandth of the uncertainties."""
        return self.distance < _ARRIVED


class DiffuseParameterManager(multi_active_parameter_manager):
    """All components of all stills as one list of parameters, in units of their uncertainty."""

    def __init__(self, target: DiffuseTarget, problem: Problem):
        components = {c.name: c for c in problem.components}
        super().__init__(target, [components], [list(components)], active_parameter_manager)
        _, score = target.evaluate(problem)
        stills = np.sqrt(np.einsum("ijj->ij", score.still_blocks))
        stills[~problem.present] = 1
        self.unit = np.concatenate([stills.ravel(), np.sqrt(np.diag(score.detector_block))])
        self.problem = problem
        self.x = flex.double(problem.vector / self.unit)

    def set_param_vals(self, x):
        self.x = x
        self.problem.vector = x.as_numpy_array() * self.unit

    def compute_functional_gradients(self, block):
        objective, gradient = self.target.compute_functional_gradients(block)
        return objective, flex.double(gradient.as_numpy_array() * self.unit)

    def calculate_model_state_uncertainties(self, var_cov):
        """Uncertainties come from errors.py: those of the engines would be dominated by the free overall scale."""

    def set_param_esds(self, esds):
        """As above."""


class DiffuseScaler(MultiScalerBase):
    """Data manager of a refinement: the problem behind the interface that DIALS's refiners use."""

    def __init__(self, problem: Problem, tolerance: float = 1e-6):
        refinery = SimpleNamespace(rmsd_tolerance=tolerance)
        manager = SimpleNamespace(params=SimpleNamespace(scaling_refinery=refinery))
        super().__init__([manager])
        self._Ih_table = SumsTable(problem)

    def get_blocks_for_minimisation(self):
        return self._Ih_table.blocked_data_list

    def update_for_minimisation(self, apm, block_id):
        """The parameter manager has handed the parameters on."""

    def perform_scaling(self, engine="SimpleLBFGS", max_iterations=_MAX_ITERATIONS, tolerance=None):
        """Refine with one of DIALS's engines.

        Args:
            engine: "SimpleLBFGS", "GaussNewton" or "LevMar".
            max_iterations: Of the engine.
            tolerance: Relative change of the distance from the maximum at which it stops.

        Returns:
            The refiner, with its history.
        """
        (problem,) = self.get_blocks_for_minimisation()
        target = DiffuseTarget()
        manager = DiffuseParameterManager(target, problem)
        refiner = ENGINES[engine](
            self, target=target, prediction_parameterisation=manager, max_iterations=max_iterations
        )
        if tolerance:
            refiner.set_tolerance(tolerance)
        refiner.run()
        refiner.print_step_table()
        return refiner


class LikelihoodLBFGS(ScalingSimpleLBFGS):
    """DIALS's LBFGS; the target gives the value and the gradient."""


class _ReducedNormalEquations:
    """Normal equations with the map eliminated, handed to cctbx as as many equations as there are parameters.

    With H = L Lᵀ and the score g, equations of Jacobian Lᵀ and residual -L⁻¹ g have the normal matrix H and the right
    gradient; one more with no derivatives brings their sum of squares to the objective.
    """

    _reserve: float | None = None

    def build_up(self, objective_only=False):
        self.prepare_for_step()
        self.reset()
        (problem,) = self._scaler.get_blocks_for_minimisation()
        objective, score = self._target.evaluate(problem)
        unit = self._parameters.unit
        n = len(unit)
        if n > MAX_MATRIX:
            raise ValueError(
                f"The engine holds a matrix of all {n} parameters, more than {MAX_MATRIX}. Use scale.engine=newton or "
                "SimpleLBFGS."
            )
        factor = np.linalg.cholesky(self._information(problem, unit))
        residual = -np.linalg.solve(factor, score.vector * unit)
        length = float(residual @ residual)
        if self._reserve is None:
            self._reserve = 10 * length + 1.0
        rest = np.sqrt(max(2 * objective + self._reserve - (0 if objective_only else length), 1e-12))
        if objective_only:
            self.add_residuals(flex.double([rest]), flex.double([1.0]))
            return
        columns = [dict(enumerate(map(float, factor[column, : column + 1]))) for column in range(n)]
        jacobian = sparse.matrix(n + 1, n, columns)
        self._jacobian = None
        self.add_equations(flex.double([*residual, rest]), jacobian, flex.double(n + 1, 1.0))

    @staticmethod
    def _information(problem: Problem, unit: np.ndarray) -> np.ndarray:
        merged = problem.merged()
        h = problem.positive(merged)
        null = problem.null_directions()
        matrix = np.array([problem.product(row, merged, h) for row in np.diag(unit)]) * unit
        # directions that the map absorbs, and stills without observations, get a curvature of their own
        free = (null / unit).T
        matrix += free @ free.T / max(np.square(free).sum(axis=0).max(), 1e-300)
        return (matrix + matrix.T) / 2 + np.eye(len(unit)) * 1e-9


class LikelihoodGaussNewton(_ReducedNormalEquations, ScalingGaussNewtonIterations):
    """DIALS's Gauss-Newton engine on the reduced normal equations."""


class LikelihoodLevMar(_ReducedNormalEquations, ScalingLevenbergMarquardtIterations):
    """DIALS's Levenberg-Marquardt engine on the reduced normal equations."""


ENGINES = {"SimpleLBFGS": LikelihoodLBFGS, "GaussNewton": LikelihoodGaussNewton, "LevMar": LikelihoodLevMar}


def finish_with(engine: str, problem: Problem) -> None:
    """Let one of DIALS's engines finish the factors of a problem; weights stay as they are.

    Raises:
        ValueError: If it stops away from the maximum.
    """
    refiner = DiffuseScaler(problem).perform_scaling(engine)
    problem.normalise()
    target = DiffuseTarget()  # an engine that finds nothing to do leaves no distance in its history
    target.evaluate(problem)
    distance = target.distance
    logger.info("%s stopped %.1e esd from the maximum: %s", engine, distance, refiner.history.reason_for_termination)
    if not distance < 0.1:
        raise ValueError(
            f"The engine {engine} stopped {distance:.2g} standard uncertainties from the maximum "
            f"({refiner.history.reason_for_termination}). Use scale.engine=newton."
        )
