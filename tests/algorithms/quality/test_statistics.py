from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import poisson

from diffuse_dials.algorithms.merging import DiffuseMap, Intensities
from diffuse_dials.algorithms.quality import statistics


@pytest.fixture
def halves(reference):
    quality = json.loads(reference("map_quality.json").read_text())
    return quality, *(np.array(quality[name]) for name in ("half1", "half2", "shell"))


def test_correlations_and_r_factors_by_shell_are_those_of_the_reference(halves):
    """map_quality.json, to 1e-9."""
    quality, first, second, shell = halves
    for line in quality["per_shell"]:
        x, y = first[shell == line["shell"]], second[shell == line["shell"]]
        cc = statistics.correlation(x, y)
        assert cc == pytest.approx(line["cc_half"], abs=1e-9)
        assert statistics.cc_star(cc) == pytest.approx(line["cc_star"], abs=1e-9)
        assert statistics.r_split(x, y) == pytest.approx(line["r_split"], abs=1e-9)


def less_shell_means(values, shell):
    return values - (np.bincount(shell, values) / np.maximum(np.bincount(shell), 1))[shell]


def test_the_fall_off_inflates_the_total_correlation_and_not_the_anisotropic_one(halves):
    """map_quality.json, to 1e-9."""
    quality, first, second, shell = halves
    assert statistics.correlation(first, second) == pytest.approx(quality["cc_half_all_total"], abs=1e-9)
    anisotropic = [less_shell_means(half, shell) for half in (first, second)]
    assert statistics.correlation(*anisotropic) == pytest.approx(quality["cc_half_all_variational"], abs=1e-9)


def test_division_of_sums_is_the_one_estimator_without_bias(reference):
    """poisson_bias.csv to 1e-6, and why the others are not used: expectations over the Poisson distribution."""
    with open(reference("poisson_bias.csv")) as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        mean = float(row["true_mean_counts_per_observation"])
        n = np.arange(0, int(mean + 40 * np.sqrt(mean + 1)) + 40)
        p = poisson.pmf(n, mean)

        def weighted(weight):
            return (p * weight * n).sum() / (p * weight).sum() / mean - 1

        expected = {
            "relbias_w=1/N_zero_dropped": weighted(np.where(n > 0, 1 / np.maximum(n, 1), 0)),
            "relbias_w=1/max(N,1)": weighted(1 / np.maximum(n, 1)),
            "relbias_w=1/(N+1)": weighted(1 / (n + 1)),
            "relbias_drop_zero_pixels_plain_mean": weighted(1.0 * (n > 0)),
            "relbias_sum_counts_over_sum_exposure": weighted(np.ones(len(n))),
        }
        for name, value in expected.items():
            assert value == pytest.approx(float(row[name]), rel=1e-6, abs=1e-6), (mean, name)


def test_shells_have_equal_volume_and_hold_their_limits():
    edges = statistics.equal_volume_edges(0.1, 0.5, 4)
    assert np.diff(edges**3) == pytest.approx(np.full(4, (0.5**3 - 0.1**3) / 4))
    shell = statistics.shell_of(np.array([0.09, 0.1, 0.49, 0.5, 0.51]), edges)
    assert shell.tolist() == [-1, 0, 3, 3, -1]


def test_the_isotropic_part_of_an_isotropic_map_is_the_map(rng):
    """A Gaussian fall-off is found to 0.5 % from shells of a hundred voxels, without noise."""
    s = np.sort(rng.uniform(0.1**3, 0.5**3, 50_000) ** (1 / 3))
    values = np.exp(-5 * s**2)
    found = statistics.isotropic_part(s, values, np.ones(len(s)))
    assert found == pytest.approx(values, rel=0.005)


