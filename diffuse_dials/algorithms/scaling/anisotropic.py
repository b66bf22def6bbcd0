"""Scales of stills whose isotropic part was taken out: the map is signed, and the likelihood of counts has no maximum.

What is left of observation (i, v) is y = b_i R I_v + noise of variance V with I_v about 0, so V comes from the photons
of the background and of the isotropic part, not from the map. Weighted least squares of maps and scales would mistake
noise for signal: a still agrees with a map that holds its own noise, and I² of a noisy map is too large. So each still
is compared with the map D of the *other* stills, whose own variance 1/w is known:

    D = Σ' b R y/V / w,  w = Σ' b² R²/V        b_i = Σ_v R D y/U / Σ_v R² (D² - 1/w)/U        U = V + b² R²/w

Both sums of b_i are unbiased, whatever the noise; U only weighs. V is a smooth model, response x factor of the still x
factor of the shell, so that no observation's own counts decide on its weight.

A still's rings of |s| cut the anisotropic pattern at few places, so that their mean, which went with the background, is
not that of the map. Therefore the mean of D over each ring of the still (the mean that the background took) is
subtracted from D, and what the still lost there, b R f, is given back to it when it contributes to the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.running.mpi import ALONE, Communicator


@dataclass(frozen=True)
class AnisotropicScales:
    """Result of :func:`anisotropic_scales`.

    Attributes:
        scale: b of each still, shape (n_stills,), mean 1 over those that have one, else NaN.
        esd: Standard uncertainties from the noise of the stills and of the map, same shape.
        noise_per_response: V/R by still and shell, shape (n_stills, n_shells), photons² per unit of response;
            u = b R/V makes I = Σ u y / Σ u b R the map of least variance.
        n_cycles: Cycles needed.
        last_change: Largest relative change of a scale in the last cycle.
    """

    scale: np.ndarray
    esd: np.ndarray
    noise_per_response: np.ndarray
    n_cycles: int
    last_change: float


class NoAnisotropy(ValueError):
    """Stills that do not agree with the map of the others, so that no positive scale exists.

    Attributes:
        stills: Their positions in the experiment list.
    """

    def __init__(self, stills):
        self.stills = [int(i) for i in stills]
        super().__init__(
            f"Stills {self.stills} show nothing of the others' anisotropic scattering. Leave them out, use larger "
            "voxels (grid.ndiv), or grid again with background_method=image."
        )


def anisotropic_scales(
    voxel, still, signal, response, variance, shell, n_stills: int, tolerance: float = 1e-6, max_cycles: int = 200,
    comm: Communicator = ALONE,
) -> AnisotropicScales:  # fmt: skip
    """One scale per still from signed sums.

    Args:
        voxel: Number of the voxel of each observation, shape (n,); one observation per (voxel, still).
        still: Position of its still, shape (n,).
        signal: Counts - background, shape (n,), photons.
        response: Shape (n,), > 0.
        variance: Of ``signal``, as measured, shape (n,), photons².
        shell: Resolution shell of each voxel, shape (n_voxels,), int.
        n_stills: Length of the experiment list.
        tolerance: Largest relative change of a scale in the last cycle.
        max_cycles: Cycles before giving up.
        comm: Ranks of which each gives the observations of its own stills; all get the same scales.

    Raises:
        NoAnisotropy: If stills do not agree with the others.
        ValueError: If the scales do not converge.
    """
    n_voxels = len(shell)
    factors = _noise_factors(variance, response, shell[voxel], still, (n_stills, int(shell.max()) + 1), comm)
    noise = response * factors[still, shell[voxel]]
    present = comm.sum(np.bincount(still, minlength=n_stills)) > 0
    rings = _Rings(still * (int(shell.max()) + 1) + shell[voxel], response)
    signal = signal - response * rings.mean(signal / response)
    b, lost_mean = np.ones(n_stills), np.zeros(len(signal))
    change = np.inf
    for cycle in range(1, max_cycles + 1):
        predicted = b[still] * response
        others, precision = _map_of_the_others(voxel, predicted, signal + predicted * lost_mean, noise, n_voxels, comm)
        seen = precision > 0
        own = np.divide(1.0, precision, out=np.zeros_like(precision), where=seen)
        lost_mean = rings.mean(others, seen)
        pattern = np.where(seen, others - lost_mean, 0.0)
        weight = np.where(seen, 1 / (noise + predicted**2 * own), 0.0)
        product = _sums(still, weight * response * pattern * signal, n_stills, comm)
        square = _sums(still, weight * response**2 * (pattern**2 - own), n_stills, comm)
        lost = present & ((square <= 0) | (product <= 0))
        if lost.any():
            raise NoAnisotropy(np.flatnonzero(lost))
        new = np.where(present, product / np.where(present, square, 1), 1)
        new[present] /= new[present].mean()
        change = comm.from_first(float(np.max(np.abs(new / b - 1))))
        b = new
        if change < tolerance:
            break
    else:
        raise ValueError(
            f"The scales did not converge in {max_cycles} cycles (last change {change:.1e}). The anisotropic "
            "scattering may be too weak: use larger voxels (grid.ndiv)."
        )
    # the noise of the map of the others adds to the spread of the products and not to their mean
    spread = _sums(still, weight * response**2 * pattern**2, n_stills, comm)
    esd = np.sqrt(spread) / np.where(present, square, 1)
    nan = np.where(present, 0.0, np.nan)
    return AnisotropicScales(b + nan, esd + nan, factors, cycle, change)


class _Rings:
    """Means over the observations of a still in one shell of |s|, weighted by their response."""

    def __init__(self, ring: np.ndarray, response: np.ndarray):
        _, self._ring = np.unique(ring, return_inverse=True)
        self._response = response

    def mean(self, values: np.ndarray, use: np.ndarray | None = None) -> np.ndarray:
        """The mean of its ring for each observation, over those in ``use``; shape (n,)."""
        weight = self._response if use is None else self._response * use
        total = np.bincount(self._ring, weight * values)
        response = np.bincount(self._ring, weight)
        return np.divide(total, response, out=np.zeros_like(total), where=response > 0)[self._ring]


def _sums(group, values, n_groups: int, comm: Communicator) -> np.ndarray:
    """Sums of groups over all ranks, shape (n_groups,); NumPy's of no values are integers."""
    return comm.sum(np.bincount(group, values, n_groups).astype(np.float64, copy=False))


