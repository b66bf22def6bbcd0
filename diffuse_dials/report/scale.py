"""The page of diffuse.scale: statistics, symmetry, residuals, scales and sections of the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from diffuse_dials.algorithms.quality.bragg_statistics import BraggStatistics
from diffuse_dials.algorithms.quality.equivalents import SymmetryStatistics
from diffuse_dials.algorithms.quality.statistics import MapStatistics
from diffuse_dials.algorithms.scaling.quality import Quality
from diffuse_dials.algorithms.scaling.trends import TREND_HEADERS, Trend, trend_rows
from diffuse_dials.report.graphs import ColourMap, Graph, Series
from diffuse_dials.report.html import Section

STATISTICS = (
    "Scales come from all stills. CC½ is the correlation of maps from random halves of the stills, averaged over the "
    "splits, after the isotropic part of each half was subtracted (± is the spread over the splits; two stills have "
    "one split). CC½ total leaves the isotropic part in, and is inflated by the fall-off with resolution. σ ratio is "
    "the scatter of the stills over the predicted σ, χ² that of their sums about scales and map: both are 1 if the "
    "errors are right. d refers to the centres of voxels; beyond the resolution limit of the pixels few voxels are "
    "measured."
)
SYMMETRY = (
    "Correlation of the anisotropic parts of voxels that an operator relates, before merging. Expected is the "
    "correlation that noise would leave if the symmetry holds; it is too high if χ² shows that the predicted errors "
    "are too small."
)
RESIDUALS = (
    "Excess = Σ(counts - background - model) / Σ model. Each plot is flat within its errors if no component is "
    "missing. Sums that are alone in their voxel are left out, because the map follows them. A factor over |s| that "
    "all stills share, or one over the stills, cannot show: map and scales absorb it."
)
NULL = (
    "Every still was turned by a random rotation: what half maps still share does not come from the crystal. Mean and "
    "spread over the draws; with few stills a single draw scatters widely, because they meet in few places."
)
BRAGG = (
    "Bragg intensities divided by polarization and scale, merged per reflection, never divided by partialities. They "
    "are used for these statistics only: on stills they depend on mosaicity and on how the Ewald sphere cuts each "
    "spot."
)


def statistics_sections(statistics: MapStatistics) -> list[Section]:
    """The table by shell and its curves."""
    s = np.array([shell.s for shell in statistics.shells])

    def of(name):
        return np.array([getattr(shell, name) for shell in statistics.shells])

    half = Graph(
        "Correlation of random half maps", "1/d (1/Å)", "correlation",
        (
            Series(s, of("cc_half"), "CC½, anisotropic part", of("cc_half_spread")),
            Series(s, of("cc_star"), "CC*"),
            Series(s, of("cc_half_total"), "CC½, total"),
        ),
        guide=0.0, y_range=(min(-0.05, np.nanmin([*of("cc_half"), 0]) - 0.05), 1.05),
    )  # fmt: skip
    errors = Graph(
        "Are the sigmas right?", "1/d (1/Å)", "1 if so",
        (Series(s, of("chi_square"), "χ² of the stills about the map"), Series(s, of("sigma_ratio"), "σ ratio")),
        guide=1.0, log_y=True,
    )  # fmt: skip
    signal = Graph("Signal to noise", "1/d (1/Å)", "<I/σ>", (Series(s, of("i_over_sigma")),))
    seen = Graph(
        "Stills per voxel", "1/d (1/Å)", "stills", (Series(s, of("multiplicity")),),
        y_range=(0, 1.1 * np.nanmax([*of("multiplicity"), 1])),
    )  # fmt: skip
    rows, figures = tuple(statistics.rows()), _drawn(half, errors, signal, seen)
    return [Section("Statistics by resolution shell", STATISTICS, statistics.headers, rows, figures)]


def _drawn(*graphs: Graph) -> tuple[Graph, ...]:
    """The graphs without what is not known: of a single still there are no half maps."""
    known = (replace(g, series=tuple(one for one in g.series if np.isfinite(one.y).any())) for g in graphs)
    return tuple(graph for graph in known if graph.series)


def symmetry_section(symmetry: SymmetryStatistics, statistics: MapStatistics) -> Section:
    """Agreement of unmerged equivalents."""
    s = np.array([shell.s for shell in statistics.shells])
    series = [Series(s, o.shells, f"{o.kind}: {o.name}") for o in symmetry.operators]
    graph = Graph(
        "Equivalents before merging", "1/d (1/Å)", "correlation",
        (*series, Series(s, symmetry.cc_sym_shells, "CC_sym")), guide=0.0,
    )  # fmt: skip
    graph = _drawn(graph)
    part = "" if symmetry.fraction == 1 else f" One voxel in {1 / symmetry.fraction:.0f} was looked at."
    return Section("Symmetry", SYMMETRY + part, symmetry.headers, tuple(symmetry.rows()), graph)


def null_section(quality: Quality) -> Section:
    """The null test."""
    s = np.array([shell.s for shell in quality.statistics.shells])
    cc_half = np.array([shell.cc_half for shell in quality.statistics.shells])
    mean, spread = quality.null_mean_and_spread()
    graph = Graph(
        "Null test", "1/d (1/Å)", "CC½, anisotropic part",
        (Series(s, cc_half, "as indexed"), Series(s, mean[:-1], "random orientations", spread[:-1])), guide=0.0,
    )  # fmt: skip
    return Section("Random orientations", NULL, quality.null_headers, tuple(quality.null_rows()), graph)


def trends_section(trends: tuple[Trend, ...]) -> Section:
    """Residuals: a table of how far each trend is from flat, and the plots."""
    graphs = tuple(graph for trend in trends for graph in trend_graphs(trend))
    return Section("Residuals", RESIDUALS, TREND_HEADERS, tuple(trend_rows(trends)), graphs)


def trend_graphs(trend: Trend):
    """The plots of one trend; none for a single group."""
    misfit, title = trend.misfit, f"Residuals against {trend.name}"
    if len(trend.x) == 1:
        return
    if trend.y_label:
        known = np.isfinite(misfit.excess)
        # Colours reach beyond the noise, so that what is not flat stands out and noise does not.
        limit = 4 * np.median(misfit.esd[known]) if known.any() else 0.0
        limit = max(limit, float(np.quantile(np.abs(misfit.excess[known]), 0.95))) if known.any() else 0.0
        yield ColourMap(
            title, trend.x_label, trend.y_label, "excess", trend.x, trend.y, misfit.excess, limit or 0.01,
            equal=trend.name == "detector",
        )  # fmt: skip
        return
    log, seen = trend.name == "noise", misfit.n_rows[0] > 0
    excess = Series(trend.x[seen], misfit.excess[0][seen], "", misfit.esd[0][seen])
    if trend.name != "s":
        yield Graph(title, trend.x_label, "excess", (excess,), guide=0.0, log_x=log)
    chi = Series(trend.x[seen], misfit.chi_square[0][seen])
    yield Graph(f"χ² against {trend.name}", trend.x_label, "χ²", (chi,), guide=1.0, log_x=log, log_y=True)


def r_factor_section(quality: Quality) -> Section:
    """R factor of the scaling by shell, beside what counting noise alone would make of it."""
    s = np.array([shell.s for shell in quality.statistics.shells])
    observed, noise = quality.r_factors[:, :-1]
    graph = Graph(
        "R factor of the scaling", "1/d (1/Å)", "R", (Series(s, observed, "R"), Series(s, noise, "by noise alone")),
        y_range=(0.0, float(1.2 * np.nanmax([*observed, *noise, 1e-6]))),
    )  # fmt: skip
    r, alone = quality.r_factors[:, -1]
    text = (
        f"R = Σ|counts - background - model| / Σ model over the sums of single stills that share their voxel: "
        f"{100 * r:.2f} %, of which counting noise alone explains {100 * alone:.2f} %. R follows the counts; the "
        "distance of the curves says whether scales and map explain the data. (Below about one photon a sum the noise "
        "curve is too high.)"
    )
    return Section("R factor", text, figure=graph)


def scales_section(
    labels, scale: np.ndarray, esd: np.ndarray, chi_square: np.ndarray, x: np.ndarray | None = None, order="still"
) -> Section:
    """Scale and χ² of each still; hovering over a point shows which still it is.

    Args:
        labels: Names of the stills.
        scale, esd, chi_square: Of each.
        x: What they are drawn against; None: their number.
        order: Its name.
    """
    number, names = np.arange(len(scale)) if x is None else x, tuple(labels)
    return Section(
        "Stills",
        "Error bars: counting statistics only.",
        figure=(
            Graph("Scale of each still", order, "inverse scale factor b",
                  (Series(number, scale, "", esd, names, lines=False),), guide=1.0),
            Graph("χ² of each still about the map", order, "χ²",
                  (Series(number, chi_square, "", None, names, lines=False),), guide=1.0, log_y=True),
        ),
    )  # fmt: skip


def components_section(headers, rows) -> Section:
    """What each component beyond the scale is worth."""
    text = "Gain in ln likelihood on observations that were left out of the refinement; it must exceed chance."
    return Section("Components of the scaling model", text, tuple(h.replace("\n", " ") for h in headers), rows)


def bragg_section(bragg: BraggStatistics) -> Section:
    """Bragg statistics and the Wilson plot."""
    x = np.array([(shell.d_min**-2 + shell.d_max**-2) / 8 for shell in bragg.shells])
    wilson = Graph(
        "Wilson plot of raw still intensities (no absolute scale)", "sin²θ/λ² (1/Å²)", "ln (<J> / Σf²)",
        (Series(x, np.array([shell.wilson for shell in bragg.shells])),),
    )  # fmt: skip
    low = f"{bragg.n_low_partiality} spots have a partiality below {bragg.min_partiality}: counted and kept."
    text = f"{BRAGG} {bragg.n_stills} stills. {low if bragg.has_partiality else 'The files hold no partialities.'}"
    return Section("Bragg reflections", text, bragg.headers, tuple(bragg.rows()), wilson)


def map_section(intensity: Figure, anisotropic: Figure) -> Section:
    """Sections of the map, with and without its isotropic part."""
    text = (
        "Symmetry mates are filled in. Grey: not measured, or lattice points if the statistics leave them out. "
        "Colours end at quantiles: 1 and 99 % of the intensities, 98 % of the anisotropic part."
    )
    return Section("Sections of the map", text, figure=(intensity, anisotropic))
