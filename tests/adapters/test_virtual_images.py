"""Images of a virtual dataset, found where they are: the truth is what HDF5 itself reads."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from diffuse_dials.adapters.direct import DirectReader

SHAPE = 20, 30


@pytest.fixture
def master(tmp_path, rng):
    """Seven images, some of three files: whole ones, one put together from halves, one of another type, one missing."""
    for name, kind in (("a.h5", np.uint16), ("b.h5", np.uint16), ("c.h5", np.uint8)):
        with h5py.File(tmp_path / name, "w") as file:
            file["images"] = rng.integers(0, 200, (4, *SHAPE)).astype(kind)

    def source(name):
        return h5py.VirtualSource(name, "images", (4, *SHAPE), np.uint8 if name == "c.h5" else np.uint16)

    layout = h5py.VirtualLayout((7, *SHAPE), np.uint16)
    layout[0:2] = source("a.h5")[1:3]
    layout[2] = source(str(tmp_path / "b.h5"))[3]
    layout[3, :10], layout[3, 10:] = source("a.h5")[0, :10], source("b.h5")[0, 10:]
    layout[4], layout[5] = source("c.h5")[2], source("missing.h5")[0]
    with h5py.File(tmp_path / "master.h5", "w", libver="latest") as file:
        file["own"] = rng.integers(0, 200, (1, *SHAPE)).astype(np.uint16)
        layout[6] = h5py.VirtualSource(".", "own", (1, *SHAPE), np.uint16)[0]
        file.create_virtual_dataset("data", layout, fillvalue=7)
    return tmp_path / "master.h5"


def found(path, reader, index):
    """What the reader would read, and the name of the file that it is in."""
    data = reader._opened(str(path))["data"]
    stored, number = reader._stored("data", data, index)
    return stored[number], data[index], stored.file.filename.rpartition("/")[2]


def test_each_image_is_what_hdf5_reads_and_whole_ones_come_from_their_own_file(master):
    reader, files = DirectReader(), []
    for index in (0, 1, 2, 3, 4, 5, 6, 2, 0):
        values, theirs, name = found(master, reader, index)
        assert values.dtype == theirs.dtype and np.array_equal(values, theirs), index
        files.append(name)
    assert files == ["a.h5", "a.h5", "b.h5", *["master.h5"] * 4, "b.h5", "a.h5"]
    assert (found(master, reader, 5)[0] == 7).all()  # as HDF5 fills in what is missing


def test_where_hdf5_is_told_to_look_elsewhere_it_does(master, monkeypatch):
    monkeypatch.setenv("HDF5_VDS_PREFIX", "/nowhere")
    assert found(master, DirectReader(), 0)[2] == "master.h5"
