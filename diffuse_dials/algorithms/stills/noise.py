"""Variance of the counts of a pixel: Poisson for photon counters, measured on the images for integrating detectors.

The variance is measured on sums over squares of pixels, because those are what becomes a voxel: a detector that smears
each photon over several pixels (a CCD with its taper) has little noise in a pixel and nearly all of it in a sum.
Squares two apart are combined in fours, a - b - c + d, which cancels any gradient; only the smoothest
quarter of the tiles of the images counts, judged by other differences, because haloes and Bragg spots can only add.
What a square of edge B still loses through its edges falls as (1 - c/B)², so that two sizes give the noise of large
sums as well: that is the gain, if nothing but the statistics of photons makes it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import libtbx.phil
import numpy as np
from scipy import optimize

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
noise {
  model = *Auto counting measured
    .type = choice
    .help = "Variance of the counts. counting: equal to their expectation, as for photon counters. measured: a factor"
            "times the expectation plus a constant, both from the scatter in the images. Auto: measured for integrating"
            "detectors, counting for photon counters."
    .expert_level = 1
  n_stills = 4
    .type = int(value_min=1)
    .help = "Stills on which the noise is measured."
    .expert_level = 2
}
"""
)

_TILE = 64  # pixels: small against the fall-off of scattering
_SQUARES = 4, 2  # pixels: the first as large as a voxel, wider than the point spread and smaller than haloes
_ROUGH = 8  # pixels: squares by which the smoothness of a tile is judged
_LEAST_DIFFERENCES = 40  # of a tile, for a variance good to a quarter
_MOST_TILES = 2000
_LEAST_TILES = 8
_OUTLIER = 3.5  # standard deviations
_ACCURACY = 0.2  # relative, of a gain from the variance


@dataclass(frozen=True)
class NoiseModel:
    """Variance of a pixel = factor x max(counts, 0) + read_variance, per panel, in photons².

    Attributes:
        factor: 1 for a photon counter, shape (n_panels,).
        read_variance: 0 for a photon counter, shape (n_panels,), photons².
        record: Where the numbers came from, for the log and grid.json.
    """

    factor: tuple[float, ...]
    read_variance: tuple[float, ...]
    record: dict

    @classmethod
    def counting(cls, n_panels: int, **why) -> NoiseModel:
        """Poisson statistics on every panel."""
        return cls((1.0,) * n_panels, (0.0,) * n_panels, {"model": "counting", **why})

    def variance(self, panel: int, counts: np.ndarray) -> np.ndarray:
        """Variance of counts (photons), same shape.

        The counts stand in for their expectation, which is unbiased in sums; a pixel of an integrating detector below
        zero has no less noise than one at zero.
        """
        return self.factor[panel] * np.maximum(counts, 0) + self.read_variance[panel]


@dataclass(frozen=True)
class MeasuredNoise:
    """Variance per pixel of sums over pixels = slope x mean + constant, in the units of the values.

    Attributes:
        slope: Of sums over 4 x 4 pixels; for a detector of gain 1 with nothing but Poisson noise it is 1.
        constant: Never negative.
        gain: Slope of sums so large that the point spread does not matter: units per photon.
        n_tiles: Pieces of images it was measured on; 0: there were too few, and the numbers are 0.
    """

    slope: float
    constant: float
    gain: float
    n_tiles: int


