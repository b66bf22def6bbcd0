from __future__ import annotations

import json

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors, unique_voxels
from diffuse_dials.cli.compare import run
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import save_table
from diffuse_dials.models.grid import GridRecord

RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 120.0), "given", (3, 3, 3), "P 61", "P 6/m", 4.0, None, "own", 0.0, True, (), 0.005
)


@pytest.fixture
def files(run_in_tmp_path, rng):
    """A hexagonal map at 5 % noise, and its truth."""
    index = unique_voxels(RECORD, 4.0)
    s = np.linalg.norm(reciprocal_vectors(index, RECORD), axis=1)
    truth = np.exp(-5 * s**2) * (1 + 0.3 * np.cos(0.5 * index[:, 2]))
    value = truth * (1 + 0.05 * rng.standard_normal(len(s)))
    for name, values in (("merged.refl", value), ("truth.refl", truth)):
        intensity = {"intensity.scale.value": values, "intensity.scale.variance": (0.05 * truth) ** 2}
        save_table({"miller_index": index, **intensity}, name)
    save_grid_record(RECORD, "grid.json")
    return run_in_tmp_path


def refused(*args):
    with pytest.raises(Sorry) as raised:
        run(list(args))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_comparison_is_written_as_numbers_and_as_a_picture(files):
    (files / "stills.csv").write_text("image,scale\na.cbf,1.01\nb.cbf,1.98\n")
    (files / "truth_stills.csv").write_text("image,scale\na.cbf,1\nb.cbf,2\n")
    run(["merged.refl", "truth.refl", "stills.scaled=stills.csv", "stills.truth=truth_stills.csv", "d_max=20"])
    found = json.loads((files / "diffuse.compare.json").read_text())
    assert found["columns"] == {"map": "scale", "truth": "scale"}
    assert found["overall"]["cc_anisotropic"] > 0.9 and len(found["shells"]) == 10
    assert found["overall"]["chi_square"] == pytest.approx(1, abs=0.1)
    assert found["stills"]["rms_relative_error"] == pytest.approx(0.01, abs=1e-4)
    assert (files / "diffuse.compare.png").read_bytes()[1:4] == b"PNG"


def test_the_picture_can_keep_the_isotropic_part(files):
    run(["merged.refl", "truth.refl", "output.isotropic_part=True", "output.png=whole.png", "output.json=None"])
    assert (files / "whole.png").is_file() and not (files / "diffuse.compare.json").exists()


def test_bad_calls_get_one_line_each(files):
    assert "Give two" in refused("merged.refl")
    (files / "other.csv").write_text("image,scale\n")
    assert "Only one of stills.truth" in refused("merged.refl", "truth.refl", "stills.truth=other.csv")
    said = refused("merged.refl", "truth.refl", "stills.truth=t.csv", "stills.scaled=x.csv")
    assert "stills.truth=t.csv: there is no such file" in said
    (files / "grid.json").unlink()
    assert "no grid.json" in refused("merged.refl", "truth.refl")


def test_maps_of_different_grids_are_refused(files):
    (files / "other").mkdir()
    (files / "truth.refl").rename(files / "other" / "truth.refl")
    save_grid_record(GridRecord.from_dict({**RECORD.to_dict(), "ndiv": (1, 1, 1)}), "other/grid.json")
    assert "ndiv" in refused("merged.refl", "other/truth.refl")
