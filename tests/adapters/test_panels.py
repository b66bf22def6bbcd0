"""Directions of pixels against the reference and against dxtbx."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy

from diffuse_dials.adapters.panels import pixel_geometry


def tilted_panel(data, parallax: bool):
    model = data["panel"]
    panel = Detector().add_panel()
    panel.set_frame(model["fast"], model["slow"], model["origin"])
    panel.set_pixel_size((model["pixel_size"], model["pixel_size"]))
    panel.set_image_size((1024, 1024))
    if parallax:
        panel.set_mu(model["mu_per_mm"])
        panel.set_thickness(model["thickness_mm"])
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(model["mu_per_mm"], model["thickness_mm"]))
    return panel


@pytest.fixture
def data(reference):
    return json.loads(reference("pixel_corrections.json").read_text())


def test_s_vectors_on_a_tilted_panel_are_the_reference(data):
    geometry = pixel_geometry(tilted_panel(data, False), np.array(data["s0"]) / np.linalg.norm(data["s0"]))
    for pixel in data["pixels"]:
        fast, slow = pixel["pixel_fast_slow_index"]
        number = slow * 1024 + fast
        s = geometry.s_vectors(data["wavelength"], slice(number, number + 1))
        assert s[0] == pytest.approx(pixel["s"], abs=1e-8)
        assert geometry.s_lengths(data["wavelength"])[number] == pytest.approx(pixel["s_len"], rel=1e-8)
        assert geometry.distance[number] == pytest.approx(pixel["path_mm"], rel=1e-8)


def test_parallax_moves_a_pixel_back_by_the_reference_shift(data):
    s0 = np.array(data["s0"]) / np.linalg.norm(data["s0"])
    panel = tilted_panel(data, True)
    geometry = pixel_geometry(panel, s0)
    for pixel in data["pixels"]:
        fast, slow = pixel["pixel_fast_slow_index"]
        lab = geometry.direction[slow * 1024 + fast] * geometry.distance[slow * 1024 + fast]
        moved = lab - np.array(pixel["lab_mm"])
        shift = [moved @ np.array(data["panel"]["fast"]), moved @ np.array(data["panel"]["slow"])]
        # dxtbx iterates the displacement to a micrometre
        assert shift == pytest.approx([-x for x in pixel["parallax_shift_mm_fast_slow"]], abs=2e-3)


def test_dxtbx_gives_the_same_directions_with_parallax(data, rng):
    """DIALS's own numbers: panel.get_pixel_lab_coord, one pixel centre at a time."""
    panel = tilted_panel(data, True)
    geometry = pixel_geometry(panel, np.array([0, 0, -1.0]))
    for fast, slow in rng.integers(0, 1024, (30, 2)):
        lab = np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))
        assert geometry.direction[slow * 1024 + fast] == pytest.approx(
            lab / np.linalg.norm(lab), abs=1e-10
        )  # shifts to 1e-8 mm
