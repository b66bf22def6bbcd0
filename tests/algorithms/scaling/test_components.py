"""Components against simulated truth: 500 stills, scales 0.3 to 3, a map of 20 % contrast, Poisson counts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from dials.algorithms.scaling.model.components.scale_components import ScaleComponentBase
from dials.array_family import flex
from dxtbx.model import BeamFactory, Detector, DetectorFactory, Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.algorithms.scaling import components
from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks, make_shells
from diffuse_dials.algorithms.scaling.cells import make_cells
from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS, Component
from diffuse_dials.algorithms.scaling.errors import parameter_esds
from diffuse_dials.algorithms.scaling.fit import Fitter
from diffuse_dials.algorithms.scaling.refine import _models
from diffuse_dials.algorithms.scaling.validation import validate

N_STILLS = 500


def detector_cells(n_panels=1, n_stills=N_STILLS, order=None, n_order=1):
    """Cells of a detector of one panel, or of panels side by side."""
    beam = BeamFactory.simple(1.0)
    width = 1000 // n_panels
    detector = Detector()
    for number in range(n_panels):
        centre = (85.0 - number * width * 0.172, 86.0)
        panel = DetectorFactory.simple("PAD", 150.0, centre, "+x", "-y", (0.172, 0.172), (width, 1000), (-1, 1e6))
        detector.add_panel(panel[0])
    return make_cells(detector, beam, True, order, n_stills, n_order)


@pytest.fixture
def simulate_blocks(rng):
    """Observations of 500 stills, voxels drawn at random, each at a random place of the detector."""

    def make(
        per_still, n_voxels, mean, delta_b=0.0, offset=0.0, cells=None, factor=None, n_stills=N_STILLS, contrast=0.2
    ):
        s = np.sort(np.cbrt(rng.uniform(0.1**3, 0.5**3, n_voxels)))
        isotropic = np.exp(-4 * s)
        isotropic *= mean / isotropic.mean()
        intensity = isotropic * (1 + contrast * rng.standard_normal(n_voxels)).clip(0.2)
        scale = np.exp(rng.uniform(np.log(0.3), np.log(3), n_stills))
        scale /= scale.mean()
        falloff = delta_b * rng.standard_normal(n_stills)
        falloff -= falloff.mean()
        # in proportion to the scale, so that no expectation is negative
        added = offset * scale[:, None] * rng.standard_normal((n_stills, 1))
        added -= added.mean()
        voxel = np.sort(rng.integers(0, n_voxels, (n_stills, per_still)), axis=1).ravel().astype(np.int32)
        still = np.repeat(np.arange(n_stills), per_still)
        response = rng.uniform(0.5, 1.5, len(voxel))
        cell = np.empty(0, dtype=np.int32)
        corrected = response
        if cells is not None:
            cell = rng.integers(0, len(cells), len(voxel)).astype(np.int32)
            cell += (cells.bin_of_still[still] - cell % cells.n_order).astype(np.int32)
            corrected = response * (factor[cell] if factor is not None else 1)
        t = scale[still] * np.exp(-falloff[still] * s[voxel] ** 2 / 2)
        expected = corrected * (t * intensity[voxel] + added[still, 0] * isotropic[voxel])
        counts = rng.poisson(expected.clip(0)).astype(np.float32)
        shells = make_shells(s, np.ones(n_voxels, dtype=bool))
        starts = np.arange(n_stills + 1) * per_still
        blocks = ScaleBlocks(starts, voxel, counts, response.astype(np.float32), cell, shells, np.empty((0, 0)))
        truth = SimpleNamespace(scale=scale, falloff=falloff, offset=added[:, 0], s_max=s.max())
        return blocks, truth

    return make


def named(problem, name):
    return next(c for c in problem.components if c.name == name)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def test_scales_come_to_the_counting_limit(simulate_blocks, options):
    """Pull width 1 within 4/sqrt(2N); 0.5 % rms with 8e4 photons in the mean still."""
    blocks, truth = simulate_blocks(per_still=1000, n_voxels=20_000, mean=80.0)
    problem = Fitter(None, options(), truth.s_max)(blocks, ["scale"])
    scale, esd = problem.t[:, 0], parameter_esds(problem)[0][0][:, 0]
    error = scale / truth.scale - 1
    assert rms(error) < 0.005
    assert (error / esd).std() == pytest.approx(1, abs=4 / np.sqrt(2 * N_STILLS))


def test_a_fall_off_of_each_still_comes_to_the_counting_limit(simulate_blocks, options):
    """model=still_b: pull widths 1 within 4/sqrt(2N) for scale and ΔB, whose sum is 0."""
    blocks, truth = simulate_blocks(per_still=1000, n_voxels=20_000, mean=10.0, delta_b=3.0)
    problem = Fitter(None, options(), truth.s_max)(blocks, ["scale", "falloff"])
    esds, _ = parameter_esds(problem)
    width = pytest.approx(1, abs=4 / np.sqrt(2 * N_STILLS))
    falloff = named(problem, "falloff").values[:, 0]
    scale = np.exp(named(problem, "scale").values[:, 0])
    assert ((falloff - truth.falloff) / esds[1][:, 0]).std() == width
    assert ((scale - truth.scale) / (scale * esds[0][:, 0])).std() == width
    assert falloff.sum() == pytest.approx(0, abs=1e-9)


def test_panel_factors_come_back_to_one_percent(simulate_blocks, options, rng):
    """Factors of ±10 %, mean 1, over 16 panels."""
    cells = detector_cells(16)
    panels = rng.uniform(0.9, 1.1, 16)
    panels /= panels[cells.panel].mean()
    blocks, truth = simulate_blocks(1000, 20_000, 5.0, cells=cells, factor=panels[cells.panel])
    problem = Fitter(cells, options(), truth.s_max)(blocks, ["scale", "panel"])
    found = named(problem, "panel").values[0]
    assert rms(found / panels - 1) < 0.01
    assert rms(problem.t[:, 0] / truth.scale - 1) < 0.02  # 5000 photons in the mean still


def test_a_surface_over_the_detector_comes_back_to_two_percent(simulate_blocks, options):
    cells = detector_cells()
    surface = 1 + 0.1 * np.sin(5 * cells.x) * np.cos(4 * cells.y)
    surface /= surface.mean()
    blocks, truth = simulate_blocks(1000, 20_000, 5.0, cells=cells, factor=surface)
    problem = Fitter(cells, options(), truth.s_max)(blocks, ["scale", "surface"])
    assert rms(named(problem, "surface").table() / surface - 1) < 0.02


def test_a_surface_may_change_with_the_order_of_the_stills(simulate_blocks, options):
    cells = detector_cells(order=np.arange(float(N_STILLS)), n_order=8)
    change = cells.order / N_STILLS - 0.5
    surface = 1 + 0.2 * change * np.sin(5 * cells.x)
    blocks, truth = simulate_blocks(1000, 20_000, 5.0, cells=cells, factor=surface)
    problem = Fitter(cells, options(), truth.s_max)(blocks, ["scale", "surface"])
    assert rms(named(problem, "surface").table() / surface - 1) < 0.02


def test_an_offset_of_each_still_and_its_scale_are_told_apart_by_the_contrast_of_the_map(simulate_blocks, options):
    """Ignored, offsets of 10 % go into the scales whole. Refined, both come to what the contrast allows."""
    blocks, truth = simulate_blocks(1000, 5000, 40.0, offset=0.1, n_stills=100, contrast=0.4)
    fit = Fitter(None, options(), truth.s_max)
    without = fit(blocks, ["scale"]).t[:, 0]
    problem = fit(blocks, ["scale", "offset"])
    esds, _ = parameter_esds(problem)
    scale = problem.t[:, 0]
    assert rms(without / truth.scale - 1) > 0.1
    assert rms(scale / truth.scale - 1) < 0.05
    assert ((scale - truth.scale) / (scale * esds[0][:, 0])).std() == pytest.approx(1, abs=4 / np.sqrt(200))
    found = problem.a / problem.reference
    assert rms(found.mean(axis=1) - truth.offset) < 0.03


def test_components_run_together(simulate_blocks, options, rng):
    """Panels, a surface, fall-offs: the product of the detector's factors comes back to 2 %."""
    cells = detector_cells(4)
    factor = rng.uniform(0.9, 1.1, 4)[cells.panel] * (1 + 0.1 * np.sin(5 * cells.y))
    factor /= factor.mean()
    blocks, truth = simulate_blocks(1000, 20_000, 10.0, delta_b=3.0, offset=0.0, cells=cells, factor=factor)
    problem = Fitter(cells, options(), truth.s_max)(blocks, ["scale", "falloff", "panel", "surface"])
    product = problem.p / problem.p.mean()
    assert rms(product / factor - 1) < 0.02
    assert rms(named(problem, "falloff").values[:, 0] - truth.falloff) < 1.0


