"""The isotropic part of each still, estimated on the still itself: for jets, or backgrounds that blanks do not show.

What depends on |s| alone, once polarization, solid angle, efficiency and absorption are divided out, counts as
background. The crystal's own isotropic scattering is part of it, so the anisotropic part of the map remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.algorithms.background.base import Background, PanelSample
from diffuse_dials.algorithms.background.image import ImageBackground

_LEAST_PIXELS = 300  # of a bin: so that a profile takes less than 0.3 % of a pixel's own noise with it
_ROUNDS = 3


@dataclass(frozen=True)
class RadialBackground(Background):
    """J(|s|) x response, J = Σ (counts - blanks) / Σ response over the pixels of a bin.

    The ratio of sums is unbiased down to zero counts. Pixels that deviate from the profile by more than a Poisson
    variable can are left out of the second and third round: leaking Bragg spots and zingers. The bound is Bernstein's,
    P(N - m > x) <= exp(-x²/(2m + 2x/3)), so that it cuts nothing of weak counts.

    Attributes:
        bin_width: Of |s|, 1/Å.
        rejection: In standard deviations of a normal variable of that probability.
        blanks: Subtracted first; None: nothing.
    """

    bin_width: float
    rejection: float
    blanks: ImageBackground | None
    name: ClassVar[str] = "radial"
    per_still: ClassVar[bool] = True
    by_profile: ClassVar[bool] = True
    isotropic_removed: ClassVar[bool] = True
    takes_blanks: ClassVar[bool] = True
    phil: ClassVar[str] = """
    bin_width = 0.005
      .type = float(value_min=0.0005, value_max=0.1)
      .help = "Width of the |s| bins of the profile (1/Angstrom), which is linear between their centres. Bins of"
              "less than 300 pixels are joined."
      .expert_level = 1
    rejection = 5
      .type = float(value_min=3, value_max=1000000)
      .help = "Pixels that deviate from the profile by more than counting statistics allow are left out of it: those"
              "less probable than this many standard deviations of a normal distribution, on either side."
      .expert_level = 2
"""

    @classmethod
    def from_phil(cls, params, blanks) -> RadialBackground:
        """Values of the parameters; blanks, if there are any, are subtracted first as background_method=image does."""
        first = ImageBackground.from_phil(blanks.options, blanks) if blanks.files else None
        return cls(params.bin_width, params.rejection, first)

    def at(self, panel: int, exposure):
        """The blanks, scaled to the still: (photons, their variance, where they are known)."""
        return super().at(panel, exposure) if self.blanks is None else self.blanks.at(panel, exposure)

    def unscaled(self, panel: int, exposure):
        """The same without arrays of its own: (photons, their variance, a factor, where they are known)."""
        return super().unscaled(panel, exposure) if self.blanks is None else self.blanks.unscaled(panel, exposure)

    def of_still(self, panels: list[PanelSample]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(photons, their variance) of each panel: the profile that all panels share, times their response.

        The variance is that of the profile; it is common to the pixels of a bin, and small against theirs.
        """
        used = [np.flatnonzero(sample.use) for sample in panels]
        s, y, response, variance = (
            np.concatenate([values[pixels] for values, pixels in zip(columns, used)])
            for columns in (
                [sample.s_length for sample in panels],
                [sample.counts - sample.background for sample in panels],
                [sample.response for sample in panels],
                [sample.variance for sample in panels],
            )
        )
        if not len(s):
            return [(np.zeros(len(sample.counts)), np.zeros(len(sample.counts))) for sample in panels]
        fine = np.floor(s / self.bin_width).astype(np.int64)
        n_bins = int(fine.max()) + 1

        def sums(profile):
            good = slice(None) if profile is None else self._passes(profile, s, y, response)
            columns = np.ones(len(s)), response, s * response, y, variance
            return np.array([np.bincount(fine[good], column[good], n_bins) for column in columns])

        profile = self.profile(sums)
        return [
            (sample.response * profile.intensity_at(sample.s_length),
             sample.response**2 * profile.error_squared_at(sample.s_length))
            for sample in panels
        ]  # fmt: skip

    def profile(self, sums) -> Profile | None:
        """The profile of a still; None if it has no pixel.

        Args:
            sums: Function of a profile that gives sums over bins of ``bin_width``, from |s| = 0 on, shape (5, n_bins):
                pixels, response, |s| x response, counts - blanks and variance of the pixels that are not too far off
                it; of all that pass the masks for None.
        """
        found = sums(None)
        if not found[0].any():
            return None
        joined = _joined(found[0])
        profile = Profile.of(joined, found)
        for _ in range(_ROUNDS - 1):
            profile = Profile.of(joined, sums(profile))
        return profile

    def _passes(self, profile: Profile, s, y, response) -> np.ndarray:
        """Which pixels do not differ from a profile by more than counting allows, bool, shape (n,)."""
        excess = y - response * profile.intensity_at(s)
        # The variance that a bin's pixels have on average: a pixel's own count must not decide about it.
        expected = response * profile.variance_per_response(s)
        reach = self.rejection**2 / 6
        above = reach + np.sqrt(reach**2 + self.rejection**2 * expected)
        return (excess <= above) & (excess >= -self.rejection * np.sqrt(expected) - 1)

    def describe(self) -> dict:
        """For the log and grid.json."""
        first = self.blanks.describe() if self.blanks is not None else None
        return {
            "method": self.name, "bin_width": self.bin_width, "rejection": self.rejection, "blanks_first": first,
        }  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """J at the mean |s| of each bin, linear between, constant beyond; all arrays of shape (k,).

    Attributes:
        s: Mean |s|, ascending, 1/Å.
        intensity: J.
        error_squared: Its variance.
        noise: Variance of pixels over their response.
        fine: First and last of the bins of ``bin_width`` that were joined, shape (k, 2).
    """

    s: np.ndarray
    intensity: np.ndarray
    error_squared: np.ndarray
    noise: np.ndarray
    fine: np.ndarray

    @classmethod
    def of(cls, joined, sums) -> Profile:
        """From sums, shape (5, n_bins) as in RadialBackground.profile, and the number of the joined bin of each."""
        response, s_response, y, variance = (np.bincount(joined, values) for values in sums[1:])
        hit = response > 0
        total = response[hit]
        mean_s, signal, noise = (values[hit] / total for values in (s_response, y, variance))
        edges = np.searchsorted(joined, np.arange(len(response) + 1))
        fine = np.stack([edges[:-1], edges[1:] - 1], axis=1)[hit]
        return cls(mean_s, signal, noise / total, np.maximum(noise, 0), fine)

    def intensity_at(self, s):
        """J, same shape as ``s``."""
        return np.interp(s, self.s, self.intensity)

    def error_squared_at(self, s):
        """Variance of J, same shape as ``s``."""
        return np.interp(s, self.s, self.error_squared)

    def variance_per_response(self, s):
        """Variance of a pixel over its response, same shape as ``s``."""
        return np.interp(s, self.s, self.noise)


def _joined(n_pixels) -> np.ndarray:
    """Number of each bin when it is joined with the next ones until they hold enough pixels, ascending."""
    number, held, joined = 0, 0, np.empty(len(n_pixels), dtype=np.int64)
    left = n_pixels.sum()
    for i, n in enumerate(n_pixels):
        joined[i] = number
        held += n
        left -= n
        if held >= _LEAST_PIXELS and left >= _LEAST_PIXELS:
            number, held = number + 1, 0
    return joined
