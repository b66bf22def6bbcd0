from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from dials.util import Sorry
from dxtbx.model import Beam, Crystal, Experiment, ExperimentList

from diffuse_dials.adapters.experiments import save_experiments
from diffuse_dials.algorithms.export import volume
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors, super_cell_experiment, unique_voxels
from diffuse_dials.cli.export import run
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.tables import save_table
from diffuse_dials.models.grid import GridRecord

RECORD = GridRecord(
    (30.0, 30.0, 22.0, 90.0, 90.0, 120.0), "given", (3, 3, 3), "P 61", "P 6/m", 5.0, None, "own", 0.0, True, (), 0.005
)
K = 4e-3


@pytest.fixture
def columns(run_in_tmp_path):
    """absolute.expt and absolute.refl of a hexagonal map: I = 1000 exp(-10 s²) times K per e², and their columns."""
    index = unique_voxels(RECORD, 5.0)
    s = np.linalg.norm(reciprocal_vectors(index, RECORD), axis=1)
    compton, total = 200 * s, 1000 * np.exp(-10 * s**2)
    one = np.ones(len(s))
    columns = {
        "miller_index": index, "d": 1 / s, "n_pixels": np.full(len(s), 9),
        "intensity.absolute.value": total - compton, "intensity.absolute.variance": 4 * one,
        "intensity.incoherent.value": compton, "intensity.coherent.value": 2 * total,
        "intensity.all.value": K * 3 * total,
    }  # fmt: skip
    for name, factor, counts in (("scale", 1, 8), ("half1", 1.1, 4), ("half2", 0.9, 4)):
        columns[f"intensity.{name}.value"] = K * factor * total
        columns[f"intensity.{name}.variance"] = 4 * K**2 / factor * one
        columns["multiplicity" if name == "scale" else f"multiplicity.{name}"] = np.full(len(s), counts)
    columns["intensity.half2.variance"][:5], columns["multiplicity.half2"][:5] = -1, 0
    save_table(columns, "absolute.refl")
    experiment = super_cell_experiment(RECORD)
    experiment.beam = Beam((0, 0, 1), 0.98)
    save_experiments(ExperimentList([experiment]), "absolute.expt")
    save_grid_record(RECORD, "grid.json")
    Path("gridded.h5").touch()
    return {**columns, "s": s}


def refused(*args):
    with pytest.raises(Sorry) as raised:
        run(list(args))
    message = str(raised.value)
    assert "\n" not in message
    return message


def exported(*args):
    """The arrays of map.npz, at the voxels of the asymmetric unit."""
    run(["absolute.refl", "format=npz", *args])
    index = unique_voxels(RECORD, 5.0)
    with np.load("map.npz") as arrays:
        start = [round(arrays[i][0] * 3) for i in "hkl"]
        boxes = {name: arrays[name] for name in arrays.files if arrays[name].ndim == 3}
    return {name: box[tuple((index - start).T)] for name, box in boxes.items()}


def test_a_map_is_written_in_all_formats_with_the_names_that_the_documentation_gives(columns):
    before = {path: path.read_bytes() for path in Path().iterdir()}
    run(["absolute.expt", "absolute.refl"])
    names = {"map.ccp4", "map.mtz", "map.h5", "map.vtk", "map.npz", "map_hk0.png", "map_h0l.png", "map_0kl.png"}
    assert {p.name for p in Path().iterdir()} - {p.name for p in before} == {
        *names, "diffuse.export.json", "diffuse.export.log"
    }  # fmt: skip
    assert all(path.read_bytes() == content for path, content in before.items())
    summary = json.loads(Path("diffuse.export.json").read_text())
    assert set(summary["files"]) == names
    assert summary["units"] == "electron^2 per unit cell" and summary["without_lattice_points"]
    rotation = np.array(summary["files"]["map.ccp4"]["rotation_from_rlp_to_viewer"])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    # γ = 120°: a* is 30° off a, so that the viewer's frame is turned by that about c
    assert rotation[0, 0] == pytest.approx(np.cos(np.pi / 6)) and rotation[2, 2] == pytest.approx(1)


