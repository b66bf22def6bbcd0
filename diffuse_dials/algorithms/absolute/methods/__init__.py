"""Methods of absolute scaling, by name."""

from __future__ import annotations

from diffuse_dials.algorithms.absolute.methods.high_angle import HighAngle
from diffuse_dials.algorithms.absolute.methods.krogh_moe import KroghMoe
from diffuse_dials.algorithms.absolute.methods.reference import Reference
from diffuse_dials.algorithms.absolute.methods.unscaled import Unscaled
from diffuse_dials.algorithms.absolute.methods.wilson import Wilson
from diffuse_dials.plugins import with_plugins

METHODS = with_plugins("diffuse_dials.absolute_methods", (KroghMoe, HighAngle, Reference, Wilson, Unscaled))