@pytest.mark.parametrize("name", ["falloff", "panel", "surface", "offset"])
def test_where_nothing_was_applied_cross_validation_rejects_a_component(simulate_blocks, options, name):
    cells = detector_cells(4, n_stills=60)
    blocks, truth = simulate_blocks(600, 3000, 5.0, cells=cells, n_stills=60)
    verdict = validate(name, ["scale", name], blocks, Fitter(cells, options(tolerance=1e-5), truth.s_max))
    assert not verdict.earned


@pytest.mark.parametrize("name", ["falloff", "panel", "surface", "offset"])
def test_what_was_applied_earns_its_parameters(simulate_blocks, options, name):
    cells = detector_cells(4, n_stills=60)
    factor = {"panel": np.array([0.9, 1.1, 0.95, 1.05])[cells.panel], "surface": 1 + 0.1 * np.sin(8 * cells.y)}
    blocks, truth = simulate_blocks(
        600, 3000, 20.0, cells=cells, n_stills=60, factor=factor.get(name), delta_b=5.0 * (name == "falloff"),
        offset=0.2 * (name == "offset"), contrast=0.4,
    )  # fmt: skip
    verdict = validate(name, ["scale", name], blocks, Fitter(cells, options(tolerance=1e-5), truth.s_max))
    assert verdict.earned


