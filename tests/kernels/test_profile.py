"""The compiled profile of a still against the arithmetic of the NumPy code, and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model import Detector

from diffuse_dials.adapters.panels import panel_plane
from diffuse_dials.algorithms.background.base import PanelSample
from diffuse_dials.algorithms.background.radial import RadialBackground
from diffuse_dials.algorithms.stills.fused import PanelInput, _Panel
from diffuse_dials.algorithms.stills.noise import NoiseModel
from diffuse_dials.algorithms.stills.still_profile import StillProfile
from diffuse_dials.kernels import lattice, pieces, profile, still
from diffuse_dials.kernels.directions import make_pieces
from diffuse_dials.kernels.shared import ClosedForm, make_shared

BEAM, WAVELENGTH, UNIT = np.array([0, 0, -1.0]), 1.1, 2.0**-25


def panel(shape, distance, tilt):
    """A panel of 0.1 mm pixels with the beam on it near its first corner."""
    one = Detector().add_panel()
    one.set_frame((np.cos(tilt), 0, np.sin(tilt)), (0, -1, 0), (-4.0, 3.0, -distance))
    one.set_pixel_size((0.1, 0.1))
    one.set_image_size(shape[::-1])
    return one


class Case:
    """One panel of a still in both forms: what the kernel takes, and the pixels as arrays."""

    def __init__(self, rng, kind="int32", shape=(220, 300), tilt=0.3, light=0.7, zingers=60, limit=0.9, level=2.0):
        plane = panel_plane(panel(shape, 60.0, tilt))
        geometry = plane.geometry(BEAM)
        length = geometry.s_lengths(WAVELENGTH).reshape(shape)
        use = rng.random(shape) > 0.03
        use[:, 130:140] = False
        units = rng.integers(2**23, 2**25, shape)
        found = make_pieces(shape, plane.vectors, plane.shift, BEAM)
        shared, of_bins, unit = make_shared(
            shape, plane.vectors, plane.shift, BEAM, plane.normal, found.bounds, ClosedForm(1.0), units * UNIT, use,
            WAVELENGTH, 0.005, 0.0, limit, UNIT,
        )  # fmt: skip
        self.unit = unit * light
        response = units * self.unit
        raw = rng.poisson(level * response * (1 + 3 * np.exp(-length / 0.2))).astype(float)
        place = rng.integers(0, raw.size, zingers)
        raw.ravel()[place] += 40
        raw.ravel()[place[: zingers // 3]] = 70_000
        self.pedestal = self.gain = self.background = self.variance = None
        if kind == "float32":
            self.pedestal, self.gain = rng.normal(1, 0.1, shape), np.full((1, 1), 1.5)
            self.background, self.variance = rng.random(shape), np.full((1, 1), 0.3)
            raw = raw * 1.5 + 1
        raw, self.ratio = raw.astype(kind), 0.25
        keep = rng.random(shape) > 0.05
        photons = raw.astype(float) if self.gain is None else (raw - self.pedestal) / self.gain
        background = np.zeros(shape) if self.background is None else self.background * self.ratio
        variance = 1.2 * np.maximum(photons, 0) + 0.1
        variance = variance if self.variance is None else variance + self.variance * self.ratio**2
        passes = use & keep & (raw >= 0) & (raw <= 60_000)
        self.sample = PanelSample(*(x.ravel() for x in (length, photons, background, response, variance, passes)))
        crystal = still.Crystal(
            np.zeros((1, 3, 4)), np.zeros((1, 3)), np.ones(3, np.int64), BEAM, WAVELENGTH,
            np.zeros((0, lattice.N_LATTICE)), np.zeros((0, 3)), np.ones(1), 0.005,
        )  # fmt: skip
        limits = tuple(np.dtype(kind).type(x) for x in (0, 60_000, 60_000, 65_000))
        what_is_shared = _Panel(plane, found, WAVELENGTH, shared, unit, of_bins, length.max(), ())
        self.input = PanelInput(
            what_is_shared, np.zeros(3), raw, limits, crystal, keep, self.pedestal, self.gain, self.background,
            self.variance, self.ratio,
        )  # fmt: skip

    def at_pixels(self, found):
        """(photons, their variance) of each pixel by run_on_profile, flat."""
        shared, plane = self.input.shared, self.input.shared.plane
        n_slow, n_fast = plane.shape
        running, s, bins = np.zeros((n_slow, n_fast, 2)), np.zeros(n_fast), np.zeros(n_fast, np.int32)
        for row in range(n_slow):
            profile.run_on_profile(
                row, shared.shared.kinds, shared.pieces.bounds, shared.shared.response, plane.vectors, plane.shift,
                BEAM, WAVELENGTH, found, s, bins, running[row],
            )  # fmt: skip
        values = np.diff(running, axis=1, prepend=0.0)
        values[:, :: pieces.PIECE] = running[:, :: pieces.PIECE]
        return values[..., 0].ravel(), values[..., 1].ravel()


def noise(n_panels):
    return NoiseModel((1.2,) * n_panels, (0.1,) * n_panels, {})


def profiles(cases, background):
    return StillProfile(background, noise(len(cases)), [c.input for c in cases], [c.unit for c in cases]).find()


@pytest.mark.parametrize("width", [0.005, 0.0213])
@pytest.mark.parametrize("kind", ["int32", "uint16", "float32"])
def test_the_background_of_every_pixel_is_that_of_numpy(rng, kind, width):
    """Two tilted panels, one with the beam on it; spots and overloads that are left out, gains, blanks, masks."""
    cases = [Case(rng, kind), Case(rng, kind, (90, 257), tilt=-0.5)]
    background = RadialBackground(width, 5.0, None)
    expected = background.of_still([case.sample for case in cases])
    for case, found, (photons, variance) in zip(cases, profiles(cases, background), expected):
        one, its_variance = case.at_pixels(found)
        kinds = np.repeat(case.input.shared.shared.kinds.reshape(len(case.input.raw), -1), pieces.PIECE, axis=1)
        inside = (kinds[:, : case.input.raw.shape[1]] < pieces.BEYOND).ravel()
        assert 0.2 < inside.mean()
        assert one[inside] == pytest.approx(photons[inside], rel=1e-12)
        assert its_variance[inside] == pytest.approx(variance[inside], rel=1e-12)


def test_pixels_off_the_profile_are_left_out_also_of_strong_images_where_every_piece_has_to_be_looked_at(rng):
    """200 photons a pixel: 5 σ is a third of them, less than a piece changes, so that its extremes tell nothing."""
    case, background = Case(rng, level=200.0, zingers=2000), RadialBackground(0.005, 3.0, None)
    ((photons, _),), (found,) = background.of_still([case.sample]), profiles([case], background)
    one, _ = case.at_pixels(found)
    assert one[one > 0] == pytest.approx(photons[one > 0], rel=1e-12)
    all_in, _ = case.at_pixels(profiles([case], RadialBackground(0.005, 1e3, None))[0])
    assert np.abs(all_in / one - 1)[one > 0].max() > 1e-3


def test_a_still_without_a_good_pixel_has_no_profile(rng):
    case = Case(rng)
    case.input.keep[:] = False
    assert profiles([case], RadialBackground(0.005, 5.0, None)) is None


def test_curves_are_straight_between_nodes_and_constant_beyond():
    """By hand: J = 2 at 0.11, 4 at 0.31 and 1 at 0.51, in bins of 0.1; at 0.21 it is 3, at 0.61 still 1."""
    nodes, curves = np.array([0.11, 0.31, 0.51]), np.array([[2.0, 4, 1], [1, 1, 1], [5, 3, 4]])
    found = profile.make_profile(0.1, nodes, np.array([1, 3, 5]), 8, curves)
    lines = found.lines.reshape(8, 2, 3, 2)
    by_hand = {0.05: (2, 1, 5), 0.21: (3, 1, 4), 0.305: (3.95, 1, 3.05), 0.41: (2.5, 1, 3.5), 0.61: (1, 1, 4)}
    for s, expected in by_hand.items():
        s_bin = int(s / 0.1)
        value, slope = lines[s_bin, int(s >= found.node[s_bin])].T
        assert value + slope * s == pytest.approx(expected)
    # bin 3 goes from J(0.3) = 3.9 over 4 to J(0.4) = 2.65
    assert found.bounds[:, 3] == pytest.approx([2.65, 4.0, 3.0])


def test_the_profile_of_six_pixels_by_hand(rng):
    """A bin of three pixels (response 1, 2, 3; 0, 3, 9 photons) has J = 2, and variance/response 12/6 = 2."""
    background = RadialBackground(0.1, 5.0, None)
    sums = np.array([[0, 3.0, 0, 3], [0, 6, 0, 4], [0, 0.9, 0, 1.4], [0, 12, 0, 4], [0, 12, 0, 4]])
    found = background.profile(lambda profile: sums)
    # six pixels are fewer than a bin needs: they are one bin, 16 photons over a response of 10
    assert found.s == pytest.approx([0.23]) and found.intensity == pytest.approx([1.6])
    assert found.error_squared == pytest.approx([0.16]) and found.noise == pytest.approx([1.6])
    many = background.profile(lambda profile: sums * 100)
    assert many.s == pytest.approx([0.15, 0.35]) and many.intensity == pytest.approx([2, 1])
    assert many.error_squared == pytest.approx([2 / 600, 1 / 400])
