"""The null test: the same sums in orientations drawn at random, whose half maps must not agree.

Every row keeps its photons, its place on the detector and the scale of its still; its scattering vector, from its mean
position, is turned by a rotation drawn for the still before it becomes a voxel. What half maps then still share does
not come from the crystal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from diffuse_dials.adapters.panels import lab_coordinates
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.scaling.symmetry import unique_voxels
from diffuse_dials.kernels.sums import pack, transform, unpack
from diffuse_dials.models.grid import GridRecord, voxel_index
from diffuse_dials.models.scaled import ScaledRows


class RandomOrientations:
    """Turns scaled sums still by still.

    Attributes:
        index: Voxels of the asymmetric unit that the turned rows number, shape (n_voxels, 3).
    """

    def __init__(self, experiments, labels, record: GridRecord, d_min: float, seed):
        """
        Args:
            experiments: The stills.
            labels: What names each still wherever it is processed; the rotation depends on it and the seed.
            record: The grid.
            d_min: Rows beyond this resolution (Å) are left out.
            seed: A number or a text; another one, other rotations.
        """
        self._experiments, self._record = experiments, record
        self._rotations = [random_rotation(label, seed) for label in labels]
        self._codes = np.sort(pack(unique_voxels(record, d_min)))
        self.index = unpack(self._codes)

    def turn(self, blocks: Iterable[ScaledRows]) -> Iterator[ScaledRows]:
        """The rows that make the map, in their new voxels; those that leave the grid are dropped.

        Raises:
            ValueError: If the rows do not know their position.
        """
        for rows in blocks:
            rows = rows.diffuse
            if rows.position is None:
                raise ValueError(
                    "Random orientations need the position of each sum on the detector, which gridded.refl does not "
                    "hold. Run diffuse.grid with grid.positions=True, or leave out statistics.random_orientations."
                )
            index = np.zeros((len(rows), 3), dtype=np.int32)
            for still in np.unique(rows.still):
                part = np.flatnonzero(rows.still == still)
                index[part] = self._turned(int(still), rows.panel[part], rows.position[part])
            code, inverse = np.unique(pack(index), return_inverse=True)
            asu = pack(map_to_asu(unpack(code), parse_space_group(self._record.space_group)))[inverse]
            voxel = np.minimum(np.searchsorted(self._codes, asu), len(self._codes) - 1)
            inside = self._codes[voxel] == asu
            yield replace(rows, index=index, voxel=voxel).select(inside)

    def _turned(self, still: int, panel: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Voxels of the sums of one still, shape (n, 3)."""
        experiment = self._experiments[still]
        s0 = np.array(experiment.beam.get_s0())
        s = np.empty((len(panel), 3))
        for number in np.unique(panel):
            part = panel == number
            lab = lab_coordinates(experiment.detector[int(number)], position[part])
            s[part] = lab / np.linalg.norm(lab, axis=1)[:, None] * np.linalg.norm(s0) - s0
        to_hkl = np.linalg.inv(np.array(experiment.crystal.get_A()).reshape(3, 3))
        return voxel_index(transform(to_hkl @ self._rotations[still], s), self._record.ndiv)


def random_rotation(label: str, seed) -> np.ndarray:
    """A rotation matrix, uniform over all rotations, that the label and the seed determine, shape (3, 3)."""
    digest = hashlib.sha256(f"{label}:{seed}".encode()).digest()
    return Rotation.random(random_state=np.random.default_rng(list(digest))).as_matrix()
