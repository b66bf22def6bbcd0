"""Scales of signed sums, simulated with known scales: the isotropic part of each still taken out beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.algorithms.scaling.anisotropic import NoAnisotropy, anisotropic_scales


def simulate(rng, n_stills=60, n_voxels=20_000, coverage=0.1, mean=5.0, contrast=0.2, jitter=0.5, rings=20):
    """Counts of crystal and background, less what each still has in a ring of |s| on average."""
    shell = rng.integers(0, rings, n_voxels)
    crystal = mean * (1 + contrast * rng.standard_normal(n_voxels))
    scale = np.exp(rng.uniform(np.log(0.3), np.log(3), n_stills))
    background = mean * (1 + jitter * rng.uniform(-1, 1, n_stills))
    still, voxel = np.nonzero(rng.uniform(size=(n_stills, n_voxels)) < coverage)
    response = rng.uniform(0.5, 1.5, len(still))
    counts = rng.poisson(response * (scale[still] * np.maximum(crystal[voxel], 0) + background[still])).astype(float)
    ring = still * rings + shell[voxel]
    profile = np.bincount(ring, counts) / np.maximum(np.bincount(ring, response), 1e-9)
    signal = counts - response * profile[ring]
    return (voxel, still, signal, response, counts, shell, n_stills), scale / scale.mean()


@pytest.mark.parametrize("mean", [10.0, 20.0])
def test_scales_are_recovered_within_their_uncertainty_whatever_the_background(rng, mean):
    """A background of the crystal's own size, different in each still: pulls of width 1 within 4/√(2N)."""
    observations, truth = simulate(rng, mean=mean)
    found = anisotropic_scales(*observations)
    ratio = found.scale / truth
    pulls = (ratio / ratio.mean() - 1) * found.scale / found.esd
    assert abs(pulls.mean()) < 4 / np.sqrt(60)
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(120))
    # no bias that follows the scale: the map's own noise is accounted for
    slope = np.polyfit(np.log(truth), np.log(found.scale), 1)[0]
    assert slope == pytest.approx(1, abs=4 * np.median(found.esd / found.scale) / np.sqrt(60) / 0.6 + 0.005)


def test_a_still_of_another_crystal_is_named(rng):
    (voxel, still, signal, *rest), _ = simulate(rng, mean=20.0)
    other = still == 7
    signal = signal.copy()
    signal[other] = rng.permutation(signal[other])
    signal[other] -= 0.3 * np.bincount(voxel, signal, 20_000)[voxel[other]] / 10
    with pytest.raises(NoAnisotropy, match=r"\[7\]"):
        anisotropic_scales(voxel, still, signal, *rest)


def test_nothing_anisotropic_is_no_scale(rng):
    observations, _ = simulate(rng, contrast=0.0)
    with pytest.raises(ValueError):
        anisotropic_scales(*observations)
