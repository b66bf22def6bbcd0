"""What stills share on a panel: the compiled pass against NumPy's formulas, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy

from diffuse_dials.adapters.panels import panel_plane
from diffuse_dials.kernels import physics, pieces
from diffuse_dials.kernels.directions import make_pieces
from diffuse_dials.kernels.shared import ClosedForm, make_shared
from diffuse_dials.kernels.sums import in_units

BEAM, NORMAL = np.array([0.01, 0.02, -1.0]) / np.linalg.norm([0.01, 0.02, -1.0]), (0.0, 0.8, 0.6)
AREA, WIDTH = 0.075**2, 0.005


def panel_around_the_beam(shape, distance, parallax=True):
    """Tilted 0.075 mm pixels; the direct beam hits it."""
    panel = Detector().add_panel()
    fast, slow = np.array([0.98, 0.05, -0.19]), np.array([0.04, -0.97, 0.2])
    fast /= np.linalg.norm(fast)
    slow -= fast * (fast @ slow)
    slow /= np.linalg.norm(slow)
    origin = -distance * np.array([0, 0, 1.0]) - 0.075 * (0.4 * shape[1] * fast + 0.3 * shape[0] * slow)
    panel.set_frame(fast, slow, origin)
    panel.set_pixel_size((0.075, 0.075))
    panel.set_image_size(shape[::-1])
    if parallax:
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(4.2, 0.45))
    return panel


def by_numpy(form, geometry, wavelength):
    """Responses by the formulas of kernels.physics."""
    cosine = geometry.direction @ BEAM
    response = np.ones(len(cosine))
    if form.solid_angle:
        response *= physics.solid_angle(geometry.distance, geometry.cos_obliquity, AREA)
    if any(form.polarization):
        response *= physics.polarization(geometry.direction, BEAM, np.array(NORMAL), form.polarization[1])
    if np.isfinite(form.sensor):
        response *= physics.sensor_efficiency(geometry.cos_obliquity, form.sensor, 1.0)
    ways = (
        geometry.distance, np.minimum(geometry.distance, form.length), 1.0, 1 / geometry.cos_obliquity,
        1 / np.abs(cosine),
    )  # fmt: skip
    for way, mu in zip(ways, (form.way, form.inside, form.sphere, form.detector, form.beam_normal)):
        response *= physics.transmission(way, mu)
    return response.reshape(geometry.shape)


def segments(shared, shape):
    """|s| bin of each pixel."""
    edges, bins = pieces.row_edges(shape[1]), np.empty(shape, dtype=int)
    for piece in range(len(shared.kinds)):
        row, part = divmod(piece, len(edges) - 1)
        start = 0
        for j in range(shared.first_segment[piece], shared.first_segment[piece + 1]):
            stop = int(shared.segment_stop[j])
            bins[row, edges[part] + start : edges[part] + stop] = shared.segment_bin[j]
            start = stop
        assert edges[part] + start == edges[part + 1]
    return bins


FORMS = {
    "nothing": {},
    "all usual": {"solid_angle": True, "polarization": (1 - 2 * 0.99, 0.99), "sensor": 1.9, "way": 3e-4},
    "thin sensor, strong air": {"sensor": 0.003, "way": 2e-2},
    "helium and foils": {
        "solid_angle": True, "way": 3e-4, "inside": -2.5e-4, "length": 60.0, "sphere": 0.01, "detector": 0.02,
        "beam_normal": 0.03,
    },
}  # fmt: skip


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("distance, parallax", [(25.0, True), (25.0, False), (180.0, True)])
def test_responses_bins_and_states_are_those_of_numpy(values, distance, parallax, rng):
    """Steep and flat directions, the direct beam's pixel, masks and limits; a pixel's rounding may differ by a unit."""
    shape, wavelength = (300, 410), 1.3
    plane = panel_plane(panel_around_the_beam(shape, distance, parallax))
    form = ClosedForm(AREA, polarization_normal=NORMAL, **values)
    use = rng.random(shape) > 0.02
    use[:, 130:280] = False
    geometry = plane.geometry(BEAM)
    s = geometry.s_lengths(wavelength).reshape(shape)
    width = s[150, 90] / 37  # a pixel right on a bin's edge
    limits = np.quantile(s, [0.1, 0.8])
    limits[1] = s.flat[np.argmin(np.abs(s - limits[1]))]  # a pixel right on the limit
    factor = rng.uniform(0.5, 1, shape)
    bounds = make_pieces(shape, plane.vectors, plane.shift, BEAM).bounds
    shared, totals, unit = make_shared(
        shape, plane.vectors, plane.shift, BEAM, plane.normal, bounds, form, factor, use, wavelength, width,
        *limits, 2.0**-20,
    )  # fmt: skip
    units, expected_unit = in_units(by_numpy(form, geometry, wavelength) * factor)
    assert unit == expected_unit
    found = np.diff(shared.response.astype(np.int64), axis=1) % 2**32
    differ = found != units
    # both are within some 1e-15 of the truth, and half a unit is 3e-8 of the largest
    assert differ.mean() < 1e-5 and np.abs(found - units).max() <= 1
    bins = np.floor(s / width).astype(int)
    n_bins = bins.max() + 1
    assert not totals[n_bins:].any()
    assert np.array_equal(segments(shared, shape), bins)
    state = np.where((s <= 0) | (s < limits[0]) | (s > limits[1]), pieces.BEYOND, pieces.USED)
    state[~use] = pieces.MASKED
    assert np.array_equal(shared.state, state)
    edges = pieces.row_edges(shape[1])
    for part in range(len(edges) - 1):
        of_piece = state[:, edges[part] : edges[part + 1]]
        one = (of_piece == of_piece[:, :1]).all(axis=1)
        kinds = shared.kinds.reshape(shape[0], -1)[:, part]
        assert np.array_equal(kinds, np.where(one, of_piece[:, 0], pieces.MIXED))
    assert np.array_equal(totals[:n_bins, 0], np.bincount(bins[use], minlength=n_bins))
    assert np.array_equal(totals[:n_bins, 1], np.bincount(bins[use], found[use], n_bins).astype(np.int64))


@pytest.mark.parametrize("guess", [2.0**-10, 2.0**-22, 2.0**-25, 2.0**-28])
def test_the_unit_does_not_depend_on_the_guess(guess):
    shape = (20, 150)
    plane = panel_plane(panel_around_the_beam(shape, 50.0))
    bounds = make_pieces(shape, plane.vectors, plane.shift, BEAM).bounds
    use = np.ones(shape, dtype=bool)
    *_, unit = make_shared(
        shape, plane.vectors, plane.shift, BEAM, plane.normal, bounds, ClosedForm(AREA), None, use, 1.0, WIDTH,
        0.0, np.inf, guess,
    )  # fmt: skip
    assert unit == 2.0**-24


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_a_response_that_is_not_positive_is_refused(wrong):
    shape = (20, 150)
    plane = panel_plane(panel_around_the_beam(shape, 50.0))
    bounds = make_pieces(shape, plane.vectors, plane.shift, BEAM).bounds
    factor = np.ones(shape)
    factor[7, 77] = wrong
    assert not make_shared(
        shape, plane.vectors, plane.shift, BEAM, plane.normal, bounds, ClosedForm(AREA), factor,
        np.ones(shape, dtype=bool), 1.0, WIDTH, 0.0, np.inf, 2.0**-24,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"sensor": 0.0}, {"sensor": np.nan}, {"way": np.nan}, {"sphere": np.inf}])
def test_a_parameter_that_is_no_correction_is_never_left_out(wrong):
    shape = (20, 150)
    plane = panel_plane(panel_around_the_beam(shape, 50.0))
    bounds = make_pieces(shape, plane.vectors, plane.shift, BEAM).bounds
    assert not make_shared(
        shape, plane.vectors, plane.shift, BEAM, plane.normal, bounds, ClosedForm(AREA, **wrong), None,
        np.ones(shape, dtype=bool), 1.0, WIDTH, 0.0, np.inf, 2.0**-24,
    )  # fmt: skip
