"""Running sums against numpy.cumsum."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from diffuse_dials.kernels.pieces import PIECE
from diffuse_dials.kernels.vectors import running_sums


@njit
def run(values, at, n, total, out, to):
    return running_sums(values, at, n, total, out, to)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "uint32", "int64", "float64"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, PIECE - 1, PIECE])
def test_running_sums_are_those_of_cumsum_and_nothing_else_is_written(rng, kind, n):
    """From a total that overflows 32 bits; the result goes to an array of two dimensions, as rows of a panel do."""
    values, out = rng.integers(0, 256, 140).astype(kind), np.zeros((2, 100), np.uint32)
    last = run(values, 3, n, np.uint32(2**32 - 100), out, 5)
    expected = (2**32 - 100 + np.cumsum(values[3 : 3 + n].astype(np.int64))) % 2**32
    assert np.array_equal(out.ravel()[5 : 5 + n], expected) and last == expected[-1]
    assert not out.ravel()[:5].any() and not out.ravel()[5 + n :].any()
