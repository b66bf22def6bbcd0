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
