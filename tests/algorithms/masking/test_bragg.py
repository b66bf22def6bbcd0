"""Bragg masks against brute force, and against DIALS's predictions and shoeboxes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from dials.algorithms.shoebox import MaskCode
from dials.array_family import flex
from dxtbx.model import Crystal, Experiment
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.phil import parse

from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking import BRAGG_MASKS, extraction_phil_scope, phil_scope
from diffuse_dials.algorithms.masking.bragg import LatticeMask, distances_in_a_cell
from diffuse_dials.algorithms.masking.spot_masks import PredictedMask, ShoeboxMask
from diffuse_dials.algorithms.masking.spots import paint_shoeboxes


def options(text=""):
    """The masking.bragg parameters with some of them given."""
    return phil_scope.fetch(parse(f"masking.bragg {{ {text} }}")).extract().masking.bragg


@pytest.fixture(scope="module")
def snase(shared_data):
    folder = shared_data("snase")
    experiments = ExperimentListFactory.from_json_file(str(folder / "integrated.expt"), check_format=False)
    return experiments[0], folder


def pixels_of(experiment, panel=0):
    """(shape, s, hkl) of a panel."""
    geometry = pixel_geometry(experiment.detector[panel], beam_direction(experiment.beam))
    s = geometry.s_vectors(experiment.beam.get_wavelength())
    return geometry.shape, s, s @ np.linalg.inv(setting_matrix(experiment)).T


def distance_to_lattice(a_matrix, s, hkl, allowed=lambda h: True):
    """Brute force: the smallest |s - A h| over all lattice points about each pixel."""
    best = np.full(len(s), np.inf)
    base = np.floor(hkl)
    for step in itertools.product((-1, 0, 1, 2), repeat=3):
        h = base + step
        d = np.linalg.norm(s - h @ a_matrix.T, axis=1)
        best = np.where(allowed(h), np.minimum(best, d), best)
    return best


@pytest.mark.parametrize("cell, group", [
    ((40, 50, 60, 90, 90, 90), "P 21 21 21"),
    ((90, 90, 130, 90, 90, 120), "P 61 2 2"),
    ((45, 55, 65, 80, 100, 110), "P 1"),
])  # fmt: skip
def test_a_fixed_radius_masks_what_brute_force_finds_near_the_lattice(rng, make_still, cell, group):
    experiment = make_still(cell, group)
    shape, s, hkl = pixels_of(experiment)
    kept = LatticeMask.from_phil(options("radius = 0.003"), experiment).keep(0, shape, s, hkl)
    distance = distance_to_lattice(setting_matrix(experiment), s, hkl)
    np.testing.assert_array_equal(kept, distance >= 0.003)
    assert 0.01 < np.mean(~kept) < 0.6


def test_lattice_points_that_a_centring_extinguishes_are_not_masked(make_still):
    experiment = make_still((60, 70, 80, 90, 90, 90), "C 2 2 21")
    shape, s, hkl = pixels_of(experiment)
    kept = LatticeMask.from_phil(options("radius = 0.003"), experiment).keep(0, shape, s, hkl)
    even = distance_to_lattice(setting_matrix(experiment), s, hkl, lambda h: (h[:, 0] + h[:, 1]) % 2 == 0)
    np.testing.assert_array_equal(kept, even >= 0.003)


def test_auto_radius_is_the_formula_of_its_docstring(make_still):
    """σ² = (0.4/D)² + (η|s|)² + (point spread x pixel/(λ r))², worked out here from laboratory coordinates."""
    experiment = make_still((78.5, 78.5, 37.8, 90, 90, 90), "P 43 21 2", half_mosaicity=0.1, domain_size=800)
    shape, s, hkl = pixels_of(experiment)
    mask = LatticeMask.from_phil(options("radius_sigmas = 2.5"), experiment)
    panel, wavelength = experiment.detector[0], experiment.beam.get_wavelength()
    r = pixel_geometry(panel, beam_direction(experiment.beam)).distance
    eta = math.radians(0.1) / 2
    footprint = 0.7 * panel.get_pixel_size()[0] / (wavelength * r)
    radius = 2.5 * np.sqrt((0.4 / 800) ** 2 + (eta * np.linalg.norm(s, axis=1)) ** 2 + footprint**2)
    distance = distance_to_lattice(setting_matrix(experiment), s, hkl)
    expected = distance >= np.minimum(radius, mask.largest)
    assert np.mean(mask.keep(0, shape, s, hkl) == expected) > 0.9999  # rounding at the rim
    assert mask.describe()["method"] == "lattice" and mask.describe()["radius"] == "Auto"


def test_auto_radius_leaves_pixels_however_mosaic_the_crystal(make_still):
    experiment = make_still((40, 50, 200, 90, 90, 90), "P 21 21 21", half_mosaicity=5.0, domain_size=50)
    shape, s, hkl = pixels_of(experiment)
    mask = LatticeMask.from_phil(options(), experiment)
    assert mask.limited_above() == 0.0
    assert np.mean(mask.keep(0, shape, s, hkl)) == pytest.approx(0.6, abs=0.05)


def test_a_radius_that_leaves_nothing_is_refused(make_still):
    with pytest.raises(ValueError, match="leaves no pixel"):
        LatticeMask.from_phil(options("radius = 0.1"), make_still((40, 50, 60, 90, 90, 90), "P 1"))


def test_distances_in_a_cubic_cell_have_the_volume_of_a_ball():
    """Analytic: the fraction nearer than r = 0.4 a* is 4/3 π 0.4³ = 0.2681; the farthest point is √3/2 a* away."""
    distances = distances_in_a_cell(np.eye(3) * 0.01**2, steps=48)
    assert np.mean(distances < 0.004) == pytest.approx(4 / 3 * math.pi * 0.4**3, abs=0.005)
    assert distances.max() == pytest.approx(0.01 * math.sqrt(3) / 2, rel=0.03)


def test_subsets_of_pixels_are_masked_as_the_whole_panel_is(make_still):
    experiment = make_still((78.5, 78.5, 37.8, 90, 90, 90), "P 43 21 2")
    shape, s, hkl = pixels_of(experiment)
    mask = LatticeMask.from_phil(options(), experiment)
    np.testing.assert_array_equal(mask.keep(0, shape, s[7::5], hkl[7::5]), mask.keep(0, shape, s, hkl)[7::5])


@pytest.mark.parametrize("method", list(BRAGG_MASKS)[:2])
def test_a_still_without_crystal_is_refused(method, make_still):
    experiment = make_still((40, 50, 60, 90, 90, 90), "P 1")
    bare = Experiment(beam=experiment.beam, detector=experiment.detector)
    with pytest.raises(ValueError, match="needs the crystal"):
        BRAGG_MASKS[method].from_phil(options(), bare, None)


def test_a_crystal_without_mosaicity_takes_what_is_documented(make_still):
    experiment = make_still((40, 50, 60, 90, 90, 90), "P 1")
    experiment.crystal = Crystal(experiment.crystal)
    described = LatticeMask.from_phil(options(), experiment).describe()
    assert described["domain_size"] == 1000 and described["mosaicity_rms"] == pytest.approx(0.05)


def test_strong_spots_of_a_real_still_are_masked(snase):
    """Of SNase's indexed strong spots, which lie on the lattice, few have an observed centroid that the mask misses."""
    experiment, folder = snase
    shape, s, hkl = pixels_of(experiment)
    kept = LatticeMask.from_phil(options(), experiment).keep(0, shape, s, hkl).reshape(shape)
    found = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    found = found.select(found["id"] == 0)
    fast, slow, _ = (np.asarray(c).astype(int) for c in found["xyzobs.px.value"].parts())
    assert np.mean(kept[slow, fast]) < 0.03
    assert np.mean(kept) > 0.8


