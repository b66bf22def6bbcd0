"""diffuse.extract and diffuse.grid on detectors and files of many kinds: the same photons, wherever the pixels are."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from dials.util import Sorry
from dxtbx import flumpy
from dxtbx.ext import compress, uncompress
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.adapters.experiments import load_experiments, name_stills, save_experiments, still_keys
from diffuse_dials.adapters.scattering import air_attenuation
from diffuse_dials.algorithms import pixel_files
from diffuse_dials.cli import extract, grid
from diffuse_dials.io.masks import save_pickle
from diffuse_dials.io.tables import load_table
from diffuse_dials.kernels import physics

DIMENSIONS = b"Second", b"Fastest"
MODEL = """\
CRYST1   30.000   30.000   25.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  C   ALA A   1       5.000   6.000   7.000  1.00  0.00           C
ATOM      2  O   ALA A   1       8.000   9.000   4.000  1.00  0.00           O
ATOM      3  S   CYS A   2      11.000   3.000   9.000  1.00  0.00           S
END
"""


@pytest.fixture(scope="module")
def simulated(simulate_stills):
    """Three stills on two Pilatus modules, and their true crystals."""
    return simulate_stills(
        "detectors", MODEL, "n_stills=3", "n_blanks=1", "modules=1,2", "truth.d_min=3", "photons_per_pixel=3"
    )


def run_extract(expt, *parameters):
    extract.run([expt, "d_min=2.5", "radius=0.004", "html=None", "png=None", *parameters])


def rows(stem="extracted"):
    """All blocks of a run as one dictionary, ordered by still, panel, slow and fast."""
    names = sorted(Path().glob(f"{stem}_*.refl"))
    tables = [load_table(str(name)) for name in names]
    columns = {name: np.concatenate([t[name] for t in tables]) for name in tables[0].columns}
    x, y, _ = columns["xyzobs.px.value"].T
    order = np.lexsort((x, y, columns["panel"], columns["id"]))
    return {name: values[order] for name, values in columns.items()}


def changed(work, change, name="changed.expt"):
    """The true stills with their models changed."""
    experiments = load_experiments(work / "truth_stills.expt")
    for number, experiment in enumerate(experiments):
        change(number, experiment)
    save_experiments(experiments, name)
    return name


def two_panels(work, name="panels.expt", frame=None):
    """The same images read as one panel per module, as the format can: (crystal, beam) of the truth."""
    stills = ExperimentList()
    for experiment in load_experiments(work / "truth_stills.expt"):
        path = experiment.imageset.get_path(0)
        found = ExperimentListFactory.from_filenames([path], format_kwargs={"multi_panel": True})[0]
        detector = found.detector
        if frame is not None:
            for number, panel in enumerate(detector):
                frame(number, panel)
        imageset = found.imageset.as_imageset()
        models = {"beam": experiment.beam, "detector": detector, "crystal": experiment.crystal}
        stills.append(Experiment(imageset=imageset, **models))
    name_stills(stills, still_keys(stills))
    save_experiments(stills, name)
    return name


def test_one_panel_and_one_panel_a_module_measure_the_same_photons_in_the_same_place(work):
    run_extract(str(work / "truth_stills.expt"), "output.reflections=one.refl")
    run_extract(two_panels(work), "output.reflections=many.refl")
    one, many = rows("one"), rows("many")
    assert set(many["panel"]) == {0, 1}
    assert len(one["counts"]) == len(many["counts"]) > 100_000
    for name in ("id", "counts", "bragg"):
        assert np.array_equal(one[name], many[name])
    assert many["rlp"] == pytest.approx(one["rlp"], abs=1e-9)
    assert many["response"] == pytest.approx(one["response"], rel=1e-9)


def test_tilted_and_barrel_panels_have_the_directions_and_angles_of_dxtbx(work):
    """Each module turned about its own slow axis, as on a barrel: s and the response by dxtbx's own numbers."""

    def barrel(number, panel):
        tilt = 0.4 * (-1) ** number
        fast = (np.cos(tilt), 0.1, np.sin(tilt))
        slow = np.cross(np.cross(fast, (0, -1, 0)), fast)
        panel.set_frame(tuple(fast / np.linalg.norm(fast)), tuple(slow / np.linalg.norm(slow)), panel.get_origin())

    expt = two_panels(work, frame=barrel)
    run_extract(expt, "pixel_step=7")
    table, experiment = rows(), load_experiments(expt)[0]
    s0, wavelength = np.array(experiment.beam.get_unit_s0()), experiment.beam.get_wavelength()
    chosen = np.flatnonzero(table["id"] == 0)[::97]
    assert len(set(table["panel"][chosen])) == 2
    for row in chosen:
        panel = experiment.detector[int(table["panel"][row])]
        lab = np.array(panel.get_pixel_lab_coord(tuple(table["xyzobs.px.value"][row][:2])))
        distance = np.linalg.norm(lab)
        assert table["rlp"][row] == pytest.approx((lab / distance - s0) / wavelength, abs=1e-10)
        cosine = abs(lab @ np.array(panel.get_normal())) / distance
        omega = physics.solid_angle(distance, cosine, 0.172**2)
        p = physics.polarization((lab / distance)[None], s0, np.array([0, 1.0, 0]), 0.999)[0]
        efficiency = physics.sensor_efficiency(cosine, panel.get_mu(), panel.get_thickness())
        air = physics.transmission(distance, air_attenuation(wavelength))
        assert table["response"][row] == pytest.approx(omega * p * efficiency * air * 0.1, rel=1e-7)


