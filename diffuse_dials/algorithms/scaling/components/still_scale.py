"""One scale for all that a still recorded."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.scale_components import SingleScaleFactor
from dials.array_family import flex
from scitbx import sparse

from diffuse_dials.algorithms.scaling.components.base import Component


class StillScale(Component, SingleScaleFactor):
    """The factor b of counts - background = b x response x intensity, the same for the whole still.

    DIALS's component with the derivatives, which are all 1, made once per block and not at each call. Refined as ln b.
    """

    name: ClassVar[str] = "scale"
    kind: ClassVar[str] = "still"
    experimental: ClassVar[bool] = False
    column: ClassVar[str] = "id"

    def __init__(self, initial_values, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self._derivatives: dict[int, sparse.matrix] = {}

    @classmethod
    def initial(cls) -> StillScale:
        """The component before refinement."""
        return cls(flex.double([cls.null_parameter_value]))

    @classmethod
    def columns(cls, layout):
        return np.ones((len(layout.s), 1))

    @classmethod
    def stored(cls, parameters, esds, layout):
        scale = np.exp(parameters)
        return cls(flex.double(scale), flex.double(scale * esds))

    def radial_factor(self, panel, s):
        return self.parameters[0]

    def calculate_scales_and_derivatives(self, block_id=0):
        """Inverse scale factors of a block and their derivatives, a column of ones."""
        n = self.n_refl[block_id]
        if n not in self._derivatives:
            self._derivatives[n] = sparse.matrix(n, 1, [dict.fromkeys(range(n), 1.0)])
        return self.calculate_scales(block_id), self._derivatives[n]
