"""Strong spots found on the image itself: second crystals, salt, and the far tails of the crystal's own spots.

A spot is a group of touching pixels that exceed the level around them. It is masked out to the radius at which the
ring around it has dropped to that level, whatever its shape and the detector's point spread: strong spots further than
weak ones. This needs no crystal, and is added to the mask that follows the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from libtbx import Auto
from scipy import ndimage

from diffuse_dials.adapters import images
from diffuse_dials.algorithms.masking.dynamic import block_levels, spread_out

FOUND_PHIL = """
found_spots = Auto
  .type = bool
  .help = "Mask strong spots found on the image as well, on the lattice or not (second crystals, salt, tails of very"
          "strong spots), whatever the method. Auto: on detectors that do not count photons, whose spots have tails."
spot_sigmas = 6
  .type = float(value_min=3, value_max=1000000)
  .help = "found_spots: the pixels of a spot exceed the local level by this many standard deviations, its highest pixel"
          "by twice as many."
  .expert_level = 1
smallest_spot = 2
  .type = int(value_min=1)
  .help = "found_spots: number of touching pixels that make a spot."
  .expert_level = 1
spot_reach = 12
  .type = int(value_min=1, value_max=1000)
  .help = "found_spots: largest width of what is masked around the pixels of a spot (pixels)."
  .expert_level = 1
"""

_PEAK = 2.0  # times spot_sigmas that the highest pixel of a spot reaches
_FILLED = 2.0  # times the scatter of the squares around
_STANDS_OUT = 2.0  # standard errors by which a ring still exceeds the level


@dataclass(frozen=True)
class FoundSpots:
    """Mask of the spots of one image.

    Attributes:
        covered: Per panel, bool (slow, fast): True = a spot covers the pixel.
        n_spots: Number of spots.
    """

    covered: tuple[np.ndarray, ...]
    n_spots: int
    name: ClassVar[str] = "found_spots"
    needs_positions: ClassVar[bool] = False  # of keep's arguments, s and hkl

    def keep(self, panel: int, shape, s, hkl) -> np.ndarray:
        """Which pixels of a panel pass, shape (slow x fast,), bool; the other arguments are as LatticeMask.keep's."""
        return ~self.covered[panel].ravel()


def wanted(params, detector) -> bool:
    """Whether ``masking.bragg.found_spots`` masks spots on this detector."""
    if params.found_spots in (None, Auto):
        return not all(images.is_counter(panel) for panel in detector)
    return params.found_spots


def find_spots(raw, trusted, overloaded, detector, params) -> FoundSpots:
    """Find the spots of one image.

    Args:
        raw: Values as stored, one array (slow, fast) per panel.
        trusted: Pixels whose values can be used, bool arrays.
        overloaded: Pixels above the trusted range, bool arrays: parts of spots.
        detector: dxtbx detector.
        params: The ``masking.bragg`` extract.
    """
    covered, n_spots = [], 0
    for values, good, above, panel in zip(raw, trusted, overloaded, detector):
        spots, count = _on_panel(values, good, above, images.is_counter(panel), params)
        covered.append(spots)
        n_spots += count
    return FoundSpots(tuple(covered), n_spots)


def _on_panel(raw, good, above, counter: bool, params) -> tuple[np.ndarray, int]:
    values = raw.astype(np.float32)
    floor = 0.3 if np.issubdtype(raw.dtype, np.integer) else np.finfo(np.float32).tiny
    level, sigma, spread = block_levels(values, good, counter, floor)
    # A square that one strong spot fills takes its level from the squares around.
    filled = spread > _FILLED * ndimage.median_filter(spread, 3)
    level, sigma = (np.where(filled, ndimage.median_filter(squares, 3), squares) for squares in (level, sigma))
    if counter:  # single photons of a faint image are no spots
        sigma = np.sqrt(sigma**2 + 1)
    level, sigma = spread_out(level, raw.shape), spread_out(sigma, raw.shape)
    excess = values - level
    strong = (good & (excess > params.spot_sigmas * sigma)) | above
    numbers, _ = ndimage.label(strong, np.ones((3, 3)))
    covered = np.zeros(raw.shape, dtype=bool)
    n_spots = 0
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        spot = numbers[box] == number
        peak = above[box][spot].any() or (excess[box][spot] > _PEAK * params.spot_sigmas * sigma[box][spot]).any()
        if np.count_nonzero(spot) < params.smallest_spot or not peak:
            continue
        n_spots += 1
        _cover(covered, spot, box, excess, sigma, level, good, params.spot_reach, params.tolerance)
    return covered, n_spots


def _cover(covered, spot, box, excess, sigma, level, good, reach: int, tolerance: float) -> None:
    """Mark a spot and what is around it, out to where a ring no longer exceeds the level."""
    slow, fast = (slice(max(0, side.start - reach), side.stop + reach) for side in box)
    window = slow, fast
    rows = np.arange(slow.start, min(slow.stop, good.shape[0]))[:, None]
    columns = np.arange(fast.start, min(fast.stop, good.shape[1]))[None, :]
    own_rows, own_columns = np.nonzero(spot)
    # Distance from the box that holds the spot's pixels about their middle: round spots get discs.
    middle = own_rows.mean() + box[0].start, own_columns.mean() + box[1].start
    away = np.hypot(rows - middle[0], columns - middle[1])
    size = np.hypot(own_rows + box[0].start - middle[0], own_columns + box[1].start - middle[1]).max()
    ring = np.maximum(np.ceil(away - size), 0).astype(int)
    use = good[window] & (ring <= reach)
    n = np.bincount(ring[use], minlength=reach + 1)[: reach + 1]
    sums = [
        np.bincount(ring[use], image[window][use], minlength=reach + 1)[: reach + 1]
        for image in (excess, sigma.astype(np.float64) ** 2, level)
    ]
    limit = np.maximum(tolerance * sums[2], _STANDS_OUT * np.sqrt(sums[1]))
    quiet = np.flatnonzero((sums[0] <= limit) & (n > 0) & (np.arange(reach + 1) > 0))
    radius = quiet[0] - 1 if len(quiet) else reach
    covered[window] |= ring <= radius
