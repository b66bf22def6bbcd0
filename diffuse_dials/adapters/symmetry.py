"""Symmetry of the map by cctbx: Laue group, asymmetric unit of the super-cell, indexing ambiguity, cells."""

from __future__ import annotations

import copy

import numpy as np
from cctbx import crystal, miller, sgtbx, uctbx
from cctbx.sgtbx import cosets, lattice_symmetry
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Crystal

# How far the median cell of stills may be from what the symmetry demands: relative, and in degrees.
_CELL_LENGTHS, _CELL_ANGLES = 0.03, 3.0
# Up to which DIALS's indexing takes a lattice for that of a known cell: relative, and in degrees.
_SAME_LENGTHS, _SAME_ANGLES = 0.1, 5.0


def laue_group(space_group: sgtbx.space_group) -> sgtbx.space_group:
    """Rotations of the space group and the inversion, without translations and centring."""
    return space_group.build_derived_laue_group()


def parse_space_group(symbol: str, parameter: str = "") -> sgtbx.space_group:
    """The group of a Hermann-Mauguin symbol.

    Args:
        symbol: The symbol.
        parameter: Name of the parameter that gave it, for the message.

    Raises:
        ValueError: If cctbx does not know the symbol.
    """
    try:
        return sgtbx.space_group_info(symbol).group()
    except RuntimeError:
        there = f"{parameter}={symbol}: there" if parameter else "There"
        text = f"{there} is no space group {symbol}. Give a Hermann-Mauguin symbol, such as P43212."
        raise ValueError(text) from None


def symbol(space_group: sgtbx.space_group) -> str:
    """Hermann-Mauguin symbol in the form DIALS prints."""
    return str(sgtbx.space_group_info(group=space_group))


def fractionalization(unit_cell) -> np.ndarray:
    """B = Fᵀ, shape (3, 3), 1/Å: columns a*, b*, c*.

    Args:
        unit_cell: Six parameters (Å, degrees).
    """
    return np.array(uctbx.unit_cell(tuple(unit_cell)).fractionalization_matrix()).reshape(3, 3).T


def integer_rotations(space_group: sgtbx.space_group) -> np.ndarray:
    """Rotation matrices of the group's operators on Miller indices (h' = h R, rows), shape (n, 3, 3), int."""
    rotations = {tuple(op.r().as_double()) for op in space_group.all_ops()}
    return np.rint(np.array(sorted(rotations))).astype(int).reshape(-1, 3, 3)


def check_ndiv(ndiv, space_group: sgtbx.space_group) -> None:
    """Refuse subdivisions that the symmetry does not map onto themselves.

    Raises:
        ValueError: If ndiv differs between axes that an operator mixes.
    """
    for rotation in integer_rotations(laue_group(space_group)):
        for i, j in zip(*np.nonzero(rotation)):
            if ndiv[i] != ndiv[j]:
                raise ValueError(
                    f"grid.ndiv={','.join(map(str, ndiv))} does not fit the Laue group "
                    f"{symbol(laue_group(space_group))}, whose "
                    f"operators mix the axes {'abc'[min(i, j)]} and {'abc'[max(i, j)]}: give both the same number."
                )


def map_to_asu(index: np.ndarray, space_group: sgtbx.space_group) -> np.ndarray:
    """Representative of each voxel index, by cctbx's convention for the derived point group of the super-cell.

    The point group is used because under the space group some voxel indices would count as systematic absences.

    Args:
        index: Voxel indices n, shape (n, 3), int32.
        space_group: Of the crystal (or one of its Laue class).

    Returns:
        int32 array, shape (n, 3); Friedel mates are equal.
    """
    indices = _miller_index(index)
    miller.map_to_asu(space_group.build_derived_point_group().type(), False, indices)
    return np.rint(flumpy.to_numpy(indices.as_vec3_double())).astype(np.int32)