def measure_noise(images) -> MeasuredNoise:
    """Fit the variance of sums against their mean.

    Args:
        images: A list; for each image a list of (values, use) per panel, arrays (slow, fast): values in any unit,
            use True where a pixel passes all masks.

    Returns:
        Slope and constant, good to about 20 %: smooth scattering that remains makes them too large.
    """
    pieces = [tile for image in images for values, use in image for tile in _tiles(values, use)]
    step = max(1, len(pieces) // _MOST_TILES)
    found = np.array([row for row in (_tile_noise(*tile) for tile in pieces[::step]) if row is not None]).reshape(-1, 5)
    smoothest = np.argsort(found[:, 4], kind="stable")[: max(_LEAST_TILES, len(found) // 4)]
    if len(smoothest) < _LEAST_TILES:
        return MeasuredNoise(0.0, 0.0, 0.0, 0)
    mean, large, small, n, _ = found[smoothest].T
    mean = np.maximum(mean, 0)
    slope, constant = _fit(mean, large, n)
    smaller, _ = _fit(mean, small, n)
    gain = max(slope, (2 * np.sqrt(slope) - np.sqrt(smaller)) ** 2)
    return MeasuredNoise(slope, constant, float(gain), len(smoothest))


def _tiles(values, use):
    for slow in range(0, values.shape[0] - _TILE // 2, _TILE):
        for fast in range(0, values.shape[1] - _TILE // 2, _TILE):
            part = slice(slow, slow + _TILE), slice(fast, fast + _TILE)
            if np.count_nonzero(use[part]) > _TILE**2 // 4:
                yield values[part].astype(np.float64), use[part]


def _squares(values, use, size: int):
    """Sums over squares, and which of them are complete."""
    slow, fast = (n // size for n in values.shape)

    def add(array):
        return array[: slow * size, : fast * size].reshape(slow, size, fast, size).sum(axis=(1, 3))

    return add(np.where(use, values, 0.0)), add(use) == size * size


def _tile_noise(values, use):
    """(mean, variance of large and of small sums, number of differences, roughness); None where too little is left."""
    found = [_differences(values, use, size) for size in _SQUARES]
    (large, mean), (small, _) = found
    if len(large) < _LEAST_DIFFERENCES:
        return None
    variances = []
    for difference in (large, small):
        good = np.abs(difference) <= _OUTLIER * 1.4826 * np.median(np.abs(difference))
        if np.count_nonzero(good) < _LEAST_DIFFERENCES // 2:
            return None
        variances.append(float(np.mean(difference[good] ** 2)))
    return mean, *variances, len(large), _roughness(values, use) / max(abs(mean), variances[0], 1e-12)


def _differences(values, use, size: int):
    """Differences a - b - c + d of sums over squares, per pixel (their variance is that of one pixel), and the mean."""
    sums, full = _squares(values, use, size)
    ends = slice(None, -2), slice(2, None)
    complete = np.ones(1, dtype=bool)
    difference = total = 0.0
    for i, slow in enumerate(ends):
        for j, fast in enumerate(ends):
            complete = complete & full[slow, fast]
            difference = difference + (-1) ** (i + j) * sums[slow, fast]
            total = total + sums[slow, fast]
    mean = float(np.mean(total[complete])) / (4 * size**2) if complete.any() else 0.0
    return difference[complete] / (2 * size), mean


def _roughness(values, use) -> float:
    """Mean square of second differences of larger squares along both directions: other numbers than the variance."""
    sums, full = _squares(values, use, _ROUGH)
    squares = [
        (a[2:] - 2 * a[1:-1] + a[:-2])[f[2:] & f[1:-1] & f[:-2]] ** 2 for a, f in ((sums, full), (sums.T, full.T))
    ]
    together = np.concatenate(squares)
    return float(np.mean(together)) / (6 * _ROUGH**2) if len(together) > 3 else np.inf


def _fit(mean, variance, n) -> tuple[float, float]:
    """variance = slope x mean + constant, neither negative, tiles that lie far off the line counting little."""
    design = np.stack([mean, np.ones_like(mean)], axis=1)
    weight = np.sqrt(n) / np.maximum(variance, 1e-12)
    slope = constant = 0.0
    for _ in range(20):
        (slope, constant), _ = optimize.nnls(design * weight[:, None], variance * weight)
        fitted = np.maximum(design @ [slope, constant], 1e-12)
        pull = (variance / fitted - 1) / np.sqrt(2 / n)
        weight = np.sqrt(n) / fitted / np.sqrt(1 + (pull / 2) ** 2)
    return float(slope), float(constant)


def choose_noise(params, panels, gain_is_known: bool, sample) -> tuple[NoiseModel, float | None]:
    """Noise model of a detector, and its gain where only the images tell it.

    Args:
        params: Extract of ``noise``.
        panels: Whether each panel counts photons, bools.
        gain_is_known: Whether a gain is given, by the user, a gain map or a panel's gain other than 1.
        sample: Function of the number of stills that gives a list of images for :func:`measure_noise`; called only
            if the noise has to be measured. Its values have the known gain applied.

    Returns:
        (NoiseModel in photons, estimated gain in detector units per photon, None where the panels' is to be used).
    """
    counter = all(panels)
    model = "counting" if params.model == "Auto" and counter else params.model
    if model == "counting":
        return NoiseModel.counting(len(panels)), None
    measured = measure_noise(sample(params.n_stills))
    if not measured.n_tiles or (measured.slope == 0 and measured.constant == 0):
        logger.warning("The noise of the detector cannot be measured on these stills; that of counting is taken.")
        return NoiseModel.counting(len(panels), reason="too few smooth regions to measure it on"), None
    gain = None if counter or gain_is_known or measured.slope == 0 else measured.gain
    if gain is not None and abs(gain - 1) < _ACCURACY:
        gain = None  # the panels' 1 may well be right, and is a better guess than the measurement
    unit = gain or 1.0
    factor, read_variance = measured.slope / unit, measured.constant / unit**2
    record = {
        "model": "measured", "factor": factor, "read_variance_photons2": read_variance, "n_tiles": measured.n_tiles,
    }  # fmt: skip
    return NoiseModel((factor,) * len(panels), (read_variance,) * len(panels), record), gain