def test_the_predicted_mask_covers_the_predictions_of_dials(snase):
    """Centres of all of DIALS's own predictions for this still, and of the reflections in integrated.refl."""
    experiment, folder = snase
    integrated = flex.reflection_table.from_file(str(folder / "integrated.refl"))
    integrated = integrated.select(integrated["id"] == 0)
    mask = PredictedMask.from_phil(options("method = predicted"), experiment, integrated)
    shape = experiment.detector[0].get_image_size()[::-1]
    kept = mask.keep(0, shape, None, None).reshape(shape)
    assert 0.3 < np.mean(kept) < 0.95
    own = flex.reflection_table.from_predictions(experiment)
    for table in (own, integrated):
        fast, slow, _ = (np.floor(np.asarray(c)).astype(int) for c in table["xyzcal.px"].parts())
        inside = (fast >= 0) & (slow >= 0) & (fast < shape[1]) & (slow < shape[0])
        assert not kept[slow[inside], fast[inside]].any()


def test_without_a_profile_model_predictions_are_discs(make_still):
    experiment = make_still((40, 50, 60, 90, 90, 90), "P 21 21 21")
    mask = PredictedMask.from_phil(options("spot_radius = 2"), experiment, None)
    assert mask.describe()["shape"] == "disc"
    shape = experiment.detector[0].get_image_size()[::-1]
    n_masked, n_spots = np.count_nonzero(~mask.keep(0, shape, None, None)), mask.describe()["n_predicted"]
    assert 0 < n_masked <= n_spots * math.pi * 2.5**2