def _map_of_the_others(voxel, predicted, signal, noise, n_voxels: int, comm: Communicator):
    """(D, w) for each observation: the map that its own still did not help to make, and the inverse of its variance."""
    w, y = predicted**2 / noise, predicted * signal / noise
    precision = _sums(voxel, w, n_voxels, comm)[voxel] - w
    total = _sums(voxel, y, n_voxels, comm)[voxel] - y
    precision[precision < 1e-9 * w] = 0  # nothing but rounding: the voxel was seen by no other still
    return np.divide(total, precision, out=np.zeros_like(total), where=precision > 0), precision


def _noise_factors(variance, response, shell, still, shape, comm: Communicator) -> np.ndarray:
    """V/R as the product of a factor of the still and one of the shell, shape (n_stills, n_shells), positive."""
    n_stills, n_shells = shape
    total = _sums(shell, response, n_shells, comm)
    overall = comm.sum(variance.sum()) / comm.sum(response.sum())
    of_shell = _sums(shell, variance, n_shells, comm)
    of_shell = np.divide(of_shell, total, out=np.full(n_shells, overall), where=total > 0)
    of_shell = np.maximum(of_shell, 1e-6 * overall)
    expected = _sums(still, response * of_shell[shell], n_stills, comm)
    measured = _sums(still, variance, n_stills, comm)
    of_still = np.divide(measured, expected, out=np.ones(n_stills), where=(expected > 0) & (measured > 0))
    return of_still[:, None] * of_shell[None, :]
