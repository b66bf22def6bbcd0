"""Legacy VTK file, for ParaView and VisIt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffuse_dials.algorithms.export.base import Exporter
from diffuse_dials.algorithms.export.content import MapContent
from diffuse_dials.io.atomic import replacing

_KINDS = {np.dtype(np.float32): ("float", ">f4"), np.dtype(np.int32): ("int", ">i4")}
_HIDDEN_CELL = 32  # vtkDataSetAttributes::HIDDENCELL


class Vtk(Exporter):
    """A structured grid: a cell per voxel at its place in reciprocal space (Cartesian, 1/Å, the frame of ``rlp``).

    Voxels that were not measured are NaN and blanked. Cells and not points, because a program leaves out every cell
    with a blanked corner: lattice points missing from ndiv=3 would take 8 of 27 cells with them.
    """

    name = "vtk"

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        path = prefix.with_name(prefix.name + ".vtk")
        volume = content.volume
        corners = [n + 1 for n in volume.shape]
        others = [name for name in ("sigma", "multiplicity") if name in content.columns]
        with replacing(path) as partial, open(partial, "wb") as handle:
            handle.write(
                f"# vtk DataFile Version 3.0\n{content.title()[:255]}\nBINARY\nDATASET STRUCTURED_GRID\n"
                f"DIMENSIONS {' '.join(map(str, corners))}\nPOINTS {np.prod(corners)} float\n".encode()
            )
            for points in _points(content):
                handle.write(points.astype(">f4").tobytes())
            handle.write(f"\nCELL_DATA {volume.rows.size}\n".encode())
            handle.write(b"SCALARS intensity float 1\nLOOKUP_TABLE default\n")
            _write(handle, content, lambda rows: content.filled("intensity", rows).astype(">f4"))
            # As field data, because readers take one set of scalars unless told otherwise
            handle.write(f"FIELD FieldData {len(others) + 1}\n".encode())
            for name in others:
                kind, dtype = _KINDS[content.filled(name, np.array([-1])).dtype]
                handle.write(f"{name} 1 {volume.rows.size} {kind}\n".encode())
                _write(handle, content, lambda rows, name=name, dtype=dtype: content.filled(name, rows).astype(dtype))
            handle.write(f"vtkGhostType 1 {volume.rows.size} unsigned_char\n".encode())
            _write(handle, content, lambda rows: np.where(rows < 0, _HIDDEN_CELL, 0).astype(np.uint8))
        return {str(path): {"arrays": ["intensity", *others, "vtkGhostType"], "dimensions": corners}}


def _write(handle, content: MapContent, values) -> None:
    """An array of the box, from a function of the rows; cells run along h first, then k, then l."""
    for block in content.volume.blocks(axis=2):
        handle.write(values(content.volume.rows[:, :, block].T).tobytes())
    handle.write(b"\n")


def _points(content: MapContent):
    """Corners of the voxels, B_ref (n ± ½)/ndiv, 1/Å: layer by layer of l, shape (n_k + 1, n_h + 1, 3)."""
    h, k, l = (
        (start + np.arange(size + 1) - 0.5) / ndiv
        for start, size, ndiv in zip(content.volume.start, content.volume.shape, content.record.ndiv)
    )
    a, b, c = content.b_matrix.T
    layer = k[:, None, None] * b + h[:, None] * a
    return (layer + value * c for value in l)
