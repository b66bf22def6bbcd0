"""Residuals against panel, place on the detector, |s|, order, scale and expected noise: is a correction missing?

Every trend is flat if the model of scales, background and detector is right. The map and the scales absorb what they
can: neither a factor over |s| that all stills share nor one over the stills can show, which is why order and scale are
crossed with |s|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_dials.algorithms.quality.statistics import shell_of
from diffuse_dials.algorithms.scaling.residuals import Grouping, Misfit, Misfits

_BINS = 30
_SCALE_BINS = 10
_NOISE_EDGES = np.logspace(-2, 6, 17)


@dataclass(frozen=True)
class Trend:
    """Residuals along one axis, or over a plane of two.

    Attributes:
        name: Short name: panel, detector, s, order, scale, noise.
        x_label, y_label: What the axes are, with units; ``y_label`` is empty for one axis.
        x: Centres of the groups, shape (n_x,).
        y: Centres along the second axis, shape (n_y,); one value for one axis.
        misfit: Of the groups, each array of shape (n_y, n_x).
        advice: What may be missing where the trend is not flat.
    """

    name: str
    x_label: str
    x: np.ndarray
    y_label: str
    y: np.ndarray
    misfit: Misfit
    advice: str

    @property
    def worst(self) -> tuple[float, float]:
        """(excess, excess/esd) of the group that is most significantly not flat."""
        known = np.isfinite(self.misfit.excess) & (self.misfit.esd > 0)
        if not known.any():
            return float("nan"), float("nan")
        excess = self.misfit.excess[known]
        pull = excess / self.misfit.esd[known]
        i = int(np.argmax(np.abs(pull)))
        return float(excess[i]), float(pull[i])

    @property
    def rms(self) -> float:
        """Root mean square excess that counting noise does not explain, over the groups weighted by their precision."""
        known = np.isfinite(self.misfit.excess) & (self.misfit.esd > 0)
        if not known.any():
            return float("nan")
        weight = 1 / self.misfit.esd[known] ** 2
        square = np.average(self.misfit.excess[known] ** 2 - self.misfit.esd[known] ** 2, weights=weight)
        return float(np.sqrt(max(square, 0)))

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        excess, pull = self.worst
        return {
            "x": self.x_label, "x_centres": _numbers(self.x), "y": self.y_label, "y_centres": _numbers(self.y),
            "n_rows": self.misfit.n_rows.tolist(), "excess": [_numbers(row) for row in self.misfit.excess],
            "esd": [_numbers(row) for row in self.misfit.esd],
            "chi_square": [_numbers(row) for row in self.misfit.chi_square],
            "rms_excess": _number(self.rms), "worst_excess": _number(excess), "worst_pull": _number(pull),
            "advice": self.advice,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, name: str, content: dict) -> Trend:
        """The trend that ``to_dict`` gave."""
        n_rows = np.array(content["n_rows"], dtype=int)
        parts = (np.array(content[key], dtype=float) for key in ("excess", "esd", "chi_square"))
        x, y = (np.array(content[key], dtype=float) for key in ("x_centres", "y_centres"))
        return cls(name, content["x"], x, content["y"], y, Misfit(n_rows, *parts), content.get("advice", ""))


TREND_HEADERS = ("against", "rms excess (%)", "worst (%)", "worst / error", "if not flat, look for")


def trend_rows(trends: tuple[Trend, ...]) -> list[tuple]:
    """How far each trend is from flat, a row each."""
    rows = []
    for trend in trends:
        excess, pull = trend.worst
        rows.append((trend.name, f"{100 * trend.rms:.2f}", f"{100 * excess:.1f}", f"{pull:.1f}", trend.advice))
    return rows


@dataclass(frozen=True)
class PanelPlane:
    """Where panels lie in the laboratory's x-y plane: x, y (mm) of a pixel = origin + fast·px + slow·py.

    Attributes:
        origin, fast, slow: Shape (n_panels, 2), mm; steps per pixel.
        size: (fast, slow) pixels of each panel, shape (n_panels, 2).
    """

    origin: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, detector) -> PanelPlane:
        """From a dxtbx detector; parallax, a fraction of a bin, is left out."""
        steps = np.array([panel.get_pixel_size() for panel in detector])
        return cls(
            np.array([panel.get_origin()[:2] for panel in detector]),
            np.array([panel.get_fast_axis()[:2] for panel in detector]) * steps[:, :1],
            np.array([panel.get_slow_axis()[:2] for panel in detector]) * steps[:, 1:],
            np.array([panel.get_image_size() for panel in detector], dtype=float),
        )

    def x_y(self, panel: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Laboratory x and y (mm) of pixel positions, shape (n, 2)."""
        return self.origin[panel] + self.fast[panel] * position[:, :1] + self.slow[panel] * position[:, 1:]

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest x, y of all panels' corners, mm."""
        corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=float)
        panel = np.repeat(np.arange(len(self.origin)), 4)
        x_y = self.x_y(panel, np.tile(corners, (len(self.origin), 1)) * self.size[panel])
        return x_y.min(axis=0), x_y.max(axis=0)


