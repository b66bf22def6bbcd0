"""No background is subtracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class NoBackground:
    """Everything between the Bragg spots counts as scattered by the crystal."""

    name: ClassVar[str] = "none"
    phil: ClassVar[str] = ""

    @classmethod
    def from_phil(cls, params, files, photons) -> NoBackground:
        """It has no parameters."""
        return cls()

    def at(self, panel: int, exposure_time: float):
        """(0, 0, None): photons, their variance, and no pixel excluded."""
        return 0.0, 0.0, None

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"method": self.name}
