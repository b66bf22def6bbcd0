"""The mask of pixels that no still should use: what detector and user leave out, and what the images show to be bad."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, label

from diffuse_dials.adapters import images
from diffuse_dials.adapters.generate_mask import regions_mask
from diffuse_dials.algorithms.masking.dynamic import KINDS, bad_pixels
from diffuse_dials.algorithms.masking.geometry import Geometries
from diffuse_dials.algorithms.masking.shadows import azimuths, expected_pattern, find_shadows
from diffuse_dials.algorithms.masking.survey import Survey, survey
from diffuse_dials.io.masks import load_mask

logger = logging.getLogger(f"dials.{__name__}")

_GAP = 20  # pixels; a masked region of fewer has no rim
_SAME_WAVELENGTH = 1e-5  # relative
_WAVELENGTH_STEP = 5e-4  # relative, between the wavelengths at which rings are drawn: a small part of their width
_MOST_WAVELENGTHS = 20


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
        reason: Per panel, shape (slow, fast), uint8: the number (from 1) of the first step that left a pixel out;
            0 where it is used.
        steps: What each step removed, in order.
        bad: Positions of the pixels that the images show to be bad: ``{kind: int array (n, 3)}``, panel, slow, fast.
        n_images: Images that were read to find them.
        noise: Variance over mean of single pixels, detector units, of each panel; empty if no image was read.
    """

    reason: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]
    bad: dict[str, np.ndarray]
    n_images: int
    noise: tuple[float | None, ...]

    @property
    def mask(self) -> tuple[np.ndarray, ...]:
        """One bool array (slow, fast) per panel, True = use."""
        return tuple(panel == 0 for panel in self.reason)

    @property
    def n_pixels(self) -> int:
        return sum(panel.size for panel in self.reason)

    @property
    def n_used(self) -> int:
        return sum(int(np.count_nonzero(panel == 0)) for panel in self.reason)

    def to_dict(self) -> dict:
        """Numbers for the .json file."""
        return {
            "n_panels": len(self.reason),
            "n_pixels": self.n_pixels,
            "n_used": self.n_used,
            "steps": [{"name": s.name, "masked": s.masked, "newly_masked": s.newly} for s in self.steps],
            "n_images": self.n_images,
            "variance_over_mean": list(self.noise),
            "bad_pixels": {kind: len(positions) for kind, positions in self.bad.items()},
        }


class _Reasons:
    """The mask as it grows, step by step."""

    def __init__(self, shapes):
        self.panels = [np.zeros(shape, dtype=np.uint8) for shape in shapes]
        self.steps: list[Step] = []

    def add(self, name: str, keep) -> None:
        """One more step, one bool array (slow, fast) per panel, True = use."""
        newly = 0
        for panel, kept in zip(self.panels, keep):
            new = ~kept & (panel == 0)
            panel[new] = len(self.steps) + 1
            newly += int(np.count_nonzero(new))
        self.steps.append(Step(name, sum(int(np.count_nonzero(~kept)) for kept in keep), newly))

    def use(self) -> tuple[np.ndarray, ...]:
        return tuple(panel == 0 for panel in self.panels)


def make_pixel_mask(experiments, masking, mask_files=(), d_min=None, d_max=None, nproc: int = 1) -> PixelMask:
    """Combine, by AND, all that makes a pixel useless in every still.

    Args:
        experiments: Stills, or images without crystals, of one detector.
        masking: The ``masking`` extract of this package's PHIL scope.
        mask_files: Masks to be combined with it (dials.generate_mask, diffuse.make_mask; Python 2 ones too).
        d_min: High-resolution limit, Å: a pixel that is beyond it in one of the stills is left out. None: no limit.
        d_max: Low-resolution limit, Å.
        nproc: Processes that read images; the mask does not depend on it.

    Returns:
        The mask and how it came about.

    Raises:
        ValueError: If the detectors differ in their panels, a file or region does not fit them, an image cannot be
            read, or no pixel is left.
    """
    check_same_panels(experiments)
    first = experiments[0]
    shapes = images.panel_shapes(first.detector)
    static = _static_mask(experiments)
    regions = _regions(experiments, masking, d_min, d_max)
    reasons = _Reasons(shapes)
    reasons.add("image set, image format and detector model", static)
    reasons.add("untrusted regions, borders and resolution", regions)
    for name in mask_files:
        reasons.add(f"mask file {name}", load_mask(name, shapes))
    gaps = [~panel for panel in static]
    bad, n_images, noise = {}, 0, ()
    if masking.dynamic.enabled or masking.shadow.find:
        found = survey(experiments, masking, reasons.use(), nproc)
        n_images = found.n_images
        if masking.dynamic.enabled:
            bad = _add_bad_pixels(reasons, found, masking.dynamic)
            noise = tuple(panel.noise() for panel in found.deviations)
            gaps = [gap | _painted(bad["underload"], i, gap.shape) for i, gap in enumerate(gaps)]
    if masking.edge:
        reasons.add(f"{masking.edge} pixels at the edges of modules", [~_rim(gap, masking.edge) for gap in gaps])
    if masking.shadow.find:
        reasons.add(f"shadows in {n_images} image(s)", _off_shadows(first, found, reasons.use(), masking.shadow))
    if not any(panel.any() for panel in reasons.use()):
        numbers = "; ".join(f"{s.name} {s.masked}" for s in reasons.steps if s.masked)
        raise ValueError(f"No pixel is left. Loosen one of the steps, which mask so many pixels: {numbers}.")
    return PixelMask(tuple(reasons.panels), tuple(reasons.steps), bad, n_images, noise)


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


