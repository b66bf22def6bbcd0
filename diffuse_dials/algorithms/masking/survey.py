"""One pass over images for what they show of the detector: sums of a few arrays, whatever the number of images."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import images
from diffuse_dials.adapters.experiments import still_keys
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.dynamic import Deviations
from diffuse_dials.algorithms.masking.geometry import Geometries, in_parts
from diffuse_dials.algorithms.masking.shadows import SummedImage
from diffuse_dials.algorithms.running import parallel
from diffuse_dials.kernels.sums import transform

logger = logging.getLogger(f"dials.{__name__}")

_IMAGES_A_TASK = 4  # the same for any number of processes, so that sums are, to the last bit


@dataclass(frozen=True)
class Survey:
    """What the images show.

    Attributes:
        deviations: Of each panel.
        summed: Of each panel; empty where no shadows are looked for.
        n_images: Images that were read.
    """

    deviations: list[Deviations]
    summed: list[SummedImage]
    n_images: int


def trusted_values(raw: np.ndarray, panel, masking) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of one still ``masking.trusted_range`` trusts, and which are overloaded; arrays of raw's shape."""
    if masking.trusted_range in (None, "none"):  # PHIL makes None of a none that a user types
        return np.ones(raw.shape, dtype=bool), np.zeros(raw.shape, dtype=bool)
    return images.in_trusted_range(raw, panel)


def survey(experiments, masking, use, nproc: int) -> Survey:
    """Read ``masking.dynamic.n_images`` images, spread evenly over those given.

    Args:
        experiments: Stills or images without crystals, of one detector.
        masking: The ``masking`` extract.
        use: Pixels that no static mask leaves out, one bool array (slow, fast) per panel.
        nproc: Processes; the sums do not depend on it.

    Raises:
        ValueError: If an image cannot be read.
    """
    by_image: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(still_keys(experiments)):
        by_image.setdefault((key.image, key.index), []).append(number)
    lattices = list(by_image.values())
    wanted = len(lattices) if masking.dynamic.n_images in (None, Auto) else min(masking.dynamic.n_images, len(lattices))
    chosen = [lattices[i] for i in np.linspace(0, len(lattices) - 1, wanted).round().astype(int)]
    if wanted < 3:
        logger.warning("%d image(s) are too few to tell hot pixels from Bragg spots: give three or more.", wanted)
    if any(experiments[numbers[0]].crystal is None for numbers in chosen):
        logger.warning("Without crystals, spots on the same pixels in image after image are taken for hot pixels.")
    reader = _Reader(experiments, masking, use)
    tasks = [chosen[i : i + _IMAGES_A_TASK] for i in range(0, len(chosen), _IMAGES_A_TASK)]
    deviations, summed = reader.nothing()
    for found_deviations, found_summed in parallel.each(reader, tasks, nproc, "bad pixels"):
        for total, part in zip(deviations + summed, found_deviations + found_summed):
            total += part
    return Survey(deviations, summed, wanted)


class _Reader:
    """Reads a few images and sums what they show; called in each process."""

    def __init__(self, experiments, masking, use):
        self._experiments, self._masking, self._use = experiments, masking, use
        self._geometries = Geometries()

    def nothing(self) -> tuple[list[Deviations], list[SummedImage]]:
        shapes = [panel.shape for panel in self._use]
        wants_shadows = self._masking.shadow.find
        return [Deviations.zeros(s) for s in shapes], [SummedImage.zeros(s) for s in shapes if wants_shadows]

    def __call__(self, task) -> tuple[list[Deviations], list[SummedImage]]:
        deviations, summed = self.nothing()
        for numbers in task:
            experiment = self._experiments[numbers[0]]
            indexed = [self._experiments[n] for n in numbers if self._experiments[n].crystal is not None]
            options = self._masking.bragg
            lattices = [(LatticeMask.from_phil(options, e), np.linalg.inv(setting_matrix(e))) for e in indexed]
            used, drawn = [], []
            for i, (raw, panel) in enumerate(zip(images.read_raw(experiment), experiment.detector)):
                trusted, overloaded = trusted_values(raw, panel, self._masking)
                use = self._use[i] & self._off_lattice(experiment, i, lattices) if lattices else self._use[i]
                drawn.append(deviations[i].add_image(raw, trusted, overloaded, use, images.is_counter(panel)))
                used.append(trusted & use)
            if summed:
                mean = _mean(drawn, used)
                for total, panel_values, use in zip(summed, drawn, used):
                    total.add_image(panel_values, use, mean)
        return deviations, summed

    def _off_lattice(self, experiment, panel: int, lattices) -> np.ndarray:
        """Pixels near no lattice point of any crystal on the image, shape (slow, fast)."""
        geometry = self._geometries.of(experiment, panel)
        off = np.ones(len(geometry.direction), dtype=bool)
        for part, s in in_parts(geometry, experiment.beam.get_wavelength()):
            for mask, inverse in lattices:
                off[part] &= mask.keep(panel, geometry.shape, s, transform(inverse, s))
        return off.reshape(geometry.shape)


def _mean(values, used) -> float:
    """Mean over the used pixels of all panels."""
    total = sum(float(raw[use].sum(dtype=np.float64)) for raw, use in zip(values, used))
    return total / max(1, sum(int(np.count_nonzero(use)) for use in used))
