"""Weights that depend on no observation's own noise: means over resolution shells and stills take its place."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.scaling.observations import Observations

_VOXELS_PER_SHELL = 200


def efficiency_weights(expected: np.ndarray, added: np.ndarray) -> np.ndarray:
    """u = expected / (expected + added), 1 where nothing is added.

    Args:
        expected: Photons expected from the crystal, b R I_ref, shape (n,).
        added: V, variance from all other sources, same shape, photons².
    """
    total = expected + added
    return np.divide(expected, total, out=np.ones_like(expected), where=(added > 0) & (total > 0))


def resolution_shells(s: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Shell number of each voxel: shells of about 200 used voxels, so that a shell's mean carries little noise.

    Args:
        s: |s| of the voxels, shape (n_voxels,), 1/Å.
        use: Which of them the scaling uses, same shape, bool.
    """
    n_shells = max(1, int(use.sum()) // _VOXELS_PER_SHELL)
    edges = np.quantile(s[use], np.linspace(0, 1, n_shells + 1)[1:-1]) if n_shells > 1 else np.empty(0)
    return np.searchsorted(edges, s, side="right")


def smooth_added_variance(observations: Observations, shell: np.ndarray, part: np.ndarray) -> np.ndarray:
    """V of each observation: response x factor of its still x factor of its shell, factors from totals.

    Args:
        observations: Sums per (voxel, still).
        shell: Resolution shell of each voxel, shape (n_voxels,), int.
        part: Observations that the totals are taken over, shape (n,), bool.

    Returns:
        Shape (n,), photons², nowhere negative.
    """
    shells, n = shell[observations.voxel], int(shell.max()) + 1
    added, response = part * observations.added_variance, part * observations.response
    of_shell = _ratio(np.bincount(shells, added, n), np.bincount(shells, response, n))
    of_still = _ratio(observations.sum_by_still(added), observations.sum_by_still(response * of_shell[shells]))
    return observations.response * of_shell[shells] * of_still[observations.still]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.divide(a, b, out=np.zeros_like(a), where=b > 0), 0)
