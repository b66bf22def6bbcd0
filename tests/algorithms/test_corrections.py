"""Corrections as users choose them: their factors against the reference tables, their switches, a plug-in's factor."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dxtbx.model import BeamFactory, Detector, Experiment

from diffuse_dials.adapters import scattering
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.corrections import choose_corrections, phil_scope, total_response
from diffuse_dials.algorithms.corrections.air import Window
from diffuse_dials.algorithms.corrections.maps import factor_maps

NAMES = ("solid_angle", "polarization", "sensor_efficiency", "air")


def parameters(text=""):
    from libtbx.phil import parse

    return phil_scope.fetch(parse(f"corrections {{ {text}\n }}")).extract().corrections


def flat_detector(distance=100.0, wavelength=1.0, mu=4.0, thickness=0.32, n=401, fraction=0.5):
    """A panel across the beam, whose centre pixel the beam hits and whose middle edges are at 45°."""
    detector, size = Detector(), 2 * distance / (n - 1)
    panel = detector.add_panel()
    edge = n * size / 2
    panel.set_frame((1, 0, 0), (0, -1, 0), (-edge, edge, -distance))
    panel.set_pixel_size((size, size))
    panel.set_image_size((n, n))
    panel.set_mu(mu)
    panel.set_thickness(thickness)
    beam = BeamFactory.make_polarized_beam(
        sample_to_source=(0, 0, 1), wavelength=wavelength, polarization=(0, 1, 0), polarization_fraction=fraction
    )
    return Experiment(beam=beam, detector=detector)


def factor_at_45_over_axis(experiment, text):
    """Factor of the one correction that is switched on, at the edge over the middle of a flat detector."""
    off = "; ".join(f"{name}.apply=False" for name in NAMES if name not in text)
    chosen, _ = choose_corrections(parameters(f"{off}; {text}"), experiment)
    (factor, _) = factor_maps(chosen, experiment)
    geometry = pixel_geometry(experiment.detector[0], beam_direction(experiment.beam))
    values = chosen[0].response(0, geometry, experiment.beam.get_wavelength()).reshape(401, 401)
    assert factor.range[0] <= values.min() * 1.001 and factor.range[1] >= values.max() * 0.999
    return values[200, 400] / values[200, 200]


def test_solid_angle_falls_with_the_third_power_of_the_cosine():
    """Analytic, flat panel: cos³ 45° = 0.3536."""
    assert factor_at_45_over_axis(flat_detector(), "solid_angle.apply=True") == pytest.approx(2**-1.5, rel=1e-9)


@pytest.mark.parametrize("text, expected", [
    ("", 0.75), ("polarization.fraction=0.999", 0.5005),
    ("polarization.fraction=0.999; polarization.normal=1,0,0", 0.9995),
])  # fmt: skip
def test_polarization_at_45_degrees_is_that_of_the_model_or_of_the_parameters(text, expected):
    """By the formula: unpolarized 3/4; p = 0.999 in the plane 0.5005, across it 0.9995."""
    found = factor_at_45_over_axis(flat_detector(), f"polarization.apply=True; {text}")
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("thickness, expected", [(0.32, 1.150), (0.45, 1.096)])
def test_a_slanting_ray_finds_more_silicon(thickness, expected):
    """At 12.398 keV: ε(45°)/ε(0°) of 0.32 and 0.45 mm, by the tables of the adapter."""
    text = f"sensor_efficiency.material=Si; sensor_efficiency.thickness={thickness}"
    # the reference is for rays without parallax, which the panel's model would move by a pixel
    assert factor_at_45_over_axis(flat_detector(mu=0, thickness=0), text) == pytest.approx(expected, rel=5e-3)


def test_air_at_45_degrees_is_the_reference_at_every_wavelength_and_distance(reference):
    with open(reference("air_attenuation.csv")) as handle:
        for row in csv.DictReader(handle):
            experiment = flat_detector(float(row["path_mm"]), float(row["wavelength_A"]), mu=0, thickness=0)
            expected = 1 / float(row["relative_multiplier_at_45deg_vs_axis_flat_detector"])
            found = factor_at_45_over_axis(experiment, "air.apply=True")
            assert found == pytest.approx(expected, abs=0.02 * (1 - expected))


def test_helium_and_vacuum_replace_air_along_a_part_of_each_ray():
    """Analytic: exp(-μ L) of what is left, 300 mm with 200 mm of vacuum or helium."""
    experiment = flat_detector(300.0, 1.3)
    mu = scattering.air_attenuation(1.3)
    helium = scattering.attenuation("He", 1.3, density=4.002602 * 101325 / (8.314462618 * 293.15) * 1e-6)
    off = "solid_angle.apply=False; polarization.apply=False; sensor_efficiency.apply=False"
    for text, exponent in (
        ("", 300 * mu), ("air.path=vacuum", 0), ("air.path=vacuum; air.length=200", 100 * mu),
        ("air.path=helium; air.length=200", 100 * mu + 200 * helium), ("air.path=helium", 300 * helium),
        ("air.pressure=50662.5", 150 * mu), ("air.temperature=586.3", 150 * mu),
    ):  # fmt: skip
        (air,), record = choose_corrections(parameters(f"{off}; {text}"), experiment)
        geometry = pixel_geometry(experiment.detector[0], beam_direction(experiment.beam))
        centre = air.response(0, geometry, 1.3).reshape(401, 401)[200, 200]
        assert centre == pytest.approx(np.exp(-exponent), rel=1e-6)
    with pytest.raises(ValueError, match="length=200"):
        choose_corrections(parameters("air.length=200"), experiment)


def test_a_window_is_crossed_at_the_angle_at_which_it_lies():
    """Analytic: thickness/cos 45° where it is flat, the thickness where it is a sphere."""
    mu = scattering.attenuation("kapton", 1.3)
    for lie, path in (("", 2**0.5), ("detector", 2**0.5), ("sphere", 1.0)):
        experiment = flat_detector(wavelength=1.3, mu=0, thickness=0)
        found = factor_at_45_over_axis(experiment, f"air.path=vacuum; air.window='kapton 0.3 {lie}'")
        assert found == pytest.approx(np.exp(-mu * 0.3 * (path - 1)), rel=1e-9)
    assert Window.parse("Be 0.5 1.85 sphere") == Window("Be", 0.5, 1.85, "sphere")
    for wrong in ("kapton", "kapton thin", "kapton -1", "kapton 0.1 1.4 2"):
        with pytest.raises(ValueError, match="must be a material"):
            Window.parse(wrong)
    with pytest.raises(ValueError, match="no material"):
        choose_corrections(parameters("air.window='cheese 1'"), flat_detector())


def test_all_factors_together_are_the_reference_at_off_bragg_pixels_of_a_tilted_panel(reference):
    """pixel_corrections.json; its panel has no parallax, so the sensor is given as a correction, not in the model."""
    data = json.loads(reference("pixel_corrections.json").read_text())
    model, detector = data["panel"], Detector()
    panel = detector.add_panel()
    panel.set_frame(model["fast"], model["slow"], model["origin"])
    panel.set_pixel_size((model["pixel_size"],) * 2)
    largest = np.max([pixel["pixel_fast_slow_index"] for pixel in data["pixels"]], axis=0) + 1
    panel.set_image_size(tuple(int(n) for n in largest))
    beam = BeamFactory.make_polarized_beam(
        sample_to_source=(0, 0, 1), wavelength=data["wavelength"], polarization=tuple(data["polarization_normal"]),
        polarization_fraction=data["polarization_fraction"],
    )  # fmt: skip
    experiment = Experiment(beam=beam, detector=detector)
    text = f"sensor_efficiency.material=Si; sensor_efficiency.thickness={model['thickness_mm']}"
    chosen, record = choose_corrections(parameters(text), experiment)
    assert all(record[name]["applied"] for name in NAMES)
    geometry = pixel_geometry(panel, beam_direction(beam))
    response = total_response(chosen, 0, geometry, data["wavelength"]).reshape(geometry.shape)
    mu_air = scattering.air_attenuation(data["wavelength"])
    for pixel in data["pixels"]:
        fast, slow = pixel["pixel_fast_slow_index"]
        # the file's μ of air is rounded and its μ of silicon another table's: 1 % at most in the product
        other_air = np.exp((mu_air - data["mu_air_per_mm"]) * pixel["path_mm"])
        assert response[slow, fast] * other_air == pytest.approx(1 / pixel["total_mult"], rel=2e-3)


def test_a_switch_leaves_a_correction_out_and_says_so():
    experiment = flat_detector(mu=0, thickness=0)
    chosen, record = choose_corrections(parameters("air.apply=False"), experiment)
    assert [c.name for c in chosen] == ["solid_angle", "polarization"]
    assert record["air"] == {"applied": False, "reason": "switched off by the user"}
    assert "thickness" in record["sensor_efficiency"]["reason"]
    with pytest.raises(ValueError, match="sensor_efficiency.apply=True, but"):
        choose_corrections(parameters("sensor_efficiency.apply=True"), experiment)
    with pytest.raises(ValueError, match="perpendicular to the beam"):
        choose_corrections(parameters("polarization.normal=0,0,1"), experiment)


PLUGIN = """
import numpy as np

