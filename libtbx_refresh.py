"""Run by libtbx.refresh in a developer build: dispatchers come from command_line/, entry points from here."""

from __future__ import annotations

import libtbx.pkg_utils

libtbx.pkg_utils.define_entry_points(
    {"dxtbx.scaling_model_ext": ["diffuse = diffuse_dials.algorithms.scaling.model:DiffuseScalingModel"]}
)
