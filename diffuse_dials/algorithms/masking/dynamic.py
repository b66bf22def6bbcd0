"""Hot, dead, negative and noisy pixels: those that differ from their neighbours in still after still.

Images stream through: a few arrays of the detector's size are kept, whatever the number of images. In each image
a pixel's value becomes a deviation z = (value - level)/σ from the level of its surroundings. Photon counters have
σ = √level, integrating detectors the scatter that the surroundings show, whatever their gain. z is clipped, so that
a Bragg spot on one still cannot outweigh the others; where the crystals are known, pixels near a lattice point are
left out. In the end each pixel's mean z is compared with that of its neighbours and their scatter (robustly, by median
and median absolute deviation), so that shadows and gradients, which neighbours share, mark nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

DYNAMIC_PHIL = """
dynamic {
  enabled = True
    .type = bool
    .help = "Find hot, dead, negative and noisy pixels by comparing them with their neighbours over many stills."
  n_images = 60
    .type = int(value_min=1)
    .help = "Number of images that are read for this, spread evenly over those given. Auto: all."
  significance = 6
    .type = float(value_min=3)
    .help = "A pixel is bad only if its mean over the images differs from that of its neighbours by this many standard"
            "deviations."
    .expert_level = 1
  persistence = 0.3
    .type = float(value_min=0.05, value_max=1)
    .help = "A pixel is hot only if it stands out in more than about this fraction of the images: Bragg spots do not."
    .expert_level = 1
}
"""

BLOCK = 16  # pixels; a level is taken from a square of so many, small against shadows, large against spots
KINDS = ("underload", "overload", "hot", "dead", "negative", "noisy")
_BOUND = 4.0  # largest z that counts, where the level itself is below 4σ
_REACH = 4  # pixels to either side that are neighbours in the end: 9 x 9, so that clusters of up to 4 x 9 are found
_MIN_IMAGES = 3  # of which a hot pixel must be told from a Bragg spot
_SPOTS = 2.5  # Bragg spots, each as bright as counts at most, that do not make a pixel hot however few the images are
_NOISY, _NOISY_IMAGES = 4.0, 10  # times the neighbours' variance, and of how many images it can be told
_HALF = 0.5  # a dead pixel has lost more than half of the level; a pixel untrusted in half of the images is untrusted


@dataclass
class Deviations:
    """Sums over images for one panel; those of different images add.

    Attributes:
        z: Sum of the bounded deviations, shape (slow, fast), float32.
        z_squared: Sum of the squares of the deviations within ±_BOUND, same shape, float32.
        n: Images in which the pixel was trusted and no Bragg spot, same shape, int32.
        below, above: Images in which it was under or over the trusted range, same shape, int32.
        negative: Images in which its value was trusted and negative, same shape, int32.
        bound: Sum of the largest z that counted, per block.
        signal: Sum of level/σ, which is what a dead pixel lacks, per block.
        level, variance: Sums of level and of the variance of single pixels about it, per block.
        images: Number of images.
    """

    z: np.ndarray
    z_squared: np.ndarray
    n: np.ndarray
    below: np.ndarray
    above: np.ndarray
    negative: np.ndarray
    bound: np.ndarray
    signal: np.ndarray
    level: np.ndarray
    variance: np.ndarray
    images: int = 0

    @classmethod
    def zeros(cls, shape) -> Deviations:
        """Nothing seen yet of a panel of ``shape`` (slow, fast)."""
        blocks = tuple(-(-n // BLOCK) for n in shape)
        counts = (np.zeros(shape, dtype=np.int32) for _ in range(4))
        z = (np.zeros(shape, dtype=np.float32) for _ in range(2))
        return cls(*z, *counts, *(np.zeros(blocks) for _ in range(4)))

    def add_image(self, raw, trusted, overloaded, use, counter: bool) -> np.ndarray:
        """Add one image, all arrays of the panel's shape.

        Args:
            raw: Values as stored.
            trusted: Inside the trusted range in this image.
            overloaded: Above it.
            use: Pixels whose value shows the background: under no static mask and not near a Bragg spot.
            counter: Whether values are counts, so that their variance is their mean.

        Returns:
            The values, clipped to four standard deviations from the level around them.
        """
        valid = trusted & use
        # Rounding to integers has a σ of 0.29.
        floor = 0.3 if np.issubdtype(raw.dtype, np.integer) else np.finfo(np.float32).tiny
        values = raw.astype(np.float32)
        level, sigma, spread = block_levels(values, valid, counter, floor)
        signal = np.maximum(level, 0) / sigma
        bound = np.maximum(_BOUND, signal)
        spread_level, spread_sigma = spread_out(level, raw.shape), spread_out(sigma, raw.shape)
        z = (values - spread_level) / spread_sigma
        within = np.clip(z, -_BOUND, _BOUND)
        within[~valid] = 0
        self.z_squared += within**2
        limit = spread_out(bound, raw.shape)
        np.minimum(z, limit, out=z)
        np.maximum(z, -2 * limit, out=z)  # no Bragg spot makes a pixel low: there the bound is generous
        z[~valid] = 0
        self.z += z
        self.n += valid
        self.below += ~(trusted | overloaded)
        self.above += overloaded
        self.negative += valid & (raw < 0)
        self.bound += bound
        self.signal += signal
        self.level += level
        self.variance += spread**2
        self.images += 1
        return spread_level + within * spread_sigma

    def __iadd__(self, other: Deviations) -> Deviations:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def noise(self) -> float | None:
        """Variance over mean of single pixels, in detector units: the median of the squares; None if none has light."""
        lit = self.level > 3 * np.sqrt(np.maximum(self.variance * self.images, 1e-30)) / BLOCK
        return float(np.median(self.variance[lit] / self.level[lit])) if lit.any() else None


def block_levels(values, valid, counter: bool, floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level and scatter of the valid values about it in squares of BLOCK x BLOCK pixels.

    The level is the mean of the values clipped to the median ± 5σ (meaningful even where a counter's median is 0);
    σ is √level for counters, else the interquartile range / 1.349.

    Args:
        values: Shape (slow, fast), float32.
        valid: Same shape; squares with less than an eighth of them valid take the level of the nearest that has more.
        counter: Whether the variance of a value is its mean.
        floor: Smallest σ of an integrating detector.

    Returns:
        (level, σ, σ from the interquartile range also for counters), one per square, float32; σ > 0.
    """
    squares = np.sort(_squares(np.where(valid, values, np.inf)), axis=-1)
    inside = np.isfinite(squares)
    n = inside.sum(axis=-1)
    enough = n >= BLOCK * BLOCK // 8
    if not enough.any():
        return np.zeros(n.shape, np.float32), np.ones(n.shape, np.float32), np.ones(n.shape, np.float32)
    last = np.maximum(n - 1, 0)

    def quantile(q):
        values = np.take_along_axis(squares, (last * q).astype(int)[..., None], axis=-1)[..., 0]
        return np.where(n > 0, values, 0)

    lower, median, upper = quantile(0.25), quantile(0.5), quantile(0.75)
    sigma = spread = np.maximum((upper - lower) / 1.349, floor)
    room = 5 * np.maximum(sigma, np.sqrt(np.maximum(median, 0))) + 2 if counter else 5 * sigma
    drawn_in = np.clip(squares, (median - room)[..., None], (median + room)[..., None])
    level = np.where(inside, drawn_in, 0).sum(axis=-1) / np.maximum(n, 1)
    if counter:
        sigma = np.sqrt(np.maximum(level, 1 / np.maximum(n, 1)))
    nearest = tuple(ndimage.distance_transform_edt(~enough, return_distances=False, return_indices=True))
    return tuple(values[nearest].astype(np.float32) for values in (level, sigma, spread))


