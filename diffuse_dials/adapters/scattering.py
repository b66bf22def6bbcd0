"""Tables of X-ray scattering and attenuation: cctbx, xraylib where it can be imported, and a table of our own.

Sources:
    f0                  cctbx.eltbx.xray_scattering.wk1995: Waasmaier & Kirfel (1995) Acta Cryst. A51, 416; x < 6 1/Å.
    f', f''             cctbx.eltbx.sasaki: Sasaki (1989) KEK Report 88-14.
    S(x, Z)             Hubbell et al. (1975) J. Phys. Chem. Ref. Data 4, 471: xraylib's SF_Compt, else
                        data/compton.csv, which holds its values for the elements of macromolecular crystals (cctbx has
                        no such table).
    attenuation         xraylib's CS_Total, else cctbx.eltbx.attenuation_coefficient (NIST; differs by less than 2 %).

Here ``s`` is |s1 - s0| = 1/d and ``x`` is sin(θ)/λ = s/2, both in 1/Å.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from cctbx.eltbx import attenuation_coefficient, sasaki, tiny_pse
from cctbx.eltbx.xray_scattering import it1992, wk1995
from scipy import interpolate

from diffuse_dials.kernels.physics import DRY_AIR, air_density

try:
    import xraylib
except ImportError:  # optional: Debian's python3-xraylib, conda-forge's xraylib
    xraylib = None

ELECTRON_RADIUS_SQUARED = 7.9408e-10  # r_e², Å²
COMPTON_WAVELENGTH = 0.024263  # h/(m c), Å
HC = 12.398419843  # keV Å
_X_QUADRATIC = 0.005  # 1/Å: below, S is proportional to x² and the tables have too few digits
_COMPTON_TABLE = Path(__file__).resolve().parent.parent / "data" / "compton.csv"

# Density (g/cm³; gases at 293.15 K and 101325 Pa) and atoms of a formula unit.
MATERIALS = {
    "Si": (2.33, {"Si": 1}),
    "Ge": (5.323, {"Ge": 1}),
    "CdTe": (5.85, {"Cd": 1, "Te": 1}),
    "GaAs": (5.32, {"Ga": 1, "As": 1}),
    "Be": (1.848, {"Be": 1}),
    "Al": (2.699, {"Al": 1}),
    "diamond": (3.51, {"C": 1}),
    "kapton": (1.42, {"C": 22, "H": 10, "N": 2, "O": 5}),
    "mylar": (1.38, {"C": 10, "H": 8, "O": 4}),
    "glass": (2.20, {"Si": 1, "O": 2}),
    "water": (0.998, {"H": 2, "O": 1}),
    "He": (1.664e-4, {"He": 1}),
    "N2": (1.165e-3, {"N": 2}),
}


def best_source() -> str:
    """Where S and attenuation come from here: "xraylib" if it can be imported, else "shipped"."""
    return "shipped" if xraylib is None else "xraylib"


def element_symbol(name: str) -> str:
    """The symbol in its usual form ("ZN" → "Zn"); deuterium is hydrogen, a charge is dropped.

    Raises:
        ValueError: If there is no such element.
    """
    symbol = str(name).strip().rstrip("0123456789+-").capitalize()
    symbol = "H" if symbol == "D" else symbol
    try:
        return tiny_pse.table(symbol).symbol()
    except RuntimeError:
        raise ValueError(f"{name!r} is no chemical element. Correct the symbol in the model or the formula.") from None


def atomic_number(element: str) -> int:
    """Z of an element, which is also its number of electrons."""
    return tiny_pse.table(element_symbol(element)).atomic_number()


def atomic_weight(element: str) -> float:
    """Standard atomic weight, g/mol."""
    return tiny_pse.table(element_symbol(element)).weight()


@cache
def _gaussians(label, table=wk1995):
    gaussian = table(label, True).fetch()
    return np.array(gaussian.array_of_a()), np.array(gaussian.array_of_b()), gaussian.c()


def _evaluate(gaussians, s):
    a, b, c = gaussians
    x_squared = 0.25 * np.asarray(s, dtype=float)[..., None] ** 2
    return (a * np.exp(-b * x_squared)).sum(axis=-1) + c


def f0(element: str, s) -> np.ndarray:
    """Form factor of an atom at rest, Waasmaier & Kirfel (1995); "H" is the bonded hydrogen of the tables.

    Args:
        element: Symbol.
        s: |s|, any shape, 1/Å.

    Returns:
        f0, shape of ``s``, electrons.

    Raises:
        ValueError: For an unknown element.
    """
    return _evaluate(_gaussians(element_symbol(element)), s)


def anomalous(element: str, wavelength: float) -> complex:
    """f' + i f'' at a wavelength (Å), electrons; 0 for H and He, which Sasaki's table leaves out.

    Raises:
        ValueError: For an unknown element, or a wavelength outside the table.
    """
    symbol = element_symbol(element)
    if symbol in ("H", "He"):
        return 0j
    value = sasaki.table(symbol).at_angstrom(wavelength)
    if not value.is_valid():
        raise ValueError(f"There are no f' and f'' of {symbol} at {wavelength} Å. Use absolute.anomalous=False.")
    return complex(value.fp(), value.fdp())


def form_factor(element: str, s, wavelength: float | None = None) -> np.ndarray:
    """f0, or f0 + f' + i f'' where a wavelength (Å) is given; electrons, shape of ``s`` (1/Å)."""
    return f0(element, s) if wavelength is None else f0(element, s) + anomalous(element, wavelength)


