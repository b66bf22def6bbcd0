"""NeXus/HDF5: NXdata with the axes h, k, l, for NeXpy, silx and h5py."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from diffuse_dials import __version__
from diffuse_dials.algorithms.export.base import TableExporter
from diffuse_dials.algorithms.export.content import MapContent, SumsContent
from diffuse_dials.algorithms.export.stills import stills_columns
from diffuse_dials.io.columns import COLUMNS
from diffuse_dials.io.hdf5 import new_hdf5
from diffuse_dials.models.grid import GridRecord

_CHUNK = 32
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class Nexus(TableExporter):
    """The box as NXdata of an NXentry, by the rules of the NeXus manual; of sums, a dataset per column."""

    name = "h5"

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        path = prefix.with_name(prefix.name + ".h5")
        with new_hdf5(path) as file:
            entry = _entry(file, path, content.title())
            entry.attrs["default"] = "data"
            data = _group(entry, "data", "NXdata")
            data.attrs["signal"] = "intensity"
            data.attrs["axes"] = _strings("hkl")
            data["title"] = content.title()
            for i, name in enumerate("hkl"):
                data.attrs[f"{name}_indices"] = np.int32(i)
                axis = data.create_dataset(name, data=content.volume.axis(i, content.record.ndiv))
                axis.attrs.update(units="1", long_name=f"{name} (r.l.u.)")
            others = []
            for column in content.columns:
                name = "intensity_errors" if column == "sigma" else column.replace("_sigma", "_errors")
                _volume(data, name, column, content)
                if name != "intensity" and not name.endswith("_errors"):
                    others.append(name)
            if others:
                data.attrs["auxiliary_signals"] = _strings(others)
            _sample(entry, content.record)
            _grid(entry, content.record)
        return {str(path): {"signal": "/entry/data/intensity", "shape": list(content.volume.shape)}}

    def write_sums(self, content: SumsContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`TableExporter.write_sums`."""
        path = prefix.with_name(prefix.name + ".h5")
        with new_hdf5(path) as file:
            entry = _entry(file, path, f"rows of {Path(content.table.path).name}")
            sums = _group(entry, "sums", "NXcollection")
            for name, values in content.table.columns.items():
                dataset = sums.create_dataset(name, data=values, **_COMPRESSION)
                if name in COLUMNS:
                    dataset.attrs["long_name"] = COLUMNS[name].meaning
            stills = _group(entry, "stills", "NXcollection")
            for name, values in stills_columns(content).items():
                text = values.dtype.kind == "U"
                stills.create_dataset(name.removeprefix("still."), data=_strings(values) if text else values)
            if content.record is not None:
                _sample(entry, content.record)
                _grid(entry, content.record)
        return {str(path): {"rows": len(content.table), "columns": list(content.table.columns)}}


def _entry(file: h5py.File, path: Path, title: str) -> h5py.Group:
    """Root and NXentry."""
    file.attrs.update(
        NX_class="NXroot", default="entry", file_name=path.name, creator=f"diffuse_dials {__version__}",
        HDF5_Version=h5py.version.hdf5_version, h5py_version=h5py.version.version,
    )  # fmt: skip
    entry = _group(file, "entry", "NXentry")
    entry["title"] = title
    process = _group(entry, "process", "NXprocess")
    process["program"], process["version"] = "diffuse.export", __version__
    return entry


def _group(parent, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _volume(data: h5py.Group, name: str, column: str, content: MapContent) -> None:
    volume = content.volume
    dtype = content.filled(column, np.array([-1])).dtype
    chunks = tuple(min(_CHUNK, n) for n in volume.shape)
    dataset = data.create_dataset(name, volume.shape, dtype, chunks=chunks, **_COMPRESSION)
    for block in volume.blocks(axis=0, multiple=_CHUNK):  # a chunk written in two parts would be compressed twice
        dataset[block] = content.filled(column, volume.rows[block])
    counts = np.issubdtype(dtype, np.integer)
    dataset.attrs.update(units="1" if counts else content.units, interpretation="image")
    if column == "intensity":
        dataset.attrs["long_name"] = content.title()


def _sample(entry: h5py.Group, record: GridRecord) -> None:
    """The crystal, with the cell in the form that NXsample has for it."""
    sample = _group(entry, "sample", "NXsample")
    sample["unit_cell_abc"], sample["unit_cell_alphabetagamma"] = record.unit_cell[:3], record.unit_cell[3:]
    sample["unit_cell_abc"].attrs["units"] = "angstrom"
    sample["unit_cell_alphabetagamma"].attrs["units"] = "degree"
    sample["space_group"] = record.space_group


def _grid(entry: h5py.Group, record: GridRecord) -> None:
    grid = _group(entry, "grid", "NXcollection")
    grid["ndiv"], grid["laue_group"] = record.ndiv, record.laue_group
    grid["json"] = json.dumps(record.to_dict())


def _strings(values) -> np.ndarray:
    return np.array(list(values), dtype=h5py.string_dtype())
