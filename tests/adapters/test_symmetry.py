"""Symmetry against the reference and against cctbx's orbits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dxtbx.model import Crystal

from diffuse_dials.adapters import symmetry

CELLS = {"P1": (50, 60, 70, 80, 85, 95), "P21": (50, 60, 70, 90, 100, 90), "C2221": (50, 60, 70, 90, 90, 90)}


def cell_of(name):
    if name in CELLS:
        return CELLS[name]
    if name.startswith(("P3", "P6", "R")):
        return (80, 80, 120, 90, 90, 120)
    return (80, 80, 37 if name.startswith("P4") else 80, 90, 90, 90)


def test_laue_orders_and_indexing_choices_are_the_reference(reference):
    for name, expected in json.loads(reference("laue.json").read_text()).items():
        group = symmetry.parse_space_group(name)
        primitive = symmetry.laue_group(group)
        assert primitive.order_p() == expected["laue_order"], name
        choices = 1 + len(symmetry.reindexing_operators(cell_of(name), group))
        assert choices == expected["indexing_choices"], name


def test_the_operator_of_p41_exchanges_h_and_k():
    assert symmetry.reindexing_operators((48.5, 48.5, 63.4, 90, 90, 90), symmetry.parse_space_group("P41")) == (
        "k,h,-l",
    )


def test_b_is_the_transpose_of_the_fractionalization_matrix(reference):
    data = json.loads(reference("mapping.json").read_text())
    assert symmetry.fractionalization(data["cell_i"]) == pytest.approx(np.array(data["B_i"]), abs=1e-9)
    assert symmetry.fractionalization(data["cell_ref"]) == pytest.approx(np.array(data["B_ref"]), abs=1e-9)


@pytest.mark.parametrize("name", ["P1", "P21", "C2221", "P41", "P43212", "P31", "P3121", "P6", "P6122", "P213", "F432"])
def test_all_mates_of_a_voxel_have_one_representative(name, rng):
    """cctbx's operators, applied one by one, are the oracle."""
    group = symmetry.parse_space_group(name)
    index = rng.integers(-40, 40, (200, 3))
    representative = symmetry.map_to_asu(index, group)
    for rotation in symmetry.integer_rotations(symmetry.laue_group(group)):
        assert np.array_equal(symmetry.map_to_asu(index @ rotation, group), representative)


@pytest.mark.parametrize("ndiv, name, good", [
    ((3, 3, 1), "P43212", True), ((2, 3, 1), "P43212", False), ((2, 3, 1), "P212121", True),
    ((3, 3, 5), "P61", True), ((3, 3, 5), "P213", False),
])  # fmt: skip
def test_ndiv_must_be_equal_along_axes_that_the_symmetry_mixes(ndiv, name, good):
    group = symmetry.parse_space_group(name)
    if good:
        symmetry.check_ndiv(ndiv, group)
    else:
        with pytest.raises(ValueError, match="mix the axes"):
            symmetry.check_ndiv(ndiv, group)


def test_one_stray_cell_does_not_move_the_mean():
    cells = np.array([[78.5, 78.5, 37.8, 90, 90, 90]] * 10 + [[90, 70, 60, 90, 90, 90]])
    assert symmetry.mean_cell(cells, symmetry.parse_space_group("P43212")) == pytest.approx(
        (78.5, 78.5, 37.8, 90, 90, 90)
    )


def test_cells_that_do_not_obey_the_group_are_refused():
    cells = np.array([[30, 30, 25, 90, 90, 90]] * 3)
    with pytest.raises(ValueError, match="cell 30,30,25,90,90,90 does not fit the group P 6/m"):
        symmetry.mean_cell(cells, symmetry.parse_space_group("P6/m"))


def test_the_super_cell_has_voxel_indices_as_miller_indices():
    crystal = symmetry.supercell_crystal((50, 50, 60, 90, 90, 90), (3, 3, 5), symmetry.parse_space_group("P41212"))
    assert crystal.get_unit_cell().parameters() == pytest.approx((150, 150, 300, 90, 90, 90))
    assert symmetry.symbol(crystal.get_space_group()) == "P 4 2 2"


def test_a_crystal_gets_back_the_space_group_of_which_it_has_the_patterson_group():
    hexagonal = ((93, 0, 0), (-46.5, 46.5 * 3**0.5, 0), (0, 0, 131))
    for known, expected in (("P6122", "P 61 2 2"), ("P61", "P 6/m m m")):
        crystal = Crystal(*hexagonal, space_group=symmetry.parse_space_group("P6/mmm"))
        symmetry.restore_space_group(crystal, symmetry.parse_space_group(known))
        assert symmetry.symbol(crystal.get_space_group()) == expected
