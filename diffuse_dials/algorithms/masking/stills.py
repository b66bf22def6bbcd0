"""Bragg masks of whole stills, for files and pictures; diffuse.extract makes its own, panel by panel."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms import parallel
from diffuse_dials.algorithms.inputs import Stills, setting_matrix
from diffuse_dials.algorithms.masking import BRAGG_MASKS
from diffuse_dials.kernels.sums import transform


def bragg_mask(experiment, reflections, params) -> tuple[tuple[np.ndarray, ...], dict]:
    """Bragg mask of one still.

    Args:
        experiment: The still.
        reflections: Its table, or None.
        params: The ``masking.bragg`` extract.

    Returns:
        (one bool array (slow, fast) per panel, True = use; what the mask says of itself).

    Raises:
        ValueError: If the method needs what the still has not.
    """
    mask = BRAGG_MASKS[params.method].from_phil(params, experiment, reflections)
    inverse = np.linalg.inv(setting_matrix(experiment))
    kept = []
    for i, panel in enumerate(experiment.detector):
        geometry = pixel_geometry(panel, beam_direction(experiment.beam))
        s = geometry.s_vectors(experiment.beam.get_wavelength())
        kept.append(mask.keep(i, geometry.shape, s, transform(inverse, s)).reshape(geometry.shape))
    return tuple(kept), mask.describe()


def bragg_masks(stills: Stills, params, nproc: int) -> tuple[dict[str, tuple[np.ndarray, ...]], list[float], dict]:
    """Bragg masks of all stills.

    Args:
        stills: The stills.
        params: The ``masking.bragg`` extract.
        nproc: Number of processes.

    Returns:
        (masks by experiment identifier, fraction of pixels each keeps, what the first still's mask says of itself).
    """

    def work(number):
        experiment = stills.experiments[number]
        return bragg_mask(experiment, stills.reflections.get(experiment.identifier), params)

    made = list(parallel.each(work, range(len(stills)), nproc, "Bragg masks"))
    masks = {experiment.identifier: mask for experiment, (mask, _) in zip(stills.experiments, made)}
    kept = [float(np.mean(np.concatenate([panel.ravel() for panel in mask]))) for mask, _ in made]
    return masks, kept, made[0][1]
