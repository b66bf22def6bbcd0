"""The mask of pixels that no still shall use: what detector and user leave out, and what the images show to be bad."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import images
from diffuse_dials.adapters.experiments import still_keys
from diffuse_dials.adapters.generate_mask import regions_mask
from diffuse_dials.algorithms import parallel
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.dynamic import Deviations, bad_pixels
from diffuse_dials.algorithms.masking.geometry import Geometries, in_parts
from diffuse_dials.io.masks import load_mask
from diffuse_dials.kernels.sums import transform

logger = logging.getLogger(f"dials.{__name__}")

_IMAGES_A_TASK = 4  # the same for any number of processes, so that sums are, to the last bit


@dataclass(frozen=True)
class Step:
    """One reason to leave pixels out.

    Attributes:
        name: What it is, for the log.
        masked: Pixels that it leaves out, whatever the others do.
        newly: Those that no step before it left out.
    """

    name: str
    masked: int
    newly: int


@dataclass(frozen=True)
class PixelMask:
    """A mask that holds for all stills.

    Attributes:
        mask: One bool array (slow, fast) per panel, True = use.
        steps: What each step removed, in order.
        bad: Positions of the pixels that the images show to be bad: ``{kind: int array (n, 3)}``, panel, slow, fast.
        n_images: Images that were read to find them.
    """

    mask: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]
    bad: dict[str, np.ndarray]
    n_images: int

    @property
    def n_pixels(self) -> int:
        return sum(panel.size for panel in self.mask)

    @property
    def n_used(self) -> int:
        return sum(int(np.count_nonzero(panel)) for panel in self.mask)

    def to_dict(self) -> dict:
        """Numbers for the .json file."""
        return {
            "n_panels": len(self.mask),
            "n_pixels": self.n_pixels,
            "n_used": self.n_used,
            "steps": [{"name": s.name, "masked": s.masked, "newly_masked": s.newly} for s in self.steps],
            "n_images": self.n_images,
            "bad_pixels": {kind: len(positions) for kind, positions in self.bad.items()},
        }


def make_pixel_mask(experiments, masking, mask_files=(), d_min=None, d_max=None, nproc: int = 1) -> PixelMask:
    """Combine, by AND, all that makes a pixel useless in every still.

    Args:
        experiments: Stills, or images without crystals, of one detector.
        masking: The ``masking`` extract of this package's PHIL scope.
        mask_files: Masks to be combined with it (dials.generate_mask, diffuse.make_mask; Python 2 ones too).
        d_min: High-resolution limit, Å; resolution is that of the first still. None: no limit.
        d_max: Low-resolution limit, Å.
        nproc: Processes that read images; the mask does not depend on it.

    Returns:
        The mask and how it came about.

    Raises:
        ValueError: If the detectors differ in their panels, a file or region does not fit them, an image cannot be
            read, or no pixel is left.
    """
    check_same_panels(experiments)
    shapes = images.panel_shapes(experiments[0].detector)
    first = experiments[0]
    regions = regions_mask(first.detector, first.beam, masking, d_min, d_max)
    parts = [
        ("image set, image format and detector model", _static_mask(experiments)),
        ("untrusted regions, borders and resolution", regions),
        *((f"mask file {name}", load_mask(name, shapes)) for name in mask_files),
    ]
    mask = [np.ones(shape, dtype=bool) for shape in shapes]
    steps = [_combine(mask, name, part) for name, part in parts]
    bad, n_images = {}, 0
    if masking.dynamic.enabled:
        kinds, n_images = _find_bad_pixels(experiments, masking, tuple(mask), nproc)
        for kind, panels in kinds.items():
            found = [np.insert(np.argwhere(panel), 0, i, axis=1) for i, panel in enumerate(panels)]
            bad[kind] = np.concatenate(found)
            steps.append(_combine(mask, f"{kind} in {n_images} image(s)", tuple(~panel for panel in panels)))
    if not any(panel.any() for panel in mask):
        numbers = "; ".join(f"{s.name} {s.masked}" for s in steps)
        raise ValueError(f"No pixel is left. Loosen one of the steps, which mask so many pixels: {numbers}.")
    return PixelMask(tuple(mask), tuple(steps), bad, n_images)


def check_same_panels(experiments) -> None:
    """One mask serves detectors with the same panels only.

    Raises:
        ValueError: If number or sizes of the panels differ between stills.
    """
    shapes = images.panel_shapes(experiments[0].detector)
    for number, experiment in enumerate(experiments):
        other = images.panel_shapes(experiment.detector)
        if other != shapes:
            raise ValueError(
                f"Still {number} has {len(other)} panel(s), the first of {other[0]} pixels, still 0 has {len(shapes)} "
                f"of {shapes[0]}: they are of different detectors. Run diffuse.make_mask once for each."
            )


def trusted_values(raw: np.ndarray, panel, masking) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of one still ``masking.trusted_range`` trusts, and which are overloaded; arrays of raw's shape."""
    if masking.trusted_range in (None, "none"):  # PHIL makes None of a none that a user types
        return np.ones(raw.shape, dtype=bool), np.zeros(raw.shape, dtype=bool)
    return images.in_trusted_range(raw, panel)


