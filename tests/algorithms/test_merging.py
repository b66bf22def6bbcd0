from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dials.algorithms.scaling.Ih_table import IhTable
from dials.array_family import flex
from dxtbx import flumpy
from libtbx import Auto

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.merging import NOT_MEASURED, excludes_lattice_points, half_sets, merge
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.kernels.sums import pack, unpack
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.scaled import ScaledRows
from diffuse_dials.models.sums import VoxelSums


@pytest.fixture
def record():
    return GridRecord(
        (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 43 21 2", "P 4/m m m", 4.0, None, "own", 0.0,
        False, (), 0.005,
    )  # fmt: skip


@pytest.fixture
def sums(rng, record):
    """Rows of ten stills, symmetry mates and two panels among them."""
    n = 4000
    index = rng.integers(-6, 7, (n, 3)).astype(np.int32)
    index[np.all(index == 0, axis=1)] = 1
    counts = rng.poisson(3.0, n).astype(float)
    return VoxelSums(
        rng.integers(0, 10, n).astype(np.int32), index, map_to_asu(index, parse_space_group(record.space_group)),
        rng.integers(0, 2, n).astype(np.int32), rng.random(n) < 0.1, counts, np.zeros(n), rng.uniform(0.5, 1.5, n),
        counts, np.ones(n, dtype=np.int32),
    )  # fmt: skip


def keys_of(n):
    return [StillKey(f"/somewhere/image_{i:04d}.cbf", 0, 0) for i in range(n)]


def rows_of(sums, scale, n_blocks=1):
    """The sums as scaled rows of known scales, in blocks of stills; rows of stills without a scale are left out."""
    voxels = np.unique(pack(sums.asu_index))
    sums = sums.select(np.isfinite(scale)[sums.still])
    rows = ScaledRows(
        sums.still, np.searchsorted(voxels, pack(sums.asu_index)), sums.index, sums.panel, sums.bragg, sums.counts,
        sums.counts - sums.background, sums.variance, sums.response, sums.n_pixels, scale[sums.still],
        np.ones(len(sums)), np.ones(len(sums)), np.zeros(len(sums)), sums.position,
    )  # fmt: skip
    return unpack(voxels), [rows.select(rows.still % n_blocks == block) for block in range(n_blocks)]


def merged_map(sums, record, scale, n_splits=2, order=None):
    keys = keys_of(len(scale)) if order is None else [keys_of(len(scale))[i] for i in order]
    index, blocks = rows_of(sums, scale)
    return merge(blocks, index, record, half_sets(keys, 0, n_splits))


def test_dials_merges_to_the_same_intensities(sums, record, rng):
    """IhTable of the unmerged rows, weighted by response x scale, groups and averages them as we do."""
    scale = rng.uniform(0.5, 2, 10)
    merged = merged_map(sums, record, scale)
    rows = sums.select(~sums.bragg)
    table = flex.reflection_table()
    h, k, l = (flumpy.from_numpy(np.ascontiguousarray(rows.index[:, i])) for i in range(3))
    table["miller_index"] = flex.miller_index(h, k, l)
    factor = scale[rows.still] * rows.response
    table["intensity"] = flumpy.from_numpy(rows.counts)
    table["variance"] = flumpy.from_numpy(factor)  # IhTable's weight is 1/variance: Σ w g C / Σ w g² = ΣC / Σg
    table["inverse_scale_factor"] = flumpy.from_numpy(factor)
    space_group = symmetry.super_cell_experiment(record).crystal.get_space_group()
    block = IhTable([table], space_group, nblocks=1).blocked_data_list[0]
    theirs = {}
    for index, value in zip(block.asu_miller_index, block.Ih_values):
        theirs[index] = value
    ours = merged.select(merged.intensity.measured)
    assert len(ours) == len(theirs)
    found = [theirs[tuple(int(i) for i in index)] for index in ours.index]
    assert ours.intensity.value == pytest.approx(found, rel=1e-12)


def test_a_voxel_is_counted_in_stills_and_its_halves_add_up(sums, record):
    merged = merged_map(sums, record, np.ones(10))
    i = int(np.argmax(merged.intensity.multiplicity))
    part = np.all(sums.asu_index == merged.index[i], axis=1) & ~sums.bragg
    assert merged.intensity.multiplicity[i] == len(set(sums.still[part]))
    assert merged.n_pixels[i] == part.sum()
    assert merged.intensity.value[i] == pytest.approx(sums.counts[part].sum() / sums.response[part].sum())
    assert merged.intensity.variance[i] == pytest.approx(sums.counts[part].sum() / sums.response[part].sum() ** 2)
    first, second = merged.halves[0]
    assert np.array_equal(first.multiplicity + second.multiplicity, merged.intensity.multiplicity)


def test_bragg_pixels_are_in_one_column_only(sums, record):
    merged = merged_map(sums, record, np.ones(10))
    for i in range(0, len(merged), 17):
        part = np.all(sums.asu_index == merged.index[i], axis=1)
        assert merged.with_bragg.value[i] == pytest.approx(sums.counts[part].sum() / sums.response[part].sum())
    only_bragg = ~merged.intensity.measured
    assert np.all(merged.intensity.value[only_bragg] == 0)
    assert np.all(merged.intensity.variance[only_bragg] == NOT_MEASURED)


def test_the_variance_with_bragg_pixels_is_the_scatter_between_stills(sums, record):
    """Still by still: Σ (S - I R)² / [(Σ R)² - Σ R²]; it tells nothing where only one still has pixels."""
    merged = merged_map(sums, record, np.ones(10))
    for i in range(0, len(merged), 29):
        part = np.all(sums.asu_index == merged.index[i], axis=1)
        stills = np.unique(sums.still[part])
        signal = np.array([sums.counts[part & (sums.still == j)].sum() for j in stills])
        response = np.array([sums.response[part & (sums.still == j)].sum() for j in stills])
        n = len(stills)
        assert merged.with_bragg.multiplicity[i] == n
        if n == 1:
            assert merged.with_bragg.variance[i] == NOT_MEASURED
            continue
        squares = np.sum((signal - merged.with_bragg.value[i] * response) ** 2)
        assert merged.with_bragg.variance[i] == pytest.approx(squares / (response.sum() ** 2 - np.sum(response**2)))


def test_a_voxel_without_a_photon_has_the_uncertainty_of_one(sums, record):
    merged = merged_map(sums, record, np.ones(10))
    i = int(np.argmax(merged.intensity.multiplicity))
    dark = np.all(sums.asu_index == merged.index[i], axis=1)
    counts = np.where(dark, 0.0, sums.counts)
    columns = {name: getattr(sums, name) for name in sums.__dataclass_fields__}
    found = merged_map(VoxelSums(**{**columns, "counts": counts, "variance": counts}), record, np.ones(10))
    response = sums.response[dark & ~sums.bragg].sum()
    assert found.intensity.value[i] == 0
    assert found.intensity.variance[i] == pytest.approx(1 / response**2)


def test_the_order_of_the_stills_changes_neither_map_nor_halves(sums, record, rng):
    scale = rng.uniform(0.5, 2, 10)
    order = rng.permutation(10)
    place = np.argsort(order).astype(np.int32)
    columns = {name: getattr(sums, name) for name in sums.__dataclass_fields__}
    moved = VoxelSums(**{**columns, "still": place[sums.still]})
    first = merged_map(sums, record, scale)
    second = merged_map(moved, record, scale[order], order=order)
    assert second.intensity.value == pytest.approx(first.intensity.value, rel=1e-12)
    for one, other in zip(first.halves, second.halves):
        for a, b in zip(one, other):
            assert np.array_equal(a.multiplicity, b.multiplicity)
            assert b.value == pytest.approx(a.value, rel=1e-12)


def test_stills_without_a_scale_are_left_out(sums, record):
    scale = np.ones(10)
    scale[3] = np.nan
    merged = merged_map(sums, record, scale)
    without = merged_map(sums.select(sums.still != 3), record, np.ones(10))
    assert np.array_equal(merged.index, without.index)
    assert merged.intensity.value == pytest.approx(without.intensity.value, rel=1e-12)
    assert merged.with_bragg.value == pytest.approx(without.with_bragg.value, rel=1e-12)


def test_half_sets_are_balanced_and_drawn_by_image_and_seed():
    keys = keys_of(41)
    halves = half_sets(keys, seed=5, n_splits=20)
    assert np.all(halves.sum(axis=1) == 21)
    assert len({half.tobytes() for half in halves}) == 20
    assert not np.array_equal(halves, half_sets(keys, seed=6, n_splits=20))
    elsewhere = [StillKey(key.image.replace("/somewhere", "/moved"), 0, 0) for key in keys]
    assert np.array_equal(halves, half_sets(elsewhere, seed=5, n_splits=20))


def test_images_of_one_name_in_different_folders_are_not_tied_to_each_other():
    keys = [StillKey(f"/run{i}/image.cbf", 0, 0) for i in range(20)]
    halves = half_sets(keys, seed=0, n_splits=50)
    assert len({half.tobytes() for half in halves}) > 40
    assert np.array_equal(half_sets(keys[::-1], seed=0, n_splits=50), halves[:, ::-1])


@pytest.mark.parametrize(
    "setting, ndiv, excluded",
    [
        (Auto, (3, 3, 3), True),
        (Auto, (1, 1, 1), False),
        (Auto, (3, 3, 1), False),
        (True, (1, 1, 1), True),
        (False, (3, 3, 3), False),
    ],
)
def test_lattice_points_are_excluded_where_voxels_divide_the_cell(setting, ndiv, excluded):
    assert excludes_lattice_points(setting, ndiv) is excluded


def test_the_super_cell_puts_voxels_at_their_reciprocal_vectors(record):
    """rlp = B_ref·h equals B of merged.expt times the voxel's index, and no voxel is absent in its point group."""
    index = symmetry.unique_voxels(record, d_min=6.0)
    crystal = symmetry.super_cell_experiment(record).crystal
    b = np.array(crystal.get_B()).reshape(3, 3)
    assert symmetry.reciprocal_vectors(index, record) == pytest.approx(index @ b.T, abs=1e-12)
    assert np.array(crystal.get_U()) == pytest.approx(np.eye(3).ravel(), abs=1e-12)
    group = crystal.get_space_group()
    assert not any(group.is_sys_absent(tuple(int(i) for i in n)) for n in index)
    orbits = symmetry.orbit_sizes(index, record)
    volume = 4 / 3 * np.pi / 6.0**3 * 27 * 40 * 40 * 60
    assert orbits.sum() == pytest.approx(volume, rel=0.02)  # all voxels of the sphere
    assert orbits.max() == 16 == len(symmetry.laue_operators(record))


def test_blocks_of_stills_add_up_to_the_same_map(sums, record, rng):
    """Counts to the last digit, intensities to 1e-12: the stills may come in any number of blocks."""
    scale = rng.uniform(0.5, 2, 10)
    splits = half_sets(keys_of(10), 0, 2)
    index, blocks = rows_of(sums, scale, n_blocks=4)
    whole, parts = (merge(rows, index, record, splits) for rows in (rows_of(sums, scale)[1], blocks))
    assert np.array_equal(whole.n_pixels, parts.n_pixels)
    assert np.array_equal(whole.intensity.multiplicity, parts.intensity.multiplicity)
    assert parts.intensity.value == pytest.approx(whole.intensity.value, rel=1e-12)
    assert parts.scatter_variance == pytest.approx(whole.scatter_variance, rel=1e-9)
    for one, other in zip(whole.halves, parts.halves):
        for a, b in zip(one, other):
            assert b.value == pytest.approx(a.value, rel=1e-12)


N_STILLS = 1000


def poisson_rows(rng, mean, multiplicity, n_voxels, factor=1.0):
    """Every voxel seen by as many stills, drawn from 1000; true intensity 1 everywhere.

    With a factor φ the detector counts φ photons for each of N/φ Poisson events: variance φ times the mean.
    """
    voxel = np.repeat(np.arange(n_voxels), multiplicity)
    still = (np.tile(np.arange(multiplicity), n_voxels) + 7 * voxel) % N_STILLS
    scale = np.exp(rng.uniform(np.log(0.3), np.log(3), N_STILLS))
    response = mean * rng.uniform(0.5, 1.5, len(voxel)) / scale[still]
    counts = factor * rng.poisson(scale[still] * response / factor)
    zero = np.zeros(len(voxel), dtype=np.int32)
    index = np.column_stack([voxel + 1, 0 * voxel, 0 * voxel]).astype(np.int32)
    return index[:: multiplicity], ScaledRows(
        still, voxel, index, zero, zero.astype(bool), counts, counts, factor * counts, response, zero + 1, scale[still],
        np.ones(len(voxel)), factor * scale[still] * response, zero,
    )  # fmt: skip


@pytest.mark.parametrize("mean, multiplicity", [(0.05, 400), (0.3, 80), (3.0, 12), (30.0, 4)])
def test_the_map_has_no_bias_and_both_sigmas_predict_its_errors(rng, record, mean, multiplicity):
    """20 merged counts and more: bias below 0.5 %, pulls of width 1 ± 0.1."""
    n_voxels = int(2e5 / mean / multiplicity)
    index, rows = poisson_rows(rng, mean, multiplicity, n_voxels)
    merged = merge([rows], index, record, np.zeros((1, N_STILLS), dtype=bool))
    error = merged.intensity.value - 1
    assert abs(error.mean()) < 0.005
    assert np.std(error / np.sqrt(merged.intensity.variance)) == pytest.approx(1, abs=0.1)
    assert merged.scatter_variance.mean() == pytest.approx(merged.intensity.variance.mean(), rel=0.06)


@pytest.mark.parametrize("factor", [0.3, 2.5])
@pytest.mark.parametrize("mean, multiplicity", [(0.3, 200), (30.0, 4)])
def test_sigmas_hold_for_a_detector_whose_noise_is_not_that_of_photons(rng, record, factor, mean, multiplicity):
    """The variance of the sums carries the noise factor: pulls of width 1 ± 0.1 and no bias."""
    index, rows = poisson_rows(rng, mean, multiplicity, 2000, factor)
    merged = merge([rows], index, record, np.zeros((1, N_STILLS), dtype=bool))
    error = merged.intensity.value - 1
    assert error.mean() == pytest.approx(0, abs=4 * error.std() / np.sqrt(len(error)))
    assert np.std(error / np.sqrt(merged.intensity.variance)) == pytest.approx(1, abs=0.1)
    assert merged.scatter_variance.mean() == pytest.approx(merged.intensity.variance.mean(), rel=0.06)


@pytest.mark.parametrize("mean, multiplicity", [(0.05, 40), (0.3, 10), (3.0, 2)])
def test_below_twenty_counts_the_model_variance_predicts_the_errors(rng, record, mean, multiplicity):
    """Of few counts the measured variance is as noisy as the intensity: its mean, and the model's, are right."""
    index, rows = poisson_rows(rng, mean, multiplicity, 6000)
    merged = merge([rows], index, record, np.zeros((1, N_STILLS), dtype=bool))
    error = merged.intensity.value - 1
    model = 1 / merged.exposure
    assert error.mean() == pytest.approx(0, abs=4 * np.sqrt(model.mean() / len(error)))
    assert np.std(error / np.sqrt(model)) == pytest.approx(1, abs=0.1)
    lit = merged.intensity.value > 0  # no photon: the uncertainty of one, which is more than the measured 0
    assert np.sum(merged.intensity.variance[lit]) / len(lit) == pytest.approx(model.mean(), rel=0.05)


def test_outliers_are_left_out_and_whoever_has_none_is_not_touched(rng, record):
    index, rows = poisson_rows(rng, 3.0, 12, 200)
    flags = (rows.voxel < 100) & (rng.random(len(rows)) < 0.2)
    more = rows.counts + 1000 * flags
    marked = replace(rows, flags=flags.astype(int), counts=more, signal=more)
    splits = np.zeros((1, N_STILLS), dtype=bool)
    found, kept = merge([marked], index, record, splits), merge([rows.select(~flags)], index, record, splits)
    assert np.array_equal(found.intensity.value, kept.intensity.value)
    assert np.array_equal(found.with_bragg.value, kept.with_bragg.value)
