"""What is not diffuse scattering of the crystal: bad pixels, untrusted regions, Bragg spots. Always True = use."""

from __future__ import annotations

import libtbx.phil

from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.bragg_profile import PROFILE_PHIL
from diffuse_dials.algorithms.masking.dynamic import DYNAMIC_PHIL
from diffuse_dials.algorithms.masking.found_spots import FOUND_PHIL
from diffuse_dials.algorithms.masking.shadows import SHADOW_PHIL
from diffuse_dials.algorithms.masking.spot_masks import PredictedMask, ShoeboxMask
from diffuse_dials.plugins import with_plugins

BRAGG_MASKS = with_plugins("diffuse_dials.bragg_masks", (LatticeMask, PredictedMask, ShoeboxMask))

_EACH_STILL = f"""
  trusted_range = *panel none
    .type = choice
    .help = "panel: in each still, leave out pixels outside their panel's trusted range. none: use every value."
  bragg {{
    method = *{" ".join(BRAGG_MASKS)}
      .type = choice
      .help = "lattice: pixels near any reciprocal lattice point. predicted: spots that DIALS predicts, and those in"
              "the .refl. shoebox: pixels that the shoeboxes of the .refl mark as strong or foreground."
    {"".join(getattr(cls, "phil", "") for cls in BRAGG_MASKS.values())}
    {PROFILE_PHIL}
    {FOUND_PHIL}
  }}
"""

# What is tested still by still: all that diffuse.extract and diffuse.grid need beside a mask file.
extraction_phil_scope = libtbx.phil.parse(f"masking {{ {_EACH_STILL} }}")

# All of it, for diffuse.make_mask.
phil_scope = libtbx.phil.parse(
    f"""
masking {{
  {_EACH_STILL}
  include scope diffuse_dials.adapters.generate_mask.phil_scope
  edge = 0
    .type = int(value_min=0, value_max=1000)
    .help = "Width (pixels) of a rim that is masked around each panel and around each gap between modules: pixels at"
            "the edges of modules are often larger or see less."
  {DYNAMIC_PHIL}
  {SHADOW_PHIL}
}}
""",
    process_includes=True,
)
