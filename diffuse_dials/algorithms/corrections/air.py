"""Transmission of what lies between sample and detector: air, helium or vacuum, and windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import scattering
from diffuse_dials.algorithms.corrections.base import NotKnown
from diffuse_dials.kernels import physics

_PARALLEL_TO = "beam_normal", "detector", "sphere"


@dataclass(frozen=True)
class Window:
    """A foil that every ray crosses.

    Attributes:
        material: Of scattering.MATERIALS, or an element.
        thickness: mm.
        density: g/cm³, None: the table's.
        parallel_to: "beam_normal" (flat, at right angles to the beam), "detector" (flat, along each panel) or "sphere"
            (around the sample).
    """

    material: str
    thickness: float
    density: float | None
    parallel_to: str

    @classmethod
    def parse(cls, text: str) -> Window:
        """A window from "material thickness [density] [parallel_to]".

        Raises:
            ValueError: If the text has another form.
        """
        words = text.split()
        parallel_to = words.pop() if words and words[-1] in _PARALLEL_TO else _PARALLEL_TO[0]
        try:
            numbers = [float(word) for word in words[1:]]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) <= 0:
            raise ValueError(
                f"corrections.air.window={text!r} must be a material, its thickness in mm and perhaps its density in "
                f"g/cm3 and one of {', '.join(_PARALLEL_TO)}: for example 'kapton 0.05'."
            )
        return cls(words[0], numbers[0], numbers[1] if len(numbers) == 2 else None, parallel_to)

    def attenuation(self, wavelength: float) -> float:
        """μ, 1/mm."""
        return scattering.attenuation(self.material, wavelength, density=self.density)

    def transmission(self, pixels, wavelength: float) -> np.ndarray:
        """Of the rays to all pixels of a panel, shape (n,)."""
        path = np.full(len(pixels.distance), self.thickness)
        if self.parallel_to != "sphere":
            flat = self.parallel_to == "detector"
            path /= np.abs(pixels.cos_obliquity if flat else pixels.direction @ pixels.beam_direction)
        return physics.transmission(path, self.attenuation(wavelength))

    def __str__(self) -> str:
        density = f" of {self.density:g} g/cm3" if self.density is not None else ""
        return f"{self.thickness:g} mm {self.material}{density}, {self.parallel_to}"


@dataclass(frozen=True)
class Air:
    """T = exp(-Σ μ L): air over the path from the sample to the pixel, except the part in helium or vacuum; windows.

    Attributes:
        path: air, helium or vacuum.
        length: Of the helium or vacuum path along each ray, mm; None: the whole path.
        temperature: Of air and helium, K.
        pressure: Of air and helium, Pa.
        windows: Foils.
    """

    path: str
    length: float | None
    temperature: float
    pressure: float
    windows: tuple[Window, ...] = ()
    name: ClassVar[str] = "air"
    phil: ClassVar[str] = """
    path = *air helium vacuum
      .type = choice
      .help = "What fills the path from the sample to the detector. Images do not say, so dry air is assumed."
    length = Auto
      .type = float(value_min=0)
      .help = "Length of the helium or vacuum path along each ray (mm); the rest of the path is air. Auto: the whole"
              "path."
    temperature = 293.15
      .type = float(value_min=50, value_max=1000)
      .help = "Temperature of air and helium (K)."
    pressure = 101325
      .type = float(value_min=0, value_max=10000000)
      .help = "Pressure of air and helium (Pa)."
    window = None
      .type = str
      .multiple = True
      .help = "A foil in the way: its material, thickness (mm) and, where they differ from the usual, its density"
              "(g/cm^3) and how it lies: beam_normal (flat, at right angles to the beam), detector (along each panel)"
              "or sphere (about the sample). For example window='kapton 0.05' or window='Be 0.3 1.85 sphere'."
"""

    @classmethod
    def from_phil(cls, params, experiment) -> Air:
        """Values of the parameters.

        Raises:
            NotKnown: If there is no choice of path.
            ValueError: If they contradict each other, or a window lacks its thickness or is of no known material.
        """
        if params.path is None:
            raise NotKnown("corrections.air.path is None: say air, helium or vacuum.")
        length = None if params.length in (None, Auto) else params.length
        if length is not None and params.path == "air":
            raise ValueError(
                f"corrections.air.length={length:g} is that of a helium or vacuum path, but corrections.air.path=air. "
                "Say which it is, or leave the length out."
            )
        windows = tuple(Window.parse(text) for text in params.window if text)
        for window in windows:
            window.attenuation(experiment.beam.get_wavelength())  # an unknown material is refused now
        return cls(params.path, length, params.temperature, params.pressure, windows)

    def response(self, panel: int, pixels, wavelength: float) -> np.ndarray:
        """T of all pixels of a panel, shape (n,)."""
        inside = np.zeros(len(pixels.distance))  # helium or vacuum
        if self.path != "air":
            inside = pixels.distance if self.length is None else np.minimum(self.length, pixels.distance)
        mu_air, mu_inside = self._mu(wavelength)
        transmitted = physics.transmission(pixels.distance - inside, mu_air)
        if self.path == "helium":
            transmitted *= physics.transmission(inside, mu_inside)
        for window in self.windows:
            transmitted *= window.transmission(pixels, wavelength)
        return transmitted

    def closed_form(self, panel: int, wavelength: float) -> dict:
        """Parameters of kernels.shared.ClosedForm (mm, 1/mm) for a panel's number and a wavelength (Å)."""
        mu_air, mu_inside = self._mu(wavelength)
        if self.path != "air" and self.length is None:
            values = {"way": mu_inside}
        else:
            values = {"way": mu_air}
            if self.path != "air":
                values |= {"inside": mu_inside - mu_air, "length": self.length}
        for window in self.windows:
            name = window.parallel_to
            values[name] = values.get(name, 0.0) + window.attenuation(wavelength) * window.thickness
        return values

    def _mu(self, wavelength):
        """Of air and of what is in place of it, 1/mm."""
        mu_inside = 0.0
        if self.path == "helium":
            density = physics.helium_density(self.temperature, self.pressure)
            mu_inside = scattering.attenuation("He", wavelength, density=density)
        return scattering.air_attenuation(wavelength, self.temperature, self.pressure), mu_inside

    def describe(self) -> dict:
        """For the log and grid.json."""
        way = "all the way" if self.path == "air" or self.length is None else f"{self.length:g} mm, the rest is dry air"
        values = {"path": f"{'dry air' if self.path == 'air' else self.path}, {way}"}
        if self.path != "vacuum" or self.length is not None:
            values |= {"temperature_K": self.temperature, "pressure_Pa": self.pressure}
        if self.windows:
            values["windows"] = [str(window) for window in self.windows]
        return values
