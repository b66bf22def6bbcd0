"""Where the pixels of a detector look, without wavelength or crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
        cos_two_theta = self.direction @ self.beam_direction
        return np.sqrt(np.maximum(2 - 2 * cos_two_theta, 0)) / wavelength
