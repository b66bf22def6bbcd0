"""The super-cell whose Miller indices are the voxels, and its symmetry."""

from __future__ import annotations

import numpy as np
from cctbx import crystal, miller, sgtbx, uctbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Crystal, Experiment
from scitbx import matrix

from diffuse_dials.models.grid import GridRecord


def laue_operators(record: GridRecord) -> np.ndarray:
    """Integer matrices R of the map's Laue group, shape (order, 3, 3); row vectors: n' = n R."""
    group = sgtbx.space_group_info(record.laue_group).group()
    operators = [operation.r().as_double() for operation in group.build_derived_laue_group().all_ops()]
    return np.unique(np.rint(np.array(operators)).astype(np.int64).reshape(-1, 3, 3), axis=0)


def point_group(record: GridRecord) -> sgtbx.space_group:
    """Group under which voxels are merged, without translations: no voxel is a systematic absence in it.

    The crystal's derived point group; where the user chose another Laue group, that group's rotations.
    """
    chosen = sgtbx.space_group_info(record.laue_group).group().build_derived_laue_group()
    own = sgtbx.space_group_info(record.space_group).group()
    if own.build_derived_laue_group() == chosen:
        return own.build_derived_point_group()
    rotations = sgtbx.space_group()
    for operation in chosen.all_ops():
        if operation.r().determinant() > 0:
            rotations.expand_smx(operation)
    return rotations


def super_cell(record: GridRecord) -> uctbx.unit_cell:
    """Cell whose reciprocal lattice points are the voxel centres: a, b, c times ndiv."""
    lengths = [length * n for length, n in zip(record.unit_cell[:3], record.ndiv)]
    return uctbx.unit_cell((*lengths, *record.unit_cell[3:]))


def super_cell_experiment(record: GridRecord, like: Experiment | None = None) -> Experiment:
    """An experiment for the merged map: the super-cell in standard orientation (U = 1).

    Args:
        record: The grid.
        like: Its beam and detector are taken over, for programs that ask for them.
    """
    orthogonalize = matrix.sqr(super_cell(record).orthogonalization_matrix())
    a, b, c = (matrix.col(column) for column in orthogonalize.transpose().as_list_of_lists())
    model = Crystal(a, b, c, space_group=point_group(record))
    return Experiment(crystal=model, beam=like.beam if like else None, detector=like.detector if like else None)


def reciprocal_vectors(index: np.ndarray, record: GridRecord) -> np.ndarray:
    """Centres B_ref·h of voxels, h = n/ndiv, shape (n, 3), 1/Å; B = Fᵀ with cctbx's fractionalization matrix F."""
    f = np.array(uctbx.unit_cell(record.unit_cell).fractionalization_matrix()).reshape(3, 3)
    return (index / np.asarray(record.ndiv, dtype=np.float64)) @ f


def orbit_sizes(index: np.ndarray, record: GridRecord) -> np.ndarray:
    """Voxels that the Laue group makes of each, shape (n,), int."""
    return flumpy.to_numpy(_miller_set(index, record).multiplicities().data())


def unique_voxels(record: GridRecord, d_min: float) -> np.ndarray:
    """All voxels of the asymmetric unit to a resolution, (0, 0, 0) left out, shape (n, 3), int32.

    Args:
        record: The grid.
        d_min: High-resolution limit, Å.
    """
    voxels = miller.build_set(_symmetry(record), anomalous_flag=False, d_min=d_min)
    return np.rint(flumpy.to_numpy(voxels.indices().as_vec3_double())).astype(np.int32)


def _symmetry(record: GridRecord) -> crystal.symmetry:
    return crystal.symmetry(
        unit_cell=super_cell(record), space_group=point_group(record), assert_is_compatible_unit_cell=False
    )


def _miller_set(index: np.ndarray, record: GridRecord) -> miller.set:
    h, k, l = (flumpy.from_numpy(np.ascontiguousarray(index[:, i], dtype=np.int32)) for i in range(3))
    return miller.set(_symmetry(record), flex.miller_index(h, k, l), anomalous_flag=False)
