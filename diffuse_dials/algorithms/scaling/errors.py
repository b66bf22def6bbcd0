"""Standard uncertainties of refined parameters from counting statistics: a sparse Schur complement.

The information of the parameters with the map eliminated is H = D - G diag(I / Σ u e) Gᵀ, D diagonal by still and
G (parameters x voxels) sparse. H is inverted at fixed gauge: directions that the map absorbs have no variance.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from diffuse_dials.algorithms.scaling.problem import MergedSums, Problem

# Above these the matrix of the parameters costs more than a run of scaling: its diagonal blocks serve instead.
MAX_DENSE_PARAMETERS = 3000
MAX_PRODUCTS = 2e7


def parameter_esds(problem: Problem) -> tuple[list[np.ndarray], str]:
    """Uncertainties of all components' parameters.

    Those of the stills take the detector's factors as exact, and the other way round: the latter are known far better.

    Returns:
        (for each component an array of the shape of its values, "full" or "diagonal").
    """
    merged = problem.merged()
    # The information expected of the mean map, which an observation's own noise does not move; with offsets it lies in
    # the contrast of the map.
    h = problem.positive(merged) if problem.a.size else problem.reference[problem.blocks.shells.of_voxel]
    blocks = problem.score(merged, h).still_blocks
    n, k = blocks.shape[:2]
    index = np.flatnonzero(problem.present)
    method = "full" if len(index) * k <= MAX_DENSE_PARAMETERS else "diagonal"
    if method == "full":
        variance = _full(problem, merged, h, blocks, index)
    else:
        variance = np.einsum("ijj->ij", blocks).copy()
    esds, column = [], 0
    detector = _detector(problem, merged, h)
    for component in problem.components:
        width = component.values.shape[1]
        if component.kind == "detector":
            esds.append(np.sqrt(detector[:width])[None, :])
            detector = detector[width:]
        else:
            values = np.full((n, width), np.nan)
            values[index] = np.sqrt(np.maximum(variance[index, column : column + width], 0))
            esds.append(values)
            column += width
    return esds, method


def _full(problem: Problem, merged: MergedSums, h, blocks, index) -> np.ndarray:
    b, k = problem.blocks, blocks.shape[1]
    still = b.still
    multiplicity = problem.comm.sum(np.bincount(b.voxel, minlength=b.n_voxels)).astype(float)
    # Every step-th voxel: what the map takes from the scales is an average over voxels.
    step = max(1, int(np.ceil((multiplicity**2).sum() * k**2 / MAX_PRODUCTS)))
    part = np.flatnonzero(b.voxel % step == 0)
    voxel, still, shell = b.voxel[part], still[part], b.shells.of_voxel[b.voxel[part]]
    weight, response = problem.row_weights(part)
    columns = np.concatenate([problem.still_columns, problem.offset_columns], axis=1)[shell]
    expected = weight * response * problem.t[still, shell]
    values = expected[:, None] * columns
    if problem.a.size:
        width = problem.still_columns.shape[1]
        values[:, width:] /= (problem.t[still, shell] * h[voxel])[:, None]
    # stills of different ranks meet in the product: rank 0 works it out from the rows of all
    parts = problem.comm.gather((values, still, voxel))
    variance = None
    with problem.comm.together():
        if parts is not None:
            values, still, voxel = (np.concatenate(part) for part in zip(*parts))
            variance = _schur(problem, merged, step * h, blocks, index, values, still, voxel)
    return problem.comm.from_first(variance)


def _schur(problem: Problem, merged: MergedSums, h, blocks, index, values, still, voxel) -> np.ndarray:
    b, k = problem.blocks, blocks.shape[1]
    rows = still.astype(np.int64)[:, None] * k + np.arange(k)
    shape = (b.n_stills * k, b.n_voxels)
    g = sparse.csr_matrix((values.ravel(), (rows.ravel(), np.repeat(voxel, k))), shape)
    g = g[(index[:, None] * k + np.arange(k)).ravel()]
    taken = (g @ sparse.diags(h / merged.denominator) @ g.T).toarray()
    information = -taken
    for place, i in enumerate(index):
        own = slice(place * k, place * k + k)
        information[own, own] += np.linalg.inv(blocks[i])
    return _at_gauge(problem, information, index, k)


def _at_gauge(problem: Problem, information: np.ndarray, index: np.ndarray, k: int) -> np.ndarray:
    """Variances at fixed mean(b) and fixed sums of the other parameters, shape (n_stills, k)."""
    n = len(index)
    weight = np.full((n, k), 1.0)
    scale = problem.t[index].mean(axis=1)
    column = 0
    for component in problem.components:
        if component.name == "scale":
            weight[:, column] = scale
        column += component.values.shape[1] if component.kind != "detector" else 0
    width = problem.still_columns.shape[1]
    size = np.einsum("ii->i", information).mean()
    project = np.eye(n * k)
    for j in range(k):
        direction = np.zeros((n, k))
        direction[:, j] = 1 if j < width else scale
        flat = direction.ravel()
        information = information + size / n * np.outer(flat, flat)
        condition = np.zeros((n, k))
        condition[:, j] = weight[:, j] / (weight[:, j] * direction[:, j]).sum()
        project -= np.outer(flat, condition.ravel())
    inverse = np.linalg.inv(information)
    variance = np.zeros((problem.blocks.n_stills, k))
    variance[index] = np.einsum("ij,jl,il->i", project, inverse, project, optimize=True).reshape(n, k)
    return variance


def _detector(problem: Problem, merged: MergedSums, h) -> np.ndarray:
    n = sum(c.n_params for c in problem.components if c.kind == "detector")
    if not n:
        return np.empty(0)
    first = problem.n_parameters - n
    information = np.empty((n, n))
    for column in range(n):
        unit = np.zeros(problem.n_parameters)
        unit[first + column] = 1
        information[column] = problem.product(unit, merged, h)[first:]
    information = (information + information.T) / 2
    return np.maximum(np.diag(np.linalg.pinv(information, hermitian=True)), 0)