def own_wavelength(number, experiment):
    experiment.beam = Beam((0, 0, 1), 0.98 + 0.01 * number)


def own_models(number, experiment):
    own_wavelength(number, experiment)
    detector = Detector()
    panel = detector.add_panel(experiment.detector[0])
    origin = np.array(panel.get_origin()) - (0, 0, 0.5 * number)
    panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), origin)
    experiment.detector = detector


def test_each_still_has_its_own_wavelength_and_detector(work):
    """As on an XFEL and after refinement: three wavelengths, three detector positions, by dxtbx's own numbers."""
    expt = changed(work, own_models)
    run_extract(expt, "pixel_step=5")
    table, experiments = rows(), load_experiments(expt)
    for number, experiment in enumerate(experiments):
        own = np.flatnonzero(table["id"] == number)[::501]
        panel, beam = experiment.detector[0], experiment.beam
        assert beam.get_wavelength() == pytest.approx(0.98 + 0.01 * number)
        for row in own:
            lab = np.array(panel.get_pixel_lab_coord(tuple(table["xyzobs.px.value"][row][:2])))
            s = lab / np.linalg.norm(lab) / beam.get_wavelength() - np.array(beam.get_s0())
            assert table["rlp"][row] == pytest.approx(s, abs=1e-10)
    with open("stills.csv") as handle:
        assert [float(line["wavelength"]) for line in csv.DictReader(handle)] == pytest.approx([0.98, 0.99, 1.0])


@pytest.mark.parametrize("change", [own_wavelength, own_models])
@pytest.mark.parametrize("options", [
    "d_max=9", "background_method=radial",
    "sensor_efficiency.material=Si thickness=0.3", "path=helium air.length=40 window='kapton 0.1'",
])  # fmt: skip
def test_a_still_of_another_wavelength_has_the_sums_of_numpy(work, change, options, assert_same_sums):
    """The kernel keeps the positions of the pixels and works out the rest; NumPy is the reference."""
    expt = changed(work, change)
    for engine in ("numba", "numpy"):
        outputs = [f"output.{name}={engine}_{name}.refl" for name in ("reflections", "radial_totals")]
        grid.run([expt, "d_min=2.5", "radius=0.004", f"engine={engine}", *shlex.split(options), *outputs])
    for name in ("reflections", "radial_totals"):
        assert_same_sums(f"numpy_{name}.refl", f"numba_{name}.refl")


@pytest.mark.parametrize("method", ["none", "radial"])
def test_maps_of_gain_and_pedestal_and_a_range_of_photons_are_the_kernels_too(work, method, rng, assert_same_sums):
    """A gain and a pedestal for each pixel, so that a number of photons is another value in each."""
    shape = load_experiments(work / "truth_stills.expt")[0].detector[0].get_image_size()[::-1]
    for name, values in (("gain.pickle", rng.uniform(0.5, 2, shape)), ("pedestal.pickle", rng.uniform(-1, 1, shape))):
        save_pickle((flumpy.from_numpy(values),), name)

    def change(number, experiment):
        lookup = experiment.imageset.external_lookup
        lookup.gain.filename, lookup.pedestal.filename = "gain.pickle", "pedestal.pickle"

    expt = changed(work, change)
    for engine in ("numba", "numpy"):
        outputs = [f"output.{name}={engine}_{name}.refl" for name in ("reflections", "radial_totals")]
        grid.run([expt, "d_min=2.5", "radius=0.004", "photons_range=0.5,6", f"engine={engine}", *outputs,
                  f"background_method={method}"])  # fmt: skip
    for name in ("reflections", "radial_totals"):
        assert_same_sums(f"numpy_{name}.refl", f"numba_{name}.refl")


