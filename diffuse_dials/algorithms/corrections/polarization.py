"""Polarization of the beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.kernels import physics


@dataclass(frozen=True)
class Polarization:
    """Loss of scattered intensity along the electric vector of the incident beam; no Lorentz factor for stills.

    Attributes:
        fraction: Degree of polarization; 0.5 is an unpolarized beam.
        normal: Unit normal of the polarization plane, laboratory frame.
        source: Where the two came from.
    """

    fraction: float
    normal: tuple[float, float, float]
    source: str
    name: ClassVar[str] = "polarization"
    phil: ClassVar[str] = """
    fraction = None
      .type = float(value_min=0, value_max=1)
      .help = "Degree of polarization, 0.5 is unpolarized. None: the beam model's (dxtbx ignores what a CBF header"
              "says)."
    normal = None
      .type = floats(size=3)
      .help = "Normal of the polarization plane in the laboratory. None: the beam model's."
"""

    @classmethod
    def from_phil(cls, params, experiment) -> Polarization:
        """Values of the parameters, else of the beam model.

        Raises:
            ValueError: If the normal has no length or points along the beam.
        """
        beam = experiment.beam
        fraction = beam.get_polarization_fraction() if params.fraction is None else params.fraction
        normal = np.array(beam.get_polarization_normal() if params.normal is None else params.normal, dtype=float)
        length = np.linalg.norm(normal)
        if not length > 0 or abs(np.dot(normal / length, beam.get_unit_s0())) > 0.5:
            raise ValueError(
                f"corrections.polarization.normal {tuple(normal)} must be perpendicular to the beam, "
                f"{beam.get_unit_s0()}."
            )
        given = [name for name in ("fraction", "normal") if getattr(params, name) is not None]
        source = f"{' and '.join(given)} from the parameters" if given else "beam model"
        if len(given) < 2:
            source += f"{', the rest from the beam model' if given else ''} (dxtbx reads none from CBF headers)"
        return cls(float(fraction), tuple(float(x) for x in normal / length), source)

    def response(self, panel: int, pixels, wavelength: float) -> np.ndarray:
        """P of all pixels of a panel, shape (n,)."""
        return physics.polarization(pixels.direction, pixels.beam_direction, np.array(self.normal), self.fraction)

    def closed_form(self, panel: int, wavelength: float) -> dict:
        """Parameters of kernels.shared.ClosedForm (mm, 1/mm) for a panel's number and a wavelength (Å)."""
        return {"polarization": (1 - 2 * self.fraction, self.fraction), "polarization_normal": self.normal}

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"fraction": self.fraction, "normal": list(self.normal), "source": self.source}
