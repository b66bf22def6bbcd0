"""The kernel that sums a panel, against NumPy and against dxtbx's own positions."""

from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy

from diffuse_dials.adapters.panels import panel_plane
from diffuse_dials.kernels import still
from diffuse_dials.kernels.accumulator import Accumulator
from diffuse_dials.kernels.sums import pack, unpack
from diffuse_dials.models.grid import voxel_index

SHAPE = (1000, 700)


def tilted_panel():
    """A panel of 0.075 mm pixels, turned about two axes, with the parallax of 0.45 mm of silicon."""
    panel = Detector().add_panel()
    fast, slow = np.array([0.98, 0.05, -0.19]), np.array([0.04, -0.97, 0.2])
    fast /= np.linalg.norm(fast)
    slow -= fast * (fast @ slow)
    panel.set_frame(fast, slow / np.linalg.norm(slow), (-12.0, 50.0, -100.0))
    panel.set_pixel_size((0.075, 0.075))
    panel.set_image_size(SHAPE[::-1])
    panel.set_mu(4.2)
    panel.set_thickness(0.45)
    panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(4.2, 0.45))
    return panel


def orientation(rng, cell):
    """Matrix from s to fractional indices of a crystal in a random orientation."""
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.diag(cell) @ axes


def test_fractional_indices_are_those_of_dxtbxs_positions_for_a_500_angstrom_cell(rng):
    """|Δh| < 5e-5 is wanted; what single precision of the parallax shifts leaves is a thousand times less."""
    panel, matrix, wavelength = tilted_panel(), orientation(rng, (500.0, 480.0, 430.0)), 0.9
    plane, beam = panel_plane(panel), np.array([0, 0, -1.0])
    constant = -matrix @ beam / wavelength
    to_voxel = np.column_stack([matrix / wavelength, constant])
    u, v, w, inverse = (np.empty(still.PIECE) for _ in range(4))
    worst = 0.0
    for row in (0, 499, 999):
        still._voxels(100, still.PIECE, row, plane.vectors, plane.shift, to_voxel, u, v, w, inverse)
        for i in range(0, still.PIECE, 37):
            lab = np.array(panel.get_pixel_lab_coord((100 + i + 0.5, row + 0.5)))
            h = matrix @ (lab / np.linalg.norm(lab) - beam) / wavelength
            worst = max(worst, np.abs(h - [u[i], v[i], w[i]]).max())
    assert worst < 5e-8