def _regions(experiments, masking, d_min, d_max) -> list[np.ndarray]:
    """DIALS's regions. Limits and rings of resolution move with the wavelength: what they cover in any still.

    The detector is the first still's.
    """
    first = experiments[0]
    beams = [first.beam]
    wavelengths = [experiment.beam.get_wavelength() for experiment in experiments]
    low, high = min(wavelengths), max(wavelengths)
    rings = any(limits is not None for limits in masking.resolution_range or ()) or masking.ice_rings.filter
    if high - low > _SAME_WAVELENGTH * low and (rings or d_min is not None or d_max is not None):
        logger.info("Resolution limits and rings: all that they cover at wavelengths from %.5f to %.5f Å", low, high)
        n = min(int(np.ceil((high / low - 1) / _WAVELENGTH_STEP)) + 1, _MOST_WAVELENGTHS)
        beams = [copy.deepcopy(first.beam) for _ in range(max(n, 2))]
        for beam, wavelength in zip(beams, np.linspace(low, high, len(beams))):
            beam.set_wavelength(wavelength)
    masks = [regions_mask(first.detector, beam, masking, d_min, d_max) for beam in beams]
    return [np.logical_and.reduce(panels) for panels in zip(*masks)]


def _static_mask(experiments) -> tuple[np.ndarray, ...]:
    """What any of the image sets masks; images.static_mask hands out one object for all stills that share it."""
    different = {}
    for experiment in experiments:
        static = images.static_mask(experiment)
        different[id(static)] = static
    return tuple(np.logical_and.reduce(panels) for panels in zip(*different.values()))


def _add_bad_pixels(reasons: _Reasons, found: Survey, options) -> dict[str, np.ndarray]:
    """Add a step for each kind of bad pixels; returns their positions."""
    use = reasons.use()
    panels = [
        bad_pixels(sums, panel, options.significance, options.persistence) for sums, panel in zip(found.deviations, use)
    ]
    bad = {}
    for kind in KINDS:
        positions = [np.insert(np.argwhere(panel[kind]), 0, i, axis=1) for i, panel in enumerate(panels)]
        bad[kind] = np.concatenate(positions)
        reasons.add(f"{kind} in {found.n_images} image(s)", [~panel[kind] for panel in panels])
    return bad


def _painted(positions, panel: int, shape) -> np.ndarray:
    """Pixels of one panel from a list of (panel, slow, fast)."""
    painted = np.zeros(shape, dtype=bool)
    slow, fast = positions[positions[:, 0] == panel, 1:].T
    painted[slow, fast] = True
    return painted


def _rim(gap, width: int) -> np.ndarray:
    """Pixels within ``width`` of the panel's edge or of a gap of many pixels; single bad pixels have no rim."""
    numbers, _ = label(gap)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    outside = np.pad((sizes >= _GAP)[numbers], 1, constant_values=True)
    return binary_dilation(outside, np.ones((2 * width + 1,) * 2, dtype=bool))[1:-1, 1:-1]


def _off_shadows(first, found: Survey, use, options) -> list[np.ndarray]:
    """Pixels that are in no shadow, per panel."""
    geometries = Geometries()
    patterns, s_lengths, angles = [], [], []
    for panel in range(len(use)):
        geometry = geometries.of(first, panel)
        patterns.append(expected_pattern(geometry, first.beam))
        s_lengths.append(geometry.s_lengths(first.beam.get_wavelength()).reshape(geometry.shape))
        angles.append(azimuths(geometry))
    shadows = find_shadows(found.summed, patterns, s_lengths, angles, use, options)
    logger.info("Shadows: %d pixels", sum(int(np.count_nonzero(panel)) for panel in shadows))
    return [~panel for panel in shadows]
