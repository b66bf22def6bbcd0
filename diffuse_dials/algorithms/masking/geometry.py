"""Directions of the pixels, kept for as long as the stills share a detector."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters.panels import beam_direction, fingerprint, pixel_geometry
from diffuse_dials.models.geometry import PixelGeometry

_PIXELS_A_TIME = 1 << 18  # whose scattering vectors are in memory together


class Geometries:
    """Pixel geometry by panel, of the last detector only: stills with models of their own must not fill the memory."""

    def __init__(self):
        self._models, self._panels = None, {}

    def of(self, experiment, panel: int) -> PixelGeometry:
        """Geometry of one panel of a still's detector."""
        models = (fingerprint(experiment.detector), tuple(beam_direction(experiment.beam)))
        if models != self._models:
            self._models, self._panels = models, {}
        if panel not in self._panels:
            self._panels[panel] = pixel_geometry(experiment.detector[panel], beam_direction(experiment.beam))
        return self._panels[panel]


def in_parts(geometry: PixelGeometry, wavelength: float):
    """Yield (slice of the pixels, their scattering vectors, shape (n, 3), 1/Å), few enough at a time for any panel."""
    n_pixels = int(np.prod(geometry.shape))
    for start in range(0, n_pixels, _PIXELS_A_TIME):
        part = slice(start, min(start + _PIXELS_A_TIME, n_pixels))
        yield part, geometry.s_vectors(wavelength, part)
