"""Graphs and tables of the absolute scale, all drawn from what diffuse.absolute.json holds."""

from __future__ import annotations

import numpy as np

from diffuse_dials.report.graphs import Graph, Series, sheet
from diffuse_dials.report.html import Section

_S = "|s| = 1/d (1/Å)"
_UNIT = "e² per cell"
_RUNNING = 0.02  # 1/Å


def sections(record: dict, methods):
    """The report, part by part.

    Args:
        record: Content of diffuse.absolute.json.
        methods: Methods by name, for their usual errors.

    Yields:
        Sections.
    """
    yield estimates_section(record, methods)
    if record["warnings"]:
        yield Section("Warnings", "\n".join(record["warnings"]))
    if "composition" in record:
        yield composition_section(record["composition"])
    for text, graph in graphs(record, methods):
        yield Section(graph.title, text, figure=graph)
    totals = record.get("total_scattering")
    if totals is not None:
        yield overloads_section(np.array(totals["s"]), np.array(totals["overloaded_fraction"]))


def picture(record: dict, methods):
    """All graphs of the report on one sheet."""
    return sheet(graph for _, graph in graphs(record, methods))


def graphs(record: dict, methods) -> list[tuple[str, Graph]]:
    """(caption, graph) of what there is to show; arguments as of ``sections``."""
    found = []
    if "total_scattering" in record and record["method"] != "none":
        text = "All good pixels of the scaled stills, whether under the Bragg mask or not."
        found.append((text, totals_graph(record["total_scattering"])))
    text = f"Compton scattering is {'' if record['compton_subtracted'] else 'not '}subtracted."
    found.append((text, diffuse_graph(record)))
    if _wilson(record) is not None or record["wilson_plot_of_single_stills"] is not None:
        text = (
            "Bragg intensities from the map, by boxes of voxels, over ε Σf0² of the ordered atoms. Intensities of "
            "single stills, if given, are shifted; they give no scale, and B only roughly."
        )
        found.append((text, wilson_graph(record)))
    if any(estimate["k_against_limit"]["s"] for estimate in record["estimates"]):
        text = "K for other limits, or shell by shell: flat where it can be trusted."
        found.append((text, limits_graph(record, methods)))
    return found


def estimates_section(record: dict, methods) -> Section:
    """Scales by all methods side by side; arguments as of ``sections``."""
    rows, remarks = [], []
    for number, estimate in enumerate(record["estimates"]):
        error = estimate["relative_error"]
        causes = ", ".join(f"{cause} {100 * value:.1f}" for cause, value in estimate["relative_errors"].items())
        used_range = "{:.3f}-{:.3f}".format(*estimate["s_range"]) if estimate["s_range"] else ""
        name = estimate["method"]
        usual = methods[name].expected if name in methods else ""
        shown = f"{name} (used)" if number == 0 else name
        least = "> " if estimate["relative_error_is_lower_limit"] else ""
        known = "" if error is None else f"{least}{100 * error:.1f}"
        rows.append((shown, f"{estimate['k']:.5g}", known, causes, used_range, usual))
        remarks += [f"{name}: {remark}" for remark in estimate["remarks"]]
    refusals = record["cannot_run"]
    rows += [(name, "cannot run", "", "", "", methods[name].expected) for name in refusals]
    headers = ("method", "K (map units per e²)", "error (%)", "its causes (%)", "|s| used (1/Å)", "usual error")
    text = (
        "Intensity in e² per cell = intensity of the map / K - Compton scattering. The error of K is common to all "
        "voxels and not part of their sigmas. "
    )
    reasons = [f"{name} cannot run: {reason}" for name, reason in refusals.items()]
    return Section("Absolute scale", "\n".join([text.strip(), *remarks, *reasons]), headers, tuple(rows))


def composition_section(composition: dict) -> Section:
    """What the cell holds, from ``Composition.to_dict``."""
    ordered, everything = composition["ordered_atoms"], composition["all_atoms"]
    rows = [(e, ordered.get(e, 0.0), n) for e, n in sorted(everything.items())]
    rows += [("electrons", composition["electrons_ordered"], composition["electrons_all"])]
    text = " ".join(composition["notes"]) + (
        f" Macromolecules {composition['macromolecular_mass_Da']:.0f} Da, solvent "
        f"{100 * composition['solvent_fraction']:.1f} %, {composition['bulk_waters']:.0f} bulk waters, mean electron "
        f"density {composition['mean_electron_density']:.3f} e/Å³."
    )
    rows = tuple((name, f"{a:.6g}", f"{b:.6g}") for name, a, b in rows)
    return Section("Content of the unit cell", text, ("", "ordered", "all, with bulk solvent"), rows)


