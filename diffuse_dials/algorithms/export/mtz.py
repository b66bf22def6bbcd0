"""MTZ file of the super-cell, whose Miller indices are the voxels."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

from diffuse_dials import __version__
from diffuse_dials.algorithms.export.base import Exporter
from diffuse_dials.algorithms.export.content import MapContent
from diffuse_dials.algorithms.scaling.symmetry import super_cell_experiment
from diffuse_dials.io.atomic import replacing

# Column in the file, its MTZ type, and what it holds
_COLUMNS = (
    ("I", "J", "intensity"),
    ("SIGI", "Q", "sigma"),
    ("N", "I", "multiplicity"),
    ("NPIX", "I", "n_pixels"),
    ("I_half1", "J", "half1"),
    ("SIGI_half1", "Q", "half1_sigma"),
    ("N_half1", "I", "half1_multiplicity"),
    ("I_half2", "J", "half2"),
    ("SIGI_half2", "Q", "half2_sigma"),
    ("N_half2", "I", "half2_multiplicity"),
)


class Mtz(Exporter):
    """Measured voxels of the asymmetric unit (CCP4's convention); voxels that were not measured have no row."""

    name = "mtz"

    def check(self, content: MapContent) -> None:
        """See :meth:`Exporter.check`.

        Raises:
            ValueError: If gemmi does not know the symmetry.
        """
        _symmetry(content)

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        path = prefix.with_name(prefix.name + ".mtz")
        columns = [column for column in _COLUMNS if column[2] in content.columns]
        mtz = gemmi.Mtz(with_base=True)
        mtz.title = f"diffuse_dials: {content.title()}"[:70]
        mtz.spacegroup, cell = _symmetry(content)
        mtz.set_cell_for_all(gemmi.UnitCell(*cell))
        mtz.add_dataset("diffuse").wavelength = content.wavelength or 0.0
        for label, kind, _ in columns:
            mtz.add_column(label, kind)
        mtz.set_data(_rows(content, [name for *_, name in columns]))
        mtz.ensure_asu()
        mtz.sort()
        ndiv = " ".join(map(str, content.record.ndiv))
        mtz.history = [
            f"diffuse_dials {__version__}: {content.title()}"[:80],
            f"indices are voxels: divide by {ndiv} for h k l of the crystal"[:80],
        ]
        with replacing(path) as partial:
            try:
                mtz.write_to_file(str(partial))
            except RuntimeError as error:  # how gemmi reports a full disk
                raise OSError(str(error)) from error
        return {str(path): {"cell": list(cell), "space_group": mtz.spacegroup.hm, "columns": mtz.column_labels()}}


def _symmetry(content: MapContent) -> tuple[gemmi.SpaceGroup, tuple[float, ...]]:
    """Point group of the super-cell, as gemmi knows it, and its cell."""
    crystal = super_cell_experiment(content.record).crystal
    operators = gemmi.GroupOps([gemmi.Op(op.as_xyz()) for op in crystal.get_space_group().all_ops()])
    space_group = gemmi.find_spacegroup_by_ops(operators)
    if space_group is None:
        raise ValueError(
            f"The point group of {content.record.space_group} in this setting has no name in gemmi's tables, which an "
            "MTZ file needs. Leave mtz out of format=, or reindex the stills to a usual setting."
        )
    return space_group, tuple(crystal.get_unit_cell().parameters())


def _rows(content: MapContent, names: list[str]) -> np.ndarray:
    """h, k, l and the columns, shape (n, 3 + n_columns), float32; NaN is MTZ's mark of a missing number."""
    data = np.empty((len(content.index), 3 + len(names)), dtype=np.float32)
    data[:, :3] = content.index
    for i, name in enumerate(names, start=3):
        data[:, i] = content.columns[name]
    return data
