"""The super-cell whose Miller indices are the voxels: positions, symmetry and complete lists of them."""

from __future__ import annotations

import numpy as np
from cctbx import crystal, miller, sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Experiment

from diffuse_dials.adapters import symmetry
from diffuse_dials.models.grid import GridRecord


def laue_operators(record: GridRecord) -> np.ndarray:
    """Integer matrices R of the map's Laue group, shape (order, 3, 3); row vectors: n' = n R."""
    return symmetry.integer_rotations(symmetry.laue_group(_space_group(record)))


def super_cell_experiment(record: GridRecord, like: Experiment | None = None, identifier: str = "") -> Experiment:
    """An experiment for the merged map: the super-cell in standard orientation (U = 1), derived point group.

    Args:
        record: The grid.
        like: Its beam and detector are taken over, for programs that ask for them.
        identifier: What links the experiment to the table of the map.
    """
    model = symmetry.supercell_crystal(record.unit_cell, record.ndiv, _space_group(record))
    beam, detector = (like.beam, like.detector) if like else (None, None)
    return Experiment(crystal=model, beam=beam, detector=detector, identifier=identifier)


def reciprocal_vectors(index: np.ndarray, record: GridRecord) -> np.ndarray:
    """Centres B_ref·h of voxels, h = n/ndiv, shape (n, 3), 1/Å."""
    return (index / np.asarray(record.ndiv, dtype=np.float64)) @ symmetry.fractionalization(record.unit_cell).T


def orbit_sizes(index: np.ndarray, record: GridRecord) -> np.ndarray:
    """Voxels that the Laue group makes of each, shape (n,), int."""
    h, k, l = (flumpy.from_numpy(np.ascontiguousarray(index[:, i], dtype=np.int32)) for i in range(3))
    voxels = miller.set(_crystal_symmetry(record), flex.miller_index(h, k, l), anomalous_flag=False)
    return flumpy.to_numpy(voxels.multiplicities().data())


def unique_voxels(record: GridRecord, d_min: float) -> np.ndarray:
    """All voxels of the asymmetric unit to a resolution, (0, 0, 0) left out, shape (n, 3), int32.

    Args:
        record: The grid.
        d_min: High-resolution limit, Å.
    """
    voxels = miller.build_set(_crystal_symmetry(record), anomalous_flag=False, d_min=d_min)
    return np.rint(flumpy.to_numpy(voxels.indices().as_vec3_double())).astype(np.int32)


def _space_group(record: GridRecord) -> sgtbx.space_group:
    return symmetry.parse_space_group(record.space_group)


def _crystal_symmetry(record: GridRecord) -> crystal.symmetry:
    model = super_cell_experiment(record).crystal
    return crystal.symmetry(
        unit_cell=model.get_unit_cell(), space_group=model.get_space_group(), assert_is_compatible_unit_cell=False
    )
