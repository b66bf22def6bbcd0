"""K by all methods that can run, and the map with it in e² per cell."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import libtbx.phil
import numpy as np

from diffuse_dials.adapters.scattering import ELECTRON_RADIUS_SQUARED
from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.algorithms.absolute.methods.base import Evidence, ScaleEstimate
from diffuse_dials.algorithms.absolute.theory import Theory, interpolated

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    f"""
absolute {{
  method = {" ".join(("*" if i == 0 else "") + name for i, name in enumerate(METHODS))}
    .type = choice
    .help = "How the scale is found. krogh_moe: sum rule of the total scattering. high_angle: total scattering in a"
            "window. reference: Bragg intensities out of the map against absolute |F|^2. wilson: the same against the"
            "statistics of random atoms. none: relative units."
  scale = None
    .type = float(value_min=1e-300)
    .help = "K, units of the map per squared electron, if it is known: it replaces what the method finds."
  bonds = True
    .type = bool
    .help = "Interference of atoms one bond apart is part of the theoretical total scattering."
    .expert_level = 1
  anomalous = False
    .type = bool
    .help = "Add f' and f'' at the mean wavelength to the form factors."
    .expert_level = 1
  detector = *counting integrating
    .type = choice
    .help = "Photon counters see Compton scattering reduced by the recoil squared, energy-integrating detectors cubed."
    .expert_level = 1
  s_max = None
    .type = float(value_min=0.1)
    .help = "Highest |s| = 1/d of the total scattering that is used (1/Angstrom). None: all of it."
  min_pixels = 100
    .type = int(value_min=1)
    .help = "A bin of the radial totals with fewer pixels counts as not measured."
    .expert_level = 2
  high_angle.s_min = None
    .type = float(value_min=0)
    .help = "Lower end of the window (1/Angstrom). None: 0.3 below the upper end, but not below 0.3."
    .expert_level = 1
  reference.file = None
    .type = path
    .help = "MTZ or CIF file of amplitudes or intensities of this crystal on the absolute scale (electrons), such as"
            "the F of a refined model. It may also be given without the parameter's name. None: F calculated from"
            "absolute.model, where that has the crystal's cell."
  reference.labels = None
    .type = str
    .help = "Labels of the data in the file. None: calculated amplitudes rather than observed ones, amplitudes rather"
            "than intensities."
    .expert_level = 1
  reference.fit_b = True
    .type = bool
    .help = "Fit a difference in B between reference and crystal, which otherwise changes the scale."
    .expert_level = 1
  bragg {{
    d_min = None
      .type = float(value_min=0.1)
      .help = "High-resolution limit (Angstrom) of the Bragg intensities for reference and wilson. None: all."
    d_max = None
      .type = float(value_min=0.1)
      .help = "Their low-resolution limit (Angstrom). None: 4 for wilson and for F calculated from a model, which lacks"
              "bulk solvent; no limit for a file of data."
    min_multiplicity = 1
      .type = int(value_min=1)
      .help = "Stills that a lattice point's voxel needs."
  }}
  check {{
    flux = None
      .type = float(value_min=1e-300)
      .help = "Incident photons per second and square micrometre, if known: K is compared with flux x r_e^2 x number of"
              "unit cells."
    volume = None
      .type = float(value_min=1e-300)
      .help = "Illuminated volume of the crystal (cubic micrometres), for the same check."
  }}
  composition_error = 0.03
    .type = float(value_min=0, value_max=1)
    .help = "Relative uncertainty of the composition, for the error of the scale."
    .expert_level = 1
  n_bootstrap = 200
    .type = int(value_min=0)
    .help = "Random draws of the stills for the error of the scale."
    .expert_level = 2
  seed = 0
    .type = int(value_min=0)
    .help = "Seed of these draws."
    .expert_level = 2
}}
"""
)


@dataclass(frozen=True)
class AbsoluteMap:
    """Intensities of voxels in absolute units; arrays of shape (n_voxels,).

    Attributes:
        value: I/K - I_inc, e² per cell (relative units with method none).
        variance: Its variance by counting, σ²/K²; the error of K is common to all voxels and not in it.
        incoherent: Compton scattering that was subtracted, e² per cell; 0 where nothing was.
        coherent: Σf0² of all atoms, e² per cell; NaN without a composition.
    """

    value: np.ndarray
    variance: np.ndarray
    incoherent: np.ndarray
    coherent: np.ndarray


def method_named(name: str | None):
    """The method of a PHIL value; PHIL reads the word none as None."""
    return METHODS[name or "none"]


def find_scale(evidence: Evidence, params) -> tuple[ScaleEstimate, list[ScaleEstimate], dict[str, str]]:
    """The scale asked for, beside those of all other methods that can run.

    Args:
        evidence: What there is.
        params: Extract of the ``absolute`` scope.

    Returns:
        The estimate that counts, all estimates (it first), and why each other method cannot run, by its name.

    Raises:
        ValueError: If the method asked for cannot run.
    """
    if params.scale is not None:
        chosen = ScaleEstimate("number", params.scale)
    else:
        chosen = method_named(params.method)().estimate(evidence, params)
    estimates, refusals = [chosen], {}
    for name, method in METHODS.items():
        if name == chosen.method or not method.sets_units:
            continue
        try:
            estimates.append(method().estimate(evidence, params))
        except ValueError as error:
            refusals[name] = str(error)
    return chosen, estimates, refusals


def flux_check(params, volume: float) -> float | None:
    """K as flux and illuminated volume give it: K = Φ r_e² N_cells.

    Args:
        params: Extract of the ``absolute`` scope.
        volume: Of the unit cell, Å³.

    Returns:
        Photons per steradian, second and e² of a still of scale 1; None where either is unknown.

    Raises:
        ValueError: If only one of the two is given.
    """
    flux, illuminated = params.check.flux, params.check.volume
    if (flux is None) != (illuminated is None):
        raise ValueError("absolute.check.flux and absolute.check.volume say something together only. Give both.")
    if flux is None:
        return None
    return flux * 1e-8 * ELECTRON_RADIUS_SQUARED * illuminated * 1e12 / volume


def subtracts_compton(estimate: ScaleEstimate, evidence: Evidence) -> bool:
    """Whether Compton scattering can be subtracted: not after a radial background, nor without units."""
    return estimate.method != "none" and not evidence.isotropic_removed and evidence.theory is not None


def absolute_map(intensity, variance, s, estimate: ScaleEstimate, evidence: Evidence) -> AbsoluteMap:
    """The map in e² per cell.

    Args:
        intensity, variance: Of the voxels, units of the map; a negative variance marks voxels without a
            measurement, which stay 0 with that variance.
        s: |s| of the voxel centres, 1/Å.
        estimate: The scale.
        evidence: What the scale was drawn from; its theory gives Compton scattering.

    Returns:
        The map.
    """
    theory: Theory | None = evidence.theory
    subtract = subtracts_compton(estimate, evidence)
    incoherent = interpolated(theory.incoherent, s) if subtract else np.zeros(len(s))
    coherent = interpolated(theory.coherent, s) if theory is not None else np.full(len(s), np.nan)
    measured = variance >= 0
    value = np.where(measured, intensity / estimate.k - incoherent, 0.0)
    return AbsoluteMap(value, np.where(measured, variance / estimate.k**2, variance), incoherent, coherent)


def shell_means(values, s, multiplicity, width: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the voxels by |s|, weighted by how many stills measured each.

    Args:
        values: Shape (n,); voxels that are not finite are left out.
        s: |s| of each, 1/Å.
        multiplicity: Stills of each.
        width: Of the shells, 1/Å.

    Returns:
        Centres of the shells with data (1/Å), and the means.
    """
    good = np.isfinite(values) & (multiplicity > 0)
    shell = np.floor(s[good] / width).astype(int)
    weight = np.bincount(shell, multiplicity[good].astype(float))
    total = np.bincount(shell, values[good] * multiplicity[good])
    used = weight > 0
    return (np.flatnonzero(used) + 0.5) * width, total[used] / weight[used]
