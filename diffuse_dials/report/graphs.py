"""Curves and colour maps described once, drawn twice: by plotly in a page, by matplotlib in a file."""

from __future__ import annotations

import base64
import gzip
import html
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

from diffuse_dials.report.axes import short_numbers

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
_DASHES = (("solid", "-"), ("dash", "--"), ("dot", ":"))  # plotly's and matplotlib's, for each round of the colours
DIVERGING = [[0, "#053061"], [0.25, "#4393c3"], [0.5, "#f7f7f7"], [0.75, "#d6604d"], [1, "#67001f"]]
SEQUENTIAL = "Viridis"
MISSING = "#c8c8c8"  # what was not measured: no colour of either scale
_MANY = 5000  # points beyond which the browser's graphics hardware draws
_MOST = 8000  # points of a series in a page: of more stills only every second, third ... is drawn


@dataclass(frozen=True)
class Series:
    """One line or set of points.

    Attributes:
        x, y: Shape (n,); NaN is left out.
        label: In the legend.
        error: Standard uncertainties of y, shape (n,), or None.
        names: What hovering over a point shows beside its numbers, n texts, or nothing.
        lines: Whether points are joined.
        marks: Whether points are marked.
        size: Of the marks, pixels.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    error: np.ndarray | None = None
    names: tuple[str, ...] = ()
    lines: bool = True
    marks: bool = True
    size: int = 6


@dataclass(frozen=True)
class Graph:
    """Curves over common axes.

    Attributes:
        title: Of the plot.
        x_label, y_label: With units.
        series: The curves.
        guide: A horizontal line that says what is expected, or None.
        y_range: Limits of y, or None to fit the data.
        log_x, log_y: Whether the axis is logarithmic.
        equal: Whether x and y have one unit, and one length on the page.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    guide: float | None = None
    y_range: tuple[float, float] | None = None
    log_x: bool = False
    log_y: bool = False
    equal: bool = False

    def plotly(self) -> dict:
        """data and layout of a plotly figure; numbers with five digits."""
        data = [_trace(one, *_look(i)) for i, one in enumerate(self.series)]
        every = max((_every(one) for one in self.series), default=1)
        title = self.title if every == 1 else f"{self.title} (one point in {every} is drawn)"
        layout = _layout(title, self.x_label, self.y_label)
        layout["showlegend"] = any(one.label for one in self.series)
        if self.equal:
            _equal(layout)
        if self.log_x:
            layout["xaxis"]["type"] = "log"
        if self.log_y:
            layout["yaxis"]["type"] = "log"
        if self.y_range is not None:
            layout["yaxis"]["range"] = list(self.y_range)
        if self.guide is not None:
            layout["shapes"] = [{
                "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": self.guide, "y1": self.guide,
                "line": {"color": "#999", "width": 1, "dash": "dot"}, "layer": "below",
            }]  # fmt: skip
        return {"data": data, "layout": layout}

    def figure(self) -> Figure:
        """The same by matplotlib."""
        return _figure(self)

    def draw(self, axes) -> None:
        """The same on axes of matplotlib."""
        axes.set(title=self.title, xlabel=self.x_label, ylabel=self.y_label)
        for number, one in enumerate(self.series):
            colour, (_, dashes) = _look(number)
            style = {"color": colour, "label": one.label or None, "ms": one.size / 2}
            style["marker"] = "o" if one.marks else None
            error = None if one.error is None else np.nan_to_num(one.error)  # unknown: no bar
            axes.errorbar(one.x, one.y, error, ls=dashes if one.lines else "none", lw=1, elinewidth=0.8, **style)
        if self.guide is not None:
            axes.axhline(self.guide, color="0.6", lw=0.8, ls=":")
        if self.equal:
            axes.set_aspect("equal")
        if self.log_x:
            axes.set_xscale("log")
        if self.log_y:
            axes.set_yscale("log")
            for show in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                show(lambda value, _: f"{value:g}")  # else 1.02 becomes 1.02 x 10⁰
        if self.y_range is not None:
            axes.set_ylim(*self.y_range)
        for axis, log in ((axes.xaxis, self.log_x), (axes.yaxis, self.log_y)):
            if not log:
                short_numbers(axis)
        _legend(axes, [one.label for one in self.series if one.label])