def test_the_background_of_a_still_is_estimated_on_all_of_its_panels(work, assert_same_sums):
    expt = two_panels(work)
    for engine in ("numba", "numpy"):
        outputs = [f"output.{name}={engine}_{name}.refl" for name in ("reflections", "radial_totals")]
        grid.run([expt, "d_min=2.5", "radius=0.004", f"engine={engine}", "background_method=radial", *outputs])
    for name in ("reflections", "radial_totals"):
        assert_same_sums(f"numpy_{name}.refl", f"numba_{name}.refl")


def test_more_photons_in_a_pixel_than_the_kernel_counts_are_summed_as_real_numbers(work, tmp_path, assert_same_sums):
    """2³⁰ photons, of which the kernel's running sums of 32 bits would lose some; NumPy is the reference."""
    start = b"\x0c\x1a\x04\xd5"
    for image in (work / "images").glob("*.cbf"):
        head, data = image.read_bytes().split(start, 1)
        size = int(re.search(rb"X-Binary-Size: (\d+)", head)[1])
        n_slow, n_fast = (int(re.search(rb"X-Binary-Size-%s-Dimension: (\d+)" % name, head)[1]) for name in DIMENSIONS)
        counts = uncompress(packed=data[:size], fast=n_fast, slow=n_slow).as_numpy_array()
        counts[20, 30:40] = 2**30
        packed = compress(flumpy.from_numpy(counts))
        head = head.replace(b"X-Binary-Size: %d" % size, b"X-Binary-Size: %d" % len(packed))
        (tmp_path / image.name).write_bytes(head + start + packed + data[size:])
    text = (work / "truth_stills.expt").read_text().replace(str(work / "images"), str(tmp_path))
    (tmp_path / "bright.expt").write_text(text)
    for engine in ("numba", "numpy"):
        outputs = [f"output.{name}={engine}_{name}.refl" for name in ("reflections", "radial_totals")]
        grid.run(["bright.expt", "d_min=2.5", "radius=0.004", "trusted_range=none", f"engine={engine}", *outputs])
    assert load_table("numba_radial_totals.refl")["counts"].sum() > 10 * 2**30
    for name in ("reflections", "radial_totals"):
        assert_same_sums(f"numpy_{name}.refl", f"numba_{name}.refl")


def test_one_file_with_all_stills_and_a_file_for_each_give_the_same_sums(work):
    experiments = load_experiments(work / "truth_stills.expt")
    names = []
    for number in range(3):
        names.append(f"still_{number}.expt")
        save_experiments(experiments[number : number + 1], names[-1])
    grid.run([*names, "d_min=2.5", "radius=0.004", "output.reflections=many.refl"])
    grid.run([str(work / "truth_stills.expt"), "d_min=2.5", "radius=0.004", "output.reflections=one.refl"])
    one, many = load_table("one.refl"), load_table("many.refl")
    for name in one.columns:
        assert np.array_equal(one[name], many[name])


@pytest.mark.parametrize("suffix, pack", [(".bz2", bz2.compress), (".gz", gzip.compress)])
def test_compressed_images_hold_the_same_pixels(work, tmp_path, suffix, pack):
    for image in (work / "images").glob("*.cbf"):
        (tmp_path / (image.name + suffix)).write_bytes(pack(image.read_bytes()))
    text = (work / "truth_stills.expt").read_text()
    content = json.loads(text.replace(str(work / "images"), str(tmp_path)).replace('.cbf"', f'.cbf{suffix}"'))
    (tmp_path / "packed.expt").write_text(json.dumps(content))
    run_extract("packed.expt", "output.reflections=packed.refl")
    run_extract(str(work / "truth_stills.expt"), "output.reflections=plain.refl")
    packed, plain = rows("packed"), rows("plain")
    for name in plain:
        assert np.array_equal(packed[name], plain[name])


