from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from diffuse_dials.algorithms.scaling.outliers import find_outliers, improbable


def test_the_probability_is_that_of_a_poisson_count_where_the_rate_is_known():
    """Against scipy's Poisson distribution, both tails, at means from 0.05 to 300."""
    for mean in (0.05, 1.0, 20.0, 300.0):
        counts = np.arange(0, int(mean + 12 * np.sqrt(mean) + 12), dtype=float)
        expected = np.minimum(stats.poisson.cdf(counts, mean), stats.poisson.sf(counts - 1, mean)) < 0.5e-6
        full = np.full(len(counts), mean)
        found = improbable(counts, full, full, 1e-6)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("mean", [0.3, 3.0, 30.0])
def test_sums_of_the_model_are_no_outliers(simulate, fit, mean):
    """Of 1.6e5 sums, 0.16 are expected below a probability of 1e-6; 5 would be one in 1e6 runs."""
    truth = simulate(n_stills=60, n_voxels=20_000, multiplicity=8, mean=mean, background=0.5)
    assert find_outliers(fit(truth.sums, truth.s, 60), 1e-6).sum() < 5


def test_a_spot_under_a_sum_and_a_shadow_over_one_are_found(simulate, fit):
    truth = simulate(n_stills=60, n_voxels=5000, multiplicity=10, mean=30.0)
    sums = truth.sums.select(np.argsort(truth.sums.still, kind="stable"))
    counts = sums.counts.copy()
    bright = np.flatnonzero(counts > 40)
    spots, shadows = bright[::500], bright[250::500]
    counts[spots] *= 3
    counts[shadows] = 0
    problem = fit(replace(sums, counts=counts, variance=counts), truth.s, 60)
    found = np.flatnonzero(find_outliers(problem, 1e-6))
    planted = np.union1d(spots, shadows)
    assert np.isin(planted, found).mean() > 0.9
    assert len(np.setdiff1d(found, planted)) < 5
