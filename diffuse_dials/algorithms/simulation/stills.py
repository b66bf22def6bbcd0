"""Still images: a random orientation, a scale and an exposure for each, and the counts that its pixels get."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import log

import iotbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters.scattering import incoherent
from diffuse_dials.algorithms.simulation.bragg import Mosaicity, deposit, excite
from diffuse_dials.algorithms.simulation.detector import Camera
from diffuse_dials.algorithms.simulation.llm import DiffuseTruth, liquid_like_motions, resolution_needed
from diffuse_dials.algorithms.simulation.model import CrystalModel

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = iotbx.phil.parse(
    """
n_stills = 60
  .type = int(value_min=0, value_max=1000000)
  .help = "Images of the crystal."
n_blanks = 10
  .type = int(value_min=0, value_max=1000000)
  .help = "Images of the background alone."
photons_per_pixel = 20
  .type = float(value_min=1e-6, value_max=1000000)
  .help = "Mean diffuse photons (Compton scattering included, Bragg and background not) per good pixel of a still of"
          "scale 1 and mean exposure time."
absolute_constant = None
  .type = float(value_min=1e-12, value_max=1e15)
  .help = "Photons per steradian, second and e² at scale 1, in place of photons_per_pixel."
stills {
  scale_range = 0.3,3
    .type = floats(size=2, value_min=0, value_max=1000000)
    .help = "Limits of the scales of the stills; their logarithms are uniform."
  exposure_time = 0.1
    .type = floats(value_min=1e-6, value_max=1000000)
    .help = "Seconds; of several values the stills take one after the other."
  cell_jitter = 0
    .type = float(value_min=0, value_max=0.02)
    .help = "Relative rms scatter of the cell axes from still to still."
  compton = True
    .type = bool
    .help = "Add the incoherent scattering of all atoms."
}
background {
  ratio = 1
    .type = float(value_min=0, value_max=1000000)
    .help = "Of the background to the diffuse scattering of a still of scale 1, at the water ring (0.3/Å). It grows"
            "with the exposure time and not with the scale."
  jitter = 0
    .type = float(value_min=0, value_max=0.5)
    .help = "Relative rms scatter of the background from image to image."
  blank_exposure_time = Auto
    .type = floats(value_min=1e-6, value_max=1000000)
    .help = "Seconds, as stills.exposure_time, which Auto takes."
}
"""
)

WATER_RING = 0.3  # 1/Å
_STILL, _BLANK = 1, 2  # streams of random numbers
_S_STEP = 0.002  # 1/Å, of radial curves
_MOST_PHOTONS = 1e15  # of a pixel; Poisson numbers end at 9e18


@dataclass(frozen=True)
class Shot:
    """What distinguishes one image from the others.

    Attributes:
        number: From 0, stills and blanks each on their own.
        blank: Whether there is no crystal.
        scale: b, 0 for a blank.
        exposure_time: s.
        background: Factor on the background.
        setting: A = U B, shape (3, 3), 1/Å.
        rng: Random numbers left for counting noise.
    """

    number: int
    blank: bool
    scale: float
    exposure_time: float
    background: float
    setting: np.ndarray
    rng: np.random.Generator


@dataclass(frozen=True)
class Scene:
    """Everything that the images of a run share.

    Attributes:
        camera: The detector.
        model: The crystal's atoms.
        truth: Its diffuse scattering.
        hkl: Miller indices of the Bragg reflections, all of reciprocal space, shape (n, 3), float64.
        bragg: Their e^{-x}|F|², shape (n,), e².
        incoherent: Of each pixel, shape (n_pixels,), e² per cell.
        background: Photons per second of each pixel, shape (n_pixels,).
        constant: K, photons per steradian, second and e² at scale 1.
        params: Extract of ``phil_scope`` and of the scopes of the modules it uses.
    """

    camera: Camera
    model: CrystalModel
    truth: DiffuseTruth
    hkl: np.ndarray
    bragg: np.ndarray
    incoherent: np.ndarray
    background: np.ndarray
    constant: float
    params: object

    def shot(self, number: int, blank: bool = False) -> Shot:
        """Draw what distinguishes an image; the same for the same seed, whichever other images are made."""
        params = self.params
        rng = np.random.default_rng([params.seed, _BLANK if blank else _STILL, number])
        low, high = params.stills.scale_range
        scale = 0.0 if blank else float(np.exp(rng.uniform(log(low), log(high))))
        times = params.stills.exposure_time
        if blank and params.background.blank_exposure_time not in (None, Auto):
            times = params.background.blank_exposure_time
        background = max(0.0, 1 + params.background.jitter * rng.standard_normal())
        setting = random_rotation(rng) @ self._reciprocal(rng)
        return Shot(number, blank, scale, float(times[number % len(times)]), background, setting, rng)

    def _reciprocal(self, rng):
        """B of a still, its cell scattered as the symmetry allows."""
        cell = self.model.unit_cell
        noise = 1 + self.params.stills.cell_jitter * rng.standard_normal(3)
        edges = [length * factor for length, factor in zip(cell.parameters()[:3], noise)]
        cell = self.model.space_group.average_unit_cell(type(cell)((*edges, *cell.parameters()[3:])))
        return np.array(cell.fractionalization_matrix()).reshape(3, 3).T

    def expected(self, shot: Shot) -> np.ndarray:
        """Mean counts of each pixel, noise and gaps apart, shape (slow, fast)."""
        camera = self.camera
        shape = camera.header.shape
        rate = (self.background * shot.background + camera.hot).reshape(shape)
        if shot.blank:
            return rate * shot.exposure_time
        hkl = camera.scattering_vectors() @ np.linalg.inv(shot.setting).T
        diffuse = (self.truth.at(hkl) + self.incoherent) * camera.solid_angle
        spots = np.zeros(shape)
        self.add_spots(spots, shot)
        crystal = (diffuse.reshape(shape) + spots) * camera.optics.reshape(shape)
        return (self.constant * shot.scale * crystal + rate) * shot.exposure_time

    def add_spots(self, image: np.ndarray, shot: Shot) -> None:
        """Add the Bragg spots to an image, in e² sr (photons before K, scale, exposure and P·ε·T)."""
        wavelength, panel = self.camera.header.wavelength, self.camera.panel
        s0 = np.array(self.camera.beam.get_s0())
        spots = excite(self.hkl, shot.setting, s0, Mosaicity.from_phil(self.params.bragg))
        strength = wavelength**2 / self.model.unit_cell.volume() * self.bragg[spots.number] * spots.g
        deposit(image, panel, spots, strength, self.camera.point_spread)

    def counts(self, shot: Shot) -> np.ndarray:
        """The image: Poisson counts, -1 in the gaps, shape (slow, fast), int32."""
        expected = self.expected(shot)
        if not expected.max() < _MOST_PHOTONS:
            raise ValueError(
                f"A pixel would get {expected.max():.3g} photons. Use a smaller photons_per_pixel, absolute_constant, "
                "background.ratio, detector.hot_rate or exposure time."
            )
        counts = shot.rng.poisson(expected)
        # one above the cutoff is untrusted whether the trusted range includes its ends or not
        counts = np.minimum(counts, self.params.detector.count_cutoff + 1).astype(np.int32)
        counts[self.camera.gap.reshape(counts.shape)] = -1
        return counts


def check_ranges(params) -> None:
    """Refuse ranges that are none.

    Args:
        params: Extract of diffuse.simulate.

    Raises:
        ValueError: If the ends of the scales or of the true map are in the wrong order.
    """
    low, high = params.stills.scale_range
    if not 0 < low <= high:
        raise ValueError(f"stills.scale_range={low:g},{high:g} must be two positive numbers, the smaller one first.")
    low, high = params.truth.d_min, params.truth.d_max
    if None not in (low, high) and low >= high:
        raise ValueError(f"truth.d_min={low:g} must be smaller than truth.d_max={high:g} (both in Å).")


def build_scene(params, model: CrystalModel, camera: Camera, nproc: int = 1) -> Scene:
    """Work out what all images share: response of the pixels, structure factors, diffuse map, K.

    Args:
        params: Extract of ``phil_scope`` and of the scopes of the modules it uses, and ``seed``.
        model: The crystal.
        camera: The detector, of the same parameters.
        nproc: Threads of the Fourier transforms.

    Raises:
        ValueError: If the diffuse map would not fit into memory.
    """
    s_max = float(camera.s.max()) * (1 + 5 * params.stills.cell_jitter)
    hkl, squared = intensities(model, resolution_needed(s_max, params.disorder.correlation_length))
    truth = liquid_like_motions((hkl, squared), model.unit_cell, params.disorder, nproc)
    reflections = np.any(hkl != 0, axis=1) & (squared > 0)
    hkl, squared = hkl[reflections], squared[reflections]
    s = np.linalg.norm(hkl @ truth.reciprocal.T, axis=1)
    near = s < s_max + 0.02
    bragg = squared[near] * np.exp(-params.disorder.b_factor * s[near] ** 2 / 2)
    wavelength = camera.header.wavelength
    table = np.arange(0, max(s_max, WATER_RING) + 2 * _S_STEP, _S_STEP)
    compton = incoherent(model.composition, table, wavelength) * params.stills.compton
    mean = np.interp(table, *truth.radial_mean(0.005)) + compton
    constant = params.absolute_constant
    if constant is None:
        rate = (camera.response * np.interp(camera.s, table, mean))[camera.good].mean()
        constant = params.photons_per_pixel / (rate * np.mean(params.stills.exposure_time))
    at_ring = float(np.interp(WATER_RING, table, mean))
    background = constant * params.background.ratio * at_ring * background_profile(camera.s) * camera.response
    logger.info("K = %.6g photons/(sr s e²), diffuse scattering at the water ring %.4g e² per cell", constant, at_ring)
    return Scene(
        camera=camera,
        model=model,
        truth=truth,
        hkl=hkl[near].astype(float),
        bragg=bragg,
        incoherent=np.interp(camera.s, table, compton),
        background=background,
        constant=constant,
        params=params,
    )


def intensities(model: CrystalModel, d_min: float) -> tuple[np.ndarray, np.ndarray]:
    """|F|² at B = 0 of all reflections to ``d_min`` (Å), (0, 0, 0) included, in all of reciprocal space.

    Form factors are those of Waasmaier & Kirfel (1995), without anomalous terms.

    Returns:
        (hkl, squared): shape (n, 3), int; shape (n,), e².
    """
    structure = model.structure.deep_copy_scatterers()
    structure.scattering_type_registry(table="wk1995")
    amplitudes = structure.structure_factors(d_min=d_min, algorithm="fft", quality_factor=10000).f_calc()
    amplitudes = amplitudes.as_amplitude_array().expand_to_p1()
    hkl = np.rint(amplitudes.indices().as_vec3_double().as_numpy_array()).astype(int)
    squared = amplitudes.data().as_numpy_array() ** 2
    forward = structure.f_000() ** 2
    return np.concatenate([hkl, -hkl, np.zeros((1, 3), dtype=int)]), np.concatenate([squared, squared, [forward]])


def background_profile(s) -> np.ndarray:
    """Shape of the background: air, falling with |s|, and a ring of water; 1 at 0.3/Å.

    Args:
        s: |s|, any shape, 1/Å.
    """

    def curve(s):
        return np.exp(-s / 0.08) * 2 + np.exp(-((s - WATER_RING) ** 2) / (2 * 0.06**2)) + 0.5 * np.exp(-(s**2) / 0.8**2)

    return curve(np.asarray(s, dtype=float)) / curve(WATER_RING)


def random_rotation(rng) -> np.ndarray:
    """A rotation matrix, all orientations equally likely [Shoemake (1992) Graphics Gems III, 124]."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
