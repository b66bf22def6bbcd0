"""The mask for all stills, from images in files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import ExperimentList
from libtbx.phil import parse

from diffuse_dials.adapters import images as adapter
from diffuse_dials.adapters.generate_mask import regions_mask
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking import phil_scope
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.pixels import make_pixel_mask
from diffuse_dials.io.masks import save_mask

SHAPE = (96, 112)


def masking(text=""):
    return phil_scope.fetch(parse(text)).extract().masking


STATIC = masking("masking.dynamic.enabled = False")


def poisson(rng, n, level=30.0, shape=SHAPE):
    return [rng.poisson(level, shape) for _ in range(n)]


def test_all_masks_are_combined_by_and(rng, write_stills, tmp_path):
    experiments = write_stills(poisson(rng, 1))
    a, b = np.ones(SHAPE, dtype=bool), np.ones(SHAPE, dtype=bool)
    a[:10], b[:, :7] = False, False
    save_mask((a,), tmp_path / "a.mask")
    save_mask((b,), tmp_path / "b.mask")
    experiments[0].detector[0].add_mask(50, 60, 55, 70)
    params = masking("masking { dynamic.enabled = False\n untrusted { rectangle = 100 112 90 96 } }")
    result = make_pixel_mask(experiments, params, [tmp_path / "a.mask", tmp_path / "b.mask"])
    expected = a & b
    expected[60:70, 50:55] = False
    expected[90:96, 100:112] = False
    np.testing.assert_array_equal(result.mask[0], expected)
    assert [step.newly for step in result.steps] == [50, 72, 10 * 112, 7 * 86]
    assert result.n_used == expected.sum() and result.n_pixels == expected.size


def test_a_ring_covers_what_it_covers_at_the_wavelength_of_any_still(rng, write_stills):
    """Every pixel that DIALS leaves out at one of forty wavelengths between those of the stills, and no other."""
    experiments = write_stills(poisson(rng, 2))
    first, second = (experiment.beam for experiment in experiments)
    low = first.get_wavelength()
    experiments[1].beam = copy.deepcopy(second)
    experiments[1].beam.set_wavelength(1.006 * low)
    far = experiments[0].detector[0].get_max_resolution_at_corners(first.get_s0())
    params = masking(f"masking {{ dynamic.enabled = False\n resolution_range = {1.5 * far} {1.6 * far} }}")
    expected = np.ones(SHAPE, dtype=bool)
    for wavelength in np.linspace(low, 1.006 * low, 40):
        beam = copy.deepcopy(first)
        beam.set_wavelength(wavelength)
        expected &= regions_mask(experiments[0].detector, beam, params)[0]
    found = make_pixel_mask(experiments, params).mask[0]
    one = regions_mask(experiments[0].detector, first, params)[0]
    assert not found[~one].any() and found.sum() < one.sum()
    assert (found & ~expected).sum() + (~found & expected).sum() <= 2


def test_a_mask_that_the_stills_name_is_kept(rng, write_stills, tmp_path):
    """Each of two image sets names a mask of its own; what either leaves out is out."""
    experiments = write_stills(poisson(rng, 2))
    expected = np.ones(SHAPE, dtype=bool)
    for number, experiment in enumerate(experiments):
        own = np.ones(SHAPE, dtype=bool)
        own[number] = expected[number] = False
        save_mask((own,), tmp_path / f"{number}.mask")
        experiment.imageset.external_lookup.mask.filename = str(tmp_path / f"{number}.mask")
    np.testing.assert_array_equal(make_pixel_mask(experiments, STATIC).mask[0], expected)


def test_a_mask_pickled_by_python_2_is_read(rng, write_stills, tmp_path):
    """Protocol 2 with byte strings, as Python 2 left them: each str of Python 2 arrives as bytes."""
    expected = rng.random(SHAPE) > 0.2
    content = pickle.dumps((flumpy.from_numpy(expected),), protocol=2)
    (tmp_path / "old.mask").write_bytes(content)
    found = make_pixel_mask(write_stills(poisson(rng, 1)), STATIC, [tmp_path / "old.mask"])
    np.testing.assert_array_equal(found.mask[0], expected)


def test_a_mask_of_another_detector_is_refused_with_both_sizes(rng, write_stills, tmp_path):
    save_mask((np.ones((10, 20), dtype=bool),), tmp_path / "other.mask")
    with pytest.raises(ValueError, match=r"\(10, 20\).*\(96, 112\)"):
        make_pixel_mask(write_stills(poisson(rng, 1)), STATIC, [tmp_path / "other.mask"])


def test_something_else_than_a_mask_is_refused(rng, write_stills, tmp_path):
    (tmp_path / "no.mask").write_bytes(pickle.dumps(flex.double(3)))
    with pytest.raises(ValueError, match="holds no mask"):
        make_pixel_mask(write_stills(poisson(rng, 1)), STATIC, [tmp_path / "no.mask"])


def test_stills_of_different_detectors_are_refused(rng, write_stills):
    experiments = write_stills(poisson(rng, 1))
    other = write_stills([rng.poisson(3.0, (40, 50))])[0]
    other.identifier = "other"
    with pytest.raises(ValueError, match="different detectors"):
        make_pixel_mask(ExperimentList([experiments[0], other]), STATIC)


def test_a_mask_without_a_pixel_is_refused(rng, write_stills):
    params = masking("masking { dynamic.enabled = False\n untrusted { panel = 0 } }")
    with pytest.raises(ValueError, match="No pixel is left"):
        make_pixel_mask(write_stills(poisson(rng, 1)), params)


@pytest.mark.parametrize("low", [0, -1])
def test_zeros_are_used_and_gaps_are_not_whatever_the_lower_bound(rng, write_stills, make_detector, low):
    """(0, max) and (-1, max) are what dxtbx 3.12 and 3.11 write for the same counter."""
    stack = poisson(rng, 4, level=0.3)
    for raw in stack:
        raw[40:45] = -1
        raw[70, 70] = -2
    result = make_pixel_mask(write_stills(stack, make_detector((low, 1000))), masking())
    np.testing.assert_array_equal(result.mask[0], stack[0] >= 0)
    trusted, _ = adapter.in_trusted_range(np.array([-1, 0, 1]), make_detector((low, 1000))[0])
    assert trusted.tolist() == [False, True, True]


def test_the_upper_bound_means_what_this_dxtbx_means(make_detector):
    """dxtbx's own mask of the same values, whichever of the two meanings it has."""
    panel = make_detector((0, 1000))[0]
    panel.set_image_size((4, 1))
    values = np.array([[1, 999, 1000, 1001]])
    expected = flumpy.to_numpy(panel.get_trusted_range_mask(flumpy.from_numpy(values.astype(np.int32))))
    trusted, overloaded = adapter.in_trusted_range(values, panel)
    np.testing.assert_array_equal(trusted, expected)
    np.testing.assert_array_equal(overloaded, ~expected)


