"""No background is subtracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffuse_dials.algorithms.background.base import Background


@dataclass(frozen=True)
class NoBackground(Background):
    """Everything between the Bragg spots counts as scattered by the crystal."""

    name: ClassVar[str] = "none"
    phil: ClassVar[str] = ""

    @classmethod
    def from_phil(cls, params, blanks) -> NoBackground:
        """It has no parameters."""
        return cls()

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"method": self.name}
