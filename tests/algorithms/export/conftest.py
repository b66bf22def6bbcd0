"""Maps in cells of several shapes, and the same maps expanded by gemmi."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
import pytest

from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors, unique_voxels
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import save_table
from diffuse_dials.models.grid import GridRecord

D_MIN = 6.0
CRYSTALS = {
    "monoclinic": ((30.0, 24.0, 27.0, 90.0, 110.0, 90.0), (3, 1, 2), "P 1 21 1", "P 1 2/m 1"),
    "hexagonal": ((30.0, 30.0, 22.0, 90.0, 90.0, 120.0), (3, 3, 1), "P 61", "P 6/m"),
    "triclinic": ((25.0, 28.0, 20.0, 80.0, 95.0, 108.0), (3, 3, 3), "P 1", "P -1"),
    "tetragonal": ((26.0, 26.0, 20.0, 90.0, 90.0, 90.0), (3, 3, 3), "P 43 21 2", "P 4/m m m"),
}


def record_of(name):
    cell, ndiv, space_group, laue_group = CRYSTALS[name]
    return GridRecord(cell, "given", ndiv, space_group, laue_group, D_MIN, None, "own", 0.0, False, (), 0.005)


@dataclass(frozen=True)
class Written:
    """A merged map as diffuse.scale writes it, and its measured voxels with all mates, by gemmi's operators."""

    record: GridRecord
    columns: dict
    full: dict

    @property
    def lattice_point(self):
        return np.all(self.columns["miller_index"] % np.array(self.record.ndiv) == 0, axis=1)

    def expanded(self, rows):
        """{(n_h, n_k, n_l): row} of these rows and their mates."""
        keep = set(np.flatnonzero(rows).tolist())
        return {n: row for n, row in self.full.items() if row in keep}


def write_map(name, folder, rng, missing=0.1):
    """merged.refl with a tenth of the voxels absent and as many with variance −1, and grid.json."""
    record = record_of(name)
    index = unique_voxels(record, D_MIN)
    index = index[rng.random(len(index)) > missing]
    n = len(index)
    value = rng.uniform(50, 150, n)
    variance = np.where(rng.random(n) < missing, -1.0, rng.uniform(1, 4, n))
    value[variance < 0] = 0
    half = np.where(rng.random(n) < 0.3, -1.0, variance * 2)
    rlp = reciprocal_vectors(index, record)
    columns = {
        "miller_index": index, "hkl": index / np.array(record.ndiv, dtype=float), "rlp": rlp,
        "d": 1 / np.linalg.norm(rlp, axis=1), "intensity.scale.value": value, "intensity.scale.variance": variance,
        "multiplicity": np.where(variance < 0, 0, rng.integers(2, 9, n)), "n_pixels": rng.integers(9, 99, n),
        "intensity.all.value": value + 1000, "lattice_point": np.all(index % np.array(record.ndiv) == 0, axis=1),
    }  # fmt: skip
    for number in (1, 2):
        columns[f"intensity.half{number}.value"] = np.where(half < 0, 0, value + number)
        columns[f"intensity.half{number}.variance"] = half
        columns[f"multiplicity.half{number}"] = np.where(half < 0, 0, 1)
    save_table(columns, folder / "merged.refl")
    save_grid_record(record, folder / "grid.json")
    return Written(record, columns, expand_by_gemmi(record, index))


def expand_by_gemmi(record, index):
    """Rotations of the space group and Friedel's law, from gemmi's tables."""
    operators = list(gemmi.find_spacegroup_by_name(record.space_group).operations().sym_ops)
    full = {}
    for row, n in enumerate(index.tolist()):
        for op in operators:
            moved = tuple(op.apply_to_hkl(n))
            full[moved] = full[tuple(-i for i in moved)] = row
    return full


@pytest.fixture
def make_map(run_in_tmp_path, rng):
    """Writes the map of a crystal by its name into the test's folder."""

    def make(name, missing=0.1):
        return write_map(name, run_in_tmp_path, rng, missing)

    return make


@pytest.fixture(params=CRYSTALS)
def written(request, make_map):
    """The map of each crystal in turn."""
    return make_map(request.param)