@dataclass(frozen=True)
class Bars:
    """Histograms over common bins.

    Attributes:
        title: Of the plot.
        x_label, y_label: With units.
        edges: Of the bins, shape (n + 1,).
        heights: Of the bars by name, each of shape (n,); a single one needs no name ("").
        guide: A vertical line, such as a mean, or None.
        log_y: Whether the vertical axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    edges: np.ndarray
    heights: dict[str, np.ndarray]
    guide: float | None = None
    log_y: bool = False

    def plotly(self) -> dict:
        """data and layout of a plotly figure."""
        centres, widths = (self.edges[1:] + self.edges[:-1]) / 2, np.diff(self.edges)
        data = [
            {
                "type": "bar", "x": finite(centres), "y": finite(values), "width": finite(widths), "name": name,
                "marker": {"color": colour}, "opacity": 1 if len(self.heights) == 1 else 0.6,
            }
            for (name, values), colour in zip(self.heights.items(), _COLOURS)
        ]  # fmt: skip
        layout = _layout(self.title, self.x_label, self.y_label)
        layout.update(barmode="overlay", bargap=0, showlegend=len(self.heights) > 1)
        if self.log_y:
            layout["yaxis"]["type"] = "log"
        elif max((np.max(values, initial=0) for values in self.heights.values()), default=0) <= 5:
            layout["yaxis"]["dtick"] = 1  # whole numbers: half a still is none
        if self.guide is not None:
            layout["shapes"] = [{
                "type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": self.guide, "x1": self.guide,
                "line": {"color": "#444", "width": 1, "dash": "dot"},
            }]  # fmt: skip
        return {"data": data, "layout": layout}

    def figure(self) -> Figure:
        """The same by matplotlib."""
        return _figure(self)

    def draw(self, axes) -> None:
        """The same on axes of matplotlib."""
        axes.set(title=self.title, xlabel=self.x_label, ylabel=self.y_label)
        alpha = 1 if len(self.heights) == 1 else 0.6
        for (name, values), colour in zip(self.heights.items(), _COLOURS):
            axes.stairs(values, self.edges, fill=True, color=colour, alpha=alpha, label=name or None)
        if self.guide is not None:
            axes.axvline(self.guide, color="0.3", lw=0.8, ls=":")
        short_numbers(axes.xaxis)
        if self.log_y:
            axes.set_yscale("log")
        else:
            short_numbers(axes.yaxis, whole=True)
        if len(self.heights) > 1:
            _legend(axes, list(self.heights))

    @classmethod
    def of(cls, title: str, x_label: str, y_label: str, values, guide=None) -> Bars:
        """The histogram of some values, between the lowest and the highest; whole numbers get whole bins.

        Args:
            title, x_label, y_label, guide: As the attributes.
            values: Shape (n,), finite, n > 0.
        """
        values = np.asarray(values)
        n_bins = int(np.clip(2 * np.sqrt(len(values)), 8, 50))
        low, high = float(values.min()), float(values.max())
        if np.issubdtype(values.dtype, np.integer):
            step = max(1, -(-int(high - low + 1) // n_bins))
            edges = np.arange(low, high + step + 1, step) - 0.5
        else:
            if high - low <= 1e-6 * max(abs(low), 1e-30):  # all alike: a bin of some width about them
                low, high = low - 1e-3 * max(abs(low), 1), high + 1e-3 * max(abs(high), 1)
            edges = np.linspace(low, high, n_bins + 1)
        return cls(title, x_label, y_label, edges, {"": np.histogram(values, edges)[0]}, guide)


@dataclass(frozen=True)
class ColourMap:
    """Values over a plane of two axes.

    Attributes:
        title: Of the plot.
        x_label, y_label, label: With units; ``label`` is that of the values.
        x, y: Centres of the cells, shapes (n_x,), (n_y,).
        values: Shape (n_y, n_x); NaN is grey: not measured.
        limit: Colours run from -limit to limit; None: from the lowest to the highest value.
        equal: Whether x and y have one unit, and one length on the page.
    """

    title: str
    x_label: str
    y_label: str
    label: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    limit: float | None = None
    equal: bool = False

    def plotly(self) -> dict:
        """data and layout of a plotly figure; numbers with five digits."""
        trace = {
            "type": "heatmap", "x": finite(self.x), "y": finite(self.y),
            "z": [finite(row) for row in self.values], "hoverongaps": False,
            "colorbar": {"title": {"text": self.label, "side": "top"}},
            "colorscale": SEQUENTIAL if self.limit is None else DIVERGING,
        }  # fmt: skip
        if self.limit is not None:
            trace.update(zmin=-self.limit, zmax=self.limit)
        layout = _layout(self.title, self.x_label, self.y_label)
        layout["plot_bgcolor"] = MISSING
        for axis in ("xaxis", "yaxis"):
            layout[axis]["showgrid"] = False
        if self.equal:
            _equal(layout)
        return {"data": [trace], "layout": layout}

    def figure(self) -> Figure:
        """The same by matplotlib."""
        return _figure(self)

    def draw(self, axes) -> None:
        """The same on axes of matplotlib."""
        axes.set(title=self.title, xlabel=self.x_label, ylabel=self.y_label)
        limits = {} if self.limit is None else {"vmin": -self.limit, "vmax": self.limit}
        if not np.isfinite(self.values).any():
            limits = {"vmin": 0, "vmax": 1}
        colours = "viridis" if self.limit is None else "RdBu_r"
        axes.set_facecolor(MISSING)
        mesh = axes.pcolormesh(
            _edges(self.x), _edges(self.y), np.ma.masked_invalid(self.values), cmap=colours, rasterized=True, **limits
        )
        if self.equal:
            axes.set_aspect("equal")
        bar = axes.figure.colorbar(mesh, ax=axes, label=self.label)
        for axis in (axes.xaxis, axes.yaxis, bar.ax.yaxis):
            short_numbers(axis)


@lru_cache(maxsize=1)
def plotly_library() -> str:
    """plotly.js of the installed plotly, compressed by gzip, in base64: the same bytes at every call.

    Raises:
        ValueError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs  # slow to import, and only pages need it
    except ImportError:
        raise ValueError(
            "The package plotly, which draws the page's graphs, is not installed. Install it, or set output.html=None."
        ) from None
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=5, mtime=0)).decode()