def sum_f0_squared(composition: dict[str, float], s, wavelength: float | None = None) -> np.ndarray:
    """Σ |f|² over the atoms of a cell.

    Args:
        composition: Atoms of each element in the cell.
        s: |s|, any shape, 1/Å.
        wavelength: Å; with it f' and f'' are added to f0.

    Returns:
        Shape of ``s``, electrons².
    """
    total = np.zeros(np.shape(s))
    for element, number in composition.items():
        total = total + number * np.abs(form_factor(element, s, wavelength)) ** 2
    return total


@cache
def _shipped_compton():
    with open(_COMPTON_TABLE, encoding="utf-8") as handle:
        lines = [line for line in handle if not line.startswith("#")]
    names = lines[0].strip().split(",")[1:]
    values = np.array([[float(v) for v in line.split(",")] for line in lines[1:]])
    curves = {name: interpolate.PchipInterpolator(values[:, 0], values[:, i + 1]) for i, name in enumerate(names)}
    return curves, values[-1, 0]


def _tabulated_compton(symbol, x, source):
    """S at x ≥ 0.005; a flat array in, a flat array out."""
    if source == "xraylib":
        if xraylib is None:
            raise ValueError("xraylib cannot be imported. Install it (python3-xraylib) or use the shipped table.")
        number = atomic_number(symbol)
        return np.array([xraylib.SF_Compt(number, value) for value in x])
    if source != "shipped":
        raise ValueError(f"There is no source {source!r} of incoherent scattering. Use xraylib or shipped.")
    curves, x_max = _shipped_compton()
    if symbol not in curves:
        raise ValueError(
            f"The shipped table of incoherent scattering has no {symbol} (it has {', '.join(sorted(curves))}, H). "
            "Install xraylib (python3-xraylib), which has all elements."
        )
    bound = atomic_number(symbol) - curves[symbol](np.minimum(x, x_max))
    return atomic_number(symbol) - bound * (x_max / np.maximum(x, x_max)) ** 4  # Z - S ∝ x⁻⁴ at large x


def _bonded_hydrogen(s):
    """1 - f0² with it1992's f0 normalised: wk1995's gives 0.9995 electrons at 0, which would leave S(0) = 0.001."""
    at_rest = _evaluate(_gaussians("H", it1992), 0.0)
    return np.clip(1 - (_evaluate(_gaussians("H", it1992), s) / at_rest) ** 2, 0, 1)


def incoherent_function(element: str, s, source: str | None = None) -> np.ndarray:
    """Incoherent scattering function S of one atom, Hubbell et al. (1975).

    Hydrogen has one electron, for which S = 1 - f0² is exact, with f0 of the bonded atom as in the coherent sums.
    Below x = 0.005 1/Å S is taken proportional to x².

    Args:
        element: Symbol.
        s: |s|, any shape, 1/Å (the tables' x is s/2).
        source: "xraylib" or "shipped"; None takes the best there is.

    Returns:
        S, shape of ``s``, electron units, 0 ≤ S ≤ Z.

    Raises:
        ValueError: For an unknown element, one that the shipped table lacks, or an unknown source.
    """
    symbol = element_symbol(element)
    s = np.asarray(s, dtype=float)
    if symbol == "H":
        return _bonded_hydrogen(s)
    x = s.ravel() / 2
    values = _tabulated_compton(symbol, np.maximum(x, _X_QUADRATIC), source or best_source())
    return (values * np.minimum(x / _X_QUADRATIC, 1) ** 2).reshape(s.shape)


