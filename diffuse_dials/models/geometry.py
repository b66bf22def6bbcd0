"""Positions and directions of the pixels of a detector, without wavelength or crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PanelPlane:
    """Positions of the pixel centres of one panel, or of every n-th pixel.

    Attributes:
        vectors: Position of the first pixel's centre, steps to the next one along fast and slow, unit vectors along
            fast and slow, shape (5, 3), mm, laboratory.
        shift: What parallax adds to a position along fast and slow, shape (2, slow, fast), mm, float32 (1e-8 mm);
            None where there is none.
        shape: (slow, fast) number of pixels.
        normal: Unit normal of the panel, shape (3,).
        pixel_area: Area of one pixel, mm².
        step, offset: The pixels are number offset, offset + step, ... of the panel, along both directions.
    """

    vectors: np.ndarray
    shift: np.ndarray | None
    shape: tuple[int, int]
    normal: np.ndarray
    pixel_area: float
    step: int
    offset: int

    def geometry(self, s0_direction, rows: slice = slice(None)) -> PixelGeometry:
        """Directions of the pixels of some rows.

        Args:
            s0_direction: Unit vector along the beam, shape (3,).
            rows: Which rows.
        """
        slow = np.arange(self.shape[0], dtype=np.float64)[rows]
        fast = np.arange(self.shape[1], dtype=np.float64)
        origin, by_fast, by_slow, fast_axis, slow_axis = self.vectors
        shift = () if self.shift is None else self.shift[:, rows].astype(np.float64)
        lab = np.empty((3, len(slow), len(fast)))  # a component after the other, which is faster than vectors
        for i, component in enumerate(lab):
            np.add((origin[i] + slow * by_slow[i])[:, None], fast * by_fast[i], out=component)
            for part, axis in zip(shift, (fast_axis, slow_axis)):
                component += part * axis[i]
        lab = lab.reshape(3, -1)
        distance = np.sqrt(lab[0] ** 2 + lab[1] ** 2 + lab[2] ** 2)
        lab /= distance
        return PixelGeometry(
            lab.T, distance, np.abs(self.normal @ lab), np.asarray(s0_direction, dtype=float), self.pixel_area,
            (len(slow), len(fast)),
        )  # fmt: skip


@dataclass(frozen=True)
class PixelGeometry:
    """Directions and distances of the pixel centres of one panel.

    Made once for a detector and used for every still: the wavelength enters later, through :meth:`s_vectors`.
    Parallax is in it, because the panel's pixel-to-millimetre strategy is.

    Attributes:
        direction: Unit vectors ŝ1 from the sample to the pixel centres, shape (n, 3).
        distance: From the sample to the pixel centres, shape (n,), mm.
        cos_obliquity: |cos| of the angle between ŝ1 and the panel's normal, shape (n,).
        beam_direction: Unit vector ŝ0 along which the beam travels, shape (3,).
        pixel_area: Area of one pixel, mm².
        shape: (slow, fast) size of the panel; n = slow x fast, fast runs first.
    """

    direction: np.ndarray
    distance: np.ndarray
    cos_obliquity: np.ndarray
    beam_direction: np.ndarray
    pixel_area: float
    shape: tuple[int, int]

    def s_vectors(self, wavelength: float, select=slice(None)) -> np.ndarray:
        """Scattering vectors s = s1 - s0 of the pixel centres, shape (n, 3), 1/Å, |s| = 1/d."""
        return (self.direction[select] - self.beam_direction) / wavelength

    def s_lengths(self, wavelength: float) -> np.ndarray:
        """|s| = 2 sin(θ)/λ of the pixel centres, shape (n,), 1/Å."""
        (x, y, z), beam = self.direction.T, self.beam_direction
        cos_two_theta = x * beam[0] + y * beam[1] + z * beam[2]  # added in this order, as in kernels.shared
        return np.sqrt(np.maximum(2 - 2 * cos_two_theta, 0)) / wavelength
