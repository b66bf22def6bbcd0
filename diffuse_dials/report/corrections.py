"""Pictures of the corrections: each factor of the response over the detector, one still's diffuse and background."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from diffuse_dials.report.axes import short_numbers
from diffuse_dials.report.html import Section
from diffuse_dials.report.masks import placement

WHAT = {
    "solid_angle": "Solid angle of a pixel (sr)",
    "polarization": "Part of the scattering that the polarization of the beam leaves",
    "sensor_efficiency": "Part of the photons that the sensor absorbs",
    "air": "Part of the photons that air, helium and windows let through",
    "response": "Response: product of the corrections, exposure apart",
}


def factor_figure(factor, detector) -> Figure:
    """One factor over the detector; several panels where they are in the laboratory, seen along the beam.

    Args:
        factor: A FactorMap.
        detector: dxtbx detector of the still it was worked out for.
    """
    low, high = factor.range
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    axes = figure.add_subplot(facecolor="#eeeeee")
    placed = len(factor.panels) > 1
    corners = []
    for values, panel in zip(factor.panels, detector):
        n_fast, n_slow = panel.get_image_size()
        place = placement(panel) if placed else Affine2D()
        box = {"extent": (0, n_fast, n_slow, 0), "interpolation": "nearest", "transform": place + axes.transData}
        image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high if high > low else low + 1e-12, **box)
        corners.append(place.transform([(x, y) for x in (0, n_fast) for y in (0, n_slow)]))
    (x_0, y_0), (x_1, y_1) = np.concatenate(corners).min(axis=0), np.concatenate(corners).max(axis=0)
    axes.set(xlim=(x_0, x_1), ylim=(y_0, y_1) if placed else (y_1, y_0), aspect="equal")
    axes.set(xlabel="x (mm)" if placed else "fast (pixel)", ylabel="y (mm)" if placed else "slow (pixel)")
    axes.set_title(f"{factor.name}: {low:.4g} to {high:.4g}")
    short_numbers(figure.colorbar(image, ax=axes, shrink=0.85, label=unit_of(factor.name)).ax.yaxis)
    return figure


def unit_of(name: str) -> str:
    """Unit of a factor of the response; "" if it has none."""
    return "sr" if name in ("solid_angle", "response") else ""


def correction_sections(record: dict, factors, detector) -> list[Section]:
    """A section for each correction, applied or not, with its values and its picture, and one for their product.

    Args:
        record: ``corrections`` of ``Measurement.record``.
        factors: ``Measurement.factor_maps``.
        detector: Of the first still.
    """
    by_name = {factor.name: factor for factor in factors}
    sections = []
    for name, values in record.items():
        rows = tuple((key, _text(value)) for key, value in values.items() if key not in ("applied", "reason"))
        text = WHAT.get(name, "")
        if not values["applied"]:
            text = f"Not applied: {values['reason']}"
        figure = factor_figure(by_name[name], detector) if name in by_name else None
        sections.append(Section(name.replace("_", " ").capitalize(), text, ("value", "") if rows else (), rows, figure))
    sections.append(Section("Response", WHAT["response"], figure=factor_figure(by_name["response"], detector)))
    return sections


def totals_section(totals) -> Section:
    """Counts and background of all stills together by |s|, over the response: what a blank should explain.

    Args:
        totals: RadialTotals of all stills, Bragg spots included.
    """
    s, bins = np.unique(np.round(totals.s, 9), return_inverse=True)
    counts, background, response = (
        np.bincount(bins, values, len(s)) for values in (totals.counts, totals.background, totals.response)
    )
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    seen = response > 0
    axes.plot(s[seen], (counts / np.where(seen, response, 1))[seen], label="counts, Bragg spots included")
    if background.any():
        axes.plot(s[seen], (background / np.where(seen, response, 1))[seen], label="background, without a radial one")
    axes.set(xlabel="|s| = 1/d (1/Å)", ylabel="photons/(sr s)", yscale="log", title="All stills")
    axes.legend(frameon=False)
    text = "Sums over all stills and panels divided by their response."
    return Section("Counts and background", text, figure=figure)


def described(values: dict) -> tuple[str, str]:
    """Whether a correction is applied, and its values or the reason, from its record."""
    if not values.get("applied", True):
        return "no", str(values.get("reason", ""))
    shown = (f"{key} {_text(value)}" for key, value in values.items() if key != "applied" and value is not None)
    return "yes", "; ".join(shown)


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    return str(value)
