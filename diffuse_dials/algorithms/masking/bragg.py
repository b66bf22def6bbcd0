"""Mask of Bragg spots by distance from the reciprocal lattice.

Every lattice point near the Ewald sphere counts, not only those that were integrated: integrated.refl lacks spots on
bad pixels. Masks by predicted and found spots are in spot_masks.py. A mask tells which pixels pass it: True = use.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from libtbx import Auto

from diffuse_dials.adapters.panels import beam_direction
from diffuse_dials.algorithms.inputs import setting_matrix

# Pixels handled at a time: what fits the processor's cache runs several times faster than a whole panel.
_CHUNK = 16384

SIGMAS_STEP = 0.005  # 1/Å; as the bins of the radial totals
_SIGMAS = 3.0  # where nothing was measured

logger = logging.getLogger(f"dials.{__name__}")


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)


@dataclass(frozen=True)
class LatticeMask:
    """Leaves out pixels whose s is near a reciprocal lattice point.

    The radius of a lattice point, where it is not given, is a multiple k(|s|) of the width σ of a spot,

        σ² = (0.4/D)² + (η|s|)² + σ_spot²,    σ_spot = max(σ_b/λ, point_spread x footprint)

    (lattice points are broadened by the domain size D and the rms mosaicity η; DIALS accepts predictions within
    |Δψ| < d/D + h/2, Sauter et al. (2014) Acta Cryst. D70, 3299, so η = h/2 for its half mosaicity h), σ_b the
    angular size of spots measured by DIALS's profile model, and the footprint of a pixel at distance r,
    pixel size/(λ r). So it follows each still's mosaicity and each panel's pixels; k is the same for all stills:
    measured on some of them (bragg_profile.py), or ``masking.bragg.radius_sigmas``. The radius never grows beyond
    ``largest``, beyond which hardly a pixel would be left.

    Attributes:
        metric: AᵀA of the still's orientation matrix, shape (3, 3), Å⁻².
        centring: Translations of a centred cell, shape (m, 3); lattice points they extinguish are not masked.
        radius: Å⁻¹, or None: from the widths.
        domain_size: D, Å.
        mosaicity: η, rms, radian.
        spot: σ_b/λ, Å⁻¹; 0 where no profile model says it.
        point_spread: Smallest σ of a spot, pixels.
        sigmas: k by |s|, in steps of SIGMAS_STEP from 0, shape (n,); the last holds beyond.
        largest: Upper limit of the radius, Å⁻¹.
        panels: Per panel its pixel size (mm) and its unit normal over its distance from the sample (1/mm).
        s0: Incident wave vector, Å⁻¹.
    """

    metric: np.ndarray
    centring: np.ndarray
    radius: float | None
    domain_size: float
    mosaicity: float
    spot: float
    point_spread: float
    sigmas: np.ndarray
    largest: float
    panels: tuple[tuple[float, np.ndarray], ...]
    s0: np.ndarray
    name: ClassVar[str] = "lattice"
    phil: ClassVar[str] = """
radius = Auto
  .type = float(value_min=0)
  .help = "Distance from a reciprocal lattice point (1/Angstrom) within which method=lattice counts a pixel as Bragg"
          "scattering. Auto: follows the crystal's domain size, its mosaicity times |s|, and the size of the spots."
radius_sigmas = Auto
  .type = float(value_min=0, value_max=1000000)
  .help = "radius=Auto in standard deviations of a spot. A larger value leaves less Bragg intensity and fewer pixels."
          "Auto: measured on the images as a function of |s| (see tolerance); 3 if nothing can be measured."
  .expert_level = 1
largest_fraction = 0.4
  .type = float(value_min=0.01, value_max=0.9)
  .help = "radius=Auto stops growing where it would mask more than this fraction of reciprocal space."
  .expert_level = 1
point_spread = 0.7
  .type = float(value_min=0, value_max=100)
  .help = "Smallest standard deviation of a spot on the detector (pixels), where no profile model has a larger one."
  .expert_level = 1
domain_size = Auto
  .type = float(value_min=1, value_max=1000000000)
  .help = "Size of the coherent domains (Angstrom). Auto: the crystal model's; 1000, with a warning, where it has none."
  .expert_level = 1
half_mosaicity = Auto
  .type = float(value_min=0, value_max=90)
  .help = "Half mosaic angle as DIALS models stills (degrees). Auto: the crystal model's; 0.1, with a warning, where it"
          "has none."
  .expert_level = 1