def test_half_maps_come_on_the_absolute_scale_of_the_map(columns):
    """By the definition of diffuse.absolute: I/K less Compton scattering, σ/K."""
    found = exported("exclude_lattice_points=False")
    total, compton = columns["intensity.coherent.value"] / 2, columns["intensity.incoherent.value"]
    np.testing.assert_allclose(found["intensity"], total - compton, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found["half1"], 1.1 * total - compton, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found["half1_sigma"], 2 / 1.1**0.5, rtol=1e-5)
    assert np.isnan(found["half2"][:5]).all() and np.isnan(found["half2_sigma"][:5]).all()
    np.testing.assert_allclose(found["half2"][5:], (0.9 * total - compton)[5:], rtol=1e-5, atol=1e-3)
    assert (found["half2_multiplicity"][:5] == 0).all() and (found["n_pixels"] == 9).all()


@pytest.mark.parametrize(
    "value, expected",
    [
        ("scale", lambda total, compton: K * total),
        ("all", lambda total, compton: 3 * total - compton),
        ("half1", lambda total, compton: 1.1 * total - compton),
        ("coherent", lambda total, compton: 2 * total),
        ("incoherent", lambda total, compton: compton),
    ],
)
def test_the_intensity_that_is_written_can_be_chosen(columns, value, expected):
    found = exported("exclude_lattice_points=False", f"value={value}")["intensity"]
    total, compton = columns["intensity.coherent.value"] / 2, columns["intensity.incoherent.value"]
    np.testing.assert_allclose(found, expected(total, compton), rtol=1e-5, atol=1e-3)


def test_lattice_points_are_left_out_unless_bragg_pixels_are_wanted(columns):
    lattice = np.all(columns["miller_index"] % 3 == 0, axis=1)
    np.testing.assert_array_equal(np.isnan(exported()["intensity"]), lattice)
    assert (exported()["multiplicity"][lattice] == 0).all()
    assert np.isfinite(exported("value=all")["intensity"]).all()
    np.testing.assert_array_equal(np.isnan(exported("value=all", "exclude_lattice_points=True")["intensity"]), lattice)


def test_a_voxel_whose_pixels_are_all_under_the_bragg_mask_has_an_intensity_only_with_them(columns):
    s = columns.pop("s")
    masked = np.flatnonzero(np.all(columns["miller_index"] % 3 == 0, axis=1))[:4]
    for name in ("scale", "absolute", "half1", "half2"):
        if f"intensity.{name}.value" in columns:
            columns[f"intensity.{name}.value"][masked], columns[f"intensity.{name}.variance"][masked] = 0, -1
    columns["multiplicity"][masked] = columns["multiplicity.half1"][masked] = columns["multiplicity.half2"][masked] = 0
    save_table(columns, "absolute.refl")
    assert np.isnan(exported("exclude_lattice_points=False")["intensity"][masked]).all()
    expected = (3000 * np.exp(-10 * s**2) - 200 * s)[masked]
    np.testing.assert_allclose(exported("value=all")["intensity"][masked], expected, rtol=1e-5)


def test_without_isotropic_part_an_isotropic_map_is_flat_and_each_half_has_its_own_taken_out(columns):
    """To what shells of about a hundred voxels leave of a fall-off: a few per cent at the ends."""
    whole, found = exported(), exported("isotropic_part=False")
    seen = np.isfinite(found["half2"])
    for name in ("intensity", "half1", "half2"):
        assert np.abs(found[name][seen]).max() < 0.1 * whole[name][seen].max()
        assert np.abs(found[name][seen].mean()) < 0.003 * whole[name][seen].mean()
    np.testing.assert_array_equal(found["sigma"], whole["sigma"])