def asymmetric_unit(space_group: sgtbx.space_group) -> tuple[str, np.ndarray, np.ndarray]:
    """What map_to_asu tests, for kernels that do the same.

    Args:
        space_group: Of the crystal (or one of its Laue class).

    Returns:
        (cctbx's conditions in the reference setting; the Laue group's matrices, rows n' = n R, the identity first,
        shape (m, 3, 3); the same followed by the change to the reference setting, times a positive number, int64).
    """
    point_group = space_group.build_derived_point_group()
    unit = sgtbx.reciprocal_space_asu(point_group.type())
    rotations = integer_rotations(laue_group(space_group))
    identity = np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))
    rotations = np.concatenate([rotations[identity], rotations[~identity]]).astype(np.int64)
    change = unit.cb_op().c_inv().r()
    return unit.reference_as_string(), rotations, rotations @ np.array(change.num(), dtype=np.int64).reshape(3, 3)


def reindexing_operators(unit_cell, space_group: sgtbx.space_group, max_delta: float = 0.5) -> tuple[str, ...]:
    """Ways to index the same lattice that give another map: one of each coset of the Laue group in the lattice's.

    Args:
        unit_cell: Six parameters (Å, degrees).
        space_group: Of the crystal.
        max_delta: Largest angle (degrees, Le Page) by which an axis of the lattice may miss its symmetry; 0.5 is a
            difference of about 1 % between two axes, which indexing of a single still hardly sees.

    Returns:
        Operators such as "k,h,-l", without the identity; empty if indexing is unique.
    """
    symmetry = crystal.symmetry(
        uctbx.unit_cell(tuple(unit_cell)), space_group=space_group, assert_is_compatible_unit_cell=False
    )
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    minimum = symmetry.change_basis(to_minimum)
    lattice = lattice_symmetry.group(minimum.unit_cell(), max_delta=max_delta)
    lattice.expand_inv(sgtbx.tr_vec((0, 0, 0)))
    laue = minimum.space_group().build_derived_acentric_group().build_derived_laue_group()
    to_input = to_minimum.inverse()
    operators = []
    for coset in cosets.left_decomposition(lattice, laue).partitions[1:]:
        proper = [sgtbx.change_of_basis_op(str(op)) for op in coset if op.r().determinant() > 0]
        names = [(to_input * op * to_minimum).as_hkl() for op in proper]
        operators.append(min(names, key=lambda name: (name.count("-"), len(name), name)))
    return tuple(operators)


def mean_cell(cells: np.ndarray, space_group: sgtbx.space_group) -> tuple[float, ...]:
    """Median of each parameter over the stills, made to obey the symmetry: stray cells do not move it.

    Args:
        cells: Shape (n, 6), Å and degrees.
        space_group: Of the crystal.

    Returns:
        Six parameters.

    Raises:
        ValueError: If the cells are far from obeying it.
    """
    median = uctbx.unit_cell(tuple(float(x) for x in np.median(cells, axis=0)))
    if not space_group.is_compatible_unit_cell(median, _CELL_LENGTHS, _CELL_ANGLES):
        raise ValueError(
            f"The stills' cell {','.join(f'{value:.4g}' for value in median.parameters())} does not fit the group "
            f"{symbol(space_group)}. Correct grid.laue_group, or process the stills with the right space group."
        )
    return tuple(space_group.average_unit_cell(median).parameters())


def check_cell(unit_cell, space_group: sgtbx.space_group, parameter: str = "grid.unit_cell") -> None:
    """Refuse a cell that the space group does not allow.

    Args:
        unit_cell: Six parameters, Å and degrees.
        space_group: The group.
        parameter: What the user should correct.

    Raises:
        ValueError: With the cell and the group.
    """
    if not space_group.is_compatible_unit_cell(uctbx.unit_cell(tuple(unit_cell))):
        cell = ",".join(f"{value:g}" for value in unit_cell)
        raise ValueError(f"The cell {cell} does not fit the space group {symbol(space_group)}. Correct {parameter}.")


