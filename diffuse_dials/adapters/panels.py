"""Directions of pixels from dxtbx's panels, parallax included."""

from __future__ import annotations

import hashlib
import importlib.util
import math

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.models.geometry import PanelPlane, PixelGeometry

_ROWS_A_TIME = 16  # what is in work stays in the processor's cache
_PLANAR = "SimplePxMmStrategy"


def beam_direction(beam) -> np.ndarray:
    """Unit vector ŝ0 along which the beam travels, shape (3,)."""
    s0 = np.array(beam.get_s0())
    return s0 / math.sqrt(s0 @ s0)


def panel_plane(panel, step: int = 1, offset: int = 0) -> PanelPlane:
    """Where the pixel centres of a panel are.

    Pixel centres are at index + 0.5. The panel's pixel-to-millimetre strategy moves the point back by the
    depth-weighted displacement, where it knows the sensor: parallax lives there and nowhere else.

    Args:
        panel: The dxtbx panel.
        step, offset: Which pixels: every ``step``-th along both directions, from number ``offset``.

    Returns:
        The plane of the pixels; without shifts if the panel's strategy has none.
    """
    n_fast, n_slow = panel.get_image_size()
    size = np.array(panel.get_pixel_size())
    fast, slow = np.array(panel.get_fast_axis()), np.array(panel.get_slow_axis())
    centre = offset + 0.5
    origin = np.array(panel.get_origin()) + centre * (size[0] * fast + size[1] * slow)
    shape = tuple(len(range(offset, n, step)) for n in (n_slow, n_fast))
    shift = None
    if panel.get_px_mm_strategy().name() != _PLANAR:
        shift = np.empty((2, *shape), dtype=np.float32)
        x, y = (np.arange(n) * step + centre for n in shape[::-1])
        shifts = _fast_shifts if _fast_shifts_hold(panel) else _shifts
        for start in range(0, shape[0], _ROWS_A_TIME):
            rows = slice(start, start + _ROWS_A_TIME)
            shift[:, rows] = shifts(panel, x, y[rows])
    vectors = np.stack([origin, step * size[0] * fast, step * size[1] * slow, fast, slow])
    return PanelPlane(vectors, shift, shape, np.array(panel.get_normal()), float(size[0] * size[1]), step, offset)


