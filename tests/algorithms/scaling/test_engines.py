from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.scaling import active_parameter_managers, scaler, scaling_refiner, target_function

from diffuse_dials.algorithms.scaling import engines
from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS, Layout, Stacked
from diffuse_dials.algorithms.scaling.newton import start
from diffuse_dials.algorithms.scaling.problem import Problem


@pytest.fixture
def problem(simulate, make_blocks, options):
    """Scales and fall-offs of 30 stills at their starting values."""
    truth = simulate(n_stills=30, n_voxels=3000, multiplicity=8, mean=3.0, background=1.0)
    blocks = make_blocks(truth.sums, truth.s, 30)
    n_shells = len(blocks.shells)
    layout = Layout(blocks.shells.s, np.ones(n_shells), None, options(), truth.s.max())
    found = Problem(blocks, [Stacked(SCALE_COMPONENTS[name], layout, 30) for name in ("scale", "falloff")])
    start(found)
    found.reweight()
    return found


def test_the_machinery_is_that_of_dials():
    assert issubclass(engines.DiffuseTarget, target_function.ScalingTarget)
    assert issubclass(engines.DiffuseScaler, scaler.MultiScalerBase)
    assert issubclass(engines.DiffuseParameterManager, active_parameter_managers.multi_active_parameter_manager)
    assert issubclass(engines.ENGINES["SimpleLBFGS"], scaling_refiner.ScalingSimpleLBFGS)
    assert issubclass(engines.ENGINES["GaussNewton"], scaling_refiner.ScalingGaussNewtonIterations)
    assert issubclass(engines.ENGINES["LevMar"], scaling_refiner.ScalingLevenbergMarquardtIterations)


def test_the_gradient_is_that_of_the_objective(problem):
    """Against finite differences of the objective."""
    target = engines.DiffuseTarget()
    here = problem.vector
    _, gradient = target.compute_functional_gradients(problem)
    for place, step in ((0, 1e-4), (1, 1e-2), (17, 1e-2), (40, 1e-4)):
        values = []
        for sign in (1, -1):
            shifted = here.copy()
            shifted[place] += sign * step
            problem.vector = shifted
            values.append(target.evaluate(problem)[0])
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient[place], rel=1e-3, abs=0.5)


@pytest.mark.parametrize("engine", ["SimpleLBFGS", "GaussNewton", "LevMar"])
def test_every_engine_comes_to_the_same_maximum(problem, engine):
    """That of the Newton steps, at the same weights, to a thousandth of the uncertainties."""
    from diffuse_dials.algorithms.scaling.newton import maximise

    engines.finish_with(engine, problem)
    found, weights = problem.vector, problem.weights
    unit = engines.DiffuseParameterManager(engines.DiffuseTarget(), problem).unit
    problem.reweight = lambda: None
    maximise(problem, 1e-9, 50)
    assert all(np.array_equal(a, b) for a, b in zip(weights, problem.weights))
    assert np.abs((found - problem.vector) / unit).max() < 0.01
    newton = problem.vector
    engines.finish_with(engine, problem)  # nothing is left to do
    assert np.abs((newton - problem.vector) / unit).max() < 0.01


def test_a_matrix_of_too_many_parameters_is_refused(problem, monkeypatch):
    monkeypatch.setattr(engines, "MAX_MATRIX", 10)
    with pytest.raises(ValueError, match="60 parameters, more than 10"):
        engines.finish_with("LevMar", problem)
