"""Scattering expected of a cell of known composition, per cell and as a function of |s| alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_dials.adapters import scattering
from diffuse_dials.algorithms.absolute.composition import Composition


@dataclass(frozen=True)
class Theory:
    """Spherical averages of the scattering of one unit cell, e².

    Attributes:
        composition: What the cell holds.
        wavelength: Mean wavelength, Å; it enters through the recoil of Compton scattering.
        use_bonds: Whether the interference of atoms one bond apart is part of the total.
        use_anomalous: Whether f' and f'' are added to f0.
        energy_integrating: Whether the detector adds up energies and not photons.
    """

    composition: Composition
    wavelength: float
    use_bonds: bool = True
    use_anomalous: bool = False
    energy_integrating: bool = False

    @property
    def _edge(self):
        return self.wavelength if self.use_anomalous else None

    @property
    def forward(self) -> float:
        """|F(000)|² of the whole cell, e²: the square of its electrons."""
        total = sum(n * scattering.form_factor(e, 0.0, self._edge) for e, n in self.composition.all_atoms.items())
        return float(abs(total) ** 2) if self.use_anomalous else self.composition.electrons**2

    def ordered(self, s) -> np.ndarray:
        """Σ f² over the ordered atoms, shape of ``s`` (1/Å), e²."""
        return scattering.sum_f0_squared(self.composition.ordered, s, self._edge)

    def coherent(self, s) -> np.ndarray:
        """Σ f² over all atoms, shape of ``s`` (1/Å), e²."""
        return scattering.sum_f0_squared(self.composition.all_atoms, s, self._edge)

    def bonds(self, s) -> np.ndarray:
        """I_bond = Σ 2 f_a f_b sin(2πsd)/(2πsd) over the bonds, shape of ``s`` (1/Å), e²   [Debye (1915)]."""
        s = np.asarray(s, dtype=float)
        elements = {element for bond in self.composition.bonds for element in bond[:2]}
        f = {element: scattering.form_factor(element, s, self._edge) for element in elements}
        total = np.zeros(s.shape)
        for (one, other, length), number in self.composition.bonds.items():
            total = total + number * 2 * np.real(f[one] * np.conj(f[other])) * np.sinc(2 * s * length)
        return total

    def incoherent(self, s) -> np.ndarray:
        """Compton scattering of all atoms with recoil, shape of ``s`` (1/Å), e²."""
        return scattering.incoherent(
            self.composition.all_atoms, s, self.wavelength, energy_integrating=self.energy_integrating
        )

    def total(self, s) -> np.ndarray:
        """What all pixels together see, Bragg peaks included, shape of ``s`` (1/Å), e²."""
        total = self.coherent(s) + self.incoherent(s)
        return total + self.bonds(s) if self.use_bonds else total

    def diffuse(self, s, b: float) -> np.ndarray:
        """Coherent diffuse scattering of independently vibrating atoms, shape of ``s`` (1/Å), e².

        Σ_all f² - Σ_ordered f² exp(-B s²/2), which is Σ f² (1 - exp(-B s²/2)) where all atoms are ordered: what the
        map must approach at high angles.

        Args:
            s: |s|, 1/Å.
            b: Mean B of the ordered atoms, Å².
        """
        s = np.asarray(s, dtype=float)
        return self.coherent(s) - self.ordered(s) * np.exp(-b * s**2 / 2)

    def with_composition(self, factor: float) -> Theory:
        """The same with all atoms and bonds times ``factor``."""
        return replace(self, composition=self.composition.scaled(factor))


def interpolated(curve, s, step: float = 1e-3) -> np.ndarray:
    """Evaluate a curve of :class:`Theory` at many |s| (1/Å) by interpolation between points ``step`` apart.

    Linear interpolation in steps of 0.001 1/Å is good to 1e-5 of the largest value: these curves bend over 0.1 1/Å.
    """
    grid = np.arange(0.0, float(np.max(s, initial=0.0)) + 2 * step, step)
    return np.interp(s, grid, curve(grid))
