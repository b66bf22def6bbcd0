"""Photon sums simulated directly, with known scales and a known map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from diffuse_dials.algorithms.scaling.blocks import VoxelNumbers, compact, make_shells
from diffuse_dials.algorithms.scaling.fit import Fitter
from diffuse_dials.algorithms.scaling.options import phil_scope
from diffuse_dials.models.sums import VoxelSums


@dataclass(frozen=True)
class Simulated:
    """Sums and what they were made from."""

    sums: VoxelSums
    scale: np.ndarray
    intensity: np.ndarray
    s: np.ndarray


@pytest.fixture
def simulate(rng):
    """Poisson sums: voxels (1, 0, 0), (2, 0, 0) ..., each seen by the same number of stills, drawn at random."""

    def make(n_stills, n_voxels, multiplicity, mean, background=0.0, contrast=0.15, scale=None):
        voxel = np.repeat(np.arange(n_voxels), multiplicity)
        still = np.argsort(rng.random((n_voxels, n_stills)), axis=1)[:, :multiplicity].ravel()
        if scale is None:
            scale = np.exp(rng.uniform(np.log(0.3), np.log(3), n_stills))
            scale /= scale.mean()
        s = np.linspace(0.1, 0.5, n_voxels)
        isotropic = np.exp(-4 * s)
        isotropic *= mean / isotropic.mean()
        intensity = isotropic * (1 + contrast * rng.standard_normal(n_voxels))
        response = rng.uniform(0.5, 1.5, len(voxel))
        expected = scale[still] * response * intensity[voxel]
        # the background follows the exposure, not the crystal; its estimate comes from a blank with its own noise
        added = background * response * isotropic[voxel]
        ratio = 0.25
        estimate = rng.poisson(added / ratio) * ratio
        counts = rng.poisson(expected + added).astype(float)
        index = np.column_stack([voxel + 1, 0 * voxel, 0 * voxel]).astype(np.int32)
        zero = np.zeros(len(voxel), dtype=np.int32)
        sums = VoxelSums(
            still.astype(np.int32), index, index, zero, zero.astype(bool), counts, estimate, response,
            counts + ratio * estimate, zero + 1,
        )  # fmt: skip
        return Simulated(sums, scale, intensity, s)

    return make


class Options:
    """Parameters of the scaling as PHIL has them."""

    def __new__(cls, **values):
        options = phil_scope.extract().scale
        for name, value in values.items():
            setattr(options, name, value)
        return options


def blocks_of(sums, s, n_stills, cells=None):
    """Observations of sums whose voxels are all used; s is |s| of the voxels in the order of h, k, l."""
    order = np.argsort(sums.still, kind="stable")
    sums = sums.select(order)
    numbers = VoxelNumbers.of([sums])
    use = np.ones(len(numbers), dtype=bool)
    return compact([sums], n_stills, numbers, use, make_shells(s, use), cells)[0]


@pytest.fixture
def options():
    """Makes an extract of ``scale`` with some values set."""
    return Options


@pytest.fixture
def fit():
    """Refines components against sums: (sums, |s| of the voxels, number of stills, names, cells) to a problem."""

    def make(sums, s, n_stills, names=("scale",), cells=None, **options):
        blocks = blocks_of(sums, s, n_stills, cells)
        return Fitter(cells, Options(**options), s.max())(blocks, list(names))

    return make


@pytest.fixture
def make_blocks():
    """The function that turns sums into observations."""
    return blocks_of
