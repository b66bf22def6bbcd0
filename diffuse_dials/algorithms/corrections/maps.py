"""Each correction over the detector, on a grid of pixels: for its range in the log and its picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.adapters.panels import beam_direction, pixel_geometry

_ALONG = 300  # samples along the longer side of a detector's panels together


@dataclass(frozen=True)
class FactorMap:
    """One factor of the response of one still.

    Attributes:
        name: Of the correction; "response" is the product of all.
        panels: Its values on every ``step``-th pixel, arrays (slow, fast) per panel.
        step: Pixels.
    """

    name: str
    panels: tuple[np.ndarray, ...]
    step: int

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value over the detector."""
        return min(float(p.min()) for p in self.panels), max(float(p.max()) for p in self.panels)


def factor_maps(corrections, experiment) -> list[FactorMap]:
    """Factors of the response of a still, and their product, sampled over its detector.

    Args:
        corrections: From ``choose_corrections``.
        experiment: The still.

    Raises:
        ValueError: If a factor is not finite and positive.
    """
    detector, wavelength = experiment.detector, experiment.beam.get_wavelength()
    pixels = sum(int(np.prod(panel.get_image_size())) for panel in detector)
    step = max(1, round(np.sqrt(pixels) / _ALONG))
    s0 = beam_direction(experiment.beam)
    values: dict[str, list] = {correction.name: [] for correction in corrections}
    values["response"] = []
    for number, panel in enumerate(detector):
        geometry = pixel_geometry(panel, s0, step)
        product = np.ones(geometry.shape)
        for correction in corrections:
            factor = checked_factor(correction, number, geometry, wavelength).reshape(geometry.shape)
            values[correction.name].append(factor)
            product = product * factor
        values["response"].append(product)
    return [FactorMap(name, tuple(panels), step) for name, panels in values.items()]


def checked_factor(correction, panel: int, geometry, wavelength: float) -> np.ndarray:
    """One correction's factor for the pixels of a panel, shape (n,).

    Raises:
        ValueError: If it is not finite and positive: a correction is never silently 1.
    """
    factor = correction.response(panel, geometry, wavelength)
    if not (np.isfinite(factor).all() and factor.min() > 0):
        raise ValueError(
            f"The correction {correction.name} is {factor.min():.3g} to {factor.max():.3g} on panel {panel}; it must "
            "be positive. Check the values it was given."
        )
    return factor
