"""Absolute scale from the total scattering at high angles."""

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

_LOWEST = 0.30  # 1/Å: below, more than bonds is ordered
_WINDOW = 0.30  # 1/Å: narrower windows follow the ripple of the bond distances
_SPREAD = 0.05


class HighAngle(Method):
    """At high angles the total scattering is that of the atoms and their bonds.

        K⁻¹ = ∫ 4πs² (Σf0² + I_bond + I_inc) ds / ∫ 4πs² I_tot ds   over a window of |s|

    For data that lack low angles. On an atomistic lysozyme crystal windows between 0.3 and 0.9 1/Å are off by
    -10 to +2 %.
    """

    name = "high_angle"
    curve = "lower limit"
    expected = "5-15 %"

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """See :meth:`Method.estimate`; needs a window of at least 0.1 1/Å above 0.30 1/Å unless the user gives one."""
        self.check(evidence)
        totals, theory = evidence.totals, evidence.theory
        high = totals.s_last if params.s_max is None else min(params.s_max, totals.s_last)
        low = params.high_angle.s_min
        if low is None:
            low = max(_LOWEST, high - _WINDOW, totals.s_first)
        if high - low < 0.1:
            raise ValueError(
                f"The window for high_angle, {low:.3f} to {high:.3f} 1/Å, is narrower than 0.1 1/Å. Give "
                "absolute.high_angle.s_min, "
                "or measure to higher angles."
            )
        expected = theory.total(totals.s)
        shells = totals.shell_volume()

        def k_at(intensity, s_min):
            used = (totals.s > s_min) & (totals.s < high) & totals.measured
            return float((intensity * shells)[used].sum() / (expected * shells)[used].sum())

        intensity = totals.intensity()
        k = k_at(intensity, low)
        starts = np.arange(max(totals.s_first, 0.2), high - 0.1 + 1e-9, 0.01)
        curve = np.array([k_at(intensity, start) for start in starts])
        near = np.abs(starts - low) <= _SPREAD
        errors = {
            "window": float(np.max(np.abs(curve[near] / k - 1), initial=0.0)),
            "composition": params.composition_error / (1 + params.composition_error),
            "stills": bootstrap(totals, lambda values: k_at(values, low), params.n_bootstrap, params.seed),
            "overloads": overload_error(totals, lambda values: k_at(values, low)),
        }
        notes = () if np.isfinite(errors["stills"]) else (UNKNOWN_SAMPLING,)
        errors = {
            cause: error for cause, error in errors.items() if np.isfinite(error) and (error or cause != "overloads")
        }
        return ScaleEstimate(self.name, k, errors, (low, high), starts, curve, notes)
