"""Representatives of voxels against cctbx's own."""

from __future__ import annotations

import numpy as np
from cctbx import sgtbx

from diffuse_dials.adapters import symmetry
from diffuse_dials.kernels.asymmetric_unit import REFERENCE_UNITS, conditions, map_to_asu


def mapped_by_the_kernel(index, group):
    text, rotations, to_reference = symmetry.asymmetric_unit(group)
    mapped = np.empty_like(index)
    assert map_to_asu(index, conditions(text, to_reference), rotations, mapped) == 0
    return mapped


def test_representatives_are_cctbxs_in_every_setting_of_every_space_group(rng):
    """DIALS's own number: cctbx's map_to_asu, whose orbits tests/adapters/test_symmetry.py checks."""
    ranges = (80, 30), (40, 2), (20, 60_000)  # the last: far beyond any map
    index = np.concatenate([rng.integers(-most, most + 1, (n, 3)) for n, most in ranges]).astype(np.int32)
    index = index[np.any(index != 0, axis=1)]
    seen = set()
    for symbol in sgtbx.space_group_symbol_iterator():
        group = sgtbx.space_group(symbol.hall())
        expected = symmetry.map_to_asu(index, group)
        assert np.array_equal(mapped_by_the_kernel(index, group), expected), symbol.universal_hermann_mauguin()
        seen.add(symmetry.asymmetric_unit(group)[0])
    assert seen == set(REFERENCE_UNITS)


def test_all_mates_of_a_voxel_have_one_representative(rng):
    """The operators of one group of each Laue class, applied one by one."""
    names = ["P1", "P21", "C2221", "P41", "P43212", "P31", "P3121", "P3112", "P6", "P6122", "P213", "F432", "R32:R"]
    for name in names:
        group = symmetry.parse_space_group(name)
        index = rng.integers(-40, 40, (100, 3)).astype(np.int32)
        expected = mapped_by_the_kernel(index, group)
        for rotation in symmetry.integer_rotations(symmetry.laue_group(group)):
            assert np.array_equal(mapped_by_the_kernel((index @ rotation).astype(np.int32), group), expected)
