"""Shifts by parallax, compiled and by NumPy, against dxtbx's own."""

from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy

from diffuse_dials.adapters import panels


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("distance, mu", [(15.0, 4.2), (15.0, 200.0), (300.0, 0.7)])
def test_shifts_are_dxtbxs(distance, mu, compiled, monkeypatch):
    """Steep rays and opaque sensors among them; single precision of 0.5 mm is 3e-8."""
    panel = Detector().add_panel()
    panel.set_frame((0.8, 0.0, -0.6), (0.0, -1.0, 0.0), (-14.0, 11.0, -distance))
    panel.set_pixel_size((0.15, 0.11))
    panel.set_image_size((300, 70))
    panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(mu, 0.45))
    if not compiled:
        monkeypatch.setattr(panels.importlib.util, "find_spec", lambda name: None)
    assert panels._fast_shifts_hold(panel)
    plane = panels.panel_plane(panel, 3, 1)
    for row, column in np.ndindex(plane.shape):
        pixel = np.array([column * 3 + 1.5, row * 3 + 1.5])
        expected = np.array(panel.pixel_to_millimeter(tuple(pixel))) - pixel * (0.15, 0.11)
        assert plane.shift[:, row, column] == pytest.approx(expected, abs=3e-8)
