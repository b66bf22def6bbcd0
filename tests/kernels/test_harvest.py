"""The order of the voxels and what is said of their sums, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.kernels.harvest import columns, in_order
from diffuse_dials.kernels.places import SLOTS


def bricks_of(index, bragg, n_bricks, corner):
    """Sums of one pixel a voxel, as ``sum_rows`` leaves them for voxels that it meets in this order."""
    x, y, z = (index - corner).T
    number = (x // 4 * n_bricks[1] + y // 4) * n_bricks[2] + z // 4
    inside = x % 4 * 16 + y % 4 * 4 + z % 4
    table = np.full((2, np.prod(n_bricks)), -1, dtype=np.int32)
    bricks, voxels = np.zeros(len(index), dtype=np.int64), np.zeros(len(index), dtype=np.uint64)
    slots, n_places = np.full(len(index) * SLOTS, -1, dtype=np.int32), 0
    for row in range(len(index)):
        b = int(bragg[row])
        if table[b, number[row]] < 0:
            table[b, number[row]], bricks[n_places] = n_places, number[row] * 2 + b
            n_places += 1
        place = table[b, number[row]]
        slots[place * SLOTS + inside[row]] = row
        voxels[place] |= np.uint64(1 << int(inside[row]))
    whole = np.ones((len(index) + 3, 5), dtype=np.int64)
    return table, bricks, voxels, slots, np.array([n_places, len(index)]), whole


@pytest.mark.parametrize("n_bricks", [(5, 4, 6), (3, 2, 300), (70, 60, 2), (1, 1, 1)])
@pytest.mark.parametrize("with_origin", [True, False])
def test_voxels_come_in_the_order_of_their_indices_without_the_origin(rng, n_bricks, with_origin):
    """Lonely voxels and full bricks, Bragg pixels apart and in the same voxels. NumPy's lexsort says the order."""
    n_bricks = np.array(n_bricks)
    corner = -2 * n_bricks if with_origin else np.array([3, -200, 1])
    for density in (0.01, 0.3, 1.0):
        index = np.argwhere(rng.random(tuple(4 * n_bricks)) < density) + corner
        apart = rng.random(len(index)) < 0.3
        both = rng.random(len(index)) < 0.1
        index = np.concatenate([index, index[both], np.zeros((2 * with_origin, 3), dtype=int)])
        bragg = np.concatenate([apart, ~apart[both], np.array([False, True][: 2 * with_origin])])
        _, first = np.unique(np.column_stack([index, bragg]), axis=0, return_index=True)
        shuffled = rng.permutation(first)
        index, bragg = index[shuffled], bragg[shuffled].astype(bool)
        found = in_order(n_bricks, corner, *bricks_of(index, bragg, n_bricks, corner))
        order = np.lexsort((bragg, *index.T[::-1]))
        order = order[np.any(index[order] != 0, axis=1)]
        assert np.array_equal(found[0], index[order])
        assert np.array_equal(found[1], bragg[order])
        assert np.array_equal(found[2], order)
        assert found[3] == int(with_origin)
        assert [array.dtype for array in found[:3]] == [np.int32, np.bool_, np.uint32]


# real sums are there where the whole ones are no photons
@pytest.mark.parametrize("counting, with_real", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("noise", [(1.0, 0.0), (1.3, 0.2)])
def test_columns_are_the_sums_in_their_units(rng, counting, with_real, noise):
    """By NumPy, to rounding; with and without a background, a gain and a noise besides that of photons."""
    whole = rng.integers(1, 1000, (500, 5))
    real = rng.uniform(0, 10, (500, 4 if with_real else 0))
    rows, (factor, read_variance) = rng.permutation(500)[:300].astype(np.uint32), noise
    found = columns(whole, real, rows, counting, 1e-9, factor, read_variance, (1.0, 3.0))
    n_pixels, counts, response, fast, slow = whole[rows].T
    positive, background, spread = counts, np.zeros(300), 0
    if with_real:
        photons, positive, background, spread = real[rows].T
        counts, positive = (counts, counts) if counting else (photons, positive)
    expected = (
        counts, background, 1e-9 * response, factor * positive + read_variance * n_pixels + spread, n_pixels,
        1.5 + 3.0 * (np.column_stack([fast, slow]) / (2 * n_pixels[:, None]) - 0.5),
    )  # fmt: skip
    for values, wanted in zip(found, expected):
        assert np.allclose(values, wanted, rtol=1e-14, atol=1e-12)
    assert [values.dtype for values in found] == [float] * 4 + [np.int32, float]
    assert columns(whole, real, rows, counting, 1e-9, factor, read_variance, None)[5] is None
    assert len(columns(whole, real, rows[:0], counting, 1e-9, factor, read_variance, (0.0, 1.0))[0]) == 0