def a_map(rng, signal, noise, n=20_000, n_splits=3):
    """A map with a known anisotropic part and half maps of known noise."""
    s = rng.uniform(0.1**3, 0.5**3, n) ** (1 / 3)
    rlp = rng.standard_normal((n, 3))
    rlp *= (s / np.linalg.norm(rlp, axis=1))[:, None]
    truth = 100 * np.exp(-5 * s**2) + signal * rng.standard_normal(n)
    full = np.full(n, 4, dtype=np.int32)

    def half():
        return Intensities(truth + noise * rng.standard_normal(n), np.full(n, noise**2), full)

    halves = tuple((half(), half()) for _ in range(n_splits))
    both = Intensities(truth, np.full(n, noise**2 / 2), full)
    variance = np.full(n, noise**2 / 2)
    return DiffuseMap(
        np.zeros((n, 3), np.int32), rlp, both, variance, full, both, np.zeros(n, bool), np.ones(n), halves
    )


def test_statistics_of_a_map_give_its_signal_to_noise_ratio(rng):
    """CC½ = S²/(S² + N²) for signal S and noise N in each half map; contrast = S over the mean."""
    merged = a_map(rng, signal=8.0, noise=6.0)
    edges = statistics.equal_volume_edges(merged.s.min(), merged.s.max(), 5)
    possible = np.full(5, len(merged) // 5)
    found = statistics.map_statistics(merged, np.ones(len(merged)), edges, possible, np.ones(6))
    for line in (*found.shells, found.overall):
        assert line.cc_half == pytest.approx(64 / 100, abs=0.03)
        assert line.contrast == pytest.approx(8 / line.mean, rel=0.05)
        assert line.completeness == pytest.approx(1, abs=0.1)
    assert found.overall.cc_half_total > found.overall.cc_half + 0.1
    assert found.overall.multiplicity == 4 and sum(line.n_voxels for line in found.shells) == len(merged)


def test_two_stills_have_one_split_whose_spread_is_not_known(rng):
    """Every split is the same two halves, now one first, now the other."""
    merged = a_map(rng, signal=8.0, noise=6.0, n=2000, n_splits=1)
    merged = replace(merged, halves=(merged.halves[0], merged.halves[0][::-1], merged.halves[0]))
    edges = statistics.equal_volume_edges(merged.s.min(), merged.s.max(), 2)
    found = statistics.map_statistics(merged, np.ones(len(merged)), edges, np.ones(2), np.ones(3))
    assert np.isnan(found.overall.cc_half_spread) and found.overall.cc_half > 0.5
    assert all(row[found.headers.index("±")] == "-" for row in found.rows())


def test_a_shell_is_drawn_at_the_mean_of_its_volume(rng):
    """A million points of the shell, uniform in the sphere, to 4 of their standard uncertainties."""
    shell = statistics.ShellStatistics(30.0, 5.0, 0, 0.0, *[float("nan")] * 12)
    s = rng.uniform(1 / 30.0**3, 1 / 5.0**3, 1_000_000) ** (1 / 3)
    assert shell.s == pytest.approx(s.mean(), abs=4 * s.std() / 1000)
    assert replace(shell, d_max=np.inf).s == pytest.approx(0.75 / 5.0)


def test_noise_alone_has_no_anisotropic_correlation(rng):
    """However strong the fall-off: |CC½| below 4/sqrt(N)."""
    merged = a_map(rng, signal=0.0, noise=6.0)
    edges = statistics.equal_volume_edges(merged.s.min(), merged.s.max(), 2)
    found = statistics.map_statistics(merged, np.ones(len(merged)), edges, np.ones(2), np.ones(3))
    assert abs(found.overall.cc_half) < 4 / np.sqrt(len(merged))
    assert found.overall.cc_half_total > 0.5


def test_what_is_undefined_becomes_null_in_json():
    line = statistics.ShellStatistics(9.0, 8.0, 0, 0.0, *[float("nan")] * 12)
    assert json.loads(json.dumps(line.to_dict(), allow_nan=False))["cc_half"] is None
    assert np.isnan(statistics.correlation(np.ones(9), np.arange(9.0))) and np.isnan(statistics.cc_star(-0.1))