def test_resolution_limits_hold_for_the_mtz_file_and_for_the_box(columns):
    import gemmi

    run(["absolute.expt", "absolute.refl", "format=mtz+npz", "d_min=6", "d_max=12", "exclude_lattice_points=False"])
    mtz = gemmi.read_mtz_file("map.mtz")
    inside = (columns["d"] >= 6) & (columns["d"] <= 12)
    assert mtz.nreflections == inside.sum()
    assert mtz.datasets[-1].wavelength == pytest.approx(0.98)
    with np.load("map.npz") as arrays:
        assert arrays["l"][-1] <= 22 / 6 < arrays["l"][-1] + 1 / 3
        b, (h, k, l) = arrays["b_matrix"], np.argwhere(np.isfinite(arrays["intensity"])).T
        d = 1 / np.linalg.norm(np.stack([arrays["h"][h], arrays["k"][k], arrays["l"][l]], axis=1) @ b.T, axis=1)
        assert 6 <= d.min() and d.max() <= 12


def test_the_units_of_a_map_that_diffuse_absolute_left_relative_are_relative(columns):
    del columns["s"]
    relative = {f"intensity.absolute.{name}": columns[f"intensity.scale.{name}"] for name in ("value", "variance")}
    save_table({**columns, **relative}, "absolute.refl")
    run(["absolute.refl", "format=mtz"])
    assert json.loads(Path("diffuse.export.json").read_text())["units"] == "relative"


