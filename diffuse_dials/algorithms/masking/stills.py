"""Bragg masks of whole stills, for files and pictures; diffuse.extract makes its own, panel by panel."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters import images
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.masking.chosen import BraggMasks
from diffuse_dials.algorithms.running import parallel
from diffuse_dials.kernels.sums import transform


def bragg_mask(experiment, masks) -> tuple[np.ndarray, ...]:
    """Bragg mask of one still: one bool array (slow, fast) per panel, True = use.

    Args:
        experiment: The still.
        masks: Its masks, from BraggMasks.of_image; combined by AND.
    """
    kept = []
    for i, panel in enumerate(experiment.detector):
        geometry = pixel_geometry(panel, beam_direction(experiment.beam))
        s = geometry.s_vectors(experiment.beam.get_wavelength())
        passes = [mask.keep(i, geometry.shape, s, transform(np.linalg.inv(a), s)) for mask, a in masks]
        kept.append(np.logical_and.reduce(passes).reshape(geometry.shape))
    return tuple(kept)


def bragg_masks(chosen: BraggMasks, experiments, pixel_mask, nproc: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Bragg masks of all stills by experiment identifier.

    Args:
        chosen: What makes them.
        experiments: The stills.
        pixel_mask: Pixels in use, one bool array per panel.
        nproc: Number of processes.
    """

    def work(number):
        raw = images.read_raw(experiments[number])
        return bragg_mask(experiments[number], chosen.of_image([number], raw, pixel_mask))

    made = parallel.each(work, range(len(experiments)), nproc, "Bragg masks")
    return {experiment.identifier: mask for experiment, mask in zip(experiments, made)}
