"""Blank exposures, scaled by exposure time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class ImageBackground:
    """Mean of blank exposures, per second.

    Attributes:
        photons: Sum over the blanks, one array (n,) per panel.
        variance: Of that sum, photons²: its Poisson variance.
        known: Pixels that are good in every blank, one bool array (n,) per panel.
        exposure_time: Sum over the blanks, s.
        files: Where they came from.
    """

    photons: tuple[np.ndarray, ...]
    variance: tuple[np.ndarray, ...]
    known: tuple[np.ndarray, ...]
    exposure_time: float
    files: tuple[str, ...]
    name: ClassVar[str] = "image"
    phil: ClassVar[str] = ""

    @classmethod
    def from_phil(cls, params, files, photons) -> ImageBackground:
        """Sum the blanks of ``files``.

        Args:
            params: None: it has no parameters of its own.
            files: .expt files of blanks (input.background).
            photons: Function of such a file that yields (photons, good pixels, exposure time), arrays per panel,
                for each image in it.

        Raises:
            ValueError: If no file is given or the blanks have no exposure time.
        """
        if not files:
            raise ValueError("background_method=image needs input.background: an .expt file of blank exposures.")
        total = known = None
        seconds = 0.0
        for file in files:
            for counts, good, exposure in photons(file):
                if exposure is None:
                    raise ValueError(f"A blank of {file} has no exposure time, so that it cannot be scaled to the stills. Give corrections.exposure_time, if all are equal.")
                seconds += exposure
                # A pixel that one blank lacks is not known: its sum would have seen less exposure than the others'.
                total = counts if total is None else tuple(a + b for a, b in zip(total, counts))
                known = good if known is None else tuple(a & b for a, b in zip(known, good))
        return cls(total, tuple(np.maximum(t, 0) for t in total), known, seconds, tuple(str(f) for f in files))

    def at(self, panel: int, exposure_time: float):
        """(photons, their variance, where they are known) for a still of that exposure, arrays (n,)."""
        ratio = exposure_time / self.exposure_time
        return self.photons[panel] * ratio, self.variance[panel] * ratio**2, self.known[panel]

    def describe(self) -> dict:
        """For the log and grid.json."""
        return {"method": self.name, "files": list(self.files), "exposure_time_s": self.exposure_time, "scaled_by": "exposure time"}
