"""Voxels against the reference."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from diffuse_dials.io.records import load_grid_record, save_grid_record
from diffuse_dials.models.grid import GridRecord, holds_lattice_point, voxel_index


def test_voxel_indices_and_lattice_points_are_the_reference(reference):
    """Half-integer and negative h included; "contains" in the file means that the nearest integer is the centre."""
    with open(reference("voxel_index_1d.csv")) as handle:
        for row in csv.DictReader(handle):
            ndiv, h = int(row["ndiv"]), float(row["h"])
            n = voxel_index(np.array([[h, h, h]]), (ndiv,) * 3)
            assert n.tolist() == [[int(row["n=floor(h*ndiv+0.5)"])] * 3]
            centre_is_integer = float(row["voxel_centre_h"]) == round(float(row["voxel_centre_h"]))
            assert holds_lattice_point(n, (ndiv,) * 3)[0] == centre_is_integer


def _record():
    return GridRecord(
        (50.0, 50.0, 60.0, 90.0, 90.0, 90.0),
        "given",
        (3, 3, 3),
        "P 41",
        "P 4/m",
        2.0,
        None,
        "own",
        0.01,
        True,
        ("k,h,-l",),
        0.005,
    )


def test_grid_json_comes_back_as_it_was(tmp_path):
    save_grid_record(_record(), tmp_path / "grid.json")
    assert load_grid_record(tmp_path / "gridded.refl") == _record()


def test_an_incomplete_or_missing_grid_json_is_named(tmp_path):
    with pytest.raises(ValueError, match="no grid.json beside"):
        load_grid_record(tmp_path / "gridded.refl")
    data = _record().to_dict()
    del data["ndiv"]
    (tmp_path / "grid.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="incomplete"):
        load_grid_record(tmp_path / "gridded.refl")
