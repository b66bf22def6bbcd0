"""Terms of the background of a pixel, one per file; another package adds one through an entry point.

A background is a sub-class of ``Background`` (base.py) with ``name``, ``phil``, ``from_phil(params, blanks)`` and
``describe()``; it offers ``at(panel, exposure)``, the part that all stills share, and, where ``per_still`` is set,
``of_still(panels)``, the part that is estimated on each still (and ``profile(sums)``, the same for the compiled pass).
"""

from __future__ import annotations

import libtbx.phil

from diffuse_dials.algorithms.background.constant import ConstantBackground
from diffuse_dials.algorithms.background.image import ImageBackground
from diffuse_dials.algorithms.background.none import NoBackground
from diffuse_dials.algorithms.background.radial import RadialBackground
from diffuse_dials.plugins import with_plugins

_BUILTIN = (NoBackground, ConstantBackground, ImageBackground, RadialBackground)
BACKGROUNDS = with_plugins("diffuse_dials.backgrounds", _BUILTIN)

phil_scope = libtbx.phil.parse(
    f"""
background_method = *{" ".join(BACKGROUNDS)}
  .type = choice
  .help = "none. constant: the same number of photons in every pixel. image: blank exposures (input.background), scaled"
          "by exposure time or monitor. radial: the part of each still that depends on |s| alone, after blanks if there"
          "are any; it takes the crystal's isotropic scattering with it. If only input.background is given, image is"
          "used."
background {{
"""
    + "".join(f"  {name} {{\n{cls.phil}\n  }}\n" for name, cls in BACKGROUNDS.items() if cls.phil)
    + "}\n"
)


def choose_background(params, blanks):
    """The background that the parameters ask for.

    Args:
        params: Extract with ``background_method`` and ``background``.
        blanks: Blanks of input.background, perhaps none.

    Raises:
        ValueError: If the parameters contradict each other or lack what the method needs.
    """
    method = chosen_method(params, blanks.files)
    values = getattr(params.background, method, None) if hasattr(params, "background") else None
    return BACKGROUNDS[method].from_phil(values, blanks)


def chosen_method(params, files) -> str:
    """Name of the background that the parameters ask for.

    Args:
        params: Extract with ``background_method`` and ``background``.
        files: Of input.background.

    Raises:
        ValueError: If the parameters contradict each other.
    """
    method = params.background_method or "none"  # PHIL reads a typed none as None
    if files and method == "none":
        method = "image"
    if files and not BACKGROUNDS[method].takes_blanks:
        raise ValueError(
            f"input.background={files[0]} goes with background_method=image, not {method}. Leave one of them out."
        )
    constant = params.background.constant.value
    if constant is not None and method != "constant":
        raise ValueError(
            f"background.constant.value={constant:g} goes with background_method=constant, not {method}. Leave one of "
            "them out."
        )
    return method