def _shifts(panel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the panel's strategy adds to the positions of pixels, mm: dxtbx's own numbers.

    Args:
        panel: The dxtbx panel.
        x, y: Pixel coordinates along fast and slow, shapes (n,) and (m,).

    Returns:
        Shifts along fast and slow, shape (2, m, n).
    """
    pixels = np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1).reshape(-1, 2)
    points = flumpy.vec_from_numpy(np.ascontiguousarray(pixels, dtype=np.float64))
    moved = flumpy.to_numpy(panel.pixel_to_millimeter(flex.vec2_double(points)))
    return (moved - pixels * np.array(panel.get_pixel_size())).T.reshape(2, len(y), len(x))


def _fast_shifts(panel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same for dxtbx's ParallaxCorrectedPxMmStrategy, from its formula and a hundred times faster.

    A photon is absorbed at the depth o = 1/μ - (t/cos α + 1/μ) exp(-μ t/cos α) along its way, on average
    (dxtbx/model/parallax_correction.h), and its pixel belongs that much nearer. By NumPy where numba is missing.
    """
    strategy = panel.get_px_mm_strategy()
    mu, thickness = strategy.mu(), strategy.t0()
    fast, slow = np.array(panel.get_fast_axis()), np.array(panel.get_slow_axis())
    origin, size = np.array(panel.get_origin()), panel.get_pixel_size()
    # Components along the panel's axes; the axes are orthonormal
    along_fast, along_slow = origin @ fast + x * size[0], origin @ slow + y * size[1]
    height = abs(origin @ np.cross(fast, slow))
    if importlib.util.find_spec("numba") is not None:
        from diffuse_dials.kernels.parallax import parallax_shifts

        return parallax_shifts(along_fast, along_slow, height, mu, thickness)
    distance = np.sqrt(along_fast**2 + (along_slow[:, None] ** 2 + height**2))
    way = distance * (thickness / height)
    part = (1 / mu - (way + 1 / mu) * np.exp(-mu * way)) / distance
    return np.stack([-along_fast * part, -along_slow[:, None] * part])


def _fast_shifts_hold(panel) -> bool:
    """Whether the formula is the one that this dxtbx has: the corners and some more pixels tell."""
    strategy = panel.get_px_mm_strategy()
    if strategy.name() != "ParallaxCorrectedPxMmStrategy" or not strategy.mu() > 0:
        return False
    x, y = (np.linspace(0, n, 5) for n in panel.get_image_size())
    return bool(np.allclose(_fast_shifts(panel, x, y), _shifts(panel, x, y), rtol=0, atol=1e-8))


def pixel_geometry(panel, s0_direction, step: int = 1) -> PixelGeometry:
    """Directions of the pixel centres of a panel.

    Args:
        panel: The dxtbx panel.
        s0_direction: Unit vector along the beam, shape (3,).
        step: Of the pixels, from the first: 1 takes all of them.

    Returns:
        The geometry; pixels run fast first.
    """
    return panel_plane(panel, step).geometry(s0_direction)


def edge_directions(panel) -> np.ndarray:
    """Unit vectors to the centres of the pixels along the edges of a panel, shape (n, 3)."""
    n_fast, n_slow = panel.get_image_size()
    fast, slow = np.arange(n_fast), np.arange(n_slow)
    edges = [(fast, 0), (fast, n_slow - 1), (0, slow), (n_fast - 1, slow)]
    pixels = np.concatenate([np.stack(np.broadcast_arrays(x, y), axis=1) for x, y in edges])
    lab = lab_coordinates(panel, pixels + 0.5)
    return lab / np.linalg.norm(lab, axis=1, keepdims=True)


def lab_coordinates(panel, pixels: np.ndarray) -> np.ndarray:
    """Laboratory coordinates (mm), shape (n, 3), of pixel coordinates (fast, slow), shape (n, 2)."""
    points = flumpy.vec_from_numpy(np.ascontiguousarray(pixels, dtype=np.float64))
    return flumpy.to_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(flex.vec2_double(points)))).copy()


def fingerprint(detector) -> str:
    """A text that is equal for detectors that put every pixel in the same place with the same sensor."""
    digest = hashlib.sha256()
    for panel in detector:
        strategy = panel.get_px_mm_strategy()
        content = (
            *panel.get_origin(), *panel.get_fast_axis(), *panel.get_slow_axis(), *panel.get_pixel_size(),
            *panel.get_image_size(), panel.get_thickness(), panel.get_mu(), panel.get_material(), strategy.name(),
            *(getattr(strategy, name)() for name in ("mu", "t0") if hasattr(strategy, name)),
        )  # fmt: skip
        digest.update(repr(content).encode())
        for offset in ("dx", "dy"):
            if hasattr(strategy, offset):
                digest.update(flumpy.to_numpy(getattr(strategy, offset)()).tobytes())
    return digest.hexdigest()


def corner_s_length(detector, s0_direction) -> float:
    """|s|·λ = |ŝ1 - ŝ0| of the farthest corner of any panel; 2 (all directions) where a panel looks backwards."""
    largest = 0.0
    for panel in detector:
        n_fast, n_slow = panel.get_image_size()
        corners = lab_coordinates(panel, np.array([(x, y) for x in (0, n_fast) for y in (0, n_slow)], dtype=float))
        cosines = corners @ np.asarray(s0_direction) / np.linalg.norm(corners, axis=1)
        largest = max(largest, 2.0 if cosines.min() < 0 else float(np.sqrt(2 - 2 * cosines.min())))
    return largest
