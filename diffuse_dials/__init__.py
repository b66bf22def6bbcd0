"""Quantitative three-dimensional diffuse scattering from still images, as a plug-in of DIALS."""

__version__ = "0.1.0"
