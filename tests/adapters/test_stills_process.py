"""On one SNase still; the counts come from the integrated files that the pack brings, made by dials.stills_process."""

from __future__ import annotations

import pytest
from dials.array_family import flex
from dials.util import Sorry

from diffuse_dials import phil_folder
from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.adapters.stills_process import process_stills, run

PHIL = str(phil_folder() / "snase" / "stills_process.phil")


@pytest.fixture
def still(shared_data, run_in_tmp_path):
    """Arguments for the first SNase still, in an empty working folder."""
    snase = shared_data("snase")
    image, reference = snase / "images" / "snc_newhead_00001.img", snase / "reference_geometry.expt"
    return [str(image), PHIL, f"input.reference_geometry={reference}"]


def test_a_still_is_integrated_as_dials_does_and_the_pair_is_named(still, shared_data):
    [stills] = process_stills([*still, f"spotfinder.lookup.mask={shared_data('snase') / 'pixels.mask'}"])
    crystal = load_experiments(stills.experiments)[0].crystal
    expected = load_experiments(shared_data("snase") / "integrated.expt")[0].crystal
    assert stills.n_lattices == 1
    assert crystal.get_unit_cell().parameters() == pytest.approx(expected.get_unit_cell().parameters(), rel=2e-3)
    n_expected = (flex.reflection_table.from_file(str(shared_data("snase") / "integrated.refl"))["id"] == 0).count(True)
    assert len(flex.reflection_table.from_file(str(stills.reflections))) == pytest.approx(n_expected, rel=0.1)


def test_a_run_that_integrates_nothing_fails_and_does_not_take_an_earlier_runs_files_for_its_own(still, shared_data):
    process_stills(still)
    with pytest.raises(ValueError, match="sigma_b_cutoff"):
        process_stills([*still, "sigma_b_cutoff=1e-6"])
    with pytest.raises(ValueError, match="None was indexed: check indexing.known_symmetry.unit_cell"):
        process_stills([*still, "unit_cell=11,12,13,90,90,90", "space_group=P222"])


def test_a_missing_image_is_named(run_in_tmp_path):
    with pytest.raises(ValueError, match="absent.cbf is no file"):
        process_stills(["absent.cbf"])


def test_a_broken_parameter_file_is_named(still):
    with open("broken.phil", "w") as file:
        file.write("indexing {\n")
    with pytest.raises(ValueError, match="broken.phil is no PHIL file"):
        process_stills([*still, "broken.phil"])


def test_workers_that_would_overwrite_each_others_files_are_refused(still):
    with pytest.raises(ValueError, match="Put %s into both names"):
        process_stills([*still, "mp.nproc=2", "integrated_filename=integrated.refl"])


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="was given no images"):
        process_stills([PHIL])


def test_the_module_turns_an_error_into_one_line(run_in_tmp_path):
    with pytest.raises(Sorry, match="^absent.cbf is no file[^\n]*$"):
        run(["absent.cbf"])
