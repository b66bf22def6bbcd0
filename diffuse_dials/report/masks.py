"""Pictures of masks: over an image, and the intensity around lattice points, on which the Bragg mask is based."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Affine2D

from diffuse_dials.adapters import images

_LONGEST = 1100  # pixels of a picture along its longer side
_MARKERS = {"hot": "#d62728", "dead": "#1f77b4", "negative": "#9467bd", "noisy": "#e377c2"}
_COLOURS = ("#ff8c00", "#2ca02c", "#17becf", "#8c564b", "#bcbd22", "#7f7f7f", "#e377c2", "#9467bd")
_CURVES = 7  # shells of |s| in the plot of Bragg intensity


def mask_figure(experiment, pixels) -> Figure:
    """The mask over an image: a colour for each step that left pixels out, rings for single bad pixels.

    Args:
        experiment: Whose image is shown.
        pixels: A PixelMask.

    Raises:
        ValueError: If the image cannot be read.
    """
    layers = {}
    for number, step in enumerate(pixels.steps, start=1):
        if step.newly and not step.name.startswith(tuple(_MARKERS)):
            layers[f"{step.name} ({step.newly})"] = [panel == number for panel in pixels.reason]
    return _picture(experiment, pixels.mask, layers, pixels.bad)


def bragg_figure(experiment, pixel_mask, bragg_mask) -> Figure:
    """The Bragg mask of a still over its image; arguments as in mask_figure, masks one bool array per panel."""
    covered = [~kept & used for kept, used in zip(bragg_mask, pixel_mask)]
    share = sum(int(c.sum()) for c in covered) / max(1, sum(int(used.sum()) for used in pixel_mask))
    layers = {"pixel mask": [~used for used in pixel_mask], f"Bragg mask ({share:.1%} of the pixels left)": covered}
    return _picture(experiment, pixel_mask, layers, {})


def _picture(experiment, mask, layers, points) -> Figure:
    """An image on a scale from the 1st to the 99th percentile of the pixels in use, with coloured layers.

    One panel is shown in its pixel coordinates, as untrusted regions are given; several where they are in the
    laboratory, x to the right and y up (mm).
    """
    raw = images.read_raw(experiment)
    sparse = [values[used][:: max(1, values.size // 50_000)] for values, used in zip(raw, mask)]
    seen = np.concatenate(sparse)
    low, high = np.percentile(seen, (1, 99)) if len(seen) else (0, 1)
    placed = len(raw) > 1
    places = [placement(panel) if placed else Affine2D() for panel in experiment.detector]
    figure = Figure(figsize=(9, 9), layout="tight")
    axes = figure.add_subplot(facecolor="#eeeeee")
    step = max(1, -(-max(max(values.shape) for values in raw) // _LONGEST))
    for number, (values, place) in enumerate(zip(raw, places)):
        n_slow, n_fast = values.shape
        box = {"extent": (0, n_fast, n_slow, 0), "interpolation": "nearest", "transform": place + axes.transData}
        axes.imshow(_binned(values.astype(float), step), cmap="gray_r", vmin=low, vmax=max(high, low + 1e-9), **box)
        colours = _rgba([_binned(panels[number].astype(float), step) for panels in layers.values()])
        if colours is not None:
            axes.imshow(colours, **box)
    handles = [Patch(color=colour, label=name) for name, colour in zip(layers, _COLOURS)]
    for kind, colour in _MARKERS.items():
        found = points.get(kind, np.empty((0, 3), dtype=int))
        if not len(found):
            continue
        at = [places[panel].transform((fast + 0.5, slow + 0.5)) for panel, slow, fast in found[:3000]]
        x, y = np.array(at).reshape(-1, 2).T
        label = f"{kind} ({len(found)})"
        handles += axes.plot(x, y, "o", ms=5, mfc="none", mec=colour, mew=0.9, ls="none", rasterized=True, label=label)
    corners = np.concatenate([
        place.transform([(fast, slow) for fast in (0, values.shape[1]) for slow in (0, values.shape[0])])
        for values, place in zip(raw, places)
    ])  # fmt: skip
    (x_0, y_0), (x_1, y_1) = corners.min(axis=0), corners.max(axis=0)
    axes.set(xlim=(x_0, x_1), ylim=(y_0, y_1) if placed else (y_1, y_0), aspect="equal")
    axes.set(xlabel="x (mm)" if placed else "fast (pixel)", ylabel="y (mm)" if placed else "slow (pixel)")
    if handles:
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
    return figure


def _rgba(shares) -> np.ndarray | None:
    """Layers as one picture: the colour of the layer with most of the pixel, as opaque as all of them fill it."""
    if not shares:
        return None
    shares = np.array(shares)
    palette = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in _COLOURS])
    colours = np.zeros((*shares.shape[1:], 4))
    colours[..., :3] = palette[shares.argmax(axis=0) % len(palette)]
    colours[..., 3] = 0.75 * np.minimum(shares.sum(axis=0), 1)
    return colours


def profile_figure(excess_r, r_step: float, excess_x, x_step: float, rows, shell: float, tolerance: float) -> Figure:
    """Mean intensity about lattice points over the local level, less 1, by distance, for shells of |s|.

    Args:
        excess_r: By shell and distance in steps of ``r_step`` (1/Å); NaN where nothing was measured.
        excess_x: The same by distance in steps of ``x_step`` widths of a spot.
        rows: From bragg_profile.left_over; a dot marks the radius of each shell.
        shell: Width of a shell, 1/Å.
        tolerance: Excess at which the radius ends.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    by_distance, by_width = figure.subplots(1, 2, sharey=True)
    shown = rows[:: max(1, -(-len(rows) // _CURVES))]
    for number, row in enumerate(shown):
        index, colour = round(row["s_min"] / shell), f"C{number}"
        label = f"{row['s_min']:.2f} to {row['s_max']:.2f} 1/Å"
        for axes, excess, step in ((by_distance, excess_r[index], r_step), (by_width, excess_x[index], x_step)):
            excess = excess[:-1]  # the last step holds all that is farther
            axes.plot((np.arange(len(excess)) + 0.5) * step, excess, color=colour, lw=1, label=label)
        k = row["radius_sigmas"]
        by_width.plot([k], [excess_x[index][min(round(k / x_step), excess_x.shape[1] - 1)]], "o", color=colour, ms=5)
    known = np.flatnonzero(np.isfinite(excess_r[:, :-1]).any(axis=0))
    by_distance.set_xlim(0, (known[-1] + 1) * r_step if len(known) else None)
    by_width.set_xlim(0, min(12.0, (excess_x.shape[1] - 1) * x_step))
    for axes in (by_distance, by_width):
        axes.axhline(tolerance, color="0.5", lw=0.8, ls="--")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_ylim(bottom=-0.05)
        axes.grid(alpha=0.3)
    by_distance.set(xlabel="distance from the lattice point (1/Å)", ylabel="mean intensity / local level - 1")
    by_width.set(xlabel="the same in standard deviations of a spot")
    by_distance.legend(title="|s|", fontsize=8, frameon=False)
    return figure


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