def test_the_shoebox_mask_is_the_foreground_of_the_shoeboxes(snase):
    """DIALS's own mask codes, pixel by pixel."""
    experiment, folder = snase
    table = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    table = table.select(table["id"] == 0)
    mask = ShoeboxMask.from_phil(options("method = shoebox"), experiment, table)
    shape = experiment.detector[0].get_image_size()[::-1]
    expected = np.ones(shape, dtype=bool)
    code = int(MaskCode.Foreground | MaskCode.Strong)
    for shoebox in table["shoebox"]:
        for (x, y, _), value in zip(shoebox.coords(), shoebox.mask):
            if value & code:
                expected[int(y), int(x)] = False
    np.testing.assert_array_equal(mask.keep(0, shape, None, None).reshape(shape), expected)


def test_shoeboxes_are_clipped_at_the_edge_of_the_panel():
    table = flex.reflection_table()
    table["panel"] = flex.size_t([0, 0])
    boxes = flex.int6([(-2, 3, 8, 12, 0, 1), (20, 25, 0, 4, 0, 1)])
    table["shoebox"] = flex.shoebox(table["panel"], boxes, allocate=True)
    for shoebox in table["shoebox"]:
        shoebox.mask.as_1d().fill(int(MaskCode.Foreground))
    covered = paint_shoeboxes(table, [(10, 12)], MaskCode.Foreground)[0]
    expected = np.zeros((10, 12), dtype=bool)
    expected[8:10, 0:3] = True
    np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize("reflections, message", [
    (None, "needs the .refl"),
    (flex.reflection_table(), "needs the column"),
])  # fmt: skip
def test_the_shoebox_mask_says_what_it_lacks(snase, reflections, message):
    with pytest.raises(ValueError, match=message):
        ShoeboxMask.from_phil(options(), snase[0], reflections)


def test_every_parameter_name_ends_uniquely():
    """A user may type the last part of a name alone, also beside the top-level d_min and the unit cell of a grid."""
    names = [d.path.rsplit(".", 1)[-1] for d in phil_scope.all_definitions()]
    assert len(names) == len(set(names))
    assert {"d_min", "d_max", "unit_cell", "mask"}.isdisjoint(names)
    assert "masking.bragg.radius" in [d.path for d in extraction_phil_scope.all_definitions()]
