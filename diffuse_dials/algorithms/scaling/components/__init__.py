"""Components of the scaling model, one file each; another package adds one as an entry point."""

from __future__ import annotations

from diffuse_dials.algorithms.scaling.components.still_scale import StillScale
from diffuse_dials.plugins import with_plugins

SCALE_COMPONENTS = with_plugins("diffuse_dials.scale_components", (StillScale,))