def klein_nishina(s, wavelength: float, energy_integrating: bool = False) -> np.ndarray:
    """Recoil factor R_KN on S, relative to Thomson scattering (Klein & Nishina 1929).

    R = ρ² [1 + (ρ + 1/ρ - 2)/(2P)], ρ = k'/k = 1/(1 + λ_C λ s²/2), for photons counted; an energy-integrating
    detector sees ρ³. P is its azimuthal mean (1 + cos² 2θ)/2, which is exact for radial sums, whatever the
    polarization, and elsewhere off by less than 1e-4.

    Args:
        s: |s|, any shape, 1/Å.
        wavelength: Å.
        energy_integrating: Whether the detector adds up energies and not photons.

    Returns:
        R, shape of ``s``, dimensionless.
    """
    s = np.asarray(s, dtype=float)
    rho = 1 / (1 + COMPTON_WAVELENGTH * wavelength * s**2 / 2)
    cos_two_theta = 1 - np.minimum(wavelength * s, 2) ** 2 / 2
    polarization = (1 + cos_two_theta**2) / 2
    factor = rho**2 * (1 + (rho + 1 / rho - 2) / (2 * polarization))
    return factor * rho if energy_integrating else factor


def incoherent(
    composition: dict[str, float], s, wavelength: float, *, source: str | None = None, energy_integrating: bool = False
) -> np.ndarray:
    """Compton scattering of a cell, I_inc = Σ S(x, Z) · R_KN; the sum runs over all atoms, solvent included.

    Args:
        composition: Atoms of each element in the cell.
        s: |s|, any shape, 1/Å.
        wavelength: Å.
        source: As in :func:`incoherent_function`.
        energy_integrating: As in :func:`klein_nishina`.

    Returns:
        Shape of ``s``, e² per cell (one free electron's Thomson scattering is 1).
    """
    total = np.zeros(np.shape(s))
    for element, number in composition.items():
        total = total + number * incoherent_function(element, s, source)
    return total * klein_nishina(s, wavelength, energy_integrating)


def mass_attenuation(element: str, wavelength: float, source: str | None = None) -> float:
    """Total mass attenuation coefficient μ/ρ of an element, cm²/g, at a wavelength in Å.

    Raises:
        ValueError: For an unknown element, source or a wavelength that is not positive.
    """
    if not wavelength > 0:
        raise ValueError(f"A wavelength must be positive; {wavelength} Å was given.")
    source = source or best_source()
    symbol = element_symbol(element)
    if source == "xraylib":
        if xraylib is None:
            raise ValueError("xraylib cannot be imported. Install it (python3-xraylib) or use cctbx's table.")
        return xraylib.CS_Total(atomic_number(symbol), HC / wavelength)
    if source not in ("cctbx", "shipped"):
        raise ValueError(f"There is no source {source!r} of attenuation. Use xraylib or cctbx.")
    return attenuation_coefficient.get_table(symbol).mu_rho_at_angstrom(wavelength)


def attenuation(material: str, wavelength: float, *, density: float | None = None, source: str | None = None) -> float:
    """Total linear attenuation coefficient of a sensor, window or gas.

    Args:
        material: A name in MATERIALS (any case), or an element, which then needs its density.
        wavelength: Å.
        density: g/cm³; None takes the one in MATERIALS.
        source: "xraylib" or "cctbx"; None takes the best there is.

    Returns:
        μ, 1/mm.

    Raises:
        ValueError: If the material is unknown.
    """
    known = {name.lower(): name for name in MATERIALS}
    if material.lower() in known:
        tabulated, atoms = MATERIALS[known[material.lower()]]
    elif density is not None:
        tabulated, atoms = density, {element_symbol(material): 1}
    else:
        raise ValueError(
            f"There is no material {material!r} here. Use one of {', '.join(MATERIALS)}, or an element with its "
            "density."
        )
    mass = {element: number * atomic_weight(element) for element, number in atoms.items()}
    total = sum(m * mass_attenuation(element, wavelength, source) for element, m in mass.items())
    return 0.1 * total / sum(mass.values()) * (density or tabulated)


def air_attenuation(
    wavelength: float, temperature: float = 293.15, pressure: float = 101325.0, *, source: str | None = None
) -> float:
    """Total linear attenuation coefficient of dry air.

    Args:
        wavelength: Å.
        temperature: K.
        pressure: Pa.
        source: "xraylib" or "cctbx"; None takes the best there is.

    Returns:
        μ, 1/mm.
    """
    per_gram = sum(part * mass_attenuation(element, wavelength, source) for element, part in DRY_AIR.items())
    return 0.1 * per_gram * air_density(temperature, pressure)