def test_every_component_is_read_back_from_a_file(simulate_blocks, options, tmp_path):
    cells = detector_cells(2, n_stills=20)
    blocks, truth = simulate_blocks(300, 500, 20.0, cells=cells, n_stills=20)
    fit = Fitter(cells, options(tolerance=1e-4), truth.s_max)
    problem = fit(blocks, list(SCALE_COMPONENTS))
    esds, method = parameter_esds(problem)
    models = _models(problem, esds, method, fit.layout, range(20))
    ExperimentList([Experiment(scaling_model=models[i]) for i in (0, 7)]).as_file(str(tmp_path / "scaled.expt"))
    back = ExperimentListFactory.from_json_file(str(tmp_path / "scaled.expt"), check_format=False)
    for i, experiment in zip((0, 7), back):
        assert list(experiment.scaling_model.components) == list(SCALE_COMPONENTS)
        for name, component in experiment.scaling_model.components.items():
            assert list(component.parameters) == pytest.approx(list(models[i].components[name].parameters))
            assert isinstance(component, ScaleComponentBase)
    surfaces = [model.components["surface"].configuration() for model in (back[1].scaling_model, models[7])]
    assert surfaces[0] == surfaces[1]


def test_a_new_component_is_one_class_in_the_registry(simulate_blocks, options, monkeypatch):
    """A loss towards high angles of every still, in a form that nothing built in has."""

    class Quartic(Component, ScaleComponentBase):
        """exp(θ |s|⁴) of a still."""

        name = "quartic"
        kind = "still"

        @classmethod
        def columns(cls, layout):
            return layout.s[:, None] ** 4

    monkeypatch.setitem(SCALE_COMPONENTS, "quartic", Quartic)
    blocks, truth = simulate_blocks(1000, 5000, 20.0, n_stills=50)
    fit = Fitter(None, options(tolerance=1e-5), truth.s_max)
    problem = fit(blocks, ["scale", "quartic"])
    assert rms(problem.t.mean(axis=1) / truth.scale - 1) < 0.03
    assert not validate("quartic", ["scale", "quartic"], blocks, fit).earned
    model = _models(problem, *parameter_esds(problem), fit.layout, range(50))[3]
    assert list(model.components["quartic"].parameters) == named(problem, "quartic").values[3].tolist()
    assert isinstance(model.components["quartic"].parameters, flex.double)
    assert components.SCALE_COMPONENTS is SCALE_COMPONENTS
