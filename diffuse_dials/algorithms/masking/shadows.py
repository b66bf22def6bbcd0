"""Shadows: regions that see systematically less than the rest of their ring of equal |s|, such as a beamstop's arm.

The images are summed, with spots clipped to the level around them. The sum is compared with solid angle x polarization
factor x the profile of the ring, after a smooth trend around the beam was removed, in squares of growing size: small
ones follow the edge of a deep shadow, large ones detect a shallow one through the counting noise. What is found at one
size is left out at the next. A region is a shadow if enough of it is low by ``depth`` and by four times the scatter of
such squares around their ring, so that uneven diffuse scattering on a single still is not taken for one; it extends to
where the deficit is half of both. Behind a beamstop whole rings are dark: there the profile may not fall faster towards
the beam than scattering does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffuse_dials.kernels import physics

SHADOW_PHIL = """
shadow {
  find = False
    .type = bool
    .help = "Find shadows (beamstop, its arm, kapton): regions that see less than the rest of their ring of equal |s|,"
            "over all the images that dynamic.n_images reads. Best with many stills, or with blanks among them."
  depth = 0.1
    .type = float(value_min=0.02, value_max=0.9)
    .help = "Smallest depth of a shadow: 0.1 is 10 % less than the rest of its ring."
  smallest_region = 200
    .type = int(value_min=1)
    .help = "A region of fewer pixels is no shadow."
    .expert_level = 1
  margin = 2
    .type = int(value_min=0)
    .help = "Pixels around a shadow that are masked as well."
    .expert_level = 1
}
"""

_SQUARES = (5, 9, 17, 33)  # pixels, odd
_RING = 0.01  # 1/Å
_SCATTER = 4.0  # robust standard deviations of the ring
_BEAMSTOP, _FALL = 0.1, 0.8  # 1/Å; within it the profile falls to no less than this from a ring to the next one inside
_FILLED = 0.25  # fraction of a square that must hold pixels in use


@dataclass
class SummedImage:
    """Sum over images of one panel, each divided by its mean; those of different images add.

    Attributes:
        values: Sum of the values of the pixels in use, shape (slow, fast), float32.
        weight: Sum of the images' means where the pixel was in use, same shape.
    """

    values: np.ndarray
    weight: np.ndarray

    @classmethod
    def zeros(cls, shape) -> SummedImage:
        """Nothing seen yet of a panel of ``shape`` (slow, fast)."""
        return cls(np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32))

    def add_image(self, values, use, mean: float) -> None:
        """Add the pixels in ``use`` (trusted, no Bragg spot) of an image of this mean over the detector."""
        self.values += np.where(use, values, 0)
        self.weight += np.where(use, np.float32(mean), 0)

    def __iadd__(self, other: SummedImage) -> SummedImage:
        self.values += other.values
        self.weight += other.weight
        return self


def expected_pattern(geometry, beam) -> np.ndarray:
    """Solid angle times polarization factor of each pixel of a panel, shape (slow, fast), relative."""
    solid_angle = physics.solid_angle(geometry.distance, geometry.cos_obliquity, geometry.pixel_area)
    normal, fraction = np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
    polarization = physics.polarization(geometry.direction, geometry.beam_direction, normal, fraction)
    return (solid_angle * polarization).reshape(geometry.shape)


def azimuths(geometry) -> np.ndarray:
    """Angle of each pixel of a panel about the beam, shape (slow, fast), radian; where it is 0 does not matter."""
    along = geometry.beam_direction
    x = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    y = np.cross(along, x)
    return np.arctan2(geometry.direction @ y, geometry.direction @ x).reshape(geometry.shape)


def find_shadows(sums, patterns, s_lengths, angles, use, params) -> list[np.ndarray]:
    """Pixels in shadow.

    Args:
        sums: SummedImage of each panel.
        patterns: From expected_pattern, of each panel.
        s_lengths: |s| of the pixels of each panel, shape (slow, fast), 1/Å.
        angles: From azimuths, of each panel.
        use: Pixels that nothing else masks, bool array of each panel.
        params: The ``masking.shadow`` extract.

    Returns:
        One bool array (slow, fast) per panel, True = in shadow.
    """
    rings = [(s / _RING).astype(np.int32) for s in s_lengths]
    usable = [u & (total.weight > 0) for u, total in zip(use, sums)]
    shadow = [np.zeros(u.shape, dtype=bool) for u in use]
    for square in _SQUARES:
        ratios = [
            _smoothed(total, pattern, u & ~dark, square)
            for total, pattern, u, dark in zip(sums, patterns, usable, shadow)
        ]
        if square == _SQUARES[0]:
            level, _ = _by_ring(ratios, rings)
            trends = _trends(ratios, [level[ring] for ring in rings], s_lengths, angles)
        ratios = [ratio / trend for ratio, trend in zip(ratios, trends)]
        level, scatter = _by_ring(ratios, rings)
        for dark, ratio, ring in zip(shadow, ratios, rings):
            lacking = level[ring] - np.nan_to_num(ratio, nan=np.inf)
            needed = np.maximum(params.depth * level, _SCATTER * scatter)[ring]
            dark |= _regions(lacking > 0.5 * needed, lacking > needed, params.smallest_region)
    reach = np.ones((2 * params.margin + 1,) * 2, dtype=bool)
    return [u & ndimage.binary_dilation(_filled(dark), reach) for u, dark in zip(use, shadow)]


def _smoothed(total: SummedImage, pattern, use, square: int) -> np.ndarray:
    """Ratio of measured to expected sum in a square around each pixel, NaN where too few of its pixels are in use."""
    seen = ndimage.uniform_filter(np.where(use, total.values, 0).astype(np.float64), square, mode="constant")
    expected = ndimage.uniform_filter(np.where(use, total.weight * pattern, 0), square, mode="constant")
    filled = ndimage.uniform_filter(use.astype(np.float32), square, mode="constant") >= _FILLED
    return np.where(use & filled, seen / np.where(filled, np.maximum(expected, 1e-300), 1), np.nan)


def _trends(ratios, levels, s_lengths, angles) -> list[np.ndarray]:
    """Smooth dependence on the azimuth, as of absorption or a wrong polarization: two harmonics, linear in |s|."""

    def terms(s, angle):
        harmonics = [f(n * angle) for n in (1, 2) for f in (np.cos, np.sin)]
        return np.stack([*harmonics, *(s * h for h in harmonics)], axis=-1)

    seen = [np.isfinite(ratio) & (level > 0) for ratio, level in zip(ratios, levels)]
    step = max(1, sum(int(np.count_nonzero(panel)) for panel in seen) // 100_000)
    relative, s, angle = (
        np.concatenate([(values / level if name == "ratio" else values)[panel] for values, level, panel in
                        zip(arrays, levels, seen)])[::step]
        for name, arrays in (("ratio", ratios), ("s", s_lengths), ("angle", angles))
    )  # fmt: skip
    design, found = terms(s, angle), np.zeros(8)
    for _ in range(6):
        residual = relative - 1 - design @ found
        centre = np.median(residual)
        kept = np.abs(residual - centre) < 2.5 * 1.4826 * np.median(np.abs(residual - centre))
        found = np.linalg.lstsq(design[kept], relative[kept] - 1, rcond=None)[0]
    return [np.maximum(1 + terms(s, angle) @ found, 0.2) for s, angle in zip(s_lengths, angles)]


def _by_ring(ratios, rings) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust standard deviation (from the upper half, which no shadow is in) of each ring, shape (n,)."""
    ring = np.concatenate([r.ravel() for r in rings])
    ratio = np.concatenate([r.ravel() for r in ratios])
    known = np.isfinite(ratio)
    ring, ratio = ring[known], ratio[known]
    order = np.lexsort((ratio, ring))
    ring, ratio = ring[order], ratio[order]
    n_rings = max(int(r.max()) for r in rings) + 1
    starts = np.searchsorted(ring, np.arange(n_rings))
    counts = np.searchsorted(ring, np.arange(n_rings), side="right") - starts
    level, scatter = np.zeros(n_rings), np.full(n_rings, np.inf)
    some = counts > 0
    middle, upper = (ratio[(starts + q * (counts - 1)).astype(int)[some]] for q in (0.5, 0.841))
    level[some], scatter[some] = middle, upper - middle
    for i in range(min(n_rings - 1, round(_BEAMSTOP / _RING)) - 1, -1, -1):
        if level[i] < _FALL * level[i + 1]:
            level[i], scatter[i] = _FALL * level[i + 1], _FALL * scatter[i + 1]
    return level, scatter


def _regions(marked, certain, smallest: int) -> np.ndarray:
    """The connected parts of ``marked`` with enough pixels that are ``certain``."""
    numbers, _ = ndimage.label(marked, np.ones((3, 3)))
    sizes = np.bincount(numbers.ravel(), certain.ravel())
    sizes[0] = 0
    return (sizes >= smallest)[numbers]


def _filled(dark) -> np.ndarray:
    """With the holes of each region filled that are smaller than itself: the beam may shine through a beamstop."""
    filled = dark.copy()
    numbers, _ = ndimage.label(dark, np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        region = numbers[box] == number
        whole = ndimage.binary_fill_holes(region)
        if whole.sum() < 2 * region.sum():
            filled[box] |= whole
    return filled
