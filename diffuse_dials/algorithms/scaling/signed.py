"""Stills whose isotropic part was subtracted, scaled on what is left: signed sums instead of counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffuse_dials.algorithms.scaling.anisotropic import anisotropic_scales
from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks, Shells, Totals
from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS, Layout, Stacked
from diffuse_dials.algorithms.scaling.newton import Convergence
from diffuse_dials.algorithms.scaling.problem import Problem

_RINGS = 60  # of |s|, within which the mean of an isotropic background is taken to be common
METHOD = "diagonal, isotropic part removed"


def ring_shells(s: np.ndarray) -> Shells:
    """Shells of equal width in |s|.

    Args:
        s: |s| of the voxels, shape (n_voxels,), 1/Å.
    """
    shell = np.minimum((s / s.max() * _RINGS).astype(int), _RINGS - 1).astype(np.uint8)
    return Shells(shell, (np.arange(_RINGS) + 0.5) * s.max() / _RINGS)


def fit_signed(
    blocks: ScaleBlocks, totals: Totals, layout: Layout, tolerance: float, max_cycles: int
) -> tuple[Problem, np.ndarray, Convergence]:
    """One scale per still, each against the map of the others.

    Args:
        blocks: The observations, in ring shells; each rank has its own, all get the same scales.
        totals: Variances and responses of stills and shells.
        layout: For the component.
        tolerance, max_cycles: As of the scaling of counts.

    Returns:
        (the scales and weights as a problem, uncertainties of ln b of shape (n_stills,), how it converged).

    Raises:
        NoAnisotropy: If stills do not agree with the others.
        ValueError: If the scales do not converge.
    """
    n_shells = len(blocks.shells)
    per_response = np.divide(
        totals.variance, totals.response, out=np.zeros_like(totals.variance), where=totals.response > 0
    )
    # A still's symmetry mates and panels are one observation: none may be compared with a map that contains the other.
    code = blocks.voxel.astype(np.int64) * blocks.n_stills + blocks.still
    code, inverse = np.unique(code, return_inverse=True)
    voxel, still = np.divmod(code, blocks.n_stills)
    # NumPy's sums of no values are integers
    signal, response = (np.bincount(inverse, of).astype(np.float64) for of in (blocks.signal, blocks.response))
    variance = response * per_response[still, blocks.shells.of_voxel[voxel]]
    found = anisotropic_scales(
        voxel, still, signal, response, variance, blocks.shells.of_voxel.astype(int), blocks.n_stills, tolerance,
        max_cycles, blocks.comm,
    )  # fmt: skip
    scale = np.nan_to_num(found.scale, nan=1.0)
    factors = np.ones((blocks.n_stills, n_shells))
    factors[:, : found.noise_per_response.shape[1]] = found.noise_per_response
    component = Stacked(SCALE_COMPONENTS["scale"], layout, blocks.n_stills)
    component.values = np.log(scale)[:, None]
    problem = Problem(replace(blocks, added=np.empty((0, 0))), [component])
    weight = np.divide(scale[:, None], factors, out=np.zeros_like(factors), where=factors > 0)
    problem.set_weights(weight)
    return problem, found.esd / scale, Convergence(found.n_cycles, found.last_change)
