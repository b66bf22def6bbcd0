"""Terms of the background of a pixel, one file each; another package adds one by an entry point.

A background is a class with ``name``, ``phil``, ``from_phil(params, experiments, photons)`` and
``at(panel, exposure_time)``, which gives photons, their variance and where they are known.
"""

from __future__ import annotations

import libtbx.phil

from diffuse_dials.algorithms.background.constant import ConstantBackground
from diffuse_dials.algorithms.background.image import ImageBackground
from diffuse_dials.algorithms.background.none import NoBackground
from diffuse_dials.plugins import with_plugins

BACKGROUNDS = with_plugins("diffuse_dials.backgrounds", (NoBackground, ConstantBackground, ImageBackground))

phil_scope = libtbx.phil.parse(
    f"""
background_method = *{" ".join(BACKGROUNDS)}
  .type = choice
  .help = "none; constant: so many photons in every pixel; image: blank exposures (input.background), scaled by"
          "exposure time. input.background alone means image."
background {{
"""
    + "".join(f"  {name} {{\n{cls.phil}\n  }}\n" for name, cls in BACKGROUNDS.items() if cls.phil)
    + "}\n"
)
