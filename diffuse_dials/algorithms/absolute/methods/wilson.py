"""Absolute scale by Wilson statistics of box-integrated Bragg intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.absolute.methods.base import Evidence, Method, ScaleEstimate
from diffuse_dials.algorithms.absolute.methods.reference import within

D_MAX = 4.0  # Å: beyond, atoms are far from randomly distributed
MIN_SHELLS = 4
_PER_SHELL = 30
_MOST = 40
_STATISTICS = 0.30  # what bonds and the spread of B do to the scale, on perfect data

WHY_NOT_RAW = (
    "Intensities integrated on single stills carry |F|² times λ² g/V, where g depends on mosaicity, domain size and "
    "distance from the Ewald sphere, hundreds of times and by up to 8-fold between crystals: they give a Wilson plot "
    "and B, and no scale of a diffuse map."
)


@dataclass(frozen=True)
class WilsonPlot:
    """ln(<I>/(ε Σf²)) against s²/2 and the line through it.

    Attributes:
        x: s²/2 of the shells, shape (n,), 1/Å².
        y: Logarithm of the ratio, shape (n,).
        weight: Reflections of each shell, shape (n,).
        used: Shells that the line is fitted to, shape (n,), bool.
        log_k, b: The line y = log_k - b x; b in Å².
        error: Standard error of log_k by the scatter about the line.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    used: np.ndarray
    log_k: float
    b: float
    error: float

    def to_dict(self) -> dict:
        """For the JSON file."""
        arrays = {name: getattr(self, name).tolist() for name in ("x", "y", "weight", "used")}
        return {
            "s_squared_half": arrays.pop("x"),
            "log_ratio": arrays.pop("y"),
            **arrays,
            "log_k": self.log_k,
            "b": self.b,
        }


def wilson_plot(s, intensity, weight, expected, d_min, d_max) -> WilsonPlot:
    """Fit a line to a Wilson plot [Wilson (1942) Nature 150, 152].

    Args:
        s: |s| of the reflections, shape (n,), 1/Å.
        intensity: Of each, any unit.
        weight: Of each within its shell.
        expected: ε Σf² of the ordered atoms at rest, shape (n,), e².
        d_min, d_max: Limits of the fit, Å; None: no limit.

    Raises:
        ValueError: If fewer than four shells with a positive mean lie within the limits.
    """
    inside = within(s, d_min, d_max)
    # equal steps of s², as many as give 30 reflections each within the limits
    n_shells = int(np.clip(inside.sum() // _PER_SHELL, 1, _MOST))
    low, high = (s[inside].min() ** 2, s[inside].max() ** 2) if inside.any() else (0.0, 1.0)
    step = max((high - low) / n_shells, 1e-9)
    number = np.floor((s**2 - low) / step - 1e-9).astype(int)
    shells = np.unique(number)
    rows = [number == shell for shell in shells]
    ratio = np.array([(weight * intensity)[r].sum() / (weight * expected)[r].sum() for r in rows])
    x = np.array([np.average(s[r] ** 2 / 2, weights=weight[r] + 1e-12) for r in rows])
    count = np.array([r.sum() for r in rows])
    positive = ratio > 0
    x, ratio, count, shells = x[positive], ratio[positive], count[positive], shells[positive]
    y = np.log(ratio)
    used = (shells >= 0) & (shells < n_shells) & (count >= _PER_SHELL // 3)
    if used.sum() < MIN_SHELLS:
        raise ValueError(
            f"{used.sum()} shells of {_PER_SHELL} reflections with a positive mean intensity lie between "
            f"d = {d_max or np.inf:.2f} and {d_min or 1 / s.max():.2f} Å; a Wilson plot needs {MIN_SHELLS}. "
            "Measure to higher angles."
        )
    design = np.stack([np.ones(used.sum()), -x[used]], axis=1) * np.sqrt(count[used])[:, None]
    target = y[used] * np.sqrt(count[used])
    (log_k, b), *_ = np.linalg.lstsq(design, target, rcond=None)
    residual = ((design @ [log_k, b] - target) ** 2).sum() / max(used.sum() - 2, 1)
    error = float(np.sqrt(residual * np.linalg.inv(design.T @ design)[0, 0]))
    return WilsonPlot(x, y, count, used, float(log_k), float(b), error)


class Wilson(Method):
    """ln(<J>/(ε Σf²)) = ln K - B s²/2 over the ordered atoms.

    On perfect |F|² of a protein the scale is off by up to 30 %, depending on the range, because atoms are not
    randomly distributed and have different B.
    """

    name = "wilson"
    needs = ("bragg", "theory")
    curve = "by shell"
    expected = "30 %, depending on the range of d"

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """See :meth:`Method.estimate`."""
        if evidence.bragg is None and evidence.raw_bragg is not None:
            raise ValueError(f"absolute.method=wilson: {WHY_NOT_RAW} Give a merged map with intensity.all.value.")
        self.check(evidence)
        found, theory = evidence.bragg, evidence.theory
        found = found.select(found.multiplicity >= params.bragg.min_multiplicity)
        if not len(found.s):
            least = params.bragg.min_multiplicity
            raise ValueError(f"No reflection was measured by absolute.bragg.min_multiplicity={least} stills. Lower it.")
        d_max = params.bragg.d_max or D_MAX
        expected = found.epsilon * theory.ordered(found.s)
        plot = wilson_plot(found.s, found.intensity, found.multiplicity, expected, params.bragg.d_min, d_max)
        errors = {"statistics of atoms": _STATISTICS, "fit": plot.error}
        centres = np.sqrt(2 * plot.x[plot.used])
        return ScaleEstimate(
            self.name, float(np.exp(plot.log_k)), errors, (float(centres.min()), float(centres.max())), centres,
            np.exp(plot.y + plot.b * plot.x)[plot.used],
            (), (f"Wilson's B is {plot.b:.1f} Å² (ordered atoms).",), {"b": plot.b, "plot": plot.to_dict()}, plot,
        )  # fmt: skip