def test_without_trusted_range_every_value_counts(rng, write_stills):
    stack = poisson(rng, 4)
    for raw in stack:
        raw[40:60] = -1
    result = make_pixel_mask(write_stills(stack), masking("masking.trusted_range = none"))
    assert result.bad["underload"].size == 0


def test_hot_and_dead_pixels_are_found_in_files_with_any_number_of_processes(rng, write_stills):
    """10 stills of 30 counts; the simulated truth, and the same mask to the last pixel."""
    response = np.ones(SHAPE)
    response[20, 30], response[50, 60], response[51, 60] = 6.0, 0.0, 0.0
    experiments = write_stills([rng.poisson(30 * response) for _ in range(10)])
    one, two = (make_pixel_mask(experiments, masking(), nproc=nproc) for nproc in (1, 2))
    assert one.bad["hot"].tolist() == [[0, 20, 30]]
    assert one.bad["dead"].tolist() == [[0, 50, 60], [0, 51, 60]]
    np.testing.assert_array_equal(one.mask[0], response == 1)
    np.testing.assert_array_equal(one.mask[0], two.mask[0])
    assert one.to_dict() == two.to_dict()


def test_a_subset_of_images_is_spread_evenly(rng, write_stills):
    """A pixel hot in the second half only is in half of any even subset."""
    stack = poisson(rng, 12)
    for raw in stack[6:]:
        raw[20, 30] = 600
    result = make_pixel_mask(write_stills(stack), masking("masking.dynamic.n_images = 6"))
    assert result.n_images == 6
    assert result.bad["hot"].tolist() == [[0, 20, 30]]


def test_spots_of_a_crystal_that_stays_are_no_hot_pixels(rng, write_stills, make_still):
    """A grid scan: the same spots on every still. With the crystal known they are not judged; a hot pixel still is."""
    crystal = make_still((60, 60, 60, 90, 90, 90), "P 21 21 21").crystal
    probe = write_stills(poisson(rng, 1), crystals=[crystal])[0]
    geometry = pixel_geometry(probe.detector[0], beam_direction(probe.beam))
    s = geometry.s_vectors(probe.beam.get_wavelength())
    hkl = s @ np.linalg.inv(setting_matrix(probe)).T
    on_lattice = np.linalg.norm((hkl - np.rint(hkl)) / 60, axis=1).reshape(SHAPE) < 0.0015
    assert on_lattice.sum() > 10
    stack = [raw + on_lattice * rng.poisson(900, SHAPE) for raw in poisson(rng, 6)]
    kept = LatticeMask.from_phil(masking().bragg, probe).keep(0, SHAPE, s, hkl).reshape(SHAPE)
    hot = tuple(np.argwhere(kept)[500])
    for raw in stack:
        raw[hot] = 400
    result = make_pixel_mask(write_stills(stack, crystals=[crystal] * 6), masking())
    assert [tuple(p[1:]) for p in result.bad["hot"]] == [hot]


def test_a_missing_image_is_one_clear_line(rng, write_stills, tmp_path):
    experiments = write_stills(poisson(rng, 3))
    (tmp_path / "still_00002.cbf").unlink()
    with pytest.raises(ValueError, match="There is no image .*still_00002.cbf"):
        make_pixel_mask(experiments, masking())