def second_lattice(work, name="two.expt"):
    """Each image with a second crystal, turned by 90° about the beam."""
    experiments = ExperimentList()
    turn = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    for experiment in load_experiments(work / "truth_stills.expt"):
        experiments.append(experiment)
        axes = np.linalg.inv(turn @ np.array(experiment.crystal.get_A()).reshape(3, 3))
        crystal = Crystal(*(tuple(axis) for axis in axes), space_group=experiment.crystal.get_space_group())
        second = Experiment(
            imageset=experiment.imageset, beam=experiment.beam, detector=experiment.detector, crystal=crystal
        )
        experiments.append(second)
    name_stills(experiments, still_keys(experiments))
    save_experiments(experiments, name)
    return name


def test_of_several_lattices_the_first_has_the_pixels_and_the_spots_of_all_are_masked(work):
    expt = second_lattice(work)
    run_extract(expt, "output.reflections=two.refl")
    run_extract(str(work / "truth_stills.expt"), "output.reflections=one.refl", "output.stills=one.csv")
    two, one = rows("two"), rows("one")
    assert sorted(set(two["id"])) == [0, 2, 4]
    assert np.array_equal(two["counts"], one["counts"])
    assert np.all(two["bragg"][one["bragg"]]) and two["bragg"].sum() > 1.5 * one["bragg"].sum()
    with open("stills.csv") as handle:
        lines = [line for line in csv.DictReader(handle)]
    assert [line["status"] for line in lines[:6]] == ["ok", "skipped"] * 3
    with pytest.raises(Sorry, match="3 images have more than one lattice"):
        run_extract(expt, "lattices=refuse")


def test_the_background_of_a_still_is_estimated_beside_the_spots_of_all_its_lattices(work, assert_same_sums):
    """By both engines; other pixels make the profile than beside the spots of the first lattice alone."""
    expt = second_lattice(work)
    for name, stills, engine in (("one", work / "truth_stills.expt", "numba"), ("two", expt, "numba"),
                                 ("numpy", expt, "numpy")):  # fmt: skip
        grid.run([str(stills), "d_min=2.5", "radius=0.02", "background_method=radial", f"engine={engine}",
                  f"output.reflections={name}.refl", f"output.radial_totals={name}_totals.refl"])  # fmt: skip
    for name in ("{}.refl", "{}_totals.refl"):
        assert_same_sums(name.format("numpy"), name.format("two"))
    one, two = load_table("one.refl"), load_table("two.refl")
    assert set(two["id"]) == {0, 2, 4}
    for number in range(3):
        mine, other = one["id"] == number, two["id"] == 2 * number
        assert two["counts"][other].sum() == one["counts"][mine].sum()
        assert two["bragg"][other].sum() > one["bragg"][mine].sum()
        assert two["background"][other].sum() != one["background"][mine].sum()


def test_the_same_lattice_of_an_image_given_twice_is_refused(work):
    experiments = load_experiments(work / "truth_stills.expt")
    for number, experiment in enumerate(experiments):
        experiment.identifier = f"again-{number}"
    save_experiments(experiments, "again.expt")
    with pytest.raises(Sorry, match="given twice with the same lattice"):
        extract.run([str(work / "truth_stills.expt"), "again.expt"])


def test_blocks_bound_the_files_and_no_number_depends_on_them_or_on_the_processes(work, monkeypatch):
    run_extract(str(work / "truth_stills.expt"), "output.reflections=one.refl")
    monkeypatch.setattr(pixel_files, "ROWS_PER_FILE", 250_000)
    for stem, nproc in (("blocks", 1), ("processes", 2)):
        run_extract(str(work / "truth_stills.expt"), f"output.reflections={stem}.refl", f"mp.nproc={nproc}")
        names = sorted(Path().glob(f"{stem}_*.refl"))
        assert len(names) == 3
        assert all(len(set(load_table(str(name))["id"])) == 1 for name in names)
        one, blocks = rows("one"), rows(stem)
        for column in one:
            assert np.array_equal(one[column], blocks[column])


def test_a_cut_on_photons_is_applied_and_its_bias_is_said(work, caplog):
    run_extract(str(work / "truth_stills.expt"), "photons_range=1,50")
    assert "means are biased" in caplog.text
    table = rows()
    assert table["counts"].min() == 1 and table["counts"].max() <= 50
    with pytest.raises(Sorry, match="smaller number comes first"):
        run_extract(str(work / "truth_stills.expt"), "photons_range=5,1")