def _squares(values) -> np.ndarray:
    """Values by square, shape (slow/BLOCK, fast/BLOCK, BLOCK²), filled up with inf at the far edges."""
    padded = np.pad(values, [(0, -n % BLOCK) for n in values.shape], constant_values=np.inf)
    slow, fast = (n // BLOCK for n in padded.shape)
    return padded.reshape(slow, BLOCK, fast, BLOCK).swapaxes(1, 2).reshape(slow, fast, BLOCK * BLOCK)


def spread_out(blocks, shape) -> np.ndarray:
    """Values of squares at each pixel, linear between their centres, shape (slow, fast), float32."""
    return _interpolation(shape[0]) @ blocks.astype(np.float32) @ _interpolation(shape[1]).T


@functools.lru_cache(maxsize=16)
def _interpolation(n: int) -> np.ndarray:
    """Weights of the squares along one direction, shape (n pixels, n squares)."""
    n_blocks = -(-n // BLOCK)
    edges = np.minimum(np.arange(n_blocks + 1) * BLOCK, n)
    centres = (edges[1:] + edges[:-1]) / 2
    at = np.arange(n) + 0.5
    return np.stack([np.interp(at, centres, row) for row in np.eye(n_blocks)], axis=1).astype(np.float32)


def bad_pixels(sums: Deviations, use, significance: float, persistence: float) -> dict[str, np.ndarray]:
    """Pixels of a panel that are not to be used.

    Args:
        sums: Over all images.
        use: Pixels that no static mask leaves out, bool (slow, fast); others are not judged.
        significance: Standard deviations by which the mean z must differ from the neighbours'.
        persistence: A hot pixel's mean z exceeds the neighbours' by this fraction of the bound, and by more than
            two Bragg spots bring about.

    Returns:
        ``{kind: bool array}``, True = bad: ``underload`` and ``overload`` (outside the trusted range in half of the
        images or more), ``hot``, ``dead``, ``negative``, ``noisy`` (in ten images or more, four times the variance
        of the neighbours). Overloads and hot pixels need three images or more: in
        fewer, a Bragg spot is as likely.
    """
    shape = sums.z.shape
    kinds = {kind: np.zeros(shape, dtype=bool) for kind in KINDS}
    if not sums.images:
        return kinds
    kinds["underload"] = use & (sums.below >= _HALF * sums.images)
    if sums.images >= _MIN_IMAGES:
        kinds["overload"] = use & (sums.above >= _HALF * sums.images)
    judged = use & (sums.n > 0) & ~kinds["underload"] & ~kinds["overload"]
    n = np.maximum(sums.n, 1)
    mean = np.where(judged, sums.z / n, np.nan).astype(np.float32)
    bound = spread_out(sums.bound / sums.images, shape)
    signal = spread_out(sums.signal / sums.images, shape)
    # Only pixels that stand out of their square as well are compared with each of their neighbours.
    noise = (1 / np.sqrt(n)).astype(np.float32)
    suspects = np.flatnonzero(judged & (np.abs(np.nan_to_num(mean)) > 0.5 * significance * noise))
    excess, scatter = _against_neighbours(mean, suspects)
    threshold = significance * np.maximum(scatter, noise.ravel()[suspects])
    n_judged = sums.n.ravel()[suspects]
    share = np.maximum(persistence, _SPOTS / np.maximum(n_judged, _MIN_IMAGES))
    hot = (excess > np.maximum(threshold, share * bound.ravel()[suspects])) & (n_judged >= _MIN_IMAGES)
    low = excess < -np.maximum(threshold, _HALF * signal.ravel()[suspects])
    negative = sums.negative.ravel()[suspects] > _HALF * n_judged
    for kind, found in (("hot", hot), ("dead", low & ~negative), ("negative", low & negative)):
        kinds[kind].ravel()[suspects[found]] = True
    if sums.images >= _NOISY_IMAGES:
        bad = kinds["hot"] | kinds["dead"] | kinds["negative"]
        kinds["noisy"] = _noisy(sums, judged & ~bad & (sums.n >= _NOISY_IMAGES), significance)
    return kinds


def _noisy(sums: Deviations, judged, significance: float) -> np.ndarray:
    """Pixels whose values scatter over the images much more than their neighbours' do.

    A Bragg spot counts 4σ at most, so that it takes spots on a quarter of the images to make a pixel noisy.
    """
    n = np.maximum(sums.n, 1)
    square = np.where(judged, sums.z_squared / n - (np.clip(sums.z, -_BOUND * n, _BOUND * n) / n) ** 2, np.nan)
    square = np.maximum(square, 0).astype(np.float32)
    suspects = np.flatnonzero(np.nan_to_num(square) > _NOISY / 2)
    excess, scatter = _against_neighbours(square, suspects)
    own = square.ravel()[suspects]
    enough = excess > significance * np.maximum(scatter, np.sqrt(2 / n.ravel()[suspects]) * (own - excess))
    noisy = np.zeros(square.shape, dtype=bool)
    noisy.ravel()[suspects[enough & (own > _NOISY * (own - excess))]] = True
    return noisy


def _against_neighbours(mean, pixels) -> tuple[np.ndarray, np.ndarray]:
    """Difference from the median of the judged neighbours, and the standard deviation of these, at each of ``pixels``.

    Pixels with less than a quarter of their neighbours judged get an infinite scatter: they cannot be judged.
    """
    width = 2 * _REACH + 1
    padded = np.pad(mean, _REACH, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width, width))
    excess, scatter = np.empty(len(pixels)), np.empty(len(pixels))
    for start in range(0, len(pixels), 50_000):
        part = slice(start, start + 50_000)
        slow, fast = np.divmod(pixels[part], mean.shape[1])
        around = windows[slow, fast].reshape(-1, width * width)
        own = around[:, width * width // 2].copy()
        around[:, width * width // 2] = np.nan
        count = np.isfinite(around).sum(axis=1)
        centre = _median(around, count)
        excess[part] = own - centre
        deviation = 1.4826 * _median(np.abs(around - centre[:, None]), count)
        scatter[part] = np.where(count >= (width * width - 1) // 4, deviation, np.inf)
    return excess, scatter


def _median(rows, count) -> np.ndarray:
    """Median of the finite values of each row: NaN sorts to the end."""
    middle = np.maximum(count - 1, 0) // 2
    return np.take_along_axis(np.sort(rows, axis=1), middle[:, None], axis=1)[:, 0]
