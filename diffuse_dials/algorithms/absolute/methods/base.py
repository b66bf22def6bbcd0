"""What every method of absolute scaling gets and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from diffuse_dials.algorithms.absolute.theory import Theory
from diffuse_dials.algorithms.absolute.totals import TotalScattering

UNKNOWN_SAMPLING = "The error by the sampling of orientations is unknown, and large for few stills."


@dataclass(frozen=True)
class Evidence:
    """What a scale can be drawn from; a method says in ``needs`` which of it must be there.

    Attributes:
        theory: Scattering of the composition; None where none was given.
        totals: Total scattering; None where there are no radial totals.
        isotropic_removed: Whether a radial background took the crystal's isotropic scattering with it.
    """

    theory: Theory | None
    totals: TotalScattering | None
    isotropic_removed: bool = False


@dataclass(frozen=True)
class ScaleEstimate:
    """A scale K: intensities of the map are K times e² per cell.

    Attributes:
        method: Name of the method.
        k: Units of the map per e².
        errors: Relative errors of K by their causes.
        s_range: Range of |s| used, 1/Å.
        curve_s, curve_k: K as it comes out at other limits, for the plot.
        notes: What the user must know, a sentence each.
    """

    method: str
    k: float
    errors: dict[str, float] = field(default_factory=dict)
    s_range: tuple[float, float] | None = None
    curve_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    curve_k: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()

    @property
    def relative_error(self) -> float | None:
        """σ(K)/K, the causes added in quadrature; None where there is no estimate."""
        return float(np.sqrt(sum(e**2 for e in self.errors.values()))) if self.errors else None

    def to_dict(self) -> dict:
        """For the JSON file."""
        return {
            "method": self.method,
            "k": self.k,
            "relative_error": self.relative_error,
            "relative_errors": dict(self.errors),
            "s_range": list(self.s_range) if self.s_range else None,
            "k_against_limit": {"s": self.curve_s.tolist(), "k": self.curve_k.tolist()},
            "notes": list(self.notes),
        }


class Method:
    """Base of the methods; a new one is a file with a subclass and its name in methods/__init__.py.

    Class attributes:
        name: What the user writes as absolute.method.
        needs_totals: Whether it compares the total scattering with theory; then it cannot be used where a radial
            background was subtracted.
        sets_units: Whether the map is in e² afterwards.
        expected: Its usual error, for the log.
    """

    name: ClassVar[str]
    needs_totals: ClassVar[bool] = True
    sets_units: ClassVar[bool] = True
    expected: ClassVar[str] = ""

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """Work out K.

        Args:
            evidence: What there is.
            params: Extract of the ``absolute`` scope.

        Raises:
            ValueError: If the evidence does not allow it.
        """
        raise NotImplementedError

    def check(self, evidence: Evidence) -> None:
        """Refuse evidence that lacks what the method needs, with one line."""
        if not self.needs_totals:
            return
        if evidence.isotropic_removed:
            raise ValueError(
                f"absolute.method={self.name} compares the total scattering with theory, but a radial background was "
                "subtracted and took "
                "the crystal's isotropic scattering with it. Use absolute.method=none, absolute.scale=, or another "
                "background_method."
            )
        if evidence.totals is None:
            raise ValueError(
                f"absolute.method={self.name} needs radial_totals.refl. Give the one that diffuse.extract wrote."
            )
        if evidence.theory is None:
            raise ValueError(
                f"absolute.method={self.name} needs a composition. Give absolute.model=, absolute.sequence= or "
                "absolute.formula=."
            )


def bootstrap(totals: TotalScattering, k_of, n: int, seed: int) -> float:
    """Relative standard deviation of K over random draws of the stills, with replacement.

    Args:
        totals: Total scattering.
        k_of: Function from I_tot (n_bins,) to K.
        n: Number of draws.
        seed: Of the random numbers.

    Returns:
        σ(K)/K; it covers counting statistics, scales and the sampling of orientations. NaN for a single still.
    """
    n_stills = len(totals.signal)
    if n_stills < 2 or n < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_stills, np.full(n_stills, 1 / n_stills), size=n).astype(float)
    values = np.array([k_of(totals.intensity(draw)) for draw in draws])
    return float(values.std(ddof=1) / abs(values.mean()))
