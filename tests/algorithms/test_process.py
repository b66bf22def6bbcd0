"""The steps of diffuse.process against the commands that they run."""

from __future__ import annotations

from importlib import import_module

import pytest

from diffuse_dials.algorithms.process import STEPS
from diffuse_dials.algorithms.process.base import Run
from diffuse_dials.algorithms.process.mapping import mask_name
from diffuse_dials.algorithms.process.state import State
from diffuse_dials.cli.process import _whole_names, phil_scope

OURS = [step for step in STEPS if step.module.startswith("diffuse_dials")]


def paths(scope):
    return {found.path for found in scope.all_definitions()}


@pytest.mark.parametrize("step", OURS, ids=lambda step: step.name)
def test_a_step_has_the_parameters_of_its_command(step):
    command = {path for path in paths(import_module(step.module).phil_scope) if not path.startswith("output.")}
    left_out = {"integrate": {"resume"}, "make_mask": {"d_min", "d_max"}}.get(step.name, set())
    assert paths(step().scope) == command - left_out
    assert paths(step().scope) <= paths(phil_scope)


def test_the_ends_of_our_names_never_mean_a_parameter_of_stills_process():
    given = ["d_min=2", "mask=a.mask", "background=b.expt", "unit_cell=1,2,3,90,90,90"]
    whole = ["d_min=2", "input.mask=a.mask", "input.background=b.expt", "unit_cell=1,2,3,90,90,90"]
    assert _whole_names(given, phil_scope) == whole


def test_a_step_is_done_until_its_key_or_a_file_changes(run_in_tmp_path):
    (run_in_tmp_path / "map").write_text("1")
    state = State(resume=False)
    state.begin("grid", "key", "diffuse.grid")
    assert state.was_interrupted("grid", "key") and not state.is_done("grid", "key")
    state.end("grid", ["map"], 1.0)
    assert state.is_done("grid", "key") and not state.is_done("grid", "other")
    (run_in_tmp_path / "map").write_text("12")
    assert not state.is_done("grid", "key")


def test_the_users_mask_of_our_name_is_not_overwritten(run_in_tmp_path):
    params = phil_scope.extract()
    assert mask_name(Run(params, (), phil_scope)) == "pixels.mask"
    params.input.mask = [str(run_in_tmp_path / "pixels.mask")]
    assert mask_name(Run(params, (), phil_scope)) == "pixels_made.mask"
    params.input.mask = [str(run_in_tmp_path / "earlier" / "pixels.mask")]
    assert mask_name(Run(params, (), phil_scope)) == "pixels.mask"
