"""An isotropic intensity added to each still: what is left of air, jet or liquid after the background."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother1D,
    SmoothScaleComponent1D,
)
from dials.array_family import flex

from diffuse_dials.algorithms.scaling.components.base import Component


class StillOffset(Component, SmoothScaleComponent1D):
    """c_i(|s|) in counts - background = response x (b x intensity + c), Σ c = 0 over the stills at any |s|.

    A common offset is degenerate with the isotropic part of the map, a constant multiple of it nearly so with the
    scale of the still: only the anisotropic part tells them apart. So the offset is refined after the factors have
    converged, and restrained to the given part of the mean intensity. The curve has a fixed range, |s| = 0 to s_max:
    DIALS's component takes the range of whatever data it is given.
    """

    name: ClassVar[str] = "offset"
    kind: ClassVar[str] = "offset"
    phil: ClassVar[str] = """
offset {
  intervals = 3
    .type = int(value_min=1, value_max=10)
    .help = "Intervals of the curve c(|s|) of each still."
    .expert_level = 3
  sigma = 0.3
    .type = float(value_min=1e-4)
    .help = "Restraint: offsets are 0 within this part of the mean intensity at the same |s|."
    .expert_level = 3
}
"""
    null_parameter_value = 0.0

    def __init__(self, initial_values, parameter_esds=None, s_max=None):
        super().__init__(initial_values, parameter_esds)
        self.s_max = s_max

    @classmethod
    def columns(cls, layout):
        """Control points in units of the mean intensity: an offset of 0.1 is a tenth of it at the same |s|."""
        return layout.intensity[:, None] * _weights(layout.s / layout.s_max, layout.options.offset.intervals)

    @classmethod
    def precision(cls, layout, k):
        return np.eye(k) / layout.options.offset.sigma**2

    @classmethod
    def stored(cls, parameters, esds, layout):
        return cls(flex.double(parameters), flex.double(esds), layout.s_max)

    def radial_factor(self, panel, s):
        return 1.0  # their mean over the stills is 0

    def configuration(self):
        return {"s_max": self.s_max}

    @classmethod
    def restore(cls, parameters, esds, configuration):
        return cls(parameters, esds, configuration["s_max"])


def _weights(x: np.ndarray, intervals: int) -> np.ndarray:
    """Weights of the control points at x from 0 to 1, shape (n, k)."""
    smoother = GaussianSmoother1D([0, intervals], intervals)
    n = len(smoother.positions())
    # DIALS's smoother wants two points at least
    places = flex.double(np.append(x, x[-1]) * intervals)
    _, weight, total = smoother.multi_value_weight(places, flex.double(n, 1.0))
    return (weight.as_dense_matrix().as_numpy_array() / total.as_numpy_array()[:, None])[:-1]