def test_voxels_at_half_integers_and_at_negative_indices_are_those_of_floor():
    """n = floor(h ndiv + ½), exactly, wherever the number is exact."""
    h = np.arange(-40, 41) / 4
    ndiv, corner = 2, -30
    coordinate = h * ndiv + 0.5 - corner
    keys = np.empty(len(h), dtype=np.int64)
    bricks = np.array([16, 16, 16])
    still._codes(len(h), bricks, coordinate, np.full(len(h), 4.0), np.full(len(h), 9.0), keys)
    brick, place = keys // still.SLOTS, keys % still.SLOTS
    assert np.all(brick // 16 % 16 * 4 + (place >> 2 & 3) == 4)
    assert np.all(brick % 16 * 4 + (place & 3) == 9)
    found = brick // 256 * 4 + (place >> 4) + corner
    expected = voxel_index(np.stack([h, h, h], axis=1), (ndiv, ndiv, ndiv))[:, 0]
    assert np.array_equal(found, expected)


def sums_by_numpy(index, key, *columns):
    """Sums by rows of (index, key), in ascending order: numpy.unique and bincount."""
    code, inverse = np.unique(pack(index) * 2 + key, return_inverse=True)
    rows = np.column_stack([unpack(code >> 1), code & 1])
    return rows, [np.bincount(inverse, column, len(rows)) for column in columns]


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_sums_of_a_panel_are_those_of_numpy_for_every_pixel(kind, rng):
    """700 000 pixels of each kind; sentinels, overloads, masked pixels and limits of resolution among them."""
    panel, matrix, wavelength = tilted_panel(), orientation(rng, (90.0, 80.0, 37.0)), 1.1
    plane, beam = panel_plane(panel), np.array([0, 0, -1.0])
    whole = kind == "uint16"
    raw = rng.poisson(3, SHAPE).astype(kind) if whole else rng.normal(3, 2, SHAPE).astype(kind)
    raw[rng.random(SHAPE) < 0.001] = 65535 if whole else 500
    raw[rng.random(SHAPE) < 0.001] = 5000
    limits = tuple(np.dtype(kind).type(x) for x in ((0, 100, 65533) if whole else (-50, 100, 1e9)))
    response = rng.integers(2**30, 2**32, SHAPE).astype(np.uint32)
    geometry = plane.geometry(beam)
    s = geometry.s_vectors(wavelength)
    bins = np.floor(geometry.s_lengths(wavelength) / 0.005).astype(np.uint16).reshape(SHAPE)
    bins[bins > 120] |= still.OUTSIDE
    bins[rng.random(SHAPE) < 0.02] = still.MASKED
    keep = rng.random(SHAPE) > 0.1
    calibration = (None, None) if whole else (rng.normal(1, 0.1, SHAPE), np.full((1, 1), 1.5))
    background = None if whole else rng.random(SHAPE)
    ndiv = np.array([3, 3, 3])
    to_hkl = matrix * ndiv[:, None]
    reach = np.floor(np.linalg.norm(to_hkl, axis=1) * geometry.s_lengths(wavelength).max()).astype(int) + 2
    to_voxel = np.column_stack([to_hkl / wavelength, -to_hkl @ beam / wavelength + 0.5 + reach])
    accumulator = Accumulator()
    for _ in range(2):  # the second time in memory that was used
        index, bragg, sums, real, of_bins, _ = accumulator.sum_panel(
            raw, limits, response, bins, plane.vectors, plane.shift, beam, np.zeros((0, still.N_LATTICE)), False,
            np.zeros((0, 3)), np.ones(1), keep, *calibration, background, background, to_voxel,
            (2 * reach + 4) // 4, 400,
        )  # fmt: skip
    good = (bins != still.MASKED) & (raw >= limits[0]) & (raw <= limits[1])
    used = (good & (bins < still.OUTSIDE)).ravel()
    n = voxel_index(s @ matrix.T, ndiv)[used]
    place = np.arange(raw.size)[used]
    pixels = [
        np.ones(len(n)),
        response.ravel()[used].astype(float),
        2 * (place % SHAPE[1]) + 1,
        2 * (place // SHAPE[1]) + 1,
    ]
    values = raw.ravel()[used].astype(float)
    if not whole:
        values = (values - calibration[0].ravel()[used]) / 1.5
        pixels += [values, np.maximum(values, 0), background.ravel()[used]]
    rows, expected = sums_by_numpy(n, ~keep.ravel()[used], *pixels)
    assert np.array_equal(np.column_stack([index - reach, bragg]), rows)
    for column, values_of in zip((still.N_PIXELS, still.RESPONSE, still.FAST, still.SLOW), expected):
        assert np.array_equal(sums[:, column], values_of.astype(np.int64))
    if whole:
        _, (counts,) = sums_by_numpy(n, ~keep.ravel()[used], values)
        assert np.array_equal(sums[:, still.COUNTS], counts)
    else:
        for column, values_of in zip((still.PHOTONS, still.POSITIVE, still.BACKGROUND), expected[4:]):
            assert real[:, column] == pytest.approx(values_of, rel=1e-12, abs=1e-11)
    bin_of = (bins & still.N_BINS).ravel()
    assert np.array_equal(of_bins[:, still.N_PIXELS], np.bincount(bin_of[good.ravel()], minlength=400))
    above = ((bins != still.MASKED) & (raw > limits[1]) & (raw <= limits[2])).ravel()
    assert np.array_equal(of_bins[:, still.N_OVERLOADED], np.bincount(bin_of[above], minlength=400))
