"""Factors of the response of a pixel: closed forms, NumPy in and NumPy out."""

from __future__ import annotations

import numpy as np

# Dry air by mass (CRC Handbook); density from the ideal gas law with M = 28.9645 g/mol.
DRY_AIR = {"N": 0.755268, "O": 0.231781, "Ar": 0.012827, "C": 0.000124}
_MOLAR_MASS_AIR = 28.9645
_MOLAR_MASS_HELIUM = 4.002602
_GAS_CONSTANT = 8.314462618


def polarization(direction, beam_direction, normal, fraction):
    """Fraction of the scattered intensity that a polarized beam leaves in each direction.

    P = (1 - 2p) (1 - (n·ŝ1)²) + p (1 + (ŝ0·ŝ1)²)     [Kahn et al. (1982) J. Appl. Cryst. 15, 330]

    Args:
        direction: Unit vectors ŝ1, shape (n, 3).
        beam_direction: Unit vector ŝ0, shape (3,).
        normal: Unit normal n of the polarization plane, shape (3,).
        fraction: Degree of polarization p in that plane; 0.5 is an unpolarized beam.

    Returns:
        P, shape (n,), 0 ≤ P ≤ 1, dimensionless; taken as exact, so it scales sigmas and adds nothing.
    """
    return (1 - 2 * fraction) * (1 - (direction @ normal) ** 2) + fraction * (1 + (direction @ beam_direction) ** 2)


def solid_angle(distance, cos_obliquity, pixel_area):
    """Solid angle of pixels, Ω = A |cos α| / r², better than 2e-5 for any real detector.

    The exact form for a rectangle is Van Oosterom & Strackee (1983) IEEE Trans. Biomed. Eng. 30, 125.

    Args:
        distance: r from the sample to the pixel centre, shape (n,), mm.
        cos_obliquity: cos α between ŝ1 and the panel's normal, shape (n,); its sign does not matter.
        pixel_area: A, mm².

    Returns:
        Ω, shape (n,), steradian; taken as exact.
    """
    return pixel_area * np.abs(cos_obliquity) / distance**2


def sensor_efficiency(cos_obliquity, mu, thickness):
    """Fraction of photons that the sensor absorbs, ε = 1 - exp(-μ t / |cos α|).

    Args:
        cos_obliquity: cos α between ŝ1 and the panel's normal, shape (n,).
        mu: Linear absorption coefficient of the sensor, 1/mm, > 0.
        thickness: Of the sensor, mm, > 0.

    Returns:
        ε, shape (n,), 0 < ε < 1; taken as exact.

    Raises:
        ValueError: If μ or the thickness is not positive: the efficiency would be 0, not 1.
    """
    if not (mu > 0 and thickness > 0):
        raise ValueError(f"A sensor needs a positive absorption ({mu}/mm given) and thickness ({thickness} mm given).")
    return -np.expm1(-mu * thickness / np.abs(cos_obliquity))


def transmission(path, mu):
    """Fraction of photons that pass a gas, T = exp(-μ L).

    Args:
        path: L, shape (n,), mm.
        mu: Total linear attenuation coefficient, 1/mm.

    Returns:
        T, shape (n,); taken as exact.
    """
    return np.exp(-mu * np.asarray(path))


def air_density(temperature=293.15, pressure=101325.0):
    """Density of dry air, g/cm³, from temperature (K) and pressure (Pa) by the ideal gas law."""
    return pressure * _MOLAR_MASS_AIR / (_GAS_CONSTANT * temperature) * 1e-6


def helium_density(temperature=293.15, pressure=101325.0):
    """Density of helium, g/cm³, from temperature (K) and pressure (Pa) by the ideal gas law."""
    return pressure * _MOLAR_MASS_HELIUM / (_GAS_CONSTANT * temperature) * 1e-6


def apply_corrections(raw_I, lp_mult, qe_mult, sa_mult, air_mult):
    """Corrected intensity of pixels: the product with all multipliers.

    For programs that want corrected pixels; the commands sum responses instead and divide once, when they merge.

    Each factor is a multiplier, 1/(what reduces the intensity): 1/P, 1/ε, 1/Ω, 1/T. DIALS's
    ``Corrections(beam, detector).lp()`` is one already; its ``qe()`` is an efficiency, to be inverted first.

    Args:
        raw_I: Background-subtracted photons, shape (n,).
        lp_mult: 1/P (no Lorentz factor: a diffuse pixel measures a differential cross-section), shape (n,).
        qe_mult: 1/ε, shape (n,).
        sa_mult: 1/Ω, shape (n,), 1/sr.
        air_mult: 1/T, shape (n,).

    Returns:
        Intensity, shape (n,), photons/sr.

    Raises:
        ValueError: If a multiplier is not finite and positive.
    """
    total = np.ones(())
    for name, mult in (("lp", lp_mult), ("qe", qe_mult), ("sa", sa_mult), ("air", air_mult)):
        mult = np.asarray(mult, dtype=float)
        if not np.all(np.isfinite(mult) & (mult > 0)):
            raise ValueError(f"{name}_mult must be finite and positive; check the model it was computed from.")
        total = total * mult
    return np.asarray(raw_I) * total
