"""Relative scales of the stills: quasi-likelihood of the sums, maximised over scales and map together.

With C photons, background G and response R of still i in voxel v, E[C] = b_i R I_v + G. Every observation carries the
weight u = b R I_ref / (b R I_ref + V), V its variance from other sources than the crystal's photons (1 where V = 0).
For given u the maximum of Σ u [(C - G) ln(b I) - b R I] solves

    I_v = Σ_i u (C - G) / Σ_i u b R        b_i = Σ_v u (C - G) / Σ_v u R I_v        gauge: mean(b) = 1

which for G = 0 is exact Poisson maximum likelihood. A weight that knew an observation's own counts, or the noise of
its own background, would bias the result (Neyman's χ²). So I_ref is the mean of the merged map over a resolution shell
and V a smooth model, response x factor of the still x factor of the shell: both sums stay unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from diffuse_dials.algorithms.scaling.observations import Observations
from diffuse_dials.algorithms.scaling.weights import efficiency_weights, smooth_added_variance

# Above these the dense matrix of the scales costs more than a run of scaling: its diagonal serves instead.
MAX_DENSE_STILLS = 3000
MAX_DENSE_PRODUCTS = 2e9
_FIRST_SWEEPS = 5
_ROUNDING = 1e-12


class NoSignal(ValueError):
    """Stills whose counts do not exceed their background, so that no positive scale exists.

    Attributes:
        stills: Their positions in the experiment list.
    """

    def __init__(self, stills):
        self.stills = [int(i) for i in stills]
        super().__init__(f"Stills {self.stills} have no signal above their background. Leave them out.")


@dataclass(frozen=True)
class Scales:
    """Result of the scaling.

    Attributes:
        scale: b of each still, shape (n_stills,), mean 1 over the stills scaled; NaN for stills without observations.
        esd: Standard uncertainties from counting statistics, same shape.
        esd_method: "full" (Schur complement of the map's parameters) or "diagonal" (scales taken one by one).
        weight: u of each observation, shape (n,).
        reference: I_ref of each voxel, shape (n_voxels,).
        added_variance: V of each observation by the smooth model, shape (n,), photons².
        n_cycles: Cycles needed.
        last_change: Largest relative change of a scale in the last cycle.
    """

    scale: np.ndarray
    esd: np.ndarray
    esd_method: str
    weight: np.ndarray
    reference: np.ndarray
    added_variance: np.ndarray
    n_cycles: int
    last_change: float


def refine_scales(
    observations: Observations, shell: np.ndarray, use: np.ndarray, tolerance: float = 1e-8, max_cycles: int = 100
) -> Scales:
    """One scale per still.

    Alternates the two equations a few times, then takes Newton steps for the scales with the map eliminated
    (conjugate gradients, nothing dense); a step that does not bring the equations closer is replaced by a sweep.

    Args:
        observations: Sums per (voxel, still).
        shell: Resolution shell of each voxel, shape (n_voxels,), int.
        use: Voxels that take part, shape (n_voxels,), bool.
        tolerance: Largest relative change of a scale in the last cycle.
        max_cycles: Cycles before giving up.

    Raises:
        NoSignal: If stills have no signal above their background.
        ValueError: If stills share no photons with the others, or the scales do not converge.
    """
    part = use[observations.voxel] & (observations.response > 0)
    present = observations.sum_by_still(part) > 0
    problem = _Problem(observations, shell, part)
    beta = problem.start(present)
    residual, change = np.inf, np.inf
    for cycle in range(1, max_cycles + 1):
        problem.reweight(np.exp(beta))
        gradient = problem.gradient(beta)
        worse, residual = residual, float(np.max(np.abs(gradient)))
        newton = cycle > _FIRST_SWEEPS and residual < worse
        step = problem.newton_step(beta, gradient) if newton else problem.sweep(beta) - beta
        new = np.where(present, beta + step, 0)
        new -= np.where(present, np.log(np.exp(new[present]).mean()), 0)
        change = float(np.max(np.abs(np.expm1(new - beta))))
        beta = new
        if change < tolerance:
            break
    else:
        raise ValueError(
            f"The scales did not converge in {max_cycles} cycles (last change {change:.1e}). The stills may share too "
            "few photons: use larger voxels (grid.ndiv), or raise scale.max_cycles."
        )
    problem.reweight(np.exp(beta))
    variance, method = problem.scale_variance(np.exp(beta), present)
    nan = np.where(present, 0.0, np.nan)
    scale = np.exp(beta) + nan
    return Scales(
        scale, np.sqrt(variance) + nan, method, problem.weights_of_all(scale), problem.reference, problem.added_of_all,
        cycle, change,
    )  # fmt: skip


def unconnected_stills(observations: Observations, use: np.ndarray) -> np.ndarray:
    """Stills that share no voxel with photons in it with the largest group of stills, positions.

    Args:
        observations: Sums per (voxel, still).
        use: Voxels that take part, shape (n_voxels,), bool.
    """
    use = use & (observations.sum_by_voxel(observations.counts) > 0)
    part = use[observations.voxel] & (observations.response > 0)
    n, still = observations.n_stills, observations.still[part]
    nodes = n + observations.n_voxels
    graph = sparse.coo_matrix((np.ones(len(still)), (still, n + observations.voxel[part])), (nodes, nodes))
    _, label = connected_components(graph, directed=False)
    present = np.unique(still)
    labels, sizes = np.unique(label[present], return_counts=True)
    return present[label[present] != labels[np.argmax(sizes)]]


class _Problem:
    """The observations that take part, and the sparse matrix K = u R (voxels x stills) of the current weights."""

    def __init__(self, observations: Observations, shell: np.ndarray, part: np.ndarray):
        self.observations, self.shell, self.part = observations, shell, part
        self.voxel, self.still = observations.voxel[part], observations.still[part]
        self.response, self.signal = observations.response[part], observations.signal[part]
        self.added_of_all = smooth_added_variance(observations, shell, part)
        self.added = self.added_of_all[part]
        self.reference = np.ones(observations.n_voxels)
        self.weight = np.ones(len(self.voxel))
        starts = np.searchsorted(self.voxel, np.arange(observations.n_voxels + 1))
        shape = (observations.n_voxels, observations.n_stills)
        self.k = sparse.csr_matrix((self.response.copy(), self.still, starts), shape)

    def start(self, present: np.ndarray) -> np.ndarray:
        """ln b from each still's total over what the shells' mean predicts for it."""
        total = self.by_still(self.signal)
        if np.any(total[present] <= 0):
            raise NoSignal(np.flatnonzero(present & (total <= 0)))
        self._set_reference(np.ones(len(present)))
        predicted = self.by_still(self.response * self.reference[self.voxel])
        b = np.where(present, total / np.where(present, predicted, 1), 1)
        return np.where(present, np.log(b / b[present].mean()), 0)

    def by_still(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.still, values, self.k.shape[1])

    def reweight(self, b: np.ndarray) -> None:
        """I_ref from the map that the scales give, then u, K and the weighted signals."""
        self._set_reference(b)
        if self.added.any():
            self.weight = efficiency_weights(b[self.still] * self.response * self.reference[self.voxel], self.added)
            self.k.data[:] = self.weight * self.response
        self.by_voxel_signal = np.bincount(self.voxel, self.weight * self.signal, self.k.shape[0])
        self.by_still_signal = self.by_still(self.weight * self.signal)
        if np.any(self.by_still_signal[self.by_still(self.response) > 0] <= 0):
            raise NoSignal(np.flatnonzero((self.by_still_signal <= 0) & (self.by_still(self.response) > 0)))

    def _set_reference(self, b: np.ndarray) -> None:
        n = int(self.shell.max()) + 1
        shell = self.shell[self.voxel]
        response = np.bincount(shell, self.weight * self.response * b[self.still], n)
        signal = np.bincount(shell, self.weight * self.signal, n)
        overall = signal.sum() / response.sum()
        mean = np.divide(signal, response, out=np.full(n, overall), where=response > 0)
        # A shell without signal gets a small positive value: its weights only need the right order of magnitude.
        self.reference = np.maximum(mean, 1e-3 * abs(overall))[self.shell]

    def weights_of_all(self, scale: np.ndarray) -> np.ndarray:
        """u of every observation, those of voxels that the scaling left out too."""
        observations = self.observations
        b = np.nan_to_num(scale, nan=1.0)[observations.still]
        return efficiency_weights(b * observations.response * self.reference[observations.voxel], self.added_of_all)

    def _map(self, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """I and Σ u b R of each voxel (1 where it has no observation)."""
        response = self.k @ np.exp(beta)
        response[response <= 0] = 1
        return self.by_voxel_signal / response, response

    def sweep(self, beta: np.ndarray) -> np.ndarray:
        """ln b from the map that the present scales give."""
        predicted = self.k.T @ self._map(beta)[0]
        seen = self.by_still_signal > 0
        if np.any(predicted[seen] <= 0):
            raise NoSignal(np.flatnonzero(seen & (predicted <= 0)))
        return np.where(seen, np.log(np.where(seen, self.by_still_signal, 1) / np.where(seen, predicted, 1)), 0)

    def gradient(self, beta: np.ndarray) -> np.ndarray:
        """Derivative of the objective by ln b, map eliminated, over each still's signal: 0 at the solution."""
        expected = np.exp(beta) * (self.k.T @ self._map(beta)[0])
        return 1 - expected / np.where(self.by_still_signal > 0, self.by_still_signal, 1)

    def newton_step(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Solve H δ = g by conjugate gradients, H = diag(Σ_v u b R I) - Σ_v I (u b R)(u b R)ᵀ / Σ u b R."""
        b = np.exp(beta)
        intensity, response = self._map(beta)
        curvature = intensity / response
        diagonal = b * (self.k.T @ intensity)
        seen = self.by_still_signal > 0

        def product(x):
            return diagonal * x - b * (self.k.T @ (curvature * (self.k @ (b * x))))

        right = np.where(seen, gradient * self.by_still_signal, 0)
        return _conjugate_gradients(product, right, np.where(seen, self.by_still_signal, 1), seen)

    def scale_variance(self, b: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, str]:
        """Variances of b at fixed mean, from the expected information (I_ref in place of I), map eliminated.

        H as in :meth:`newton_step`; cov(b) = P B (H + 1 1ᵀ h)⁻¹ B Pᵀ with B = diag(b), P = 1 - b 1ᵀ/n: the overall
        scale is a null direction of H, which the gauge mean(b) = 1 takes out. Where H is too large, 1/H_ii.
        """
        response = self.k @ b
        w = self.k.multiply(b[None, :]).multiply(self.reference[:, None]).tocsr()
        expected = self.reference * np.where(response > 0, response, 1)
        share = sparse.diags(1 / expected) @ w
        diagonal = np.asarray(w.sum(axis=0)).ravel()
        index = np.flatnonzero(present)
        multiplicity = np.diff(self.k.indptr).astype(np.float64)
        if len(index) > MAX_DENSE_STILLS or (multiplicity**2).sum() > MAX_DENSE_PRODUCTS:
            own = np.asarray(w.multiply(share).sum(axis=0)).ravel()
            return b**2 / np.maximum(diagonal - own, np.finfo(float).tiny), "diagonal"
        hessian = (np.diag(diagonal) - (w.T @ share).toarray())[np.ix_(index, index)]
        n = len(index)
        inverse = np.linalg.inv(hessian + np.full((n, n), diagonal[index].mean() / n))
        project = (np.eye(n) - np.outer(b[index], np.full(n, 1 / n))) * b[index][None, :]
        variance = np.zeros(len(b))
        variance[index] = np.maximum(np.einsum("ij,jk,ik->i", project, inverse, project), 0)
        return variance, "full"


def _conjugate_gradients(product, right, diagonal, seen, relative: float = 1e-6, max_steps: int = 500) -> np.ndarray:
    """Solve H x = right, preconditioned by the diagonal; stops at a direction without curvature.

    The same shift of all x (the overall scale) is a null direction of H. Rounding errors along it would grow, so the
    residual is kept free of it, and nothing below rounding is worked on.
    """

    def without_null(values):
        return np.where(seen, values - values[seen].mean(), 0)

    x = np.zeros_like(right)
    residual = without_null(right)
    z = residual / diagonal
    direction, rho = z.copy(), residual @ z
    goal = max(rho * relative**2, diagonal[seen].sum() * _ROUNDING**2)
    for _ in range(max_steps):
        if rho <= goal:
            break
        image = product(direction)
        bend = direction @ image
        if bend <= 0:
            break
        x += rho / bend * direction
        residual = without_null(residual - rho / bend * image)
        z = residual / diagonal
        rho, previous = residual @ z, rho
        direction = z + rho / previous * direction
    return x
