"""Sums by voxel against NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.kernels.sums import group_sums, pack, transform, unpack


def test_packed_indices_come_back_and_sort_as_the_indices_do(rng):
    index = rng.integers(-5000, 5000, (1000, 3))
    code = pack(index)
    assert np.array_equal(unpack(code), index)
    assert np.array_equal(np.argsort(code, kind="stable"), np.lexsort(index.T[::-1]))


def test_an_index_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="smaller ndiv"):
        pack(np.array([[0, 0, 600_000]]))


def test_group_sums_are_those_of_bincount_and_do_not_depend_on_what_follows(rng):
    """NumPy's bincount is the oracle; appending other groups leaves a sum equal to the last bit."""
    code = np.repeat(rng.integers(0, 50, 400), rng.integers(1, 9, 400)).astype(np.int64)
    values = rng.normal(size=len(code))
    codes, number, (sums,) = group_sums(code, values)
    assert np.array_equal(number, np.bincount(code)[codes])
    assert sums == pytest.approx(np.bincount(code, values)[codes], abs=1e-12)
    more = group_sums(np.append(code, [99, 99]), np.append(values, [1.0, 2.0]))
    assert np.array_equal(more[2][0][:-1], sums)


def test_transforming_one_vector_gives_the_same_bits_as_transforming_many(rng):
    matrix, vectors = rng.normal(size=(3, 3)), rng.normal(size=(1000, 3))
    together = transform(matrix, vectors)
    assert together == pytest.approx(vectors @ matrix.T, abs=1e-12)
    assert np.array_equal(together[7:8], transform(matrix, vectors[7:8]))
