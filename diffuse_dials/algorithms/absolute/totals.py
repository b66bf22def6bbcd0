"""Total scattering as a function of |s|: the radial sums of all stills on one scale, Bragg peaks included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SHARED_S = 0.25  # 1/Å: below, few Bragg peaks make up a shell
_EDGE_BINS = 5
_LOW_BINS = 4  # bins whose mean continues the curve below the first one measured


@dataclass(frozen=True)
class TotalScattering:
    """Radial sums, per still and |s| bin; bins are contiguous, from 0 on.

    Attributes:
        s: Bin centres, shape (n_bins,), 1/Å.
        width: Of the bins, 1/Å.
        signal: Counts minus background, shape (n_stills, n_bins), photons.
        response: b · Ω·P·ε·T·t, shape (n_stills, n_bins): signal / response is in the units of the map.
        variance: Of the signal, shape (n_bins,), photons².
        n_pixels: Shape (n_bins,).
        n_overloaded: Pixels left out because they were overloaded, shape (n_bins,).
        min_pixels: A bin with fewer pixels counts as not measured.
        overload_counts: Photons from which on a pixel is overloaded; None where unknown.
    """

    s: np.ndarray
    width: float
    signal: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    n_pixels: np.ndarray
    n_overloaded: np.ndarray
    min_pixels: int = 100
    overload_counts: float | None = None

    @classmethod
    def from_rows(cls, still, s, signal, response, variance, n_pixels, n_overloaded, *, width, min_pixels=100,
                  overload_counts=None):  # fmt: skip
        """Add up rows (still, panel, bin).

        Args:
            still: Number of the still of each row, from 0, shape (n,).
            s: Bin centre of each row, 1/Å.
            signal, variance, n_pixels, n_overloaded: Sums of each row.
            response: Of each row, times the still's inverse scale factor.
            width: Of the bins, 1/Å.
            min_pixels, overload_counts: As the attributes.

        Raises:
            ValueError: If a bin centre does not fit the width.
        """
        number = np.floor(s / width).astype(int)
        if not len(s) or np.max(np.abs((number + 0.5) * width - s)) > 1e-3 * width:
            raise ValueError(
                f"The |s| bins of the radial totals are not {width} 1/Å wide, as grid.json says. Give the files of one "
                "run."
            )
        n_stills, n_bins = int(still.max()) + 1, int(number.max()) + 1
        flat = still * n_bins + number
        table = lambda values: np.bincount(flat, values, n_stills * n_bins).reshape(n_stills, n_bins)  # noqa: E731
        line = lambda values: np.bincount(number, values, n_bins)  # noqa: E731
        return cls(
            (np.arange(n_bins) + 0.5) * width,
            float(width),
            table(signal),
            table(response),
            line(variance),
            line(n_pixels),
            line(n_overloaded),
            min_pixels,
            overload_counts,
        )

    @property
    def measured(self) -> np.ndarray:
        """Whether a bin has enough pixels, shape (n_bins,)."""
        return (self.n_pixels >= self.min_pixels) & (self.response.sum(axis=0) > 0)

    @property
    def s_first(self) -> float:
        """Lower end of the first bin measured, 1/Å."""
        return float(self.s[self._measured_bins()[0]] - self.width / 2)

    @property
    def s_last(self) -> float:
        """Upper end of the last bin measured, 1/Å."""
        return float(self.s[self._measured_bins()[-1]] + self.width / 2)

    def _measured_bins(self):
        bins = np.flatnonzero(self.measured)
        if not len(bins):
            raise ValueError(
                f"No |s| bin of the radial totals has {self.min_pixels} pixels. Use more stills, or lower "
                "absolute.min_pixels."
            )
        return bins

    def shell_volume(self) -> np.ndarray:
        """∫ 4πs² ds over each bin, shape (n_bins,), 1/Å³."""
        return 4 * np.pi / 3 * ((self.s + self.width / 2) ** 3 - (self.s - self.width / 2) ** 3)

    def intensity(self, weights=None) -> np.ndarray:
        """I_tot(s) = Σ signal / Σ response, with gaps closed.

        Bins without enough pixels between measured ones are interpolated linearly; below the first one the curve
        goes on with the mean of the first four (weighted by shell volume), because s² leaves little weight there:
        without data below 0.05 1/Å the scale of a lysozyme crystal changes by 0.1 %.

        Args:
            weights: How often each still counts, shape (n_stills,); None counts each once.

        Returns:
            Shape (n_bins,), units of the map; bins above the last one measured repeat its value.
        """
        bins = self._measured_bins()
        signal, response = self._sums(weights)
        values = signal[bins] / response[bins]
        first = bins[:_LOW_BINS]
        low = np.average(values[: len(first)], weights=self.shell_volume()[first])
        return np.interp(self.s, self.s[bins], values, left=low)

    def intensity_with_overloads(self) -> np.ndarray:
        """I_tot as if each overloaded pixel held ``overload_counts``, the least it can hold, shape (n_bins,)."""
        signal, response = self._sums(None)
        share = self.n_overloaded / np.maximum(self.n_pixels, 1)
        factor = (signal + self.n_overloaded * self.overload_counts) / np.where(signal > 0, signal * (1 + share), 1)
        return self.intensity() * np.where(signal > 0, factor, 1)

    def sigma(self) -> np.ndarray:
        """Standard deviation of I_tot by counting statistics, shape (n_bins,); NaN where not measured."""
        response = np.where(self.measured, self.response.sum(axis=0), np.nan)
        return np.sqrt(self.variance) / response

    def _sums(self, weights):
        if weights is None:
            return self.signal.sum(axis=0), self.response.sum(axis=0)
        signal, response = weights @ self.signal, weights @ self.response
        # a bin that only stills not drawn have measured keeps the value of all stills
        empty = response <= 0
        return np.where(empty, self.signal.sum(axis=0), signal), np.where(empty, self.response.sum(axis=0), response)

    def overloaded_fraction(self) -> np.ndarray:
        """Part of the pixels of each bin that was overloaded and left out, shape (n_bins,)."""
        return self.n_overloaded / np.maximum(self.n_pixels + self.n_overloaded, 1)


def map_over_totals(totals: TotalScattering | None, columns, s) -> float | None:
    """Mean of the map with Bragg pixels over that of the radial totals, which are the same thing above 0.25 1/Å.

    Args:
        totals: Total scattering.
        columns: Columns of merged.refl.
        s: |s| of its voxels, 1/Å.

    Returns:
        The ratio, 1 within the sampling of the Bragg peaks; None where they do not overlap by ten bins.
    """
    if totals is None or "intensity.all.value" not in columns:
        return None
    n_bins = len(totals.s)
    number = np.minimum((s / totals.width).astype(int), n_bins)
    weight = columns["multiplicity.all"].astype(float)
    seen = np.bincount(number, weight, n_bins + 1)[:n_bins]
    total = np.bincount(number, weight * columns["intensity.all.value"], n_bins + 1)[:n_bins]
    # the outermost bins hold only parts of their voxels
    shared = np.flatnonzero((seen > 0) & totals.measured & (totals.s > _SHARED_S))[_EDGE_BINS:-_EDGE_BINS]
    if len(shared) < 10:
        return None
    volume = totals.shell_volume()[shared]
    return float((volume * total[shared] / seen[shared]).sum() / (volume * totals.intensity()[shared]).sum())
