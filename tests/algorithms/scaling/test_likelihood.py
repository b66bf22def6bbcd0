from __future__ import annotations

import json

import numpy as np
import pytest

from diffuse_dials.algorithms.scaling.likelihood import NoSignal, refine_scales, unconnected_stills
from diffuse_dials.algorithms.scaling.observations import group_sums
from diffuse_dials.algorithms.scaling.weights import resolution_shells
from diffuse_dials.models.sums import VoxelSums


def refine(sums, s, n_stills):
    observations = group_sums(sums, n_stills)
    use = np.ones(observations.n_voxels, dtype=bool)
    return observations, refine_scales(observations, resolution_shells(s, use), use)


def sums_of(counts, response, background=0.0):
    """Sums of a full table (stills x voxels); response 0 is not observed."""
    still, voxel = np.nonzero(response > 0)
    index = np.column_stack([voxel + 1, 0 * voxel, 0 * voxel]).astype(np.int32)
    zero = np.zeros(len(still), dtype=np.int32)
    counts = counts[still, voxel].astype(float)
    return VoxelSums(
        still.astype(np.int32), index, index, zero, zero.astype(bool), counts, counts * 0 + background,
        response[still, voxel], counts, zero + 1,
    )  # fmt: skip


def test_scales_and_map_are_the_exact_maximum_of_the_poisson_likelihood(reference):
    """Expected: the fixed point worked out independently in scaling_toy.json."""
    toy = json.loads(reference("scaling_toy.json").read_text())
    sums = sums_of(np.array(toy["counts"]), np.array(toy["exposure"]))
    observations, scales = refine(sums, np.arange(6.0), 4)
    assert scales.scale == pytest.approx(toy["b_ml"], rel=1e-6)
    response = observations.sum_by_voxel(scales.scale[observations.still] * observations.response)
    assert observations.sum_by_voxel(observations.counts) / response == pytest.approx(toy["I_ml"], rel=1e-6)
    assert np.all(scales.weight == 1)


@pytest.mark.parametrize("mean, background", [(3.0, 0.0), (3.0, 1.0), (0.3, 0.0), (0.3, 1.0)])
def test_scales_are_right_within_their_uncertainties(simulate, mean, background):
    """Against the simulated truth; pull width 1 within 4/sqrt(2N), N = 100 stills."""
    truth = simulate(n_stills=100, n_voxels=10_000, multiplicity=8, mean=mean, background=background)
    _, scales = refine(truth.sums, truth.s, 100)
    pulls = (scales.scale - truth.scale) / scales.esd
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(200))
    assert abs(pulls.mean()) < 4 / np.sqrt(100)
    assert scales.scale.mean() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mean, background, n_voxels", [(0.05, 0.0, 150_000), (0.3, 0.0, 50_000), (0.3, 1.0, 100_000)])
def test_a_few_hundredths_of_a_photon_bring_no_bias_into_the_map(simulate, mean, background, n_voxels):
    """Mean of the map over the truth's to 0.5 %, with 1.5e5 to 6e5 diffuse photons: 2 to 4 standard deviations."""
    truth = simulate(n_stills=60, n_voxels=n_voxels, multiplicity=20, mean=mean, background=background)
    observations, scales = refine(truth.sums, truth.s, 60)
    weighted = scales.weight * scales.scale[observations.still] * observations.response
    intensity = observations.sum_by_voxel(scales.weight * observations.signal) / observations.sum_by_voxel(weighted)
    assert intensity.mean() / truth.intensity.mean() == pytest.approx(1, abs=0.005)


def test_weights_from_a_background_that_varies_make_the_map_more_precise(simulate):
    truth = simulate(n_stills=60, n_voxels=20_000, multiplicity=8, mean=3.0, background=1.0)
    observations, scales = refine(truth.sums, truth.s, 60)
    response = scales.scale[observations.still] * observations.response

    def error(weight):
        value = observations.sum_by_voxel(weight * observations.signal) / observations.sum_by_voxel(weight * response)
        return np.std((value - truth.intensity) / truth.intensity)

    assert error(scales.weight) < 0.97 * error(np.ones(len(response)))


def test_the_order_of_the_rows_changes_nothing(simulate, rng):
    truth = simulate(n_stills=20, n_voxels=2000, multiplicity=5, mean=1.0, background=0.5)
    _, scales = refine(truth.sums, truth.s, 20)
    _, shuffled = refine(truth.sums.select(rng.permutation(len(truth.sums))), truth.s, 20)
    assert shuffled.scale == pytest.approx(scales.scale, rel=1e-12)


def test_stills_that_share_no_photons_with_the_others_are_found():
    counts = np.array([[5, 3, 0, 0], [4, 6, 2, 0], [0, 0, 0, 7]])
    response = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
    observations = group_sums(sums_of(counts, response), 3)
    use = np.ones(4, dtype=bool)
    assert list(unconnected_stills(observations, use)) == []
    use[2] = False
    assert list(unconnected_stills(observations, use)) == [2]


def test_a_still_below_its_background_is_named():
    counts, response = np.array([[5, 3, 4], [4, 6, 5], [1, 0, 1]]), np.ones((3, 3))
    with pytest.raises(NoSignal) as raised:
        refine(sums_of(counts, response, background=1.0), np.arange(3.0), 3)
    assert raised.value.stills == [2]


def test_scaling_that_does_not_converge_is_an_error(simulate):
    truth = simulate(n_stills=20, n_voxels=500, multiplicity=3, mean=1.0)
    observations = group_sums(truth.sums, 20)
    use = np.ones(500, dtype=bool)
    with pytest.raises(ValueError, match="did not converge in 2 cycles"):
        refine_scales(observations, np.zeros(500, dtype=int), use, max_cycles=2)


def test_symmetry_mates_and_panels_are_added_up_and_bragg_pixels_kept_apart():
    index = np.array([[1, 0, 0], [-1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=np.int32)
    asu = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=np.int32)
    still = np.array([0, 0, 0, 0, 1], dtype=np.int32)
    bragg = np.array([False, False, True, False, False])
    counts = np.array([1.0, 2, 50, 9, 3])
    panel = np.array([0, 1, 0, 0, 0], dtype=np.int32)
    sums = VoxelSums(still, index, asu, panel, bragg, counts, counts * 0, counts * 0 + 1, counts, still * 0 + 4)
    found = group_sums(sums, 2)
    assert found.index.tolist() == [[1, 0, 0]]
    assert found.counts.tolist() == [3, 3] and found.response.tolist() == [2, 1] and found.n_pixels.tolist() == [8, 4]
    assert found.bragg_signal.tolist() == [50, 0] and found.bragg_response.tolist() == [1, 0]
