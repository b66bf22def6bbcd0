"""Efficiency of the sensor: a slanting ray crosses more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.adapters import scattering
from diffuse_dials.algorithms.corrections.base import NotKnown
from diffuse_dials.kernels import physics


@dataclass(frozen=True)
class SensorEfficiency:
    """ε = 1 - exp(-μ t / |cos α|).

    Attributes:
        material: Of the sensor when μ follows the wavelength, else None.
        mu: Absorption coefficient of each panel, 1/mm, from the detector model; None with a material.
        thickness: Of each panel's sensor, mm.
    """

    material: str | None
    mu: tuple[float, ...] | None
    thickness: tuple[float, ...]
    name: ClassVar[str] = "sensor_efficiency"
    phil: ClassVar[str] = """
    material = None
      .type = str
      .help = "Material of the sensor (Si, CdTe, GaAs, Ge). None: the detector model's absorption coefficient."
    thickness = None
      .type = float(value_min=1e-3, value_max=1000)
      .help = "Thickness of the sensor (mm). None: the detector model's."
"""

    @classmethod
    def from_phil(cls, params, experiment) -> SensorEfficiency:
        """Values of the parameters, else of each panel.

        Raises:
            NotKnown: If a panel's absorption or thickness is neither in the model nor given.
        """
        panels = list(experiment.detector)
        thickness = tuple(float(p.get_thickness() if params.thickness is None else params.thickness) for p in panels)
        if min(thickness) <= 0:
            raise NotKnown(
                "the thickness of the sensor is not in the detector model: give "
                "corrections.sensor_efficiency.thickness and .material."
            )
        if params.material:
            return cls(params.material, None, thickness)
        mu = tuple(float(p.get_mu()) for p in panels)
        if min(mu) <= 0:
            raise NotKnown(
                "the absorption of the sensor is not in the detector model: give "
                "corrections.sensor_efficiency.material."
            )
        return cls(None, mu, thickness)

    def response(self, panel: int, pixels, wavelength: float) -> np.ndarray:
        """ε of all pixels of a panel, shape (n,)."""
        return physics.sensor_efficiency(pixels.cos_obliquity, self._mu(panel, wavelength), self.thickness[panel])

    def closed_form(self, panel: int, wavelength: float) -> dict:
        """Parameters of kernels.shared.ClosedForm (mm, 1/mm) for a panel's number and a wavelength (Å)."""
        return {"sensor": self._mu(panel, wavelength) * self.thickness[panel]}

    def _mu(self, panel, wavelength):
        return self.mu[panel] if self.mu is not None else scattering.attenuation(self.material, wavelength)

    def describe(self) -> dict:
        """For the log and grid.json; one value where all panels agree."""
        values = {"thickness_mm": _common(self.thickness)}
        return {"material": self.material, **values} if self.material else {"mu_per_mm": _common(self.mu), **values}


def _common(values):
    return values[0] if len(set(values)) == 1 else list(values)