"""

    @classmethod
    def from_phil(cls, params, experiment, reflections=None) -> LatticeMask:
        """From ``masking.bragg``; the reflections are not needed.

        Raises:
            ValueError: If the still has no crystal, or the radius given covers all reciprocal space.
        """
        need_crystal(cls.name, experiment)
        crystal, beam = experiment.crystal, experiment.beam
        a_matrix = setting_matrix(experiment)
        metric = a_matrix.T @ a_matrix
        distances = distances_in_a_cell(metric)
        radius = None if params.radius is Auto or params.radius is None else params.radius
        if radius is not None and radius >= distances.max():
            cell = " ".join(f"{value:.2f}" for value in crystal.get_unit_cell().parameters())
            raise ValueError(
                f"masking.bragg.radius={radius:g} 1/Å leaves no pixel: no point of reciprocal space is farther than "
                f"{distances.max():.3g} 1/Å from a lattice point of the cell {cell}. "
                "Give a smaller one."
            )
        domain_size, half_mosaicity = mosaic_model(crystal, params)
        sigma_b = experiment.profile.sigma_b(deg=False) if hasattr(experiment.profile, "sigma_b") else 0.0
        wavelength = beam.get_wavelength()
        group = crystal.get_space_group()
        mask = cls(
            metric=metric,
            centring=np.array([group(i, 0, 0).t().as_double() for i in range(1, group.n_ltr())]).reshape(-1, 3),
            radius=radius,
            domain_size=domain_size,
            mosaicity=math.radians(half_mosaicity) / 2,
            spot=sigma_b / wavelength,
            point_spread=params.point_spread,
            sigmas=np.array([_SIGMAS if params.radius_sigmas in (None, Auto) else params.radius_sigmas], dtype=float),
            largest=quantile_in_a_cell(distances, params.largest_fraction),
            panels=tuple(
                (max(p.get_pixel_size()), np.array(p.get_normal()) / p.get_directed_distance())
                for p in experiment.detector
            ),
            s0=beam_direction(beam) / wavelength,
        )
        return mask

    def with_sigmas(self, sigmas: np.ndarray) -> LatticeMask:
        """The same mask with k(|s|) in steps of SIGMAS_STEP, unless a radius was given."""
        return self if self.radius is not None else replace(self, sigmas=np.asarray(sigmas, dtype=float))

    def keep(self, panel: int, shape, s: np.ndarray, hkl: np.ndarray) -> np.ndarray:
        """Which pixels pass the mask.

        Args:
            panel: Number of the panel.
            shape: (slow, fast) of the panel; not needed here.
            s: Scattering vectors of the pixels, shape (n, 3), laboratory, Å⁻¹; any subset of the panel's pixels.
            hkl: Their fractional Miller indices A⁻¹s, shape (n, 3).

        Returns:
            bool, shape (n,), True = use.
        """
        kept = np.empty(len(hkl), dtype=bool)
        for start in range(0, len(hkl), _CHUNK):
            part = slice(start, start + _CHUNK)
            kept[part] = self._keep(panel, s[part], hkl[part])
        return kept

    def _keep(self, panel: int, s: np.ndarray, hkl: np.ndarray) -> np.ndarray:
        offset = hkl - np.rint(hkl)
        masked = np.einsum("ij,ij->i", offset @ self.metric, offset) < self.radius_squared(panel, s)
        if len(self.centring):
            near = np.flatnonzero(masked)
            masked[near] = self._on_lattice(np.rint(hkl[near]))
        return ~masked

    def _on_lattice(self, miller_index: np.ndarray) -> np.ndarray:
        """Whether no centring extinguishes the lattice point, shape (n,)."""
        phase = miller_index @ self.centring.T
        return np.all(np.abs(phase - np.rint(phase)) < 0.01, axis=1)

    def distances(self, hkl: np.ndarray) -> np.ndarray:
        """Distance of each pixel from the nearest lattice point, shape (n,), Å⁻¹; infinite if a centring took it."""
        offset = hkl - np.rint(hkl)
        r = np.sqrt(np.einsum("ij,ij->i", offset @ self.metric, offset))
        return np.where(self._on_lattice(np.rint(hkl)), r, np.inf) if len(self.centring) else r

    def width_squared(self, panel: int, s: np.ndarray) -> np.ndarray:
        """σ² of a spot at each pixel, shape (n,), Å⁻²."""
        pixel_size, normal = self.panels[panel]
        # 1/r = ŝ1·n/distance and ŝ1 = λ (s + s0), so the wavelength drops out of pixel size/(λ r).
        footprint = self.point_spread * pixel_size * (s @ normal + self.s0 @ normal)
        spread = np.maximum(footprint**2, self.spot**2)
        return (0.4 / self.domain_size) ** 2 + self.mosaicity**2 * np.einsum("ij,ij->i", s, s) + spread

    def radius_squared(self, panel: int, s: np.ndarray):
        """Square of the radius at each pixel, shape (n,) or scalar, Å⁻²."""
        if self.radius is not None:
            return self.radius**2
        k = self.sigmas[0]
        if len(self.sigmas) > 1:
            steps = np.sqrt(np.einsum("ij,ij->i", s, s)) / SIGMAS_STEP
            k = self.sigmas[np.minimum(steps, len(self.sigmas) - 1).astype(int)]
        return np.minimum(k**2 * self.width_squared(panel, s), self.largest**2)

    def limited_above(self) -> float | None:
        """Smallest |s| (Å⁻¹) where ``largest`` limits the radius; None if it never does below 2/λ."""
        if self.radius is not None:
            return None
        s = np.arange(0, 2 * float(np.linalg.norm(self.s0)), SIGMAS_STEP)
        k = self.sigmas[np.minimum(np.arange(len(s)), len(self.sigmas) - 1)]
        width_squared = (0.4 / self.domain_size) ** 2 + (self.mosaicity * s) ** 2 + self.spot**2
        limited = np.flatnonzero(k**2 * width_squared > self.largest**2)
        return float(s[limited[0]]) if len(limited) else None

    def describe(self) -> dict:
        """Method and numbers for grid.json and the log: lengths in Å, radii in Å⁻¹, angles in degrees."""
        if self.radius is not None:
            return {"method": self.name, "radius": self.radius}
        return {
            "method": self.name,
            "radius": "Auto",
            "radius_sigmas": float(self.sigmas[0]) if len(self.sigmas) == 1 else self.sigmas.tolist(),
            "domain_size": self.domain_size,
            "mosaicity_rms": math.degrees(self.mosaicity),
            "sigma_spot": self.spot,
            "largest_radius": self.largest,
            "limited_above": self.limited_above(),
        }


def mosaic_model(crystal, params) -> tuple[float, float]:
    """Domain size (Å) and half mosaicity (degrees): the parameters', else the crystal's, else 1000 Å and 0.1°."""
    values = []
    for given, what, method, default, unit in (
        (params.domain_size, "domain size", "get_domain_size_ang", 1000.0, "Å"),
        (params.half_mosaicity, "mosaicity", "get_half_mosaicity_deg", 0.1, "°"),
    ):
        if given is not Auto and given is not None:
            values.append(float(given))
        elif hasattr(crystal, method):
            values.append(float(getattr(crystal, method)()))
        else:
            _warn_once(
                f"The crystal models have no {what}: Bragg masks take {default:g} {unit}. "
                "Give masking.bragg.domain_size and half_mosaicity to change it."
            )
            values.append(default)
    return values[0], values[1]


def distances_in_a_cell(metric: np.ndarray, steps: int = 24) -> np.ndarray:
    """Distances (Å⁻¹) of points spread over half a cell of the reciprocal lattice to the nearest corner.

    Those of the other half are the same, by inversion; ``steps`` is even.
    """
    x = (np.arange(steps) + 0.5) / steps - 0.5
    h, k, l = x[steps // 2 :, None, None], x[:, None], x
    in_a_plane = h * (metric[0, 0] * h + 2 * metric[0, 1] * k) + metric[1, 1] * k * k
    return np.sqrt(in_a_plane + l * (2 * metric[0, 2] * h + 2 * metric[1, 2] * k + metric[2, 2] * l)).ravel()


def quantile_in_a_cell(distances: np.ndarray, fraction: float) -> float:
    """np.quantile of the distances in both halves of a cell, for a fraction below 1, in a fraction of its time."""
    at = fraction * (2 * len(distances) - 1)
    pair = [int(at) // 2, (int(at) + 1) // 2]
    low, high = np.partition(distances, pair)[pair]
    return float(low + (at - int(at)) * (high - low))


def need_crystal(name, experiment) -> None:
    """Refuse a still without a crystal, which the mask ``name`` needs.

    Raises:
        ValueError: If it has none.
    """
    if experiment.crystal is None:
        raise ValueError(
            f"masking.bragg.method={name} needs the crystal of each still. "
            "Give the integrated.expt of dials.stills_process."
        )