def _every(one: Series) -> int:
    return max(1, -(-len(one.x) // _MOST))


def _look(number: int) -> tuple[str, tuple[str, str]]:
    """Colour and dashes of a series, different for each of 24."""
    turn, place = divmod(number, len(_COLOURS))
    return _COLOURS[place], _DASHES[turn % len(_DASHES)]


def _legend(axes, labels: list[str]) -> None:
    """Below the axes, where it hides no point."""
    if labels:
        columns = max(1, min(len(labels), 90 // (6 + max(map(len, labels)))))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=columns, frameon=False, fontsize="small")


def _trace(one: Series, colour: str, dashes: tuple[str, str]) -> dict:
    part = slice(None, None, _every(one))
    x, y = finite(one.x[part]), finite(one.y[part])
    trace = {
        "type": "scatter" if len(x) <= _MANY else "scattergl",
        "mode": "+".join(["lines"] * one.lines + ["markers"] * one.marks), "x": x, "y": y,
        "name": _text(one.label), "line": {"color": colour, "width": 1.5, "dash": dashes[0]},
        "marker": {"color": colour, "size": one.size},
    }  # fmt: skip
    if one.error is not None:
        trace["error_y"] = {"type": "data", "array": finite(one.error[part]), "thickness": 1, "width": 2}
    if one.names:
        trace["text"] = [_text(name) for name in one.names[part]]
        trace["hovertemplate"] = "%{text}<br>%{x}, %{y}<extra></extra>"
    return trace


def _text(label: str) -> str:
    """As plotly shows it: it takes <I> for a tag."""
    return html.escape(label, quote=False)


def _layout(title: str, x_label: str, y_label: str) -> dict:
    return {
        "title": {"text": _text(title), "font": {"size": 15}},
        "xaxis": {"title": {"text": _text(x_label), "standoff": 8}, "zeroline": False},
        "yaxis": {"title": {"text": _text(y_label), "standoff": 8}, "zeroline": False},
        "height": 380, "template": "none",
        "margin": {"l": 80, "r": 20, "t": 40, "b": 55}, "hovermode": "closest", "font": {"size": 13},
    }  # fmt: skip


def _equal(layout: dict) -> None:
    layout["yaxis"].update(scaleanchor="x", constrain="domain")
    layout["xaxis"]["constrain"] = "domain"
    layout["height"] = 560


def _figure(plot) -> Figure:
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    plot.draw(figure.subplots())
    return figure


def sheet(plots) -> Figure:
    """Plots on one picture, two in a row.

    Args:
        plots: Objects with ``draw(axes)``, at least one.
    """
    plots = list(plots)
    n_rows = -(-len(plots) // 2)
    figure = Figure(figsize=(14, 4.6 * n_rows), layout="constrained")
    places = figure.subplots(n_rows, 2, squeeze=False).ravel()
    for plot, axes in zip(plots, places):
        plot.draw(axes)
    for axes in places[len(plots) :]:
        axes.set_axis_off()
    return figure


def finite(values) -> list:
    """Numbers that JSON can hold; what is not finite becomes null, which plotly leaves out.

    Five digits, and as many more as they have in common: a cell edge of 78.501 to 78.503 keeps its differences.
    """
    values = np.asarray(values, dtype=float)
    known = values[np.isfinite(values)]
    span = np.ptp(known) if len(known) else 0.0
    common = np.log10(np.abs(known).max() / span) if span > 0 else 0.0
    digits = 5 + int(np.clip(np.ceil(common), 0, 11))
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]


def _edges(centres: np.ndarray) -> np.ndarray:
    if len(centres) < 2:
        return np.array([-0.5, 0.5]) + centres[0]
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