@dataclass(frozen=True)
class TrendAxes:
    """Stills and detector against which residuals are plotted.

    Attributes:
        scale: Of each still, shape (n_stills,); NaN for stills without one.
        order: Number of each still along the order axis, same shape; NaN where unknown.
        order_label: What the order is.
        plane: The detector.
        positions: Whether the sums carry their mean position.
    """

    scale: np.ndarray
    order: np.ndarray
    order_label: str
    plane: PanelPlane
    positions: bool

    def groupings(self, edges: np.ndarray) -> dict[str, Grouping]:
        """How to divide the rows; ``edges`` (1/Å) are those of the resolution shells."""
        n_shells, n_panels = len(edges) - 1, len(self.plane.origin)
        order, scale = _bins(self.order, _BINS), _bins(self.scale, _SCALE_BINS)
        fine = np.linspace(edges[0], edges[-1], _BINS + 1)
        groupings = {
            "trend panel": Grouping(lambda rows, s: rows.panel, n_panels),
            "trend s": Grouping(lambda rows, s: shell_of(s, fine), _BINS),
            "trend order": Grouping(
                lambda rows, s: _cross(order.number[rows.still], shell_of(s, edges), order.n), order.n * n_shells
            ),
            "trend scale": Grouping(
                lambda rows, s: _cross(scale.number[rows.still], shell_of(s, edges), scale.n), scale.n * n_shells
            ),
            "trend noise": Grouping(
                lambda rows, s: np.searchsorted(_NOISE_EDGES[1:-1], rows.model_variance), len(_NOISE_EDGES) - 1
            ),
        }
        if self.positions:
            groupings["trend detector"] = Grouping(self._place, _BINS * _BINS)
        return groupings

    def _place(self, rows, s) -> np.ndarray:
        low, high = self.plane.limits()
        x_y = self.plane.x_y(rows.panel, rows.position)
        x, y = np.clip(((x_y - low) / (high - low) * _BINS).astype(int), 0, _BINS - 1).T
        return y * _BINS + x

    def trends(self, misfits: Misfits, edges: np.ndarray) -> tuple[Trend, ...]:
        """The trends, from the sums that ``groupings`` collected."""
        shells = (edges[1:] + edges[:-1]) / 2
        fine = np.linspace(edges[0], edges[-1], _BINS + 1)
        order, scale = _bins(self.order, _BINS), _bins(self.scale, _SCALE_BINS)
        low, high = self.plane.limits()
        x, y = (low + (high - low) * ((np.arange(_BINS) + 0.5) / _BINS)[:, None]).T
        found = []

        def add(name, x_label, x, y_label, y, advice):
            if f"trend {name}" in misfits.names:
                misfit = misfits.of(f"trend {name}").reshape(len(y), len(x))
                found.append(Trend(name, x_label, np.asarray(x, float), y_label, np.asarray(y, float), misfit, advice))

        one = np.zeros(1)
        add("panel", "panel", np.arange(len(self.plane.origin)), "", one, "panels of different sensitivity or distance")
        add("detector", "x (mm)", x, "y (mm)", y, "a mask, flat field, polarization or background that is not right")
        add("s", "|s| (1/Å)", (fine[1:] + fine[:-1]) / 2, "", one, "outliers or sigmas: a common factor cannot show")
        add("order", self.order_label, order.centre, "|s| (1/Å)", shells, "radiation damage, a background that drifts")
        add("scale", "scale", scale.centre, "|s| (1/Å)", shells, "a background that does not scale with the crystal")
        add("noise", "expected variance of a sum (photons²)", np.sqrt(_NOISE_EDGES[1:] * _NOISE_EDGES[:-1]), "", one,
            "gain or read noise that is not right, if χ² has the trend")  # fmt: skip
        return tuple(found)


@dataclass(frozen=True)
class _Bins:
    """Stills in bins of equal number: number of each still's bin (-1: none), mean value of each bin."""

    number: np.ndarray
    centre: np.ndarray

    @property
    def n(self) -> int:
        return len(self.centre)


def _bins(values: np.ndarray, most: int) -> _Bins:
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if not len(distinct):
        return _Bins(np.full(len(values), -1), np.zeros(1))
    edges = distinct[1:] if len(distinct) <= most else np.quantile(values[known], np.linspace(0, 1, most + 1)[1:-1])
    edges = np.unique(edges)
    number = np.where(known, np.searchsorted(edges, values, side="right"), -1)
    n = np.bincount(number[known], minlength=len(edges) + 1)
    keep = np.flatnonzero(n)
    renumber = np.full(len(edges) + 1, -1)
    renumber[keep] = np.arange(len(keep))
    number = np.where(known, renumber[number], -1)
    return _Bins(number, np.bincount(number[known], values[known]) / np.bincount(number[known]))


def _cross(x: np.ndarray, y: np.ndarray, n_x: int) -> np.ndarray:
    """Number of the cell (y, x) of a plane; -1 outside."""
    return np.where((x >= 0) & (y >= 0), y * n_x + x, -1)


def _numbers(values) -> list:
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
    return None if value != value else value
