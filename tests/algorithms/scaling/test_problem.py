from __future__ import annotations

import json

import numpy as np
import pytest

from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.scaling.blocks import VoxelNumbers
from diffuse_dials.algorithms.scaling.errors import parameter_esds
from diffuse_dials.algorithms.scaling.newton import solve
from diffuse_dials.algorithms.scaling.problem import NoSignal
from diffuse_dials.algorithms.scaling.refine import unconnected_stills
from diffuse_dials.models.sums import VoxelSums


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


def scale_of(problem):
    return problem.t[:, 0]


def test_scales_and_map_are_the_exact_maximum_of_the_poisson_likelihood(reference, fit):
    """Expected: the fixed point worked out independently in scaling_toy.json."""
    toy = json.loads(reference("scaling_toy.json").read_text())
    problem = fit(sums_of(np.array(toy["counts"]), np.array(toy["exposure"])), np.arange(1.0, 7.0), 4)
    assert scale_of(problem) == pytest.approx(toy["b_ml"], rel=1e-6)
    assert problem.merged().intensity == pytest.approx(toy["I_ml"], rel=1e-6)


@pytest.mark.parametrize("mean, background", [(3.0, 0.0), (3.0, 1.0), (0.3, 0.0), (0.3, 1.0)])
def test_scales_are_right_within_their_uncertainties(simulate, fit, mean, background):
    """Against the simulated truth; pull width 1 within 4/sqrt(2N), N = 100 stills."""
    truth = simulate(n_stills=100, n_voxels=10_000, multiplicity=8, mean=mean, background=background)
    problem = fit(truth.sums, truth.s, 100)
    (esd,), method = parameter_esds(problem)
    scale = scale_of(problem)
    pulls = (scale - truth.scale) / (scale * esd[:, 0])
    assert method == "full"
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(200))
    assert abs(pulls.mean()) < 4 / np.sqrt(100)
    assert scale.mean() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mean, background, n_voxels", [(0.05, 0.0, 150_000), (0.3, 0.0, 50_000), (0.3, 1.0, 100_000)])
def test_a_few_hundredths_of_a_photon_bring_no_bias_into_the_map(simulate, fit, mean, background, n_voxels):
    """Mean of the map over the truth's to 0.5 %, with 1.5e5 to 6e5 diffuse photons: 2 to 4 standard deviations."""
    truth = simulate(n_stills=60, n_voxels=n_voxels, multiplicity=20, mean=mean, background=background)
    intensity = fit(truth.sums, truth.s, 60).merged().intensity
    assert intensity.mean() / truth.intensity.mean() == pytest.approx(1, abs=0.005)


def test_weights_from_a_background_that_varies_make_the_map_more_precise(simulate, fit):
    truth = simulate(n_stills=60, n_voxels=20_000, multiplicity=8, mean=3.0, background=1.0)
    problem = fit(truth.sums, truth.s, 60)
    b = problem.blocks
    response = scale_of(problem)[b.still] * b.response
    plain = np.bincount(b.voxel, b.signal, b.n_voxels) / np.bincount(b.voxel, response, b.n_voxels)

    def error(value):
        return np.std((value - truth.intensity) / truth.intensity)

    assert error(problem.merged().intensity) < 0.97 * error(plain)


def test_the_order_of_the_rows_changes_nothing(simulate, fit, rng):
    truth = simulate(n_stills=20, n_voxels=2000, multiplicity=5, mean=1.0, background=0.5)
    problem = fit(truth.sums, truth.s, 20)
    shuffled = fit(truth.sums.select(rng.permutation(len(truth.sums))), truth.s, 20)
    assert scale_of(shuffled) == pytest.approx(scale_of(problem), rel=1e-12)


def test_stills_that_share_no_photons_with_the_others_are_found(make_blocks):
    counts = np.array([[5, 3, 0, 0], [4, 6, 2, 0], [0, 0, 0, 7]])
    response = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
    blocks = make_blocks(sums_of(counts, response), np.arange(1.0, 5.0), 3)
    assert list(unconnected_stills(blocks)) == []
    assert list(unconnected_stills(blocks.select(blocks.voxel != 2))) == [2]


