"""Read the files of diffuse.export back with other libraries and compare them with the table they came from.

    python tools/check_export.py absolute.refl map 1.6 20      # table, prefix of the files, d_min and d_max if given

gemmi, iotbx (MTZ), gemmi, mrcfile (CCP4) and h5py (NeXus): values, cell, symmetry, voxels that were not measured.
Ends with the first difference in one line, and exit status 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gemmi
import h5py
import mrcfile
import numpy as np
from iotbx import mtz as iotbx_mtz

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffuse_dials.algorithms.scaling.symmetry import laue_operators, reciprocal_vectors
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table
from diffuse_dials.models.grid import holds_lattice_point


class Expected:
    """What the table says: intensity of any voxel, NaN where it was not measured or holds a lattice point."""

    def __init__(self, path, d_min: float = 0, d_max: float = np.inf):
        self.record, self.limits = load_grid_record(path), f"d_min={d_min:g}, d_max={d_max:g}"
        table = load_table(path)
        kind = "absolute" if "intensity.absolute.value" in table else "scale"
        seen = table[f"intensity.{kind}.variance"] >= 0
        if min(self.record.ndiv) > 1:  # as export.exclude_lattice_points=Auto
            seen &= ~holds_lattice_point(table["miller_index"], self.record.ndiv)
        s = np.linalg.norm(reciprocal_vectors(table["miller_index"], self.record), axis=1)
        seen &= (s * d_min <= 1 + 1e-9) & (s * d_max >= 1 - 1e-9)
        self.index, self.value = table["miller_index"][seen], table[f"intensity.{kind}.value"][seen]
        reach = int(np.abs(self.index).max()) * 2 + 1
        self.reach, self.box = reach, np.full((2 * reach + 1,) * 3, np.nan, dtype=np.float32)
        for operator in laue_operators(self.record):
            self.box[tuple((self.index @ operator + reach).T)] = self.value

    def at(self, index) -> np.ndarray:
        """Intensity of voxels, shape (n,)."""
        place = np.asarray(index) + self.reach
        inside = np.all((place >= 0) & (place < len(self.box)), axis=1)
        found = np.full(len(place), np.nan, dtype=np.float32)
        found[inside] = self.box[tuple(place[inside].T)]
        return found


class Differs(Exception):
    """A file is not what the table says it should be."""


def report(name, found, expected):
    """One line: how many values, and how far off."""
    of_file, of_table = np.isfinite(found), np.isfinite(expected)
    if not np.array_equal(of_file, of_table):
        raise Differs(
            f"{name}: {np.sum(of_file & ~of_table)} voxels have a value that the table does not give, and "
            f"{np.sum(of_table & ~of_file)} lack theirs"
        )
    off = np.max(np.abs(found - expected)[of_table], initial=0) / np.max(np.abs(expected[of_table]), initial=1e-30)
    if off >= 1e-6:
        raise Differs(f"{name}: values are off by {off:.1e} of the maximum")
    print(f"{name:28s} {of_table.sum():9d} values, off by {off:.1e} of the maximum at most")


def check_mtz(path, expected):
    """The unique voxels, by gemmi and by iotbx."""
    cell = np.array(expected.record.unit_cell)
    cell[:3] *= expected.record.ndiv
    mtz = gemmi.read_mtz_file(path)
    data = np.array(mtz, copy=False)
    index = data[:, :3].astype(int)
    column = data[:, mtz.column_labels().index("I")]
    if not np.allclose(mtz.cell.parameters, cell, atol=1e-3):
        raise Differs(f"{path} has the cell {mtz.cell.parameters}, not {tuple(cell)}")
    if len(index) != len(expected.value):
        raise Differs(f"{path} holds {len(index)} voxels, the table {len(expected.value)}")
    print(f"  gemmi: cell {' '.join(f'{x:.2f}' for x in mtz.cell.parameters)}, {mtz.spacegroup.hm}")
    report(f"{path} by gemmi", column, expected.at(index))
    arrays = {a.info().label_string(): a for a in iotbx_mtz.object(path).as_miller_arrays()}
    array = arrays["I,SIGI"]
    print(f"  iotbx: {array.space_group_info()}, d {array.d_max_min()[0]:.2f}-{array.d_min():.2f} Å (super-cell's)")
    report(f"{path} by iotbx", array.data().as_numpy_array(), expected.at(np.array(list(array.indices()))))


def check_ccp4(path, expected):
    """The box, by gemmi and mrcfile."""
    grid = gemmi.read_ccp4_map(path)
    start = [grid.header_i32(word) for word in (5, 6, 7)]
    values = np.array(grid.grid, copy=False)
    index = np.stack(np.meshgrid(*(s + np.arange(n) for s, n in zip(start, values.shape)), indexing="ij"), -1)
    report(f"{path} by gemmi", values.ravel(), expected.at(index.reshape(-1, 3)))
    # a voxel's place in the viewer, 100 Å for 1/Å, is as far from the origin as the lattice says
    far = np.abs(expected.index).argmax(axis=0)
    s = np.linalg.norm(reciprocal_vectors(expected.index[far], expected.record), axis=1)
    fractional = expected.index[far] / np.array(values.shape)
    lengths = [grid.grid.unit_cell.orthogonalize(gemmi.Fractional(*f)).length() for f in fractional]
    if not np.allclose(lengths, 100 * s, rtol=1e-5):
        raise Differs(f"{path} puts voxels at {lengths} Å from the origin, not at {100 * s}")
    with mrcfile.open(path, permissive=False) as mrc:
        if (theirs := [int(mrc.header[f"n{x}start"]) for x in "xyz"]) != start:
            raise Differs(f"{path} starts at {start} for gemmi and at {theirs} for mrcfile")
        report(f"{path} by mrcfile", mrc.data.T.ravel(), expected.at(index.reshape(-1, 3)))


def check_h5(path, expected):
    """The box, by h5py; axes in h, k, l."""
    with h5py.File(path) as handle:
        data = handle["entry/data"]
        axes = [np.rint(data[axis][:] * n).astype(int) for axis, n in zip("hkl", expected.record.ndiv)]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        report(f"{path} by h5py", data[data.attrs["signal"]][:].ravel(), expected.at(index))


CHECKS = (check_mtz, check_ccp4, check_h5)

if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    checks = {sys.argv[2] + suffix: check for suffix, check in zip((".mtz", ".ccp4", ".h5"), CHECKS)}
    if missing := [path for path in (sys.argv[1], *checks) if not Path(path).is_file()]:
        sys.exit(f"There is no file {', '.join(missing)}. Give the table and the prefix of diffuse.export's files.")
    wanted = Expected(sys.argv[1], *map(float, sys.argv[3:]))
    try:
        for path, check in checks.items():
            check(path, wanted)
    except Differs as difference:
        sys.exit(f"{difference}. Was it made of {sys.argv[1]} with {wanted.limits}?")
