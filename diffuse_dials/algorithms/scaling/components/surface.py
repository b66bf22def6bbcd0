"""A smooth factor over the detector, shared by all stills; over the order of the stills too if one is named."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother3D,
    SmoothScaleComponent3D,
)
from dials.array_family import flex
from scipy import sparse

from diffuse_dials.algorithms.scaling.components.base import Component


class DetectorSurface(Component, SmoothScaleComponent3D):
    """Control points on DIALS's Gaussian smoother over the direction of the scattered beam (x, y) and the order (z).

    x and y are 2θ cos φ and 2θ sin φ, so that tilted panels and back-scattering have one plane. Without scale.order
    the surface is the same for all stills. Its part that depends on |s| alone is degenerate with the map; the
    restraint, a prior of mean 1, keeps it near 1.
    """

    name: ClassVar[str] = "surface"
    kind: ClassVar[str] = "detector"
    phil: ClassVar[str] = """
surface {
  intervals = 4
    .type = int(value_min=1, value_max=20)
    .help = "Intervals of the smooth factor along either direction of the detector."
    .expert_level = 3
  order_intervals = 4
    .type = int(value_min=1, value_max=50)
    .help = "Intervals along the order of the stills, where scale.order names one."
    .expert_level = 3
  sigma = 0.2
    .type = float(value_min=1e-4)
    .help = "Restraint: control points are 1 within this much."
    .expert_level = 3
}
"""

    def __init__(self, initial_values, shape, parameter_esds=None, limits=None):
        """
        Args:
            initial_values: Control points, x running fastest.
            shape: Their numbers along x, y and order.
            parameter_esds: Their uncertainties.
            limits: Range of x, y and order, three pairs.
        """
        super().__init__(initial_values, tuple(int(n) for n in shape), parameter_esds)
        self.limits = limits

    @classmethod
    def columns(cls, layout):
        shape, limits = _shape(layout), _limits(layout)
        cells = layout.cells
        coordinates = [
            (values - low) / (high - low) * _intervals(n)
            for values, n, (low, high) in zip((cells.x, cells.y, cells.order), shape, limits)
        ]
        ranges = [value for n in shape for value in ([0, _intervals(n)], _intervals(n))]
        smoother = GaussianSmoother3D(*ranges)
        points = flex.double(int(np.prod(shape)), 1.0)
        # DIALS's smoother wants two points at least
        places = (flex.double(np.append(c, c[-1])) for c in coordinates)
        _, weight, total = smoother.multi_value_weight(*places, points)
        dense = weight.as_dense_matrix().as_numpy_array() / total.as_numpy_array()[:, None]
        return sparse.csr_matrix(dense[:-1])

    @classmethod
    def precision(cls, layout, k):
        return np.eye(k) / layout.options.surface.sigma**2

    @classmethod
    def stored(cls, parameters, esds, layout):
        return cls(flex.double(parameters), _shape(layout), flex.double(esds), _limits(layout))

    def radial_factor(self, panel, s):
        return 1.0  # its mean over the detector is 1, and a radial sum has no position

    def configuration(self):
        return {"shape": [self.n_x_params, self.n_y_params, self.n_z_params], "limits": self.limits}

    @classmethod
    def restore(cls, parameters, esds, configuration):
        return cls(parameters, configuration["shape"], esds, configuration["limits"])


def _shape(layout) -> tuple[int, int, int]:
    options, cells = layout.options.surface, layout.cells
    n, z = options.intervals, options.order_intervals if cells.n_order > 1 else 1
    return tuple(_points(count) for count in (n, n, z))


def _points(intervals: int) -> int:
    """Control points that DIALS's smoother has for a number of intervals."""
    return intervals + 1 if intervals < 3 else intervals + 2


def _intervals(points: int) -> int:
    return points - 1 if points < 4 else points - 2


def _limits(layout):
    cells = layout.cells
    return [[float(v.min()), float(v.max()) if v.max() > v.min() else float(v.min()) + 1] for v in cells.coordinates]