class Phosphor:
    name = "phosphor"
    phil = "gain_drop = 0.1\\n  .type = float(value_min=0)\\n  .help = Loss per radian of obliquity."

    def __init__(self, gain_drop):
        self.gain_drop = gain_drop

    @classmethod
    def from_phil(cls, params, experiment):
        return cls(params.gain_drop)

    def response(self, panel, pixels, wavelength):
        return 1 - self.gain_drop * np.arccos(pixels.cos_obliquity)

    def describe(self):
        return {"gain_drop": self.gain_drop}
"""
SETUP = """
from setuptools import setup
setup(name="phosphor_correction", version="1.0", py_modules=["phosphor"],
      entry_points={"diffuse_dials.corrections": ["phosphor = phosphor:Phosphor"]})
"""
USE = """
import sys
sys.path.insert(0, {tests!r})
from test_corrections import flat_detector, parameters
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.algorithms.corrections import choose_corrections, total_response
experiment = flat_detector()
geometry = pixel_geometry(experiment.detector[0], beam_direction(experiment.beam))
values = []
for text in ("", "phosphor.gain_drop=0.2", "phosphor.apply=False"):
    chosen, record = choose_corrections(parameters(text), experiment)
    values.append(total_response(chosen, 0, geometry, 1.0).reshape(401, 401)[200, 400])
    print(record["phosphor"])
print(values[0] / values[2], values[1] / values[2])
"""


def test_another_package_registers_a_correction_with_its_parameters_by_an_entry_point(tmp_path):
    """Installed by pip with its own metadata; at the middle of an edge the obliquity is π/4."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "phosphor.py").write_text(PLUGIN)
    (tmp_path / "source" / "setup.py").write_text(SETUP)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    target = ["--target", tmp_path / "site", tmp_path / "source"]
    done = subprocess.run([*install, *target], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot build a package here: {done.stderr[-200:]}")
    assert list((tmp_path / "site").glob("phosphor_correction-1.0*-info/entry_points.txt"))
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    script = path + USE.format(tests=str(Path(__file__).parent))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    default, given, off, ratios = run.stdout.splitlines()[-4:]
    assert default == "{'applied': True, 'gain_drop': 0.1}" and given == "{'applied': True, 'gain_drop': 0.2}"
    assert "switched off" in off
    # parallax of the sensor moves the pixel by half a pixel of 400: the angle by 0.1 %
    expected = [1 - 0.1 * np.pi / 4, 1 - 0.2 * np.pi / 4]
    assert [float(x) for x in ratios.split()] == pytest.approx(expected, rel=1e-3)
