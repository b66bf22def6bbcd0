from __future__ import annotations

import subprocess
import sys

import pytest
from dials.algorithms.scaling.model.components.scale_components import SingleScaleFactor
from dials.algorithms.scaling.model.model import ScalingModelBase
from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList

from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel, check_parameter_count, check_registered


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed():
    """Skips where a process that knows nothing of us does not find the entry point."""
    code = "from importlib.metadata import *; print([e.name for e in entry_points(group='dxtbx.scaling_model_ext')])"
    if "'diffuse'" not in run(code).stdout:
        pytest.skip("diffuse_dials is not installed in this DIALS (make setup)")


def test_the_model_is_one_of_dials():
    model = DiffuseScalingModel.from_scale(1.25, 0.02)
    assert isinstance(model, ScalingModelBase)
    assert isinstance(model.components["scale"], SingleScaleFactor)
    assert model.scale == 1.25 and model.scale_esd == 0.02 and model.n_params == 1 and model.is_scaled


@pytest.mark.parametrize(
    "first",
    ["import diffuse_dials.algorithms.scaling.model", "import dials.algorithms.scaling.model.model", "pass"],
    ids=["our module first", "DIALS's module first", "the file first"],
)
def test_a_fresh_process_reads_the_scale_back(installed, tmp_path, first):
    """The order of imports matters: DIALS loads our module while it is importing its own (dials-notes 1.6)."""
    models = [DiffuseScalingModel.from_scale(b, 0.01) for b in (0.5, 1.5)]
    experiments = ExperimentList([Experiment(scaling_model=model) for model in models])
    experiments.as_file(str(tmp_path / "scaled.expt"))
    code = (
        f"import diffuse_dials\n{first}\nfrom dxtbx.model.experiment_list import ExperimentListFactory as F\n"
        f"e = F.from_json_file({str(tmp_path / 'scaled.expt')!r}, check_format=False)\n"
        "print([(x.scaling_model.id_, x.scaling_model.scale, x.scaling_model.scale_esd) for x in e])"
    )
    done = run(code)
    assert done.stdout == "[('diffuse', 0.5, 0.01), ('diffuse', 1.5, 0.01)]\n", done.stderr


def test_dials_offers_the_model_to_its_own_scaling(installed):
    from dials.algorithms.scaling.model.model import model_phil_scope

    assert "diffuse" in model_phil_scope.as_str()
    params = model_phil_scope.extract()
    assert DiffuseScalingModel.from_data(params, None, None).scale == 1


def test_the_derivative_by_the_scale_is_one_for_every_observation():
    """DIALS's own component gives the same, in a loop."""
    ours = DiffuseScalingModel.from_scale(2.0, 0.1).components["scale"]
    theirs = SingleScaleFactor(flex.double([2.0]))
    for component in (ours, theirs):
        component.data = {"id": flex.int(7, 0)}
        component.update_reflection_data()
    for a, b in zip(ours.calculate_scales_and_derivatives(), theirs.calculate_scales_and_derivatives()):
        dense = [list(x.as_dense_matrix()) if hasattr(x, "as_dense_matrix") else list(x) for x in (a, b)]
        assert dense[0] == dense[1]


def test_an_experiment_keeps_the_model_on_its_way_through_a_file():
    check_registered()  # raises where DIALS would lose it


def test_more_parameters_than_five_and_one_per_still_are_refused():
    """The plan's guard: 5 + N for the model still, 5 + 2N for still_b."""
    check_parameter_count(15, n_stills=10, per_still=1)
    check_parameter_count(25, n_stills=10, per_still=2)
    with pytest.raises(ValueError, match="12 free parameters for 4 stills, more than 9"):
        check_parameter_count(12, n_stills=4, per_still=1)


def test_a_scale_that_is_not_positive_makes_no_model():
    with pytest.raises(ValueError, match="cannot have the scale"):
        DiffuseScalingModel.from_scale(0.0, 0.1)


def test_the_dictionary_of_another_model_is_refused():
    with pytest.raises(RuntimeError, match="expected __id__ diffuse"):
        DiffuseScalingModel.from_dict({"__id__": "KB"})
