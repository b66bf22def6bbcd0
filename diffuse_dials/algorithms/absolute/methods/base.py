"""What every method of absolute scaling gets and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from diffuse_dials.algorithms.absolute.bragg import BraggIntensities
from diffuse_dials.algorithms.absolute.reference_data import ReferenceData
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
        bragg: Box-integrated Bragg intensities of the map; None where it has none.
        reference: |F|² on the absolute scale; None where there is none.
        raw_bragg: RawBragg, integrated on the stills one by one, which no method accepts; None where none were given.
        missing: Why one of these is None, by its name, where there is more to say than what to give.
    """

    theory: Theory | None
    totals: TotalScattering | None
    isotropic_removed: bool = False
    bragg: BraggIntensities | None = None
    reference: ReferenceData | None = None
    raw_bragg: object = None
    missing: dict[str, str] = field(default_factory=dict)


_GIVE = {
    "theory": "a composition. Give absolute.model=, absolute.sequence= or absolute.formula=.",
    "totals": "radial_totals.refl. Give the one that diffuse.extract or diffuse.grid wrote.",
    "bragg": "Bragg intensities in the map: lattice points of which the box of voxels was measured, Bragg pixels "
    "included (intensity.all.value of diffuse.scale).",
    "reference": "|F|² on the absolute scale. Give absolute.reference.file= (MTZ or CIF), or absolute.model=.",
}


@dataclass(frozen=True)
class ScaleEstimate:
    """A scale K: intensities of the map are K times e² per cell.

    Attributes:
        method: Name of the method.
        k: Units of the map per e².
        errors: Relative errors of K by their causes.
        s_range: Range of |s| used, 1/Å.
        curve_s, curve_k: K as it comes out at other limits, for the plot.
        notes: What the user must be warned of, a sentence each.
        remarks: What else is worth knowing, a sentence each.
        details: More results of the method, for the JSON file.
        wilson: Its Wilson plot, if it made one.
    """

    method: str
    k: float
    errors: dict[str, float] = field(default_factory=dict)
    s_range: tuple[float, float] | None = None
    curve_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    curve_k: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    details: dict = field(default_factory=dict)
    wilson: object = None

    @property
    def relative_error(self) -> float | None:
        """σ(K)/K, the causes added in quadrature; None where there is no estimate."""
        return float(np.sqrt(sum(e**2 for e in self.errors.values()))) if self.errors else None

    @property
    def sampling_unknown(self) -> bool:
        """Whether the error lacks that of the sampling of orientations."""
        return UNKNOWN_SAMPLING in self.notes

    def to_dict(self) -> dict:
        """For the JSON file."""
        return {
            "method": self.method,
            "k": self.k,
            "relative_error": self.relative_error,
            "relative_errors": dict(self.errors),
            "relative_error_is_lower_limit": self.sampling_unknown,
            "s_range": list(self.s_range) if self.s_range else None,
            "k_against_limit": {"s": self.curve_s.tolist(), "k": self.curve_k.tolist()},
            "notes": list(self.notes),
            "remarks": list(self.remarks),
            **self.details,
        }


class Method(ABC):
    """Base of the methods; a new one is a file with a subclass and its name in methods/__init__.py.

    Class attributes:
        name: What the user writes as absolute.method.
        needs: Parts of the evidence that must be there.
        without_isotropic: Whether it can be used where a radial background took the crystal's isotropic scattering.
        sets_units: Whether the map is in e² afterwards.
        curve: What the limit of ``ScaleEstimate.curve_s`` is.
        expected: Its usual error, for the log.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("totals", "theory")
    without_isotropic: ClassVar[bool] = False
    sets_units: ClassVar[bool] = True
    curve: ClassVar[str] = ""
    expected: ClassVar[str] = ""

    @abstractmethod
    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """Work out K.

        Args:
            evidence: What there is.
            params: Extract of the ``absolute`` scope.

        Raises:
            ValueError: If the evidence does not allow it.
        """

    def check(self, evidence: Evidence) -> None:
        """Refuse evidence that lacks what the method needs, with one line."""
        if evidence.isotropic_removed and not self.without_isotropic:
            raise ValueError(
                f"absolute.method={self.name} compares the crystal's scattering with theory, but a radial background "
                "was subtracted and took the crystal's isotropic scattering with it. Use absolute.method=reference or "
                "none, absolute.scale=, or another background_method."
            )
        for need in self.needs:
            if getattr(evidence, need) is None:
                raise ValueError(f"absolute.method={self.name} needs {evidence.missing.get(need, _GIVE[need])}")


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


def overload_error(totals: TotalScattering, k_of) -> float:
    """Relative change of K if each overloaded pixel had held just what overloads it: less than the true loss.

    Args:
        totals: Total scattering.
        k_of: Function from I_tot (n_bins,) to K.
    """
    if not np.any(totals.n_overloaded) or totals.overload_counts is None:
        return 0.0
    return float(k_of(totals.intensity_with_overloads()) / k_of(totals.intensity()) - 1)
