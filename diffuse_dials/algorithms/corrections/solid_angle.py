"""Solid angle of a pixel, in absolute steradians: one definition for tilted and distant panels alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.kernels import physics


@dataclass(frozen=True)
class SolidAngle:
    """Ω = A |cos α| / r² seen from the sample (sr)."""

    name: ClassVar[str] = "solid_angle"
    phil: ClassVar[str] = ""

    @classmethod
    def from_phil(cls, params, experiment) -> SolidAngle:
        """It needs nothing but the geometry."""
        return cls()

    def response(self, panel: int, pixels, wavelength: float) -> np.ndarray:
        """Ω of all pixels of a panel, shape (n,), sr."""
        return physics.solid_angle(pixels.distance, pixels.cos_obliquity, pixels.pixel_area)

    def closed_form(self, panel: int, wavelength: float) -> dict:
        """Parameters of kernels.shared.ClosedForm (mm, 1/mm) for a panel's number and a wavelength (Å)."""
        return {"solid_angle": True}

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"unit": "sr"}