def test_a_still_below_its_background_is_named(fit):
    counts, response = np.array([[5, 3, 4], [4, 6, 5], [1, 0, 1]]), np.ones((3, 3))
    with pytest.raises(NoSignal) as raised:
        fit(sums_of(counts, response, background=1.0), np.arange(1.0, 4.0), 3)
    assert raised.value.stills == [2]


def test_scaling_that_does_not_converge_is_an_error(simulate, fit):
    truth = simulate(n_stills=20, n_voxels=500, multiplicity=3, mean=1.0)
    with pytest.raises(ValueError, match="did not converge in 2 cycles"):
        fit(truth.sums, truth.s, 20, max_cycles=2)


def test_bragg_pixels_and_the_origin_take_no_part(make_blocks):
    index = np.array([[1, 0, 0], [-1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=np.int32)
    asu = np.abs(index)
    still = np.array([0, 0, 0, 0, 1], dtype=np.int32)
    bragg = np.array([False, False, True, False, False])
    counts = np.array([1.0, 2, 50, 9, 3])
    sums = VoxelSums(still, index, asu, still * 0, bragg, counts, counts * 0, counts * 0 + 1, counts, still * 0 + 4)
    blocks = make_blocks(sums, np.array([0.1]), 2)
    assert blocks.starts.tolist() == [0, 2, 3] and blocks.signal.tolist() == [1, 2, 3]


@pytest.mark.parametrize("far", [100, 5000], ids=["by table", "by bisection"])
def test_voxels_are_numbered_in_the_order_of_h_k_l(far):
    index = np.array([[3, -far, 1], [1, far, 0], [1, 0, far], [0, 0, 0], [1, 0, far]], dtype=np.int32)
    sums = VoxelSums(*([None] * 2), index, *([None] * 7))
    numbers = VoxelNumbers.of([sums])
    assert numbers.index.tolist() == [[1, 0, far], [1, far, 0], [3, -far, 1]]
    assert numbers(index).tolist() == [2, 1, 0, -1, 0]
    assert numbers(np.array([[9, 9, 9]], dtype=np.int32)).tolist() == [-1]


def test_the_product_with_the_information_is_the_change_of_the_score(simulate, fit):
    """Against finite differences, for a factor, a fall-off and their map eliminated."""
    truth = simulate(n_stills=10, n_voxels=1000, multiplicity=6, mean=20.0, background=3.0)
    problem = fit(truth.sums, truth.s, 10, names=("scale", "falloff"))
    here, merged = problem.vector, problem.merged()
    h = problem.positive(merged)
    change = np.random.default_rng(1).normal(size=len(here)) * np.tile([1e-4, 1e-3], 10)
    expected = problem.product(change, merged, h)

    def score(vector):
        problem.vector = vector
        merged = problem.merged()
        return problem.score(merged, problem.positive(merged)).vector

    found = (score(here - change) - score(here + change)) / 2
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4 * np.abs(expected).max())


class Counting(Communicator):
    """One process, which counts the messages that more would send each other."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def sum(self, array):
        self.n += 1
        return super().sum(array)

    def sums(self, *arrays):
        self.n += 1
        return super().sums(*arrays)

    def from_first(self, value):
        self.n += 1
        return super().from_first(value)


def test_a_step_of_conjugate_gradients_takes_three_messages_and_the_rest_of_a_cycle_few(simulate, fit):
    """The change of the map, that of the parameters, and whether to go on."""
    truth = simulate(n_stills=10, n_voxels=1000, multiplicity=6, mean=20.0, background=3.0)
    problem = fit(truth.sums, truth.s, 10, names=("scale", "falloff"))
    problem.vector = problem.vector + 0.01 * np.random.default_rng(1).normal(size=problem.n_parameters)
    problem.comm = Counting()
    merged = problem.merged()
    h = problem.positive(merged)
    score = problem.score(merged, h)
    assert problem.comm.n == 3  # numerator and denominator of the map, and the score
    n_steps = []

    def product(direction):
        n_steps.append(1)
        return problem.product(direction, merged, h)

    problem.comm.n = 0
    x = solve(product, score, problem, problem.null_directions(), 1e-6)
    assert len(n_steps) > 3 and problem.comm.n == 3 * len(n_steps) + 2
    null = problem.null_directions()
    rest = score.vector - problem.product(x, merged, h)
    rest -= null.T @ (null @ rest)
    assert np.abs(rest).max() < 1e-4 * np.abs(score.vector).max()
