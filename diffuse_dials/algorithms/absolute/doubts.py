"""What a user should look at before trusting an absolute scale, a sentence each."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.wording import clause
from diffuse_dials.models.grid import GridRecord

DISAGREEMENT = 0.20
_OVERLOADED = 1e-3
_MAP_TO_TOTALS = 0.15
_FLUX = 2.0  # flux and volume are rarely known better


def of_scale(estimates, evidence: Evidence, shells, means) -> list[str]:
    """Doubts that the numbers themselves raise.

    Args:
        estimates: The scale that is used, then the others.
        evidence: What they were drawn from.
        shells, means: Shell means of the absolute map (1/Å, e² per cell).
    """
    found = _disagreements(estimates)
    if evidence.isotropic_removed and estimates[0].method != "none":
        found.append(
            "A radial background was subtracted before: the map lacks its isotropic part, and no Compton scattering "
            "was subtracted."
        )
    negative = shells[means < 0]
    if len(negative) and not evidence.isotropic_removed:
        found.append(
            f"The mean of the map is negative in {len(negative)} of {len(shells)} shells, first at |s| = "
            f"{negative[0]:.2f} 1/Å. The background or the scale is too large; check the plots."
        )
    if evidence.totals is not None:
        worst = float(np.max(evidence.totals.overloaded_fraction()))
        if worst > _OVERLOADED:
            found.append(
                f"Up to {100 * worst:.2f} % of the pixels of an |s| bin are overloaded: the total scattering lacks "
                "their Bragg intensity."
            )
    if evidence.theory is not None:
        found += evidence.theory.composition.warnings()
    return found


def _disagreements(estimates) -> list[str]:
    """Estimates that are more than 20 % from the one that is used, a sentence each."""
    scales = [e for e in estimates if e.method != "none"]
    found = []
    for other in scales[1:]:
        ratio = other.k / scales[0].k
        if not 1 / (1 + DISAGREEMENT) <= ratio <= 1 + DISAGREEMENT:
            usual = f" ({other.method} is good to {METHODS[other.method].expected})" if other.method in METHODS else ""
            found.append(
                f"{other.method} gives {ratio:.2f} times the scale of {scales[0].method}{usual}. "
                "Check composition, background and the plot of the total scattering."
            )
    return found


def of_record(record: GridRecord, n_stills: int, method: str) -> list[str]:
    """Doubts about the data raised by grid.json.

    Args:
        record: grid.json.
        n_stills: Stills that were scaled.
        method: The method whose scale is used.
    """
    if method == "none":
        return []
    found = []
    for name, values in record.corrections.items():
        if isinstance(values, dict) and values.get("applied") is False:
            what = name.replace("_", " ")
            found.append(
                f"The {what} was not corrected for ({clause(values.get('reason'))}), so K varies with |s| by as much."
            )
    compares_totals = method in METHODS and "totals" in METHODS[method].needs
    if compares_totals and record.background.get("method") in (None, "none"):
        found.append(
            "No background was subtracted: scattering by air and liquid around the crystal counts as the crystal's, "
            "and the intensities come out too small. Use background images, or absolute.method=reference."
        )
    if n_stills < 10:
        found.append(
            f"The scale rests on {n_stills} still{'s' if n_stills > 1 else ''}: the spherical mean of the Bragg peaks "
            "needs many orientations."
        )
    return found


def of_totals(ratio: float | None) -> list[str]:
    """Doubts from the mean of the map, Bragg pixels included, over the radial totals.

    Args:
        ratio: From totals.map_over_totals.
    """
    if ratio is None or 1 / (1 + _MAP_TO_TOTALS) <= ratio <= 1 + _MAP_TO_TOTALS:
        return []
    return [
        f"The map with its Bragg pixels has {ratio:.2f} times the mean of the radial totals at the same |s|, which "
        "should be 1. Are the files from one run? Few stills can cause this as well."
    ]


def of_flux(k: float, expected: float | None) -> tuple[list[str], float | None]:
    """Doubts from the check against flux and volume, and the ratio K found / K expected."""
    if expected is None:
        return [], None
    ratio = k / expected
    if 1 / _FLUX <= ratio <= _FLUX:
        return [], ratio
    return [f"K is {ratio:.3g} times what flux and illuminated volume give, Φ r_e² N_cells = {expected:.4g}."], ratio
