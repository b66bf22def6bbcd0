"""The factors that the map was scaled with, applied to sums over (still, panel, |s|)."""

from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.scaling.model.components.scale_components import (
    ScaleComponentBase,
    SingleBScaleFactor,
    SingleScaleFactor,
)
from dials.array_family import flex

from diffuse_dials.algorithms.absolute.factors import still_factor


class Panels(ScaleComponentBase):
    """A component of one parameter per panel."""

    def update_reflection_data(self, selection=None, block_selections=None):
        """Nothing depends on the reflections."""

    def calculate_scales_and_derivatives(self, block_id=0):
        """Not asked for."""

    def calculate_scales(self, block_id=0):
        """Not asked for."""


class Model:
    """What diffuse.absolute asks of a scaling model: DIALS's components by name."""

    def __init__(self, **components):
        self.components = components
        self.scale = components["scale"].parameters[0]


def test_scale_fall_off_and_panel_multiply():
    """Expected: DIALS's own SingleBScaleFactor at the same d, times scale and panel factor."""
    falloff = SingleBScaleFactor(flex.double([-4.0]))
    s, panel = np.array([0.1, 0.3, 0.5]), np.array([0, 1, 1])
    falloff.data = {"d": flex.double(1 / s)}
    falloff.update_reflection_data()
    model = Model(scale=SingleScaleFactor(flex.double([2.0])), falloff=falloff, panel=Panels(flex.double([0.9, 1.1])))
    expected = 2.0 * np.array(falloff.calculate_scales()) * [0.9, 1.1, 1.1]
    assert still_factor(model, panel, s) == pytest.approx(expected)


def test_what_cannot_be_applied_is_refused():
    scale = SingleScaleFactor(flex.double([2.0]))
    with pytest.raises(ValueError, match="a component decay, which diffuse.absolute cannot apply"):
        still_factor(Model(scale=scale, decay=scale), np.zeros(1, int), np.ones(1))
    with pytest.raises(ValueError, match="have panel 3, the scaling model 1 panels"):
        still_factor(Model(scale=scale, panel=scale), np.array([3]), np.ones(1))
