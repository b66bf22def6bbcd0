"""NumPy archives."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from diffuse_dials.algorithms.export.base import TableExporter
from diffuse_dials.algorithms.export.content import MapContent, SumsContent
from diffuse_dials.algorithms.export.stills import stills_columns
from diffuse_dials.io.atomic import replacing


class Npz(TableExporter):
    """The box as arrays [h, k, l] with the axes and the grid; of sums, an array per column."""

    name = "npz"

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        path = prefix.with_name(prefix.name + ".npz")
        volume, record = content.volume, content.record
        small = {name: volume.axis(i, record.ndiv) for i, name in enumerate("hkl")}
        small.update(
            unit_cell=np.array(record.unit_cell), ndiv=np.array(record.ndiv), b_matrix=content.b_matrix,
            laue_group=np.array(record.laue_group), units=np.array(content.units), title=np.array(content.title()),
            grid=np.array(json.dumps(record.to_dict())),
        )  # fmt: skip
        with replacing(path) as partial, _open(partial) as archive:
            for name, values in small.items():
                _add(archive, name, values)
            for name in content.columns:
                _add_volume(archive, name, content)
        return {str(path): {"arrays": [*small, *content.columns], "shape": list(volume.shape)}}

    def write_sums(self, content: SumsContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`TableExporter.write_sums`."""
        path = prefix.with_name(prefix.name + ".npz")
        columns = {**content.table.columns, **stills_columns(content)}
        with replacing(path) as partial, _open(partial) as archive:
            for name, values in columns.items():
                _add(archive, name, values)
            if content.record is not None:
                _add(archive, "grid", np.array(json.dumps(content.record.to_dict())))
        return {str(path): {"arrays": list(columns), "rows": len(content.table)}}


def _open(path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=1)


def _add(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
        np.lib.format.write_array(handle, np.asarray(values, order="C"), allow_pickle=False)


def _add_volume(archive: zipfile.ZipFile, name: str, content: MapContent) -> None:
    """An array of the box, block by block: np.savez would hold all of it."""
    volume = content.volume
    dtype = content.filled(name, np.array([-1])).dtype
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": volume.shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
        np.lib.format.write_array_header_1_0(handle, head)
        for block in volume.blocks(axis=0):
            handle.write(content.filled(name, volume.rows[block]).tobytes())
