"""Pictures of a map and its statistics, as matplotlib Figures (no pyplot, so nothing global and no display)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffuse_dials.io.atomic import replacing
from diffuse_dials.report.axes import short_numbers
from diffuse_dials.report.graphs import MISSING
from diffuse_dials.report.sections import end_at_voxels

PLANES = {"hk0": 2, "h0l": 1, "0kl": 0}
_AXES = "hkl"


@dataclass(frozen=True)
class VoxelFrame:
    """What it takes to draw voxels: the grid and its symmetry.

    Attributes:
        ndiv: Voxels from one lattice point to the next.
        b_matrix: Columns a*, b*, c*, shape (3, 3), 1/Å.
        operators: Integer matrices of the Laue group, shape (order, 3, 3); n' = n R.
    """

    ndiv: tuple[int, int, int]
    b_matrix: np.ndarray
    operators: np.ndarray


def save_png(figure: Figure, path) -> None:
    """Write a picture, complete or not at all."""
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))


def sections(
    maps: dict[str, np.ndarray], index: np.ndarray, frame: VoxelFrame, planes=("hk0", "h0l"), signed=True, units=""
) -> Figure:
    """Planes through the origin of reciprocal space, symmetry mates filled in.

    One row per plane and one column per map; a single map has its planes side by side.

    Args:
        maps: Values by title, each of shape (n,); NaN is grey. All share the colours: those of the last.
        index: Voxels, shape (n, 3).
        frame: Grid and symmetry.
        planes: Names of planes, of ``PLANES``.
        signed: Whether the values scatter about zero (isotropic part removed).
        units: Of the values, beside the colours.
    """
    shape = (len(planes), len(maps)) if len(maps) > 1 else (1, len(planes))
    figure = Figure(figsize=(4.4 * shape[1] + 0.8, 4.2 * shape[0]), layout="constrained")
    rows = figure.subplots(*shape, squeeze=False).reshape(len(planes), len(maps))
    low, high = _limits(list(maps.values())[-1], signed)
    for row, plane in zip(rows, planes):
        images = [_section(index, values, frame, PLANES[plane]) for values in maps.values()]
        for axes, title, (x, y, image) in zip(row, maps, images):
            mesh = axes.pcolormesh(
                x, y, np.ma.masked_invalid(image), cmap="RdBu_r" if signed else "viridis", vmin=low, vmax=high,
                rasterized=True,
            )  # fmt: skip
            axes.set_aspect("equal")
            end_at_voxels(axes, x, y, image)
            axes.set_facecolor(MISSING)
            axes.set_title(f"{title}, {plane}")
            first, second = (name for i, name in enumerate(_AXES) if i != PLANES[plane])
            axes.set_xlabel(f"along {first} (1/Å)")
            axes.set_ylabel(f"normal to {first}, towards {second} (1/Å)")
        short_numbers(figure.colorbar(mesh, ax=list(row), shrink=0.8, extend="both", label=units).ax.yaxis)
    return figure


def _section(index, values, frame: VoxelFrame, axis: int):
    """Corner coordinates (1/Å) and image of the plane n[axis] = 0."""
    good = np.isfinite(values)
    index, values = index[good].astype(np.int64), values[good]
    first, second = (i for i in range(3) if i != axis)
    planes = []
    for operator in frame.operators:
        moved = index @ operator
        inside = moved[:, axis] == 0
        planes.append((moved[inside][:, [first, second]], values[inside]))
    points = np.concatenate([p for p, _ in planes])
    size = np.abs(points).max(axis=0, initial=1)
    image = np.full(2 * size + 1, np.nan)
    for place, value in planes:
        image[tuple((place + size).T)] = value
    a = frame.b_matrix[:, first] / frame.ndiv[first]
    b = frame.b_matrix[:, second] / frame.ndiv[second]
    along = np.array([a @ a, a @ b]) / np.linalg.norm(a)
    across = np.linalg.norm(np.cross(a, b)) / np.linalg.norm(a)
    u, v = np.meshgrid(*(np.arange(-n, n + 2) - 0.5 for n in size), indexing="ij")
    return u * along[0] + v * along[1], v * across, image


def _limits(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Colour limits from quantiles of a map, so that single noisy voxels do not set them."""
    seen = values[np.isfinite(values)]
    if not len(seen):
        return -1.0, 1.0
    if signed:
        high = float(np.quantile(np.abs(seen), 0.98)) or 1.0
        return -high, high
    low, high = (float(q) for q in np.quantile(seen, [0.01, 0.99]))
    return low, high if high > low else low + 1
