"""Pictures of single sections through reciprocal space, in Cartesian coordinates of the plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from diffuse_dials.io.atomic import replacing
from diffuse_dials.report.axes import short_numbers

_NOT_MEASURED = "0.85"


@dataclass(frozen=True)
class Section:
    """A layer of voxels.

    Attributes:
        x, y: Corners of the voxels, shape (n + 1, m + 1), 1/Å.
        image: Intensities, shape (n, m); NaN is grey.
        axes: Names of the indices that vary along the first and the second dimension.
        title: Above the picture.
        units: Of the intensities.
        signed: Whether they scatter about zero (isotropic part removed).
    """

    x: np.ndarray
    y: np.ndarray
    image: np.ndarray
    axes: tuple[str, str]
    title: str
    units: str
    signed: bool


def plane_coordinates(b_matrix: np.ndarray, axis: int, value: float, first, second) -> tuple[np.ndarray, np.ndarray]:
    """Cartesian coordinates, within a plane of constant h, k or l, of a grid of the other two indices.

    The origin is the foot of the perpendicular from the origin of reciprocal space, so that x² + y² plus the square of
    the plane's distance is |s|². x runs along the reciprocal axis of the first index.

    Args:
        b_matrix: Columns a*, b*, c*, shape (3, 3), 1/Å.
        axis: Which index is constant, 0 to 2.
        value: That index.
        first, second: The other two indices in ascending order, shapes (n,) and (m,).

    Returns:
        x and y, each of shape (n, m), 1/Å.
    """
    u, v = (b_matrix[:, i] for i in range(3) if i != axis)
    along = u / np.linalg.norm(u)
    across = v - (v @ along) * along
    across /= np.linalg.norm(across)
    grid = np.meshgrid(first, second, indexing="ij")
    points = value * b_matrix[:, axis] + grid[0][..., None] * u + grid[1][..., None] * v
    return points @ along, points @ across


def quantile_limits(image: np.ndarray, quantiles: tuple[float, float], signed: bool) -> tuple[float, float]:
    """Limits of the colours: quantiles of the measured intensities, symmetric about 0 if they are signed."""
    seen = image[np.isfinite(image)]
    if not len(seen):
        return -1.0, 1.0
    low, high = (float(value) for value in np.quantile(seen, quantiles))
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        return -high, high
    return low, high if high > low else low + 1


def section_figure(section: Section, low: float, high: float) -> Figure:
    """Draw a section with a colour bar.

    Args:
        section: What to draw.
        low, high: Limits of the colours, units of the intensities.
    """
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_NOT_MEASURED)
    colours = "RdBu_r" if section.signed else "viridis"
    image = np.ma.masked_invalid(section.image)
    mesh = axes.pcolormesh(section.x, section.y, image, cmap=colours, vmin=low, vmax=high, rasterized=True)
    axes.set_aspect("equal")
    end_at_voxels(axes, section.x, section.y, section.image)
    axes.set_title(section.title)
    first, second = section.axes
    axes.set_xlabel(f"along {first} (1/Å)")
    axes.set_ylabel(f"normal to {first}, towards {second} (1/Å)")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.85, extend="both")
    bar.set_label(f"{section.units.replace('^2', '²')}; grey: not measured")
    short_numbers(bar.ax.yaxis)
    return figure


def end_at_voxels(axes, x: np.ndarray, y: np.ndarray, image: np.ndarray) -> None:
    """Let axes end where the voxels that were measured do: a box of indices of an oblique cell reaches far beyond.

    Args:
        axes: Of matplotlib.
        x, y: Corners of the voxels, shape (n + 1, m + 1).
        image: Shape (n, m); NaN was not measured.
    """
    seen = np.isfinite(image)
    for axis, corners in ((axes.set_xlim, x), (axes.set_ylim, y)):
        if seen.any():
            around = [corners[i : i + seen.shape[0], j : j + seen.shape[1]][seen] for i in (0, 1) for j in (0, 1)]
            axis(min(c.min() for c in around), max(c.max() for c in around))


def save_figure(figure: Figure, path, form: str) -> None:
    """Write a picture as "png" or "svg", complete or not at all."""
    with replacing(path) as partial:
        if form == "svg":
            FigureCanvasSVG(figure).print_svg(str(partial))
        else:
            FigureCanvasAgg(figure)
            figure.savefig(str(partial), format="png", dpi=150)
