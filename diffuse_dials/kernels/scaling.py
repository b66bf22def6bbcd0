"""Passes over the observations of the stills, which scaling makes many times.

An observation r of still i in voxel v, shell k of |s| and cell c of the detector has the signal y (photons less
background) and the response R. The model is y = t p R I + p R a, with t(i, k) and p(c) factors, a(i, k) an offset and
I(v) the map. With e = t p R, every pass works with the weight u = 1 / (1 + alpha(i, k) + beta(i, k) / p₀(c)), which is
1 where nothing but the crystal's photons makes noise.

Rows are ordered by still: those of still i are starts[i] to starts[i + 1]. Tables have shape (n_stills, n_shells);
an empty ``cell`` means one cell, an empty ``alpha`` weights of 1, an empty ``a`` no offsets. Sums are float64.
"""

from __future__ import annotations

import numba
import numpy as np

from diffuse_dials.kernels.options import OPTIONS


@numba.njit(**OPTIONS)
def map_sums(starts, voxel, signal, response, shell, cell, t, p, a, alpha, beta, p0, n_voxels):
    """Σ u (y - p R a) and Σ u e of each voxel, two arrays of shape (n_voxels,)."""
    numerator, denominator = np.zeros(n_voxels), np.zeros(n_voxels)
    weighted, offsets, cells = alpha.size > 0, a.size > 0, len(cell) > 0
    shells = t.shape[1] > 1
    u, factor = 1.0, 1.0
    for i in range(len(starts) - 1):
        k = 0
        for r in range(starts[i], starts[i + 1]):
            v = voxel[r]
            if shells:
                k = shell[v]
            if cells:
                factor = p[cell[r]]
            if weighted:
                u = 1.0 / (1.0 + alpha[i, k] + beta[i, k] / (p0[cell[r]] if cells else 1.0))
            y = np.float64(signal[r])
            pr = factor * response[r]
            if offsets:
                y -= pr * a[i, k]
            numerator[v] += u * y
            denominator[v] += u * t[i, k] * pr
    return numerator, denominator


@numba.njit(**OPTIONS)
def scores(starts, voxel, signal, response, shell, cell, t, p, a, alpha, beta, p0, intensity, h, n_cells):
    """Scores and curvatures of the tables at the map ``intensity``; ``h`` is a positive version of it.

    Returns:
        (score of ln t, score of a, Σ u e h, Σ u p R, Σ u p R / (t h), each (n_stills, n_shells) - the second, fourth
        and fifth empty without offsets -, score of ln p, curvature of ln p, Σ u y of the cell, each (n_cells,),
        Σ u y of each still and shell).
    """
    weighted, offsets, cells = alpha.size > 0, a.size > 0, len(cell) > 0
    shells = t.shape[1] > 1
    score_t, curve_t, total_t = np.zeros(t.shape), np.zeros(t.shape), np.zeros(t.shape)
    score_a, curve_ta, curve_a = np.zeros(a.shape), np.zeros(a.shape), np.zeros(a.shape)
    score_p, curve_p, total_p = np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_cells)
    u, factor = 1.0, 1.0
    for i in range(len(starts) - 1):
        k, c = 0, 0
        for r in range(starts[i], starts[i + 1]):
            v = voxel[r]
            if shells:
                k = shell[v]
            if cells:
                c = cell[r]
                factor = p[c]
            if weighted:
                u = 1.0 / (1.0 + alpha[i, k] + beta[i, k] / (p0[c] if cells else 1.0))
            y = np.float64(signal[r])
            pr = factor * response[r]
            e = t[i, k] * pr
            share = 1.0
            total_t[i, k] += u * y
            if cells:
                total_p[c] += u * y
            if offsets:
                y -= pr * a[i, k]
                share += a[i, k] / (t[i, k] * h[v])
                score_a[i, k] += u * (y - e * intensity[v]) / (t[i, k] * h[v])
                curve_ta[i, k] += u * pr
                curve_a[i, k] += u * pr / (t[i, k] * h[v])
            residual = u * (y - e * intensity[v])
            score_t[i, k] += residual
            curve_t[i, k] += u * e * h[v]
            if cells:
                score_p[c] += share * residual
                curve_p[c] += share * share * u * e * h[v]
    return score_t, score_a, curve_t, curve_ta, curve_a, score_p, curve_p, total_p, total_t


@numba.njit(**OPTIONS)
def gather(starts, voxel, response, shell, cell, t, p, a, alpha, beta, p0, h, dt, dp, da, n_voxels):
    """Change of each voxel's expected sum for changes dt of ln t, dp of ln p, da of a: Σ u e m / h, (n_voxels,).

    m = h (dt + dp) + (a dp + da) / t is the change of an observation over e.
    """
    total = np.zeros(n_voxels)
    weighted, offsets, cells = alpha.size > 0, a.size > 0, len(cell) > 0
    shells = t.shape[1] > 1
    u, factor, shift = 1.0, 1.0, 0.0
    for i in range(len(starts) - 1):
        k = 0
        for r in range(starts[i], starts[i + 1]):
            v = voxel[r]
            if shells:
                k = shell[v]
            if cells:
                factor, shift = p[cell[r]], dp[cell[r]]
            if weighted:
                u = 1.0 / (1.0 + alpha[i, k] + beta[i, k] / (p0[cell[r]] if cells else 1.0))
            m = dt[i, k] + shift
            if offsets:
                m += (a[i, k] * shift + da[i, k]) / (t[i, k] * h[v])
            total[v] += u * t[i, k] * factor * response[r] * m
    return total


