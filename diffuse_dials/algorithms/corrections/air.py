"""Transmission of the gas between sample and detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.adapters import scattering
from diffuse_dials.algorithms.corrections.base import NotKnown
from diffuse_dials.kernels import physics


@dataclass(frozen=True)
class Air:
    """T = exp(-μ L) with L from the sample to the pixel.

    Attributes:
        path: air or vacuum.
        temperature: K.
        pressure: Pa.
    """

    path: str
    temperature: float
    pressure: float
    name: ClassVar[str] = "air"
    phil: ClassVar[str] = """
    path = *air vacuum
      .type = choice
      .help = "What fills the way from the sample to the detector. Nothing in an image says it: dry air is assumed."
    temperature = 293.15
      .type = float(value_min=50, value_max=1000)
      .help = "Temperature of the air (K)."
    pressure = 101325
      .type = float(value_min=0)
      .help = "Pressure of the air (Pa)."
"""

    @classmethod
    def from_phil(cls, params, experiment) -> Air:
        """Values of the parameters.

        Raises:
            NotKnown: If there is no choice of path.
        """
        if params.path is None:
            raise NotKnown("corrections.air.path is None: say air or vacuum.")
        return cls(params.path, params.temperature, params.pressure)

    def response(self, panel: int, pixels, wavelength: float) -> np.ndarray:
        """T of all pixels of a panel, shape (n,)."""
        if self.path == "vacuum":
            return np.ones(len(pixels.distance))
        return physics.transmission(pixels.distance, scattering.air_attenuation(wavelength, self.temperature, self.pressure))

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"path": self.path} if self.path == "vacuum" else {"path": "dry air over the whole way", "temperature_K": self.temperature, "pressure_Pa": self.pressure}