def totals_graph(totals: dict) -> Graph:
    """Total scattering, Bragg peaks included, against theory; fine bins and their running mean."""
    s = np.array(totals["s"])
    measured = np.array([sigma is not None for sigma in totals["sigma"]])
    x, values = s[measured], np.array(totals["measured"])[measured]
    series = [Series(x, values, "measured, with Bragg peaks", lines=False)]
    width = s[1] - s[0] if len(s) > 1 else _RUNNING
    n = max(1, round(_RUNNING / width))
    if len(values) > 2 * n:
        weights = (x + width / 2) ** 3 - (x - width / 2) ** 3  # volume of the shells
        window = np.ones(n)
        smooth = np.convolve(values * weights, window, "valid") / np.convolve(weights, window, "valid")
        series.append(Series(np.convolve(x, window / n, "valid"), smooth, f"its mean over {_RUNNING} 1/Å", marks=False))
    theory = np.array(totals["theory"])
    series += [
        Series(s, theory, "theory", marks=False),
        Series(s, np.array(totals["sum_f0_squared"]), "Σf0², all atoms", marks=False),
        Series(s, np.array(totals["incoherent"]), "Compton", marks=False),
    ]
    top = max(np.max(theory[s > 0.1], initial=0), np.percentile(values, 95) if len(values) else 0)
    return Graph("Total scattering", _S, _UNIT, tuple(series), y_range=(0.0, float(1.3 * top)))


def diffuse_graph(record: dict) -> Graph:
    """Shell means of the map, and what independent vibrations would leave."""
    shells = record["map_shells"]
    s, means = np.array(shells["s"]), np.array(shells["mean_intensity"])
    series, top = [Series(s, means, "diffuse scattering of the map")], np.max(means, initial=0)
    for name, label in (("sum_f0_squared", "Σf0², all atoms"), ("incoherent", "Compton")):
        if shells.get(name) is not None:
            series.append(Series(s, np.array(shells[name]), label, marks=False))
    expected, wilson = shells["independent_vibrations"], _wilson(record)
    if expected is not None:
        label = f"Σf0² - Bragg, independent vibrations, B = {wilson['b']:.1f} Å²"
        series.append(Series(s, np.array(expected), label, marks=False))
    if shells.get("sum_f0_squared"):
        top = 1.2 * shells["sum_f0_squared"][-1]  # the fall-off of Σf0² at low |s| would flatten all else
    limits = (float(np.min(means, initial=0)), float(1.2 * max(top, np.max(means, initial=0), 1e-30)))
    unit = "relative" if record["units"] == "relative" else _UNIT
    return Graph("Diffuse scattering of the map", _S, unit, tuple(series), guide=0.0, y_range=limits)


def wilson_graph(record: dict) -> Graph:
    """Wilson plots: of the map's Bragg intensities, and of single stills where they were given."""
    series, k = [], np.log(record["k"])
    wilson, raw = _wilson(record), record["wilson_plot_of_single_stills"]
    if wilson is not None:
        plot = wilson["plot"]
        x, y, used = np.array(plot["s_squared_half"]), np.array(plot["log_ratio"]), np.array(plot["used"])
        line = np.linspace(0, x.max(), 2)
        label = f"B = {plot['b']:.1f} Å², scale {np.exp(plot['log_k'] - k):.2f} of the one used"
        series += [
            Series(x[used], y[used] - k, "Bragg intensities of the map", lines=False),
            Series(x[~used], y[~used] - k, "not fitted", lines=False),
            Series(line, plot["log_k"] - plot["b"] * line - k, label, marks=False),
        ]
    if raw is not None:
        label = f"single stills, shifted: B = {raw['b']:.1f} Å² (no scale)"
        values = np.array(raw["log_ratio"]) - raw["log_k"]
        series.append(Series(np.array(raw["s_squared_half"]), values, label, lines=False))
    return Graph("Wilson plot", "s²/2 (1/Å²)", "ln(<I> / (K ε Σf0²))", tuple(series))


def limits_graph(record: dict, methods) -> Graph:
    """K against the limit of |s| at which it is taken, or by shell."""
    k, series = record["k"], []
    low, high = 0.5 * k, 1.6 * k
    for estimate in record["estimates"]:
        s, values = (np.array(estimate["k_against_limit"][name]) for name in ("s", "k"))
        if len(s):
            label = f"{estimate['method']}, {methods[estimate['method']].curve}"
            if not np.any((values >= low) & (values <= high)):
                label += f" (beyond the graph: {estimate['k']:.4g})"
            series.append(Series(s, values, label))
    title = f"Scale against |s|; dotted: {record['method']}, used"
    return Graph(title, "|s| (1/Å)", "K (map units per e²)", tuple(series), guide=k, y_range=(low, high))


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


def _wilson(record: dict) -> dict | None:
    """The estimate by Wilson statistics, if there is one."""
    return next((estimate for estimate in record["estimates"] if "plot" in estimate), None)
