"""What a few stills show pixel by pixel, for diffuse.report: photons before and after the corrections, the factors of
the response over the detector, which pixels pass which filter, and where in reciprocal space they lie.

Which stills follows from a hash of their names, so that it depends neither on their order nor on the workers.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import asdict, dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.inputs import Stills

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
quality {
  sample_stills = 3
    .type = int(value_min=0, value_max=20)
    .help = "Number of stills that are looked at once more, pixel by pixel, for diffuse.report: histograms, coverage,"
            "what the masks leave. On large detectors histograms use every n-th pixel, about half a million. 0: none."
    .expert_level = 1
}
"""
)

_MOST_PIXELS = 6e5  # of a still, which is measured as arrays: 0.12 GB
_MOST_BINS = 80
_ALONG = 90  # cells of a picture of the detector along its longer side
_POINTS = 1500  # of a still in the plot of reciprocal space


@dataclass(frozen=True)
class StillSample:
    """One still: how many of its pixels pass which filter, and what a sample of them shows.

    Attributes:
        label: Its name.
        n_pixels: Of the detector, or every n-th by extraction.pixel_step.
        n_in_mask: That pass the mask of all stills.
        n_good: That also lie in the trusted range, with a background that is known.
        n_in_resolution: That also lie within the resolution limits; where not all pixels were looked at, n_accepted
            over the share of these that passes the Bragg mask.
        n_accepted: That also pass the Bragg mask: those of the map.
        n_overloaded: Overloaded ones among those that pass the mask.
        mean_response: Mean of the response of the accepted pixels, sr s.
        edges: Of the histograms, photons.
        raw: Accepted pixels by their photons.
        corrected: The same by (photons - background) x mean response / response.
        s: Scattering vectors of some accepted pixels in the crystal's Cartesian frame, 1/Å, shape (n, 3): U⁻¹ s.
    """

    label: str
    n_pixels: int
    n_in_mask: int
    n_good: int
    n_in_resolution: int
    n_accepted: int
    n_overloaded: int
    mean_response: float
    edges: np.ndarray
    raw: np.ndarray
    corrected: np.ndarray
    s: np.ndarray

    def to_dict(self) -> dict:
        """For JSON; ``from_dict`` reads it."""
        arrays = {name: getattr(self, name).tolist() for name in ("edges", "raw", "corrected")}
        return {**asdict(self), **arrays, "s": np.round(self.s, 5).tolist()}

    @classmethod
    def from_dict(cls, content: dict) -> StillSample:
        """What ``to_dict`` gave."""
        arrays = {name: np.array(content[name], dtype=float) for name in ("edges", "raw", "corrected", "s")}
        return cls(**{**content, **arrays})


@dataclass(frozen=True)
class DetectorMaps:
    """Factors of the response over the detector, seen along the beam: x to the right, y up.

    Attributes:
        x, y: Centres of the cells in the laboratory, mm.
        factors: Means over each cell by name of the correction, shape (n_y, n_x); NaN where no pixel is.
    """

    x: np.ndarray
    y: np.ndarray
    factors: dict[str, np.ndarray]

    def to_dict(self) -> dict:
        """For JSON; ``from_dict`` reads it. Five digits."""
        factors = {
            name: [[None if v != v else float(f"{v:.5g}") for v in row] for row in values]
            for name, values in self.factors.items()
        }
        return {"x": np.round(self.x, 3).tolist(), "y": np.round(self.y, 3).tolist(), "factors": factors}

    @classmethod
    def from_dict(cls, content: dict) -> DetectorMaps:
        """What ``to_dict`` gave."""
        factors = {name: np.array(values, dtype=float) for name, values in content["factors"].items()}
        return cls(np.array(content["x"]), np.array(content["y"]), factors)


