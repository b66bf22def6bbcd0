"""Directions of pixels from dxtbx's panels, parallax included."""

from __future__ import annotations

import json

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.models.geometry import PixelGeometry


def beam_direction(beam) -> np.ndarray:
    """Unit vector ŝ0 along which the beam travels, shape (3,)."""
    s0 = np.array(beam.get_s0())
    return s0 / np.linalg.norm(s0)


def pixel_geometry(panel, s0_direction, step: int = 1) -> PixelGeometry:
    """Directions of the pixel centres of a panel.

    Pixel centres are at index + 0.5. The panel's pixel-to-millimetre strategy moves the point back by the
    depth-weighted displacement, where it knows the sensor: parallax lives there and nowhere else.

    Args:
        panel: The dxtbx panel.
        s0_direction: Unit vector along the beam, shape (3,).
        step: Only every so many pixels along both directions, for pictures; 1 for all.

    Returns:
        The geometry; pixels run fast first.
    """
    n_fast, n_slow = panel.get_image_size()
    slow, fast = np.mgrid[0:n_slow:step, 0:n_fast:step] + 0.5
    lab = lab_coordinates(panel, np.stack([fast.ravel(), slow.ravel()], axis=1))
    distance = np.sqrt(np.einsum("ij,ij->i", lab, lab))
    direction = lab / distance[:, None]
    cos_obliquity = np.abs(direction @ np.array(panel.get_normal()))
    pixel_size = panel.get_pixel_size()
    return PixelGeometry(
        direction, distance, cos_obliquity, np.asarray(s0_direction, dtype=float), pixel_size[0] * pixel_size[1],
        fast.shape,
    )  # fmt: skip


def lab_coordinates(panel, pixels: np.ndarray) -> np.ndarray:
    """Laboratory coordinates (mm), shape (n, 3), of pixel coordinates (fast, slow), shape (n, 2)."""
    points = flumpy.vec_from_numpy(np.ascontiguousarray(pixels, dtype=np.float64))
    return flumpy.to_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(flex.vec2_double(points)))).copy()


def fingerprint(detector) -> str:
    """A text that is equal for detectors that put every pixel in the same place with the same sensor."""
    return json.dumps(detector.to_dict(), sort_keys=True)


def corner_s_length(detector, s0_direction) -> float:
    """|s|·λ = |ŝ1 - ŝ0| of the farthest corner of any panel; 2 (all directions) where a panel looks backwards."""
    largest = 0.0
    for panel in detector:
        n_fast, n_slow = panel.get_image_size()
        corners = lab_coordinates(panel, np.array([(x, y) for x in (0, n_fast) for y in (0, n_slow)], dtype=float))
        cosines = corners @ np.asarray(s0_direction) / np.linalg.norm(corners, axis=1)
        largest = max(largest, 2.0 if cosines.min() < 0 else float(np.sqrt(2 - 2 * cosines.min())))
    return largest