@numba.njit(**OPTIONS)
def scatter(starts, voxel, response, shell, cell, t, p, a, alpha, beta, p0, h, dt, dp, da, mean, n_cells):
    """Product of the information matrix, map eliminated, with (dt, dp, da).

    Args:
        mean: What :func:`gather` returned over Σ u e, shape (n_voxels,).

    Returns:
        (n_stills, n_shells) for ln t, (n_cells,) for ln p, (n_stills, n_shells) for a.
    """
    weighted, offsets, cells = alpha.size > 0, a.size > 0, len(cell) > 0
    shells = t.shape[1] > 1
    out_t, out_p, out_a = np.zeros(t.shape), np.zeros(n_cells), np.zeros(a.shape)
    u, factor, shift = 1.0, 1.0, 0.0
    for i in range(len(starts) - 1):
        k, c = 0, 0
        for r in range(starts[i], starts[i + 1]):
            v = voxel[r]
            if shells:
                k = shell[v]
            if cells:
                c = cell[r]
                factor, shift = p[c], dp[c]
            if weighted:
                u = 1.0 / (1.0 + alpha[i, k] + beta[i, k] / (p0[c] if cells else 1.0))
            m, share = dt[i, k] + shift, 1.0
            if offsets:
                part = 1.0 / (t[i, k] * h[v])
                m += (a[i, k] * shift + da[i, k]) * part
                share += a[i, k] * part
            value = u * t[i, k] * factor * response[r] * h[v] * (m - mean[v])
            out_t[i, k] += value
            if cells:
                out_p[c] += share * value
            if offsets:
                out_a[i, k] += value * part
    return out_t, out_p, out_a


@numba.njit(**OPTIONS)
def group_of_stills(starts, voxel, use):
    """Number of the connected group of each still; stills are connected by voxels of the mask ``use`` (n_voxels,).

    Returns:
        Smallest still of the group, shape (n_stills,).
    """
    n = len(starts) - 1
    parent, owner = np.arange(n), np.full(len(use), -1)
    for i in range(n):
        for r in range(starts[i], starts[i + 1]):
            v = voxel[r]
            if not use[v]:
                continue
            if owner[v] < 0:
                owner[v] = i
                continue
            a, b = i, owner[v]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a != b:
                parent[max(a, b)] = min(a, b)
            owner[v] = min(a, b)
    for i in range(n):
        a = i
        while parent[a] != a:
            a = parent[a]
        parent[i] = a
    return parent


@numba.njit(**OPTIONS)
def predict(
    starts, first, last, voxel, signal, response, shell, cell, t, p, a, alpha, beta, p0, numerator, denominator,
    reference, prior,
):  # fmt: skip
    """What the other observations of its voxel say of each observation of the stills first to last.

    The intensity has a gamma prior of the shell's mean and shape ``prior``, so that a voxel that no other
    observation saw still has an expectation; the observation itself is taken out of the map.

    Returns:
        (expected signal, its variance, that of the expectation included, counts over which the probability is taken:
        the signal and the expected noise of everything else, u t p R, intensity), each of shape (n,).
    """
    n = starts[last] - starts[first]
    mean, variance, counts = np.empty(n), np.empty(n), np.empty(n)
    crystal, value = np.empty(n), np.empty(n)
    weighted, offsets, cells = alpha.size > 0, a.size > 0, len(cell) > 0
    u, factor = 1.0, 1.0
    for i in range(first, last):
        for r in range(starts[i], starts[i + 1]):
            v, j = voxel[r], r - starts[first]
            k = shell[v]
            tk = t[i, k] if t.shape[1] > 1 else t[i, 0]
            if cells:
                factor = p[cell[r]]
            if weighted:
                u = 1.0 / (1.0 + alpha[i, k] + beta[i, k] / (p0[cell[r]] if cells else 1.0))
            pr = factor * response[r]
            shift = pr * a[i, k] if offsets else 0.0
            e, y = tk * pr, np.float64(signal[r]) - shift
            rate = max(denominator[v] - u * e, 0.0) + prior / reference[k]
            intensity = max(numerator[v] - u * y + prior, 0.01 * prior) / rate
            mean[j] = e * intensity + shift
            variance[j] = e * intensity / u + e * e * intensity / rate
            counts[j] = y + e * intensity * (1.0 / u - 1.0)
            crystal[j], value[j] = u * e, intensity
    return mean, variance, counts, crystal, value
