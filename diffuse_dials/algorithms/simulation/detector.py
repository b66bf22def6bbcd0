"""A photon-counting detector of Pilatus modules: where its pixels are, which of them work, and how they respond."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import iotbx.phil
import numpy as np
from dxtbx.format import Registry
from libtbx import Auto

from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.adapters.scattering import air_attenuation
from diffuse_dials.algorithms.simulation.images import Header, encode
from diffuse_dials.kernels import physics
from diffuse_dials.models.geometry import PixelGeometry

MODULE = (195, 487)  # (slow, fast) pixels of a Pilatus module
GAP = (17, 7)  # pixels between modules
_PIXELS = 7  # stream of random numbers that places bad pixels

phil_scope = iotbx.phil.parse(
    """
detector {
  distance = 150
    .type = float(value_min=10, value_max=100000)
    .help = "From the crystal to the detector (mm)."
  modules = 2,5
    .type = ints(size=2, value_min=1, value_max=50)
    .help = "Pilatus modules along fast and slow: 2,5 is a Pilatus 1M (981 x 1043 pixels), 1,1 a 100K (487 x 195)."
  pixel_size = 0.172
    .type = float(value_min=0.01, value_max=10)
    .help = "Edge of a pixel (mm)."
  beam_centre = Auto
    .type = floats(size=2, value_min=-1000000, value_max=1000000)
    .help = "Beam centre (fast, slow), pixels. Auto: the middle of the detector."
  thickness = 0.32
    .type = float(value_min=0.01, value_max=100)
    .help = "Of the silicon sensor (mm). Sets efficiency and parallax."
  count_cutoff = 1048500
    .type = int(value_min=10, value_max=2147483646)
    .help = "Largest count that a pixel can hold; more than that is an overload."
  point_spread = 0.4
    .type = float(value_min=0.05, value_max=20)
    .help = "Rms width of the point-spread function along fast and slow (pixels); widens Bragg spots."
  beamstop_radius = 3.0
    .type = float(value_min=0)
    .help = "Of the beamstop's shadow around the beam centre (mm); 0: none. Its pixels count nothing."
  n_hot = 30
    .type = int(value_min=0)
    .help = "Pixels that count without light."
  hot_rate = 3000
    .type = float(value_min=0, value_max=1000000000)
    .help = "Median count rate of hot pixels (1/s); single ones differ by up to a factor of 10."
  n_dead = 30
    .type = int(value_min=0)
    .help = "Pixels that always count 0."
}
beam {
  wavelength = 0.98
    .type = float(value_min=0.1, value_max=5)
    .help = "Å."
  polarization_fraction = 0.999
    .type = float(value_min=0, value_max=1)
    .help = "Degree of polarization; image headers do not carry it to DIALS, which assumes 0.999."
  polarization_normal = 0,1,0
    .type = floats(size=3)
    .help = "Normal of the plane of polarization in the laboratory."
}
air {
  path = Auto
    .type = float(value_min=0)
    .help = "Air between crystal and detector (mm); the rest is vacuum. Auto: the whole path of each pixel."
  temperature = 293.15
    .type = float(value_min=50, value_max=1000)
    .help = "K."
  pressure = 101325
    .type = float(value_min=0, value_max=10000000)
    .help = "Pa; 0 is vacuum."
}
"""
)


@dataclass(frozen=True)
class Camera:
    """The detector as dxtbx models it when it opens the images, and what each pixel does with light.

    Attributes:
        panel: dxtbx panel (px→mm strategy with parallax).
        beam: dxtbx beam.
        geometry: Directions of the pixel centres.
        header: What every image says of the detector.
        optics: P·ε·T of each pixel, 0 where no light counts (gap, beamstop, dead), shape (n_pixels,).
        solid_angle: Ω, shape (n_pixels,), sr.
        hot: Counts per second without light, shape (n_pixels,).
        gap: True between the modules, where the image holds -1, shape (n_pixels,), bool.
        good: True for pixels that measure, shape (n_pixels,), bool.
        s: |s| of each pixel, shape (n_pixels,), 1/Å.
        point_spread: Rms width, pixels.
    """

    panel: object
    beam: object
    geometry: PixelGeometry
    header: Header
    optics: np.ndarray
    solid_angle: np.ndarray
    hot: np.ndarray
    gap: np.ndarray
    good: np.ndarray
    s: np.ndarray
    point_spread: float

    @property
    def response(self) -> np.ndarray:
        """Ω·P·ε·T of each pixel, shape (n_pixels,), sr."""
        return self.optics * self.solid_angle

    def scattering_vectors(self) -> np.ndarray:
        """s = s1 - s0 of the pixel centres, shape (n_pixels, 3), 1/Å."""
        return self.geometry.s_vectors(self.header.wavelength)


def panel_shape(modules) -> tuple[int, int]:
    """(slow, fast) pixels of a detector of (fast, slow) modules."""
    return tuple(n * size + (n - 1) * gap for n, size, gap in zip(reversed(tuple(modules)), MODULE, GAP))


def gap_mask(shape: tuple[int, int]) -> np.ndarray:
    """True between the modules, shape (slow, fast), bool."""
    slow, fast = (np.arange(n) % (size + gap) >= size for n, size, gap in zip(shape, MODULE, GAP))
    return slow[:, None] | fast[None, :]


def build_camera(params, seed: int) -> Camera:
    """Write a trial image, let dxtbx open it, and work out the response of the pixels it then sees.

    Args:
        params: Extract of ``phil_scope``.
        seed: Of the places of hot and dead pixels.

    Raises:
        ValueError: If the polarization normal is 0, or no pixel measures.
    """
    header = _header(params)
    with TemporaryDirectory() as directory:
        trial = Path(directory) / "trial_00001.cbf"
        trial.write_bytes(encode(np.zeros(header.shape, dtype=np.int32), header, 0, 1.0))
        image = Registry.get_format_class_for_file(str(trial))(str(trial))
        panel, beam = image.get_detector()[0], image.get_beam()
    normal = np.array(params.beam.polarization_normal, dtype=float)
    if not np.linalg.norm(normal):
        raise ValueError("beam.polarization_normal=0,0,0 is no direction. Give the normal of the plane, such as 0,1,0.")
    beam.set_polarization_fraction(params.beam.polarization_fraction)
    beam.set_polarization_normal(tuple(normal / np.linalg.norm(normal)))
    geometry = pixel_geometry(panel, beam_direction(beam))
    gap = gap_mask(header.shape).ravel()
    shadow = _shadow(header, params.detector.beamstop_radius)
    rng = np.random.default_rng([seed, _PIXELS])
    bad = rng.permutation(np.flatnonzero(~gap & ~shadow))[: params.detector.n_hot + params.detector.n_dead]
    hot = np.zeros(gap.size)
    n_hot = min(params.detector.n_hot, len(bad))
    hot[bad[:n_hot]] = params.detector.hot_rate * 10 ** rng.uniform(-1, 1, n_hot)
    blind = gap | shadow
    blind[bad[n_hot:]] = True
    good = ~blind
    good[bad[:n_hot]] = False
    if not good.any():
        raise ValueError("No pixel of the detector measures. Use a smaller detector.beamstop_radius, n_hot or n_dead.")
    return Camera(
        panel=panel,
        beam=beam,
        geometry=geometry,
        header=header,
        optics=np.where(blind, 0.0, _optics(geometry, panel, beam, params.air)),
        solid_angle=physics.solid_angle(geometry.distance, geometry.cos_obliquity, geometry.pixel_area),
        hot=hot,
        gap=gap,
        good=good,
        s=geometry.s_lengths(header.wavelength),
        point_spread=params.detector.point_spread,
    )


def _optics(geometry, panel, beam, air) -> np.ndarray:
    """P·ε·T of each pixel."""
    normal, fraction = np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
    polarization = physics.polarization(geometry.direction, geometry.beam_direction, normal, fraction)
    efficiency = physics.sensor_efficiency(geometry.cos_obliquity, panel.get_mu(), panel.get_thickness())
    if air.pressure == 0 or air.path == 0:
        return polarization * efficiency
    path = geometry.distance if air.path in (None, Auto) else np.minimum(air.path, geometry.distance)
    mu = air_attenuation(beam.get_wavelength(), air.temperature, air.pressure)
    return polarization * efficiency * physics.transmission(path, mu)


def _shadow(header, radius: float) -> np.ndarray:
    """True for pixels whose centre lies behind the beamstop, shape (n_pixels,), bool."""
    slow, fast = np.mgrid[0 : header.shape[0], 0 : header.shape[1]] + 0.5
    away = np.hypot(fast - header.beam_centre[0], slow - header.beam_centre[1]) * header.pixel_size
    return (away <= radius).ravel() if radius else np.zeros(away.size, dtype=bool)


def _header(params) -> Header:
    detector = params.detector
    shape = panel_shape(detector.modules)
    centre = detector.beam_centre
    if centre in (None, Auto):
        centre = (shape[1] / 2, shape[0] / 2)
    return Header(
        shape=shape,
        pixel_size=detector.pixel_size,
        thickness=detector.thickness,
        distance=detector.distance,
        beam_centre=tuple(centre),
        wavelength=params.beam.wavelength,
        count_cutoff=detector.count_cutoff,
        polarization=params.beam.polarization_fraction,
        name="PILATUS of {} x {} modules".format(*detector.modules),
    )