@pytest.fixture
def sums(run_in_tmp_path, rng):
    """scaled.expt and scaled.refl of two stills."""
    n = 40
    columns = {
        "id": np.repeat([0, 1], n // 2), "miller_index": rng.integers(-9, 9, (n, 3)), "panel": np.zeros(n),
        "asu_miller_index": rng.integers(0, 9, (n, 3)), "bragg": rng.random(n) < 0.2, "counts": rng.poisson(3.0, n),
        "background": rng.random(n), "response": rng.random(n) + 1, "variance": rng.random(n) + 1,
        "n_pixels": rng.integers(1, 9, n), "inverse_scale_factor": rng.random(n) + 1,
    }  # fmt: skip
    save_table(columns, "scaled.refl", {0: "first", 1: "second"})
    stills = ExperimentList()
    for name, wavelength in (("second", 1.1), ("first", 1.0)):  # the order of the .expt file does not matter
        crystal = Crystal((30, 0, 0), (-15, 26, 0), (0, 0, 22), RECORD.space_group)
        stills.append(Experiment(beam=Beam((0, 0, 1), wavelength), crystal=crystal, identifier=name))
    save_experiments(stills, "scaled.expt")
    save_grid_record(RECORD, "grid.json")
    return columns


def test_sums_of_single_stills_go_to_hdf5_and_numpy_with_their_stills(sums):
    run(["scaled.expt", "scaled.refl"])
    with h5py.File("sums.h5") as file, np.load("sums.npz") as arrays:
        for name, values in sums.items():
            np.testing.assert_array_equal(file[f"entry/sums/{name}"][()], values)
            np.testing.assert_array_equal(arrays[name], values)
        assert list(file["entry/stills/identifier"].asstr()) == ["first", "second"]
        np.testing.assert_allclose(file["entry/stills/wavelength"][()], [1.0, 1.1])
        np.testing.assert_allclose(arrays["still.a_matrix"][0] @ [1, 0, 0], [1 / 30, 0.5 / 26, 0], atol=1e-12)
        assert "counts" in file["entry/sums/inverse_scale_factor"].attrs["long_name"]
        assert json.loads(str(arrays["grid"]))["laue_group"] == "P 6/m"


def test_sums_are_no_map(sums):
    assert "format=ccp4 holds a map" in refused("scaled.expt", "scaled.refl", "format=ccp4+h5")
    assert not Path("sums.h5").exists()


@pytest.mark.parametrize(
    "args, words",
    [
        (("absolute.expt",), "1 .expt and 0 .refl"),
        (("absolute.refl", "absolute.refl"), "2 .refl"),
        (("gridded.h5",), "HDF5 already"),
        (("absolute.refl", "planes=hk0,hkl"), "planes=hkl is no section"),
        (("absolute.refl", "format=npz+png", "planes=hk0,hk9"), "hk9 lies outside the map"),
        (("absolute.refl", "quantiles=0.9,0.1"), "not in ascending order"),
        (("absolute.refl", "format=npz", "region.hkl_min=40,0,0"), "holds no voxel"),
        (("absolute.refl", "format=npz", "region.hkl_min=1e30,0,0"), "holds no voxel"),
        (("absolute.refl", "region.hkl_min=1,0,0", "region.hkl_max=0,1,1"), "Exchange them"),
        (("absolute.refl", "d_min=99"), "No measured voxel"),
        (("absolute.refl", "format=pdb"), "Not a possible choice"),
    ],
)
def test_what_cannot_be_written_stops_with_one_line(columns, args, words):
    with pytest.raises(Sorry, match=words):
        run([*args])
    assert not [path for path in Path().iterdir() if path.name.startswith((".map", "map"))]


def test_a_map_without_the_intensity_wanted_is_refused(columns):
    kept = {name: values for name, values in columns.items() if "absolute" not in name and name != "s"}
    save_table(kept, "merged.refl")
    assert "no column intensity.absolute.value" in refused("merged.refl", "value=absolute")


def test_files_that_do_not_belong_together_are_refused(columns):
    other = super_cell_experiment(replace(RECORD, unit_cell=(31.0, 31.0, 22.0, 90.0, 90.0, 120.0)))
    save_experiments(ExperimentList([other]), "other.expt")
    assert "not the experiment of the map" in refused("other.expt", "absolute.refl")
    save_grid_record(replace(RECORD, space_group="P 6 2 2", laue_group="P 6/m m m"), "grid.json")
    assert "symmetry mates" in refused("absolute.refl")
    Path("grid.json").unlink()
    assert "no grid.json" in refused("absolute.refl")


def test_bragg_intensities_are_referred_to_dials(run_in_tmp_path):
    save_table({"id": np.zeros(3), "miller_index": np.ones((3, 3)), "d": np.ones(3)}, "integrated.refl")
    assert "dials.export" in refused("integrated.refl")


def test_a_box_that_does_not_fit_into_memory_is_refused_and_the_mtz_file_is_not(run_in_tmp_path):
    record = replace(RECORD, unit_cell=(3000.0, 3000.0, 2200.0, 90.0, 90.0, 120.0), ndiv=(9, 9, 9))
    save_table(
        {"miller_index": np.array([[0, 0, 19800]]), "intensity.scale.value": np.ones(1),
         "intensity.scale.variance": np.ones(1), "multiplicity": np.ones(1)},
        "merged.refl",
    )  # fmt: skip
    save_grid_record(record, "grid.json")
    message = refused("merged.refl", "format=ccp4", "exclude_lattice_points=False")
    assert "46765 x 46765 x 39601" in message or "54001 x 54001 x 39601" in message
    run(["merged.refl", "format=mtz", "exclude_lattice_points=False"])
    assert Path("map.mtz").is_file()


def test_what_a_control_group_leaves_is_the_memory_there_is(columns, monkeypatch):
    """The file and its columns at a time take 2.2 times its size (measured), and 80 % may be used."""
    size = Path("absolute.refl").stat().st_size
    monkeypatch.setattr(volume, "available_memory", lambda: 2.7 * size)
    assert "Reading absolute.refl needs 0.0 GB" in refused("absolute.refl", "format=mtz")
    monkeypatch.setattr(volume, "available_memory", lambda: 2.8 * size)
    run(["absolute.refl", "format=mtz"])


@pytest.mark.parametrize("name", ["ccp4", "mtz", "h5", "vtk", "npz", "png", "svg"])
def test_a_full_disk_stops_each_format_with_one_line_and_leaves_nothing(columns, name):
    """A limit of the size of files stands for the disk: the same error comes from the same calls."""
    before = {path.name for path in Path().iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        message = refused("absolute.refl", f"format={name}", "output.log=None")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith("Cannot write map") and "free space" in message
    assert {path.name for path in Path().iterdir()} == before
