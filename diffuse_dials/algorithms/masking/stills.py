"""Bragg masks of whole stills, for files and pictures; diffuse.extract makes its own, panel by panel."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms import parallel
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking.chosen import BraggMasks
from diffuse_dials.kernels.sums import transform


def bragg_mask(experiment, mask) -> tuple[np.ndarray, ...]:
    """Bragg mask of one still: one bool array (slow, fast) per panel, True = use.

    Args:
        experiment: The still.
        mask: Its mask, one of BRAGG_MASKS.
    """
    inverse = np.linalg.inv(setting_matrix(experiment))
    kept = []
    for i, panel in enumerate(experiment.detector):
        geometry = pixel_geometry(panel, beam_direction(experiment.beam))
        s = geometry.s_vectors(experiment.beam.get_wavelength())
        kept.append(mask.keep(i, geometry.shape, s, transform(inverse, s)).reshape(geometry.shape))
    return tuple(kept)


def bragg_masks(chosen: BraggMasks, experiments, nproc: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Bragg masks of all stills by experiment identifier.

    Args:
        chosen: What makes them.
        experiments: The stills.
        nproc: Number of processes.
    """

    def work(number):
        return bragg_mask(experiments[number], chosen.of(number))

    made = parallel.each(work, range(len(experiments)), nproc, "Bragg masks")
    return {experiment.identifier: mask for experiment, mask in zip(experiments, made)}