def same_lattice(one, other) -> bool:
    """Whether indexing could have found one cell for the other: to 10 % of an edge and 5 degrees.

    Args:
        one, other: Six parameters each, Å and degrees.
    """
    one, other = np.array(one), np.array(other)
    lengths = np.abs(one[:3] / other[:3] - 1).max()
    return bool(lengths <= _SAME_LENGTHS and np.abs(one[3:] - other[3:]).max() <= _SAME_ANGLES)


def check_same_lattice(unit_cell, crystals, whose: str) -> None:
    """Refuse a reference cell that cannot be the crystals': no indexing would have found the one for the other.

    Args:
        unit_cell: grid.unit_cell: six parameters, Å and degrees.
        crystals: The crystals' own.
        whose: Where the latter come from, for the message.

    Raises:
        ValueError: With both cells.
    """
    if same_lattice(unit_cell, crystals):
        return
    given, known = (",".join(f"{value:.4g}" for value in cell) for cell in (unit_cell, crystals))
    raise ValueError(
        f"grid.unit_cell={given} cannot be the crystals' cell, which is {known} ({whose}). Correct grid.unit_cell, or "
        "leave it out."
    )


def restore_space_group(crystal: Crystal, known: sgtbx.space_group) -> None:
    """Give a crystal its space group, where the program that indexed it kept the Patterson group only.

    dials.stills_process does with indexing.stills.refine_candidates_with_known_symmetry: P6122 becomes P6/mmm, which
    has twice the operations.
    """
    if crystal.get_space_group() == known.build_derived_patterson_group():
        crystal.set_space_group(known)


def supercell_crystal(unit_cell, ndiv, space_group: sgtbx.space_group) -> Crystal:
    """The crystal whose Miller indices are voxel indices: cell × ndiv, U = 1, the derived point group."""
    basis = np.linalg.inv(fractionalization(unit_cell)) * np.asarray(ndiv)[:, None]
    return Crystal(*(tuple(row) for row in basis), space_group=space_group.build_derived_point_group())


def systematically_absent(hkl: np.ndarray, space_group: sgtbx.space_group) -> np.ndarray:
    """Whether translations of the space group extinguish each reflection (n, 3), shape (n,), bool."""
    return flumpy.to_numpy(space_group.is_sys_absent(_miller_index(hkl)))


def epsilons(hkl: np.ndarray, space_group: sgtbx.space_group) -> np.ndarray:
    """Factor by which symmetry, centring included, raises the mean |F|² of each reflection's class, shape (n,), int."""
    return flumpy.to_numpy(space_group.epsilon(_miller_index(hkl))) * space_group.n_ltr()


def _miller_index(hkl):
    h, k, l = (flumpy.from_numpy(np.ascontiguousarray(hkl[:, i], dtype=np.int32)) for i in range(3))
    return flex.miller_index(h, k, l)


def count_unique(unit_cell, space_group: sgtbx.space_group, d_max: float, d_min: float) -> int:
    """Reflections of the asymmetric unit between two resolutions (Å), absences of the space group left out."""
    symmetry = crystal.symmetry(
        uctbx.unit_cell(tuple(unit_cell)), space_group=space_group, assert_is_compatible_unit_cell=False
    )
    d_max = None if np.isinf(d_max) else d_max * (1 + 1e-9)
    return miller.build_set(symmetry, anomalous_flag=False, d_min=d_min * (1 - 1e-9), d_max=d_max).size()


def index_matrix(operator: str) -> np.ndarray:
    """What an operator such as "k,h,-l" does to Miller indices: h' = h M, row vectors, shape (3, 3), int.

    Args:
        operator: As dials.reindex takes it.
    """
    unit = flex.miller_index([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    return np.array(list(sgtbx.change_of_basis_op(operator).apply(unit)), dtype=int)


def change_basis(crystal: Crystal, operator: str) -> Crystal:
    """A copy of the crystal indexed in another way; one of DIALS's still model keeps its mosaicity."""
    changed = copy.deepcopy(crystal)
    changed.update(crystal.change_basis(sgtbx.change_of_basis_op(operator)))
    return changed