def pixel_statistics(measurement, stills: Stills, sums, n_wanted: int) -> dict:
    """Content of pixel_statistics.json.

    Args:
        measurement: Set up for the stills.
        stills: The stills.
        sums: What the run measured (PartedSums).
        n_wanted: How many stills are looked at.

    Returns:
        ``stills`` (StillSample), ``detector`` (DetectorMaps), ``pixel_step`` of the run and ``sample_step`` of the
        pixels that were looked at.
    """
    detector = stills.experiments[0].detector
    n_pixels = sum(int(np.prod(panel.get_image_size())) for panel in detector)
    pixel_step = measurement.record["masks"]["pixel_step"]
    step = max(pixel_step, math.ceil(math.sqrt(n_pixels / _MOST_PIXELS)))
    samples = []
    if n_wanted:
        measure = measurement.thinned(step)
        accepted = {outcome.number: outcome.n_accepted for outcome in sums.outcomes if outcome.status == "ok"}
        for number in sorted(accepted, key=lambda i: hashlib.sha256(stills.keys[i].label.encode()).digest()):
            try:
                measured = measure(number)
            except ValueError as error:  # no pixel of the sample is left, or the image is no longer there
                logger.debug("%s: not among the stills looked at: %s", stills.keys[number].label, error)
                continue
            window = np.s_[pixel_step // 2 :: pixel_step, pixel_step // 2 :: pixel_step]
            masks = [mask[window] for mask in measurement.mask_of(number)]
            totals = sums.totals_of(number)
            samples.append(sample_still(measured, stills, number, masks, totals, accepted[number]))
            if len(samples) == n_wanted:
                break
    return {
        "stills": [sample.to_dict() for sample in samples],
        "detector": detector_maps(measurement.factor_maps, detector).to_dict(),
        "pixel_step": pixel_step,
        "sample_step": step,
    }


def sample_still(measured, stills: Stills, number: int, masks, totals, n_accepted: int) -> StillSample:
    """Look at one still.

    Args:
        measured: Its StillMeasurement, of some pixels.
        stills: The stills.
        number: Its position in the experiment list.
        masks: What masks every still, bool, an array per panel.
        totals: Its RadialTotals, of all pixels.
        n_accepted: Of all pixels, those that the map uses.
    """
    experiment = stills.experiments[number]
    kept = [~panel.bragg for panel in measured.pixels]
    counts, background, response, s = (
        np.concatenate([getattr(panel, name)[keep] for panel, keep in zip(measured.pixels, kept)])
        for name in ("counts", "background", "response", "s")
    )
    mean_response = float(response.mean())
    corrected = (counts - background) * (mean_response / response)
    edges = _edges(counts, corrected)
    chosen = np.linspace(0, len(s) - 1, min(_POINTS, len(s))).astype(int)
    u = np.array(experiment.crystal.get_U()).reshape(3, 3)
    within = sum(len(panel.bragg) for panel in measured.pixels)
    n_good = int(totals.n_pixels.sum())
    return StillSample(
        stills.keys[number].label,
        sum(mask.size for mask in masks),
        sum(int(np.count_nonzero(mask)) for mask in masks),
        n_good,
        min(round(n_accepted * within / measured.n_accepted), n_good),
        n_accepted,
        int(totals.n_overloaded.sum()),
        mean_response,
        edges,
        _histogram(counts, edges),
        _histogram(corrected, edges),
        s[chosen] @ u,  # row vectors: U⁻¹ s
    )


def detector_maps(factor_maps, detector) -> DetectorMaps:
    """Factors on a grid of the laboratory's x-y plane.

    Args:
        factor_maps: ``Measurement.factor_maps``.
        detector: The dxtbx detector that they were worked out for.
    """
    step = factor_maps[0].step
    places, spacing = [], 0.0
    for panel, values in zip(detector, factor_maps[0].panels):
        origin, along_fast, along_slow = (
            np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))[:2]
            for fast, slow in ((0, 0), (step, 0), (0, step))
        )
        slow, fast = np.indices(values.shape)
        place = origin + fast[..., None] * (along_fast - origin) + slow[..., None] * (along_slow - origin)
        places.append(place.reshape(-1, 2))
        spacing = max(spacing, *np.abs(along_fast - origin), *np.abs(along_slow - origin))
    x_y = np.concatenate(places)
    low, high = x_y.min(axis=0) - spacing / 2, x_y.max(axis=0) + spacing / 2
    # wider than the distance of the samples, or cells between them would be empty
    shape = np.maximum((high - low) / max((high - low).max() / _ALONG, 1.5 * spacing), 1).astype(int)
    cell = (high - low) / shape
    x, y = np.minimum((x_y - low) / cell, shape - 1).astype(int).T
    place = y * shape[0] + x
    n = np.bincount(place, minlength=shape.prod())
    factors = {}
    for found in factor_maps:
        total = np.bincount(place, np.concatenate([panel.ravel() for panel in found.panels]), shape.prod())
        mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
        factors[found.name] = mean.reshape(shape[1], shape[0])
    x, y = (low[i] + (np.arange(shape[i]) + 0.5) * cell[i] for i in (0, 1))
    return DetectorMaps(x, y, factors)


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Numbers of values between edges that are equally far apart: told so, NumPy need not sort the values."""
    return np.histogram(values, len(edges) - 1, (edges[0], edges[-1]))[0]


def _edges(counts: np.ndarray, corrected: np.ndarray) -> np.ndarray:
    """Bins for both: about each whole number of photons, or wider; the highest thousandth is left out."""
    lowest, highest = np.quantile(corrected, (0.001, 0.999))
    low = min(0.0, float(lowest))
    high = float(max(np.quantile(counts, 0.999), highest))
    width = max(1, -(-int(high - low + 1) // _MOST_BINS))
    return np.arange(np.floor(low), high + width + 1, width) - 0.5
