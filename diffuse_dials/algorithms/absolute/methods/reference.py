"""Absolute scale from Bragg intensities whose absolute values are known."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.absolute.methods.base import Evidence, Method, ScaleEstimate

MIN_REFLECTIONS = 20
_DOUBTFUL = 0.7  # of the correlation expected from the scatter
_DELTA_B = 30.0  # Å²: models of B = 0 are allowed for
_CYCLES = 50


class Reference(Method):
    """Box-integrated intensities against the user's |F|².

        J = K |F_ref|² exp(-ΔB s²/2)

    fitted with weights multiplicity/|F_ref|², as for a variance proportional to the expected intensity: without ΔB,
    K = Σ m J / Σ m |F_ref|². No weight depends on the intensities measured, so that K is unbiased for weak ones. What
    is isotropic around a lattice point cancels in J: air, jet and a radial background leave K as it is.
    """

    name = "reference"
    needs = ("bragg", "reference")
    without_isotropic = True
    curve = "by shell"
    expected = "a few per cent, whatever the background"

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """See :meth:`Method.estimate`; needs 20 reflections in common with the reference."""
        self.check(evidence)
        found, reference = evidence.bragg, evidence.reference
        d_max = params.bragg.d_max or reference.d_max
        squared = reference.match(found.hkl)
        used = found.multiplicity >= params.bragg.min_multiplicity
        # measured intensities that noise made negative stay: without them the others would be too large in the mean
        used &= np.isfinite(squared) & within(found.s, params.bragg.d_min, d_max)
        if used.sum() < MIN_REFLECTIONS:
            raise ValueError(
                f"{used.sum()} of {len(found)} lattice points of the map are in {reference.source} and within the "
                f"limits; {MIN_REFLECTIONS} are needed. Check its resolution and absolute.bragg.d_max."
            )
        found, squared = found.select(used), squared[used]
        k, delta_b, error = fit_scale(found, squared, params.reference.fit_b)
        expected = k * squared * np.exp(-delta_b * found.s**2 / 2)
        correlation, possible = correlations(found, expected)
        remark = f"|F|² are {reference.source}; {used.sum()} lattice points, correlation {correlation:.3f}"
        remark += f" ({possible:.3f} expected from the scatter between stills)" if np.isfinite(possible) else ""
        remark += f", B of the crystal larger by {delta_b:.1f} Å²." if params.reference.fit_b else "."
        notes = []
        if correlation < (_DOUBTFUL * possible if np.isfinite(possible) else _DOUBTFUL / 2):
            notes.append(
                f"Bragg intensities of map and reference have a correlation of only {correlation:.2f}: is it this "
                "crystal, in this setting? The scale of method reference is doubtful."
            )
        if abs(delta_b) > _DELTA_B:
            notes.append(f"The reference differs from the crystal by a B of {delta_b:.1f} Å²: is its scale absolute?")
        centres, curve = shells(found, expected)
        return ScaleEstimate(
            self.name, k, {"reflections": error}, (float(found.s.min()), float(found.s.max())), centres, k * curve,
            tuple(notes), (remark,),
            {"delta_b": delta_b, "correlation": correlation, "expected_correlation": none_if_nan(possible),
             "n_reflections": int(used.sum())},
        )  # fmt: skip


def within(s, d_min, d_max) -> np.ndarray:
    """Whether d lies between the limits (Å; None is no limit), shape of ``s`` (1/Å)."""
    return (s <= (1 / d_min if d_min else np.inf)) & (s >= (1 / d_max if d_max else 0))


def none_if_nan(value):
    """For JSON."""
    return float(value) if np.isfinite(value) else None


def fit_scale(found, squared, fit_b: bool) -> tuple[float, float, float]:
    """K and ΔB by quasi-likelihood, and the relative error of K by the scatter of the reflections.

    Args:
        found: Box-integrated intensities.
        squared: |F_ref|² of each, e².
        fit_b: Whether ΔB is fitted; else it is 0.

    Returns:
        (K, ΔB in Å², σ(K)/K).

    Raises:
        ValueError: If the intensities do not exceed the diffuse scattering, or the fit does not converge.
    """
    m, j = found.multiplicity.astype(float), found.intensity
    k, x = float((m * j).sum() / (m * squared).sum()), found.s**2 / 2
    if not k > 0:
        raise ValueError(
            "The Bragg intensities of the map are not positive in the mean: no scale. Were Bragg pixels left out "
            "(trusted range, masks) before diffuse.grid?"
        )
    basis = np.stack([np.ones_like(x), -x])[: 2 if fit_b else 1]
    parameters = np.array([np.log(k), 0.0])[: len(basis)]
    for _ in range(_CYCLES):
        mean = squared * np.exp(parameters @ basis)
        gradient = basis @ (m * (j - mean))
        curvature = (basis * (m * mean)) @ basis.T
        step = np.clip(np.linalg.solve(curvature, gradient), -20, 20)
        step[0] = np.clip(step[0], -1, 1)
        parameters = parameters + step
        if np.all(np.abs(step) < 1e-8):
            break
    else:
        raise ValueError("The scale against the reference did not converge. Use absolute.reference.fit_b=False.")
    scatter = basis * (m * (j - squared * np.exp(parameters @ basis)))
    inverse = np.linalg.inv(curvature)
    covariance = inverse @ (scatter @ scatter.T) @ inverse
    delta_b = float(parameters[1]) if fit_b else 0.0
    return float(np.exp(parameters[0])), delta_b, float(np.sqrt(covariance[0, 0]))


def correlations(found, expected) -> tuple[float, float]:
    """Correlation of intensities with those calculated, and the one to be expected from the scatter between stills.

    Returns:
        (found, expected): the latter is 1/√(1 + <σ²>/var); NaN where no scatter is known.
    """
    known = np.isfinite(found.variance)
    spread = float(found.variance[known].mean()) if known.any() else np.nan
    return float(np.corrcoef(found.intensity, expected)[0, 1]), float(1 / np.sqrt(1 + spread / expected.var()))


def shells(found, expected, per_shell: int = 100, most: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of the intensities to those expected, by shells of equal numbers of reflections.

    Returns:
        (centres in 1/Å, ratios), shape (n_shells,).
    """
    order = np.argsort(found.s)
    parts = np.array_split(order, int(np.clip(len(order) // per_shell, 1, most)))
    m = found.multiplicity
    ratios = [(m * found.intensity)[part].sum() / (m * expected)[part].sum() for part in parts]
    return np.array([found.s[part].mean() for part in parts]), np.array(ratios)
