"""Pictures and tables of the absolute scale."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from diffuse_dials.report.html import Section

_S = "|s| = 1/d (1/Å)"
_UNIT = "e² per cell"
_RUNNING = 0.02  # 1/Å


def sections(outcome, methods):
    """The report, part by part.

    Args:
        outcome: algorithms.absolute.output.Outcome.
        methods: Methods by name, for their usual errors.

    Yields:
        Sections.
    """
    yield estimates_section(outcome.estimates, outcome.refusals, methods)
    if outcome.warnings:
        yield Section("Warnings", "\n".join(outcome.warnings))
    if outcome.evidence.theory is not None:
        yield composition_section(outcome.evidence.theory.composition)
    for title, text, draw in _plots(outcome, methods):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        draw(figure.add_subplot())
        yield Section(title, text, figure=figure)
    totals = outcome.evidence.totals
    if totals is not None:
        yield overloads_section(totals.s, totals.overloaded_fraction())


def picture(outcome, methods) -> Figure:
    """All plots of the report on one sheet."""
    plots = _plots(outcome, methods)
    figure = Figure(figsize=(13, 4.6 * ((len(plots) + 1) // 2)), layout="constrained")
    for number, (title, _, draw) in enumerate(plots, start=1):
        axes = figure.add_subplot((len(plots) + 1) // 2, min(2, len(plots)), number)
        draw(axes)
        axes.set_title(title)
    return figure


def _plots(outcome, methods) -> list:
    """(title, caption, function that draws on axes) of what there is to show."""
    plots = []
    if outcome.evidence.totals is not None and outcome.theory is not None:
        text = "All good pixels of the scaled stills; the Bragg mask plays no part here."
        plots.append(("Total scattering", text, lambda axes: _totals(axes, outcome)))
    text = f"Compton scattering is {'' if outcome.compton_subtracted else 'not '}subtracted."
    plots.append(("Diffuse scattering of the map", text, lambda axes: _diffuse(axes, outcome)))
    if outcome.wilson is not None or outcome.raw_wilson is not None:
        text = (
            "Circles: Bragg intensities out of the map, by boxes of voxels, over ε Σf0² of the ordered atoms. Crosses: "
            "intensities of single stills, shifted; they give no scale, and B only roughly."
        )
        plots.append(("Wilson plot", text, lambda axes: _wilson(axes, outcome)))
    if any(len(e.curve_s) for e in outcome.estimates):
        text = "K as it comes out with another limit, or shell by shell: flat where it can be trusted."
        plots.append(("Scale against |s|", text, lambda axes: _limits(axes, outcome, methods)))
    return plots


def estimates_section(estimates, refusals, methods) -> Section:
    """Scales by all methods side by side.

    Args:
        estimates: ScaleEstimate of each method that could run, the one used first.
        refusals: Why the others could not, by name.
        methods: Methods by name, for their usual errors.
    """
    rows, remarks = [], []
    for number, estimate in enumerate(estimates):
        error = estimate.relative_error
        causes = ", ".join(f"{cause} {100 * value:.1f}" for cause, value in estimate.errors.items())
        used_range = "{:.3f}-{:.3f}".format(*estimate.s_range) if estimate.s_range else ""
        name = estimate.method
        usual = methods[name].expected if name in methods else ""
        shown = f"{name} (used)" if number == 0 else name
        least = "> " if estimate.sampling_unknown else ""
        known = "" if error is None else f"{least}{100 * error:.1f}"
        rows.append((shown, f"{estimate.k:.5g}", known, causes, used_range, usual))
        remarks += [f"{name}: {remark}" for remark in estimate.remarks]
    rows += [(name, "cannot run", "", "", "", methods[name].expected) for name in refusals]
    headers = ("method", "K (map units per e²)", "error (%)", "its causes (%)", "|s| used (1/Å)", "usual error")
    text = (
        "Intensity in e² per cell = intensity of the map / K - Compton scattering. The error of K is common to all "
        "voxels and not part of their sigmas. "
    )
    reasons = [f"{name} cannot run: {reason}" for name, reason in refusals.items()]
    return Section("Absolute scale", "\n".join([text.strip(), *remarks, *reasons]), headers, tuple(rows))


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


def _label(axes, x, y):
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend()


def _totals(axes, outcome) -> None:
    """Total scattering, Bragg peaks included, against theory; fine bins and their running mean."""
    totals, theory, k = outcome.evidence.totals, outcome.theory, outcome.chosen.k
    measured = totals.measured
    s, values = totals.s[measured], totals.intensity()[measured] / k
    axes.plot(s, values, ".", ms=2, color="0.6", label="measured, with Bragg peaks")
    n = max(1, round(_RUNNING / totals.width))
    if len(values) > 2 * n:
        weights = totals.shell_volume()[measured]
        window = np.ones(n)
        smooth = np.convolve(values * weights, window, "valid") / np.convolve(weights, window, "valid")
        axes.plot(np.convolve(s, window / n, "valid"), smooth, color="C0", label=f"its mean over {_RUNNING} 1/Å")
    axes.plot(totals.s, theory.total(totals.s), color="C3", label="theory")
    axes.plot(totals.s, theory.coherent(totals.s), "--", color="C1", label="Σf0², all atoms")
    axes.plot(totals.s, theory.incoherent(totals.s), ":", color="C2", label="Compton")
    top = np.max(theory.total(totals.s)[totals.s > 0.1], initial=0)
    axes.set_ylim(0, 1.3 * max(top, np.percentile(values, 95)))
    _label(axes, _S, _UNIT)


def _diffuse(axes, outcome) -> None:
    """Shell means of the map, and what independent vibrations would leave."""
    s, means, theory = outcome.shells, outcome.means, outcome.theory
    axes.plot(s, means, "o-", ms=3, label="diffuse scattering of the map")
    if theory is not None:
        fine = np.linspace(0, max(s, default=0.1), 300)
        axes.plot(fine, theory.coherent(fine), "--", color="C1", label="Σf0², all atoms")
        axes.plot(fine, theory.incoherent(fine), ":", color="C2", label="Compton")
        expected = outcome.expected_diffuse(fine)
        if expected is not None:
            b = outcome.wilson.wilson.b
            axes.plot(fine, expected, color="C3", label=f"Σf0² - Bragg, independent vibrations, B = {b:.1f} Å²")
        top = max(np.max(means, initial=0), float(theory.coherent(max(s, default=0.1))))
        axes.set_ylim(np.min(means, initial=0), 1.6 * top)  # room for the legend
    axes.axhline(0, color="0.5", lw=0.5)
    _label(axes, _S, _UNIT if theory is not None else "relative")


def _wilson(axes, outcome) -> None:
    """Wilson plots: of the map's Bragg intensities, and of single stills where they were given."""
    plot = outcome.wilson.wilson if outcome.wilson is not None else None
    k = np.log(outcome.chosen.k)
    if plot is not None:
        line = np.linspace(0, plot.x.max(), 2)
        axes.plot(plot.x[~plot.used], plot.y[~plot.used] - k, "o", mfc="none", color="C0", label="not fitted")
        axes.plot(plot.x[plot.used], plot.y[plot.used] - k, "o", color="C0", label="Bragg intensities of the map")
        label = f"B = {plot.b:.1f} Å², scale {np.exp(plot.log_k - k):.2f} of the one used"
        axes.plot(line, plot.log_k - plot.b * line - k, color="C0", label=label)
    raw = outcome.raw_wilson
    if raw is not None:
        shift = raw.log_k
        axes.plot(raw.x, raw.y - shift, "x", color="C1", label=f"single stills, shifted: B = {raw.b:.1f} Å² (no scale)")
    _label(axes, "s²/2 (1/Å²)", "ln(<I> / (K ε Σf0²))")


def _limits(axes, outcome, methods) -> None:
    """K against the limit of |s| at which it is taken, or by shell."""
    for estimate in outcome.estimates:
        if len(estimate.curve_s):
            label = f"{estimate.method}, {methods[estimate.method].curve}"
            axes.plot(estimate.curve_s, estimate.curve_k, ".-", ms=3, label=label)
    k = outcome.chosen.k
    axes.axhline(k, color="0.5", lw=0.8, label=f"{outcome.chosen.method}, used")
    axes.set_ylim(0.5 * k, 1.6 * k)
    _label(axes, "|s| (1/Å)", "K (map units per e²)")


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
