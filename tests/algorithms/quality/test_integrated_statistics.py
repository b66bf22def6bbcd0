"""Statistics of integrated stills against the tables of DIALS, and what stills.csv says of images that were lost."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx.model import Beam, Crystal, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.adapters.experiments import load_experiments, save_experiments
from diffuse_dials.algorithms.quality.integrated_statistics import integrated_statistics


def test_numbers_of_real_stills_are_those_of_the_reflection_table(shared_data):
    """Spots, rmsd and cells of the SNase stills, worked out here from DIALS's columns one by one."""
    folder = shared_data("snase")
    names = [str(folder / f"integrated.{suffix}") for suffix in ("expt", "refl")]
    found = integrated_statistics(names[:1], names[1:])
    table, experiments = flex.reflection_table.from_file(names[1]), load_experiments(names[0])
    assert found.images.n_images is None and found.images.n_integrated == len(experiments)
    for number in range(len(experiments)):
        part = table.select(table["id"] == number)
        assert found.n_integrated[number] == part.get_flags(part.flags.integrated_sum).count(True)
        used = part.select(part.get_flags(part.flags.used_in_refinement))
        x, y, _ = (used["xyzobs.px.value"] - used["xyzcal.px"]).parts()
        assert found.rmsd[number] == pytest.approx(flex.mean(x * x + y * y) ** 0.5, rel=1e-9)
        assert found.cells[number] == pytest.approx(experiments[number].crystal.get_unit_cell().parameters())
    assert found.placeholder and found.partiality.sum() == len(table)
    mean = np.mean([experiment.crystal.get_unit_cell().parameters()[0] for experiment in experiments])
    assert found.cell_rows()[0][1] == f"{mean:.4f}"


@pytest.fixture
def stills(run_in_tmp_path):
    """Three images of which two are integrated, one with two lattices; the table has real partialities."""
    still = {"__id__": "Experiment", "beam": 0}
    imageset = {"__id__": "ImageSet", **dict.fromkeys(("mask", "gain", "pedestal", "dx", "dy")), "params": {}}
    content = {
        "__id__": "ExperimentList",
        "experiment": [{**still, "identifier": name, "imageset": i} for i, name in ((0, "a"), (0, "b"), (1, "c"))],
        "imageset": [{**imageset, "images": [f"{i}.cbf"]} for i in range(2)],
        "beam": [Beam((0, 0, 1), 1.0).to_dict()],
        **{model: [] for model in ("detector", "goniometer", "scan", "crystal", "profile", "scaling_model")},
    }
    experiments = ExperimentList(ExperimentListFactory.from_dict(content, check_format=False))
    for experiment, a in zip(experiments, (40.0, 41.0, 42.0)):
        experiment.crystal = Crystal((a, 0, 0), (0, a, 0), (0, 0, 60), "P1")
    save_experiments(experiments, "integrated.expt")
    table = flex.reflection_table()
    table["id"] = flex.int([0, 0, 1, 2])
    table["flags"] = flex.size_t(4, table.flags.integrated_sum | table.flags.indexed)
    table["partiality"] = flex.double([0.1, 0.2, 0.3, 1.0])
    for number, name in enumerate("abc"):
        table.experiment_identifiers()[number] = name
    table.as_file("integrated.refl")
    images = [str((run_in_tmp_path / f"{i}.cbf").resolve()) for i in range(3)]
    with open("stills.csv", "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        names = ("identifier", "image", "index", "lattice", "reason", "n_spots", "n_indexed", "n_integrated", "rmsd")
        rows.writerow(names)
        rows.writerow(("a", images[0], 0, 0, "", 90, 50, 60, 0.3))
        rows.writerow(("b", images[0], 0, 1, "", 90, 30, 35, 0.4))
        rows.writerow(("c", images[1], 0, 0, "", 80, 70, 75, 0.5))
        rows.writerow(("d", images[2], 0, 0, "not indexed: no lattice", 20, "", "", ""))
    return run_in_tmp_path


def test_the_indexing_rate_counts_images_not_lattices(stills):
    found = integrated_statistics(["integrated.expt"], ["integrated.refl"], "stills.csv")
    assert found.images.n_images == 3 and found.images.n_indexed == 2 and found.images.n_integrated == 2
    assert found.images.indexing_rate == pytest.approx(2 / 3)
    assert found.images.reasons == {"not indexed": 1}
    assert len(found.labels) == 3
    assert list(found.n_spots) == [90, 90, 80] and list(found.n_integrated) == [2, 1, 1]


def test_residuals_are_those_that_were_recorded_after_refinement(stills):
    found = integrated_statistics(["integrated.expt"], ["integrated.refl"], "stills.csv")
    assert list(found.rmsd) == [0.3, 0.4, 0.5] and "stills.csv" in found.rmsd_source
    assert np.isnan(integrated_statistics(["integrated.expt"], ["integrated.refl"]).rmsd).all()


def test_partialities_that_a_model_gives_are_no_placeholder(stills):
    found = integrated_statistics(["integrated.expt"], ["integrated.refl"])
    assert not found.placeholder
    assert found.partiality.sum() == 4 and found.partiality[-1] == 1


def test_cells_have_mean_and_standard_deviation(stills):
    numbers = integrated_statistics(["integrated.expt"], []).to_dict()
    assert numbers["cell_mean"]["a"] == pytest.approx(41) and numbers["cell_sd"]["a"] == pytest.approx(1)
    assert numbers["median_n_integrated"] is None


def test_files_without_crystals_are_refused(stills):
    experiments = load_experiments("integrated.expt")
    experiments[0].crystal = None
    save_experiments(experiments, "other.expt")
    with pytest.raises(ValueError, match="other.expt has stills without a crystal"):
        integrated_statistics(["other.expt"], [])
