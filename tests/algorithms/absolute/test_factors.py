"""The factors that the map was scaled with, applied to sums over (still, panel, |s|)."""

from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.scaling.model.components.scale_components import SingleBScaleFactor
from dials.array_family import flex

from diffuse_dials.algorithms.absolute.factors import still_factor
from diffuse_dials.algorithms.scaling.components.base import Component
from diffuse_dials.algorithms.scaling.components.falloff import StillFalloff
from diffuse_dials.algorithms.scaling.components.panel import PanelFactors
from diffuse_dials.algorithms.scaling.components.still_scale import StillScale
from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel


def test_scale_fall_off_and_panel_multiply():
    """Expected: DIALS's own SingleBScaleFactor at the same d, times scale and panel factor."""
    falloff = SingleBScaleFactor(flex.double([-4.0]))
    s, panel = np.array([0.1, 0.3, 0.5]), np.array([0, 1, 1])
    falloff.data = {"d": flex.double(1 / s)}
    falloff.update_reflection_data()
    components = {
        "scale": StillScale(flex.double([2.0])), "falloff": StillFalloff(flex.double([-4.0])),
        "panel": PanelFactors(flex.double([0.9, 1.1])),
    }  # fmt: skip
    model = DiffuseScalingModel.from_components(components)
    expected = 2.0 * np.array(falloff.calculate_scales()) * [0.9, 1.1, 1.1]
    assert still_factor(model, panel, s) == pytest.approx(expected)


def test_what_cannot_be_applied_is_refused():
    scale = StillScale(flex.double([2.0]))
    model = DiffuseScalingModel.from_components({"scale": scale, "panel": PanelFactors(flex.double([1.0]))})
    with pytest.raises(ValueError, match="have panel 3, the scaling model 1 panels"):
        still_factor(model, np.array([3]), np.ones(1))

    class Decay(Component, SingleBScaleFactor):
        name = "decay"

    model = DiffuseScalingModel.from_components({"scale": scale, "decay": Decay(flex.double([1.0]))})
    with pytest.raises(ValueError, match="a component decay, which diffuse.absolute cannot apply"):
        still_factor(model, np.zeros(1, int), np.ones(1))
