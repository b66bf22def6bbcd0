"""The background that is estimated on a still, from the kernel's sums over |s| bins instead of arrays over its pixels.

The NumPy code (``Background.of_still``) is the reference: the same pixels in the same bins, the same ones left out.
"""

from __future__ import annotations

import numpy as np

from diffuse_dials.kernels import profile as kernel
from diffuse_dials.kernels.pieces import BEYOND, USED


class StillProfile:
    """One still. All pixels are looked at once; later rounds look only at pieces where a profile may reject some."""

    def __init__(self, background, noise, panels, units):
        """
        Args:
            background: Background with ``by_profile``.
            noise: NoiseModel.
            panels: A fused.PanelInput for each panel.
            units: What a unit of each panel's response stands for in this still, sr s.
        """
        self._background, self._noise, self._panels, self._units = background, noise, panels, units
        self._n_bins = int(max(panel.shared.s_max for panel in panels) / background.bin_width) + 2
        self._marks = []

    def find(self) -> list[kernel.Profile] | None:
        """The profile as the kernel takes it for each panel; None if no pixel passes the masks."""
        found = self._background.profile(self._sums)
        return None if found is None else self._for_kernel(found)

    def _for_kernel(self, profile) -> list[kernel.Profile]:
        width = self._background.bin_width
        # a mean of |s| is in one of its bins, and rounding must not move it out of them
        bins = np.clip((profile.s / width).astype(np.int64), *profile.fine.T)
        curves = np.stack([profile.intensity, profile.error_squared, profile.noise])
        made = kernel.make_profile(width, profile.s, bins, self._n_bins, curves)
        return [made._replace(unit=unit) for unit in self._units]

    def _sums(self, profile) -> np.ndarray:
        """As Background.profile wants them."""
        if profile is None:
            self._marks = [self._first_sums(panel) for panel in self._panels]
            sums = [found for found, _, _ in self._marks]
        else:
            sums = list(map(self._without, self._panels, self._marks, self._for_kernel(profile)))
        total = np.zeros((5, self._n_bins))
        for number, (unit, found) in enumerate(zip(self._units, sums)):
            columns = found.T
            n, positive = columns[kernel.N_PIXELS], columns[kernel.POSITIVE]
            variance = self._noise.factor[number] * positive + self._noise.read_variance[number] * n
            total += (
                n, unit * columns[kernel.RESPONSE], unit * columns[kernel.S_RESPONSE],
                columns[kernel.PHOTONS] - columns[kernel.BACKGROUND], variance + columns[kernel.BACKGROUND_VARIANCE],
            )  # fmt: skip
        return total

    def _first_sums(self, panel):
        """Sums of a panel's pixels, and what tells which they are."""
        shared, pieces = panel.shared.shared, panel.shared.pieces
        n_pieces = len(shared.kinds)
        bits = np.empty((n_pieces, kernel.WORDS), dtype=np.uint32)
        extremes = np.empty((n_pieces, kernel.N_EXTREMES))
        sums = np.zeros((self._n_bins, kernel.N_SUMS))
        kinds = np.where(shared.kinds == BEYOND, np.uint8(USED), shared.kinds)
        kernel.sum_bins(
            panel.raw, panel.limits, shared, pieces, panel.shared.plane.vectors, panel.shared.plane.shift,
            panel.crystal, panel.keep, panel.pedestal, panel.gain, panel.background, panel.variance, panel.ratio,
            self._background.bin_width, kinds, bits, extremes, sums,
        )  # fmt: skip
        return sums, bits, extremes

    def _without(self, panel, marks, profile):
        """The sums without the pixels that are too far off a profile."""
        first, bits, extremes = marks
        sums = first.copy()
        kernel.take_out(
            panel.raw, panel.shared.shared, panel.shared.pieces, panel.shared.plane.vectors, panel.shared.plane.shift,
            panel.crystal, panel.pedestal, panel.gain, panel.background, panel.variance, panel.ratio, bits, extremes,
            profile, self._background.rejection, sums,
        )  # fmt: skip
        return sums
