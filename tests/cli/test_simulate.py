"""diffuse.simulate: images that dxtbx opens, the same for every number of processes."""

from __future__ import annotations

import hashlib

import iotbx.pdb
import numpy as np
import pytest
from dials.util import Sorry
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx import mtz

from diffuse_dials.adapters.images import read_image
from diffuse_dials.cli import simulate

MODEL = """\
CRYST1   30.000   30.000   25.000  90.00  90.00  90.00 P 43 21 2
ATOM      1  C   ALA A   1       5.000   6.000   7.000  1.00  0.00           C
ATOM      2  N   ALA A   1       6.400   6.300   7.200  1.00  0.00           N
ATOM      3  O   ALA A   1       8.000   9.000   4.000  1.00  0.00           O
END
"""
SMALL = ["small.pdb", "n_stills=3", "n_blanks=2", "modules=1,1", "distance=60", "truth.d_min=3", "photons_per_pixel=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.pdb").write_text(MODEL)
    return tmp_path


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*/*.cbf"))}


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(folder):
    simulate.run([*SMALL, "output.directory=one"])
    simulate.run([*SMALL, "output.directory=two", "mp.nproc=2"])
    simulate.run([*SMALL, "output.directory=other", "seed=5"])
    assert len(digests(folder / "one")) == 5
    assert digests(folder / "one") == digests(folder / "two")
    assert digests(folder / "one") != digests(folder / "other")


def test_dxtbx_opens_the_images_as_stills_of_a_sensor_with_parallax(folder):
    simulate.run([*SMALL, "output.directory=."])
    names = [str(p) for p in sorted((folder / "images").glob("*.cbf"))]
    experiments = ExperimentListFactory.from_filenames(names)
    panel = experiments[0].detector[0]
    assert type(panel.get_px_mm_strategy()).__name__ == "ParallaxCorrectedPxMmStrategy"
    assert panel.get_image_size() == (487, 195)
    assert experiments[0].scan is None or experiments[0].scan.get_oscillation()[1] == 0
    assert experiments[0].beam.get_wavelength() == pytest.approx(0.98)


def test_blanks_of_one_exposure_differ_by_poisson_noise_alone(folder):
    """Statistics: the variance of the difference of two counts is their sum; background only, no crystal."""
    simulate.run([*SMALL, "output.directory=."])
    first, second = (read_image(str(folder / "blanks" / f"blank_{i:05d}.cbf"), 0)[0].astype(float) for i in (1, 2))
    good = (first >= 0) & (second >= 0) & (first + second < 200)
    ratio = np.sum((first - second)[good] ** 2) / np.sum((first + second)[good])
    assert ratio == pytest.approx(1, abs=5 * np.sqrt(2 / good.sum()) + 0.01)


def test_mistakes_get_one_line(folder):
    with pytest.raises(Sorry, match="nowhere.pdb"):
        simulate.run(["nowhere.pdb", *SMALL[1:]])
    with pytest.raises(Sorry, match="scale_range=3,1 must be"):
        simulate.run(["n_stills=1", "scale_range=3,1", "output.directory=refused"])
    assert not (folder / "refused").exists()


def test_the_true_bragg_peaks_are_those_of_the_structure(folder):
    """Expected: F by direct summation over the three atoms, times the Debye-Waller factor of b_factor; the FFT at B = 0
    is good to 1 % of the largest."""
    simulate.run([*SMALL, "output.directory=.", "b_factor=12"])
    written = mtz.object("truth_bragg.mtz").as_miller_arrays()[0]
    structure = iotbx.pdb.input(file_name="small.pdb").xray_structure_simple()
    structure.set_b_iso(value=12.0)
    structure.scattering_type_registry(table="wk1995")
    expected = written.structure_factors_from_scatterers(structure, algorithm="direct").f_calc().as_amplitude_array()
    np.testing.assert_allclose(written.data(), expected.data(), atol=0.01 * max(expected.data()))


@pytest.mark.parametrize(
    "parameter, words",
    [
        ("n_stills=1e9", "n_stills element is greater than the maximum allowed value"),
        ("photons_per_pixel=1e30", "photons_per_pixel element is greater than the maximum allowed value"),
        ("photons_per_pixel=0", "photons_per_pixel element is less than the minimum allowed value"),
        ("exposure_time=inf", "stills.exposure_time element is greater than the maximum allowed value"),
        ('exposure_time=""', "stills.exposure_time= is empty: give numbers, or leave the parameter out."),
        ('blank_exposure_time=""', "background.blank_exposure_time= is empty: give numbers, or leave"),
        ("b_factor=1e30", "disorder.b_factor element is greater than the maximum allowed value"),
        ("correlation_length=1e30", "disorder.correlation_length element is greater than the maximum allowed value"),
        ("mosaic_rms=1e9", "bragg.mosaic_rms element is greater than the maximum allowed value"),
        ("distance=1e300", "detector.distance element is greater than the maximum allowed value"),
        ("beam_centre=inf,1", "detector.beam_centre element is greater than the maximum allowed value"),
        ("count_cutoff=1e30", "detector.count_cutoff element is greater than the maximum allowed value"),
        ("beamstop_radius=1e9", "No pixel of the detector measures. Use a smaller detector.beamstop_radius"),
        ("generate.unit_cell=1,2", "generate.unit_cell=1,2,1,90,90,90 is no unit cell of a crystal: its edges must be"),
        ("truth.d_max=1", "truth.d_min=3 must be smaller than truth.d_max=1 (both in Å)."),
        ("model=other.pdb", "small.pdb and model=other.pdb are both models. Give one."),
    ],
)  # fmt: skip
def test_absurd_values_are_refused_before_a_file_is_written(parameter, words, folder):
    (folder / "other.pdb").write_text(MODEL)
    with pytest.raises(Sorry) as stop:
        simulate.run([*SMALL, "output.directory=new", parameter])
    assert words in str(stop.value) and "\n" not in str(stop.value)
    assert not (folder / "new").exists()


def test_limits_without_a_voxel_and_too_many_photons_say_which_parameters_to_change(folder):
    """What is known only when the model is."""
    for parameters, words in (
        (["truth.d_min=500"], "truth.d_min=500.0 and truth.d_max=None leave no voxel on this detector, which reaches"),
        (["absolute_constant=1e15", "exposure_time=1e6"], "photons. Use a smaller photons_per_pixel, absolute"),
    ):  # fmt: skip
        with pytest.raises(Sorry, match=words):
            simulate.run([*SMALL[:-2], "truth.d_min=3", *parameters, "output.directory=new", "output.overwrite=True"])
