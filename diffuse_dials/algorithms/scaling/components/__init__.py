"""Components of the scaling model, one file each; another package adds one as an entry point."""

from __future__ import annotations

from diffuse_dials.algorithms.scaling.components.base import Component, Layout, Stacked
from diffuse_dials.algorithms.scaling.components.falloff import StillFalloff
from diffuse_dials.algorithms.scaling.components.offset import StillOffset
from diffuse_dials.algorithms.scaling.components.panel import PanelFactors
from diffuse_dials.algorithms.scaling.components.still_scale import StillScale
from diffuse_dials.algorithms.scaling.components.surface import DetectorSurface
from diffuse_dials.plugins import with_plugins

__all__ = ["SCALE_COMPONENTS", "Component", "Layout", "Stacked"]

SCALE_COMPONENTS = with_plugins(
    "diffuse_dials.scale_components", (StillScale, StillFalloff, PanelFactors, DetectorSurface, StillOffset)
)
