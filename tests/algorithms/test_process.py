"""The steps of diffuse.process against the commands that they run."""

from __future__ import annotations

import fnmatch
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx.model import BeamFactory, Experiment, ExperimentList

from diffuse_dials.algorithms.process import STEPS, child
from diffuse_dials.algorithms.process.base import Run
from diffuse_dials.algorithms.process.conductor import conduct, parameters_of
from diffuse_dials.algorithms.process.integrating import Integrate
from diffuse_dials.algorithms.process.mapping import mask_name
from diffuse_dials.algorithms.process.state import State
from diffuse_dials.cli.process import _whole_names, phil_scope
from diffuse_dials.io.masks import load_mask, save_mask

TRAVELS = {"stills.csv", "integrated", "pixels.mask"}  # updated; a folder; see test_the_users_mask_...
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


def run_of(*given, **values):
    """A run with files on the command line and parameters (dots as __)."""
    import iotbx.phil

    text = "\n".join(f"{name.replace('__', '.')} = {value}" for name, value in values.items())
    return Run(phil_scope.fetch(iotbx.phil.parse(text)).extract(), given, phil_scope)


@pytest.mark.parametrize("step", OURS, ids=lambda step: step.name)
def test_ranks_of_mpi_are_for_the_steps_that_can_use_them(step):
    given = run_of("a.cbf", mp__method="mpi", mp__nproc=3, d_min=2)
    params = parameters_of(step(), given)
    if hasattr(params, "mp"):
        assert params.mp.method == ("mpi" if step.uses_mpi else "multiprocessing")
        assert getattr(params.mp, "nproc", 3) == 3  # diffuse.scale has ranks only
    assert given.params.mp.method == "mpi"


@pytest.mark.parametrize("step", OURS, ids=lambda step: step.name)
def test_a_step_says_which_files_its_command_writes(step):
    output = import_module(step.module).phil_scope.extract().output
    names = [str(getattr(output, name)) for name in dir(output) if not name.startswith("_")]
    written = {name for name in names if "." in name} - TRAVELS
    assert written
    assert not [name for name in written if not any(fnmatch.fnmatch(name, pattern) for pattern in step.writes)]


def test_an_input_with_the_name_of_an_output_is_refused(run_in_tmp_path):
    for name in ("still.cbf", "map.mtz", "merged.expt"):
        Path(name).write_text("")
    ExperimentList([Experiment(beam=BeamFactory.simple(1.0))]).as_file("masked.expt")
    table = flex.reflection_table()
    table["intensity.scale.value"] = flex.double(1)
    table.as_file("merged.refl")
    with pytest.raises(ValueError, match="diffuse.make_mask would write masked.expt, and masked.expt is an input"):
        conduct(run_of("masked.expt"))
    with pytest.raises(ValueError, match="diffuse.export would write map.*absolute.reference.file=map.mtz is an input"):
        conduct(run_of("still.cbf", absolute__reference__file="map.mtz"))
    assert not Path("process.json").exists()
    Path("diffuse.export.phil").write_text("export.format = mtz")
    with pytest.raises(ValueError, match="diffuse.export.phil, which is a file of yours"):
        conduct(run_of("merged.expt", "merged.refl", start_from="merged"))
    assert Path("diffuse.export.phil").read_text() == "export.format = mtz"


def test_files_that_do_not_fit_the_stage_are_refused_in_one_line(run_in_tmp_path):
    for name in ("a.cbf", "a.expt", "a.refl", "a.h5"):
        Path(name).write_text("")
    wrong = {
        "images": ["a.refl"], "integrated": ["a.expt"], "gridded": ["a.refl"], "scaled": ["a.h5", "a.expt"],
        "merged": ["a.cbf"],
    }  # fmt: skip
    table = flex.reflection_table()
    table["miller_index"] = flex.miller_index([(1, 2, 3)])
    table.as_file("gridded.refl")
    for stage, what in ("integrated", "spots"), ("merged", "map"):
        with pytest.raises(ValueError, match=f"^start_from={stage} asks for [^\n]*gridded.refl holds no {what}. Give"):
            conduct(run_of("a.expt", "gridded.refl", start_from=stage))
    for stage, given in wrong.items():
        with pytest.raises(ValueError, match=f"^start_from={stage} asks for [^\n]*Give those, or another start_from.$"):
            conduct(run_of(*given, start_from=stage))
        with pytest.raises(ValueError, match="No files were given"):
            conduct(run_of(start_from=stage))
    with pytest.raises(ValueError, match="There is no file b.cbf"):
        conduct(run_of("a.cbf", "b.cbf"))
    with pytest.raises(ValueError, match="^a.expt cannot be read as a DIALS experiment list [^\n]*$"):
        conduct(run_of("a.expt"))
    with pytest.raises(ValueError, match="mp.method=mpi needs mp.launcher"):
        conduct(run_of("a.cbf", mp__method="mpi"))


def test_several_masks_are_one_mask_for_the_integration_written_only_when_it_changes(run_in_tmp_path, rng):
    masks = [[rng.random((3, 4)) > 0.2, rng.random((2, 5)) > 0.2] for _ in range(3)]
    for number, mask in enumerate(masks):
        save_mask(mask, f"{number}.mask")
    given = run_of("a.cbf", input__mask="0.mask\ninput.mask = 1.mask\ninput.mask = 2.mask")

    def mask_of_the_integration():
        step = Integrate()
        params = step.scope.extract()
        step.adapt(params, given)
        lookups = params.stills_process.spotfinder.lookup, params.stills_process.integration.lookup
        assert lookups[0].mask == lookups[1].mask
        return Path(lookups[0].mask)

    written = mask_of_the_integration()
    for found, panels in zip(load_mask(written, [(3, 4), (2, 5)]), zip(*masks)):
        assert np.array_equal(found, panels[0] & panels[1] & panels[2])
    before = written.stat().st_ino
    assert mask_of_the_integration().stat().st_ino == before
    save_mask([np.ones((3, 4), bool), np.ones((2, 5), bool)], "2.mask")
    assert mask_of_the_integration().stat().st_ino != before
    save_mask([np.ones((3, 4), bool)], "1.mask")
    with pytest.raises(ValueError, match="1.mask has 1 panel"):
        mask_of_the_integration()


STOPPED = """
import time
from pathlib import Path
from diffuse_dials.algorithms.running.parallel import each
from diffuse_dials.io.atomic import replacing

def write(path):
    with replacing(path) as partial:
        partial.write_text("half")
        try:
            time.sleep(60)
        finally:  # as a large file is closed
            time.sleep(0.5)
            Path("closed").touch()

def run():
    if Path("parallel").exists():
        list(each(write, ["map"], 1, "maps"))
    write("map")
"""


@pytest.mark.parametrize("parallel", [False, True])
def test_a_step_that_is_told_twice_to_stop_leaves_nothing_half_written(parallel, run_in_tmp_path):
    """SIGTERM to a group reaches the step at once, and again from diffuse.process."""
    Path("stopped_step.py").write_text(STOPPED)
    if parallel:
        Path("parallel").touch()
    code = child._CODE.format(root=str(run_in_tmp_path), module="stopped_step")
    step = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    while not list(Path().glob(".map*")):
        time.sleep(0.01)
    for _ in range(2):
        step.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    _, said = step.communicate(timeout=30)
    assert Path("closed").exists() and not list(Path().glob("*map*")) and not list(Path().glob(".map*"))
    assert step.returncode == 143 or b"told to stop" in said
