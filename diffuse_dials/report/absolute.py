"""Pictures and tables of the absolute scale."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from diffuse_dials.report.html import Section


def _axes(xlabel="|s| = 1/d (1/Å)", ylabel="e² per cell"):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def estimates_section(estimates, refusals, expected) -> Section:
    """Scales by all methods side by side.

    Args:
        estimates: ScaleEstimate of each method that could run, the one used first.
        refusals: Why the others could not, by name.
        expected: Usual error of each method, by name.
    """
    rows = []
    for number, estimate in enumerate(estimates):
        error = estimate.relative_error
        causes = ", ".join(f"{cause} {100 * value:.1f}" for cause, value in estimate.errors.items())
        used_range = "{:.3f}-{:.3f}".format(*estimate.s_range) if estimate.s_range else ""
        rows.append(
            (
                estimate.method + (" (used)" if number == 0 else ""),
                f"{estimate.k:.5g}",
                "" if error is None else f"{100 * error:.1f}",
                causes,
                used_range,
                expected.get(estimate.method, ""),
            )
        )
    rows += [(name, "cannot run", "", reason, "", expected.get(name, "")) for name, reason in refusals.items()]
    headers = ("method", "K (map units per e²)", "error (%)", "its causes (%)", "|s| used (1/Å)", "usual error")
    text = (
        "Intensity in e² per cell = intensity of the map / K - Compton scattering. The error of K is common to all "
        "voxels and not part of their sigmas."
    )
    return Section("Absolute scale", text, headers, tuple(rows))


def composition_section(composition) -> Section:
    """What the cell holds."""
    rows = [(e, composition.ordered.get(e, 0.0), n) for e, n in sorted(composition.all_atoms.items())]
    rows += [("electrons", composition.electrons_ordered, composition.electrons)]
    text = " ".join(composition.notes) + (
        f" Macromolecules {composition.mass:.0f} Da, solvent {100 * composition.solvent_fraction:.1f} %, "
        f"{composition.bulk_waters:.0f} bulk "
        f"waters, mean electron density {composition.mean_density:.3f} e/Å³."
    )
    rows = tuple((name, f"{a:.6g}", f"{b:.6g}") for name, a, b in rows)
    return Section("Unit cell", text, ("", "ordered", "all, with bulk solvent"), rows)


def totals_section(totals, theory, k: float) -> Section:
    """Total scattering, Bragg peaks included, against theory; fine bins and their running mean."""
    figure, axes = _axes()
    measured = totals.measured
    s, values = totals.s[measured], totals.intensity()[measured] / k
    axes.plot(s, values, ".", ms=2, color="0.6", label="measured, with Bragg peaks")
    n = max(1, round(0.02 / totals.width))
    if len(values) > 2 * n:
        weights = totals.shell_volume()[measured]
        window = np.ones(n)
        smooth = np.convolve(values * weights, window, "valid") / np.convolve(weights, window, "valid")
        axes.plot(np.convolve(s, window / n, "valid"), smooth, color="C0", label="its mean over 0.02 1/Å")
    axes.plot(totals.s, theory.total(totals.s), color="C3", label="theory")
    axes.plot(totals.s, theory.coherent(totals.s), "--", color="C1", label="Σf0², all atoms")
    axes.plot(totals.s, theory.incoherent(totals.s), ":", color="C2", label="Compton")
    top = np.max(theory.total(totals.s)[totals.s > 0.1], initial=0)
    axes.set_ylim(0, 1.3 * max(top, np.percentile(values, 95)))
    axes.legend()
    text = "All good pixels of the scaled stills; the Bragg mask plays no part here."
    return Section("Total scattering", text, figure=figure)


def diffuse_section(s, means, theory, compton_subtracted: bool) -> Section:
    """Shell means of the map.

    Args:
        s, means: Shells (1/Å) and their means (e² per cell).
        theory: Its Σf0² and Compton curves are drawn; None draws none.
        compton_subtracted: For the caption.
    """
    figure, axes = _axes(ylabel="e² per cell" if theory is not None else "relative")
    axes.plot(s, means, "o-", ms=3, label="diffuse scattering of the map")
    if theory is not None:
        fine = np.linspace(0, max(s, default=0.1), 300)
        axes.plot(fine, theory.coherent(fine), "--", color="C1", label="Σf0², all atoms")
        axes.plot(fine, theory.incoherent(fine), ":", color="C2", label="Compton")
        top = max(np.max(means, initial=0), float(theory.coherent(max(s, default=0.1))))
        axes.set_ylim(np.min(means, initial=0), 1.2 * top)
    axes.axhline(0, color="0.5", lw=0.5)
    axes.legend()
    text = "Compton scattering is subtracted." if compton_subtracted else "Compton scattering is not subtracted."
    return Section("Diffuse scattering of the map", text, figure=figure)


def limits_section(estimates) -> Section | None:
    """K against the limit of |s| at which it is taken: flat where it can be trusted."""
    with_curves = [e for e in estimates if len(e.curve_s)]
    if not with_curves:
        return None
    figure, axes = _axes("upper (krogh_moe) or lower (others) limit of |s| (1/Å)", "K (map units per e²)")
    for estimate in with_curves:
        axes.plot(estimate.curve_s, estimate.curve_k, label=estimate.method)
    axes.axhline(estimates[0].k, color="0.5", lw=0.5)
    axes.legend()
    return Section("Scale against the limit", figure=figure)


def overloads_section(s, fraction, width: float = 0.05) -> Section:
    """Overloaded pixels by shell: where they are Bragg peaks, the total scattering lacks their intensity.

    Args:
        s: Bin centres, 1/Å.
        fraction: Of pixels overloaded, by bin.
        width: Of the shells of the table, 1/Å.
    """
    shells = np.floor(s / width).astype(int)
    rows = tuple(
        (f"{shell * width:.2f}-{(shell + 1) * width:.2f}", f"{100 * float(fraction[shells == shell].mean()):.4f}")
        for shell in np.unique(shells)
    )
    return Section("Overloaded pixels", "Left out of the total scattering.", ("|s| (1/Å)", "overloaded (%)"), rows)
