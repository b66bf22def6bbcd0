"""A fall-off of each still relative to the others: disorder, or damage, that differs between crystals."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.scale_components import SingleBScaleFactor
from dials.array_family import flex

from diffuse_dials.algorithms.scaling.components.base import Component


class StillFalloff(Component, SingleBScaleFactor):
    """The factor exp(-ΔB |s|²/2) of a still, ΣΔB = 0 over the stills.

    A fall-off common to all stills is degenerate with the map; differences are not. DIALS's component is
    exp(B/(2 d²)): what it stores is B = -ΔB, Å².
    """

    name: ClassVar[str] = "falloff"
    kind: ClassVar[str] = "still"
    experimental: ClassVar[bool] = False
    column: ClassVar[str] = "d"

    @classmethod
    def columns(cls, layout):
        return -(layout.s[:, None] ** 2) / 2

    @classmethod
    def stored(cls, parameters, esds, layout):
        return cls(flex.double(-parameters), flex.double(esds))

    def radial_factor(self, panel, s):
        return np.exp(-self.delta_b * s**2 / 2)

    @property
    def delta_b(self) -> float:
        """ΔB, Å²; positive falls off faster than the mean still."""
        return -self.parameters[0]
