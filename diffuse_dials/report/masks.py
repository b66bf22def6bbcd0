"""A picture of a mask over an image."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from diffuse_dials.adapters import images
from diffuse_dials.io.atomic import replacing

_LONGEST = 1100  # pixels of a picture along its longer side
_MARKERS = {"hot": "#d62728", "dead": "#1f77b4", "negative": "#9467bd"}


def mask_figure(experiment, pixels) -> Figure:
    """The mask in colour over an image, on a scale from the 1st to the 99th percentile of the pixels in use.

    One panel is shown in its pixel coordinates, as untrusted regions are given; several where they are in the
    laboratory, x to the right and y up (mm).

    Args:
        experiment: Whose image is shown.
        pixels: A PixelMask.

    Raises:
        ValueError: If the image cannot be read.
    """
    raw = images.read_raw(experiment)
    sparse = [values[mask][:: max(1, values.size // 50_000)] for values, mask in zip(raw, pixels.mask)]
    used = np.concatenate(sparse)
    low, high = np.percentile(used, (1, 99)) if len(used) else (0, 1)
    placed = len(raw) > 1
    places = [placement(panel) if placed else Affine2D() for panel in experiment.detector]
    figure = Figure(figsize=(9, 8.6), layout="tight")
    axes = figure.add_subplot(facecolor="#eeeeee")
    step = max(1, -(-max(max(values.shape) for values in raw) // _LONGEST))
    for values, mask, place in zip(raw, pixels.mask, places):
        n_slow, n_fast = values.shape
        box = {"extent": (0, n_fast, n_slow, 0), "interpolation": "nearest", "transform": place + axes.transData}
        shown, share = _binned(values.astype(float), step), _binned((~mask).astype(float), step)
        axes.imshow(shown, cmap="gray_r", vmin=low, vmax=max(high, low + 1e-9), **box)
        colour = np.zeros((*share.shape, 4))
        colour[..., 0], colour[..., 1], colour[..., 3] = 1.0, 0.55, 0.75 * share
        axes.imshow(colour, **box)
    for kind, colour in _MARKERS.items():
        found = pixels.bad.get(kind, np.empty((0, 3), dtype=int))
        at = [places[panel].transform((fast + 0.5, slow + 0.5)) for panel, slow, fast in found[:3000]]
        x, y = np.array(at).reshape(-1, 2).T
        label = f"{kind} ({len(found)})"
        axes.plot(x, y, "o", ms=5, mfc="none", mec=colour, mew=0.9, ls="none", rasterized=True, label=label)
    corners = np.concatenate([
        place.transform([(fast, slow) for fast in (0, values.shape[1]) for slow in (0, values.shape[0])])
        for values, place in zip(raw, places)
    ])  # fmt: skip
    (x_0, y_0), (x_1, y_1) = corners.min(axis=0), corners.max(axis=0)
    axes.set(xlim=(x_0, x_1), ylim=(y_0, y_1) if placed else (y_1, y_0), aspect="equal")
    axes.set(xlabel="x (mm)" if placed else "fast (pixel)", ylabel="y (mm)" if placed else "slow (pixel)")
    axes.legend(loc="upper right", framealpha=0.9)
    return figure


def save_figure(figure: Figure, path) -> None:
    """Write a figure as PNG, complete or not at all."""
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(str(partial))


def placement(panel) -> Affine2D:
    """From (fast, slow) of a panel to x and y of the laboratory."""
    origin = np.array(panel.get_pixel_lab_coord((0, 0)))
    fast = np.array(panel.get_pixel_lab_coord((1, 0))) - origin
    slow = np.array(panel.get_pixel_lab_coord((0, 1))) - origin
    return Affine2D(np.array([[fast[0], slow[0], origin[0]], [fast[1], slow[1], origin[1]], [0, 0, 1]]))


def _binned(values, step: int) -> np.ndarray:
    """Means over squares of ``step`` x ``step``; pixels beyond the last whole square are left out of the picture."""
    slow, fast = (n // step * step for n in values.shape)
    return values[:slow, :fast].reshape(slow // step, step, fast // step, step).mean(axis=(1, 3))
