"""How large a map may be: what cannot be numbered, or told apart, is refused where the grid is made."""

from __future__ import annotations

import numpy as np
import pytest
from cctbx import sgtbx

from diffuse_dials.adapters.symmetry import asymmetric_unit, map_to_asu
from diffuse_dials.algorithms.gridding import Grid
from diffuse_dials.algorithms.limits import asu_box
from diffuse_dials.kernels.asymmetric_unit import FIRST, conditions
from diffuse_dials.kernels.asymmetric_unit import map_to_asu as map_by_kernel

LONG = (6000.0, 5.0, 5.0, 90.0, 90.0, 90.0)
LARGE = (600.0, 600.0, 600.0, 90.0, 90.0, 90.0)


def grid(unit_cell, ndiv) -> Grid:
    group = sgtbx.space_group_info("P 1").group()
    return Grid(unit_cell, "given", ndiv, group, group, "reference", np.zeros(1), (), False, "numba")


@pytest.mark.parametrize(
    "unit_cell, ndiv, words",
    [
        (LONG, (50, 1, 1), "Voxel indices reach 612001, the limit is 524287. Use a smaller ndiv or a larger d_min."),
        (LONG, (20, 1, 1), "Voxel indices reach 244801, the limit with this symmetry is 87381. Use a smaller grid."),
        (LARGE, (3, 3, 3), "The map would span "),
    ],
)
def test_indices_beyond_what_the_asymmetric_unit_is_tested_with_are_refused(unit_cell, ndiv, words):
    with pytest.raises(ValueError) as stop:
        asu_box(grid(unit_cell, ndiv), None, 2.0)
    assert words in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("symbol", ["P 1", "P 1 1 2", "R 3 :R", "P 6 2 2", "P 4 3 2"])
def test_up_to_the_limit_the_kernel_finds_the_representatives_of_cctbx(symbol, rng):
    """Indices of a long axis in all places, as far as asu_box lets them reach."""
    group = sgtbx.space_group_info(symbol).group()
    unit, rotations, to_reference = asymmetric_unit(group)
    largest = int((FIRST - 1) // np.abs(to_reference).sum(axis=1).max())
    index = rng.integers(-largest, largest + 1, (20_000, 3)).astype(np.int32)
    index[::2] = np.where(rng.random((10_000, 3)) < 0.5, np.sign(index[::2]) * largest, index[::2] % 3 - 1)
    mapped = np.empty_like(index)
    assert map_by_kernel(index, conditions(unit, to_reference), rotations, mapped) == 0
    assert np.array_equal(mapped, map_to_asu(index, group))
