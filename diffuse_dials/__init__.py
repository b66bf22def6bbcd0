"""Quantitative three-dimensional diffuse scattering from still images, as a plug-in of DIALS."""

from __future__ import annotations

from pathlib import Path

from diffuse_dials.adapters.environment import point_to_libtbx_environment

__version__ = "0.1.0"

point_to_libtbx_environment()  # before anything imports dxtbx


def phil_folder() -> Path:
    """Folder of the ready parameter files: in an installed package, beside it in a checkout or an editable install."""
    package = Path(__file__).resolve().parent
    installed = package / "phil"
    return installed if installed.is_dir() else package.parent / "phil"
