"""Absolute scale from the sum rule of the total scattering."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.absolute.methods.base import (
    UNKNOWN_SAMPLING,
    Evidence,
    Method,
    ScaleEstimate,
    bootstrap,
    overload_error,
)

S_MAX_REFUSED = 0.40  # 1/Å
S_MAX_DOUBTFUL = 0.45
_SPREAD = 0.05  # 1/Å, for the error by truncation


class KroghMoe(Method):
    """The integral of the total scattering over reciprocal space is that of the atoms.

        K⁻¹ = [-n_e² + V ∫ 4πs² (Σf0² + I_bond + I_inc) ds] / [V ∫ 4πs² I_tot ds],   0 < s < s_max

    Krogh-Moe (1956) Acta Cryst. 9, 951; Norman (1957) Acta Cryst. 10, 370; for protein crystals Meisburger, Case &
    Ando (2020) Nat. Commun. 11, 1271. The bond term makes the limit at s_max converge: without it K⁻¹ is 23 % low
    at 0.5 1/Å.
    """

    name = "krogh_moe"
    curve = "upper limit"
    expected = "3-5 % with the bond term and s_max of 0.45 1/Å or more"

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """See :meth:`Method.estimate`; refuses data that end below 0.40 1/Å."""
        self.check(evidence)
        totals, theory = evidence.totals, evidence.theory
        s_max = _upper_limit(totals, params.s_max)
        notes = []
        if s_max < S_MAX_REFUSED:
            raise ValueError(
                f"The total scattering is used to |s| = {s_max:.3f} 1/Å (d = {1 / s_max:.2f} Å); Krogh-Moe's method "
                f"needs {S_MAX_REFUSED} "
                "and should have 0.45 (2.2 Å). Measure or extract to higher angles, or use absolute.method=high_angle "
                "or none."
            )
        if s_max < S_MAX_DOUBTFUL:
            notes.append(f"The data end at {s_max:.3f} 1/Å; below {S_MAX_DOUBTFUL} the scale may be 7 % off and more.")
        if not theory.use_bonds:
            notes.append(
                "Without the bond term the scale of the map comes out 5 to 35 % too large, the more the lower s_max."
            )
        if totals.s_first > 0.15:
            notes.append(
                f"There are no data below {totals.s_first:.3f} 1/Å; the curve was continued, and K may be off by some "
                "per cent."
            )
        k_at = _sum_rule(totals, theory)
        intensity = totals.intensity()
        k = k_at(intensity, s_max)
        if not np.isfinite(k):
            raise ValueError(
                f"The integral of the total scattering to {s_max:.3f} 1/Å, or of its theory, is not positive: no "
                "scale. Check "
                "composition and background, or use a larger s_max."
            )
        limits = np.arange(0.30, totals.s_last + 1e-9, 0.01)
        curve = np.array([k_at(intensity, limit) for limit in limits])
        limits, curve = limits[np.isfinite(curve)], curve[np.isfinite(curve)]
        near = np.abs(limits - s_max) <= _SPREAD + 1e-9
        k_if_larger = _sum_rule(totals, theory.with_composition(1 + params.composition_error))
        errors = {
            "truncation": float(np.max(np.abs(curve[near] / k - 1), initial=0.0)),
            "composition": abs(k_if_larger(intensity, s_max) / k - 1),
            "stills": bootstrap(totals, lambda values: k_at(values, s_max), params.n_bootstrap, params.seed),
            "overloads": overload_error(totals, lambda values: k_at(values, s_max)),
        }
        if not np.isfinite(errors["stills"]):
            notes.append(UNKNOWN_SAMPLING)
        errors = {
            cause: error for cause, error in errors.items() if np.isfinite(error) and (error or cause != "overloads")
        }
        return ScaleEstimate(self.name, k, errors, (totals.s_first, s_max), limits, curve, tuple(notes))


def _upper_limit(totals, s_max) -> float:
    """The limit asked for, checked against the data (1/Å)."""
    if s_max is None:
        return totals.s_last
    if s_max > totals.s_last + totals.width / 2:
        raise ValueError(
            f"absolute.s_max={s_max} is beyond the radial totals, which end at {totals.s_last:.3f} 1/Å. Lower it."
        )
    return float(s_max)


def _sum_rule(totals, theory):
    """A function from I_tot and s_max to K, NaN where an integral is not positive.

    What does not depend on I_tot is worked out once.
    """
    shells = totals.shell_volume()
    volume = theory.composition.volume
    expected = np.cumsum(theory.total(totals.s) * shells) * volume - theory.forward
    upper = totals.s + totals.width / 2

    def k(intensity, s_max):
        observed = np.cumsum(intensity * shells) * volume
        theoretical = float(np.interp(s_max, upper, expected))
        measured = float(np.interp(s_max, upper, observed))
        return measured / theoretical if theoretical > 0 and measured > 0 else float("nan")

    return k