def _combine(mask: list[np.ndarray], name: str, part) -> Step:
    """AND ``part`` into ``mask``."""
    before = sum(int(np.count_nonzero(panel)) for panel in mask)
    for panel, other in zip(mask, part):
        panel &= other
    after = sum(int(np.count_nonzero(panel)) for panel in mask)
    return Step(name, sum(int(np.count_nonzero(~panel)) for panel in part), before - after)


def _static_mask(experiments) -> tuple[np.ndarray, ...]:
    """What any of the image sets masks; images.static_mask hands out one object for all stills that share it."""
    different = {}
    for experiment in experiments:
        static = images.static_mask(experiment)
        different[id(static)] = static
    return tuple(np.logical_and.reduce(panels) for panels in zip(*different.values()))


def _find_bad_pixels(experiments, masking, use, nproc):
    """Bad pixels by kind, one bool array per panel each, and the number of images read."""
    by_image: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(still_keys(experiments)):
        by_image.setdefault((key.image, key.index), []).append(number)
    lattices = list(by_image.values())
    wanted = len(lattices) if masking.dynamic.n_images is Auto else min(masking.dynamic.n_images, len(lattices))
    chosen = [lattices[i] for i in np.linspace(0, len(lattices) - 1, wanted).round().astype(int)]
    if wanted < 3:
        logger.warning("%d image(s) are too few to tell hot pixels from Bragg spots: give three or more.", wanted)
    if any(experiments[numbers[0]].crystal is None for numbers in chosen):
        logger.warning("Without crystals, spots on the same pixels in image after image are taken for hot pixels.")
    reader = _Reader(experiments, masking, use)
    tasks = [chosen[i : i + _IMAGES_A_TASK] for i in range(0, len(chosen), _IMAGES_A_TASK)]
    sums = [Deviations.zeros(panel.shape) for panel in use]
    for found in parallel.each(reader, tasks, nproc, "bad pixels"):
        for total, part in zip(sums, found):
            total += part
    kinds: dict[str, list[np.ndarray]] = {}
    for total, panel in zip(sums, use):
        for kind, pixels in bad_pixels(total, panel, masking.dynamic.significance, masking.dynamic.persistence).items():
            kinds.setdefault(kind, []).append(pixels)
    return kinds, wanted


class _Reader:
    """Reads a few images and sums their deviations; called in each process."""

    def __init__(self, experiments, masking, use):
        self._experiments, self._masking, self._use = experiments, masking, use
        self._geometries = Geometries()

    def __call__(self, task) -> list[Deviations]:
        sums = [Deviations.zeros(panel.shape) for panel in self._use]
        for numbers in task:
            experiment = self._experiments[numbers[0]]
            indexed = [self._experiments[n] for n in numbers if self._experiments[n].crystal is not None]
            options = self._masking.bragg
            lattices = [(LatticeMask.from_phil(options, e), np.linalg.inv(setting_matrix(e))) for e in indexed]
            for i, (raw, panel) in enumerate(zip(images.read_raw(experiment), experiment.detector)):
                trusted, overloaded = trusted_values(raw, panel, self._masking)
                use = self._use[i] & self._off_lattice(experiment, i, lattices) if lattices else self._use[i]
                sums[i].add_image(raw, trusted, overloaded, use, images.is_counter(panel))
        return sums

    def _off_lattice(self, experiment, panel: int, lattices) -> np.ndarray:
        """Pixels near no lattice point of any crystal on the image, shape (slow, fast)."""
        geometry = self._geometries.of(experiment, panel)
        off = np.ones(len(geometry.direction), dtype=bool)
        for part, s in in_parts(geometry, experiment.beam.get_wavelength()):
            for mask, inverse in lattices:
                off[part] &= mask.keep(panel, geometry.shape, s, transform(inverse, s))
        return off.reshape(geometry.shape)
