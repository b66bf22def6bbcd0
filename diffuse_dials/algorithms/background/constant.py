"""The same number of photons in every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffuse_dials.algorithms.background.base import Background


@dataclass(frozen=True)
class ConstantBackground(Background):
    """A constant, with its uncertainty.

    Attributes:
        value: Photons per pixel of each still.
        uncertainty: Variance of that value, photons².
    """

    value: float
    uncertainty: float
    name: ClassVar[str] = "constant"
    phil: ClassVar[str] = """
    value = None
      .type = float(value_min=-1e9, value_max=1e9)
      .help = "Photons to subtract from every pixel of every still."
    variance = 0
      .type = float(value_min=0, value_max=1e9)
      .help = "Variance of that value (photons squared)."
"""

    @classmethod
    def from_phil(cls, params, blanks) -> ConstantBackground:
        """Values of the parameters.

        Raises:
            ValueError: If no value is given.
        """
        if params.value is None:
            raise ValueError("background_method=constant needs background.constant.value, in photons per pixel.")
        return cls(params.value, params.variance)

    def at(self, panel: int, exposure):
        """(photons, their variance, None): no pixel excluded."""
        return self.value, self.uncertainty, None

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"method": self.name, "value_photons": self.value, "variance": self.uncertainty}
