"""Blank exposures, scaled to each still by exposure time or monitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from diffuse_dials.algorithms.background.base import Background


@dataclass(frozen=True)
class ImageBackground(Background):
    """Sum of blank exposures.

    Attributes:
        photons: Sum over the blanks, one array (n,) per panel.
        variances: Of that sum, photons², arrays (n,) per panel.
        known: Pixels that are good in every blank, one bool array (n,) per panel.
        light: Sum over the blanks of what scales them: seconds, or the units of the monitor.
        by_monitor: Whether ``light`` counts the monitor (``Exposure.incident``) or seconds.
        n_blanks: Number of images.
        files: Where they came from.
        smoothing: Standard deviation of the Gaussian they were smoothed with, pixels; None: not smoothed.
    """

    photons: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]
    known: tuple[np.ndarray, ...]
    light: float
    by_monitor: bool
    n_blanks: int
    files: tuple[str, ...]
    smoothing: float | None
    name: ClassVar[str] = "image"
    takes_blanks: ClassVar[bool] = True
    phil: ClassVar[str] = """
    scale_by = *Auto exposure monitor
      .type = choice
      .help = "How the blanks are scaled to a still: by the ratio of exposure times, or of the light by the monitor"
              "(input.monitor). Auto: by the monitor if it has a reading for every blank, else by the exposure time."
    smooth = None
      .type = float(value_min=0, value_max=1000)
      .help = "Smooth the sum of the blanks by a Gaussian of this standard deviation (pixels). It helps few or weak"
              "blanks, and blurs shadows and edges. None: not smoothed."
"""

    @classmethod
    def from_phil(cls, params, blanks) -> ImageBackground:
        """Sum the blanks, one after the other, so that memory does not grow with their number.

        Args:
            params: Extract of ``background.image``.
            blanks: ``Blanks`` of input.background.

        Raises:
            ValueError: If no file is given, or the blanks cannot be scaled as demanded.
        """
        if not blanks.files:
            raise ValueError("background_method=image needs input.background: an .expt file of blank exposures.")
        scale_by, smooth = params.scale_by, params.smooth
        by_monitor = blanks.have_monitor() if scale_by == "Auto" else scale_by == "monitor"
        if by_monitor and not blanks.have_monitor():
            raise ValueError(
                "background.image.scale_by=monitor, but input.monitor has no reading for some blanks. Add their "
                "lines to the table, or leave scale_by at Auto."
            )
        total = known = None
        light, n_blanks = 0.0, 0
        for counts, good, exposure in blanks:
            light += exposure.incident if by_monitor else exposure.time
            n_blanks += 1
            # A pixel that one blank lacks is not known: its sum would have seen less exposure than the others'.
            total = counts if total is None else tuple(a + b for a, b in zip(total, counts))
            known = good if known is None else tuple(a & b for a, b in zip(known, good))
        variances = tuple(
            blanks.noise.variance(panel, t) + (n_blanks - 1) * blanks.noise.read_variance[panel]
            for panel, t in enumerate(total)
        )
        if smooth:
            smoothed = [
                tuple(_smooth(v, k, shape, smooth) for v, k, shape in zip(values, known, blanks.shapes))
                for values in (total, variances)
            ]
            # The variance is smoothed like a background, not shrunk: what smoothing takes from single pixels it gives
            # back as correlation, and a sum over a voxel has the variance of the unsmoothed one.
            total, variances = smoothed
        files = tuple(str(f) for f in blanks.files)
        return cls(total, variances, known, light, by_monitor, n_blanks, files, smooth or None)

    def at(self, panel: int, exposure):
        """(photons, their variance, where they are known) for a still of that exposure, arrays (n,)."""
        photons, variance, ratio, known = self.unscaled(panel, exposure)
        return photons * ratio, variance * ratio**2, known

    def unscaled(self, panel: int, exposure):
        """The sum of the blanks, its variance, what scales it to a still of that exposure, and where it is known."""
        ratio = (exposure.incident if self.by_monitor else exposure.time) / self.light
        return self.photons[panel], self.variances[panel], ratio, self.known[panel]

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {
            "method": self.name,
            "files": list(self.files),
            "n_blanks": self.n_blanks,
            "light": self.light,
            "scaled_by": "monitor" if self.by_monitor else "exposure time",
            "smoothing_pixels": self.smoothing,
        }


def _smooth(values, known, shape, sigma: float) -> np.ndarray:
    """Gaussian mean over the known pixels, shape (n,); 0 where none is near."""
    weight = ndimage.gaussian_filter(known.reshape(shape).astype(float), sigma, mode="constant")
    total = ndimage.gaussian_filter(np.where(known, values, 0.0).reshape(shape), sigma, mode="constant")
    return np.divide(total, weight, out=np.zeros(shape), where=weight > 1e-6).ravel()
