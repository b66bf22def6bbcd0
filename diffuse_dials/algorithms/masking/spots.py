"""Where Bragg spots fall on the detector: predictions, and pixels painted around spots."""

from __future__ import annotations

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Experiment, ExperimentList, MosaicCrystalSauter2014


def predict(experiment, domain_size: float, half_mosaicity: float, widen_spots: float):
    """Spots of a still that a crystal of this mosaicity would leave, to the corner of the detector.

    Args:
        experiment: The still.
        domain_size: Å.
        half_mosaicity: Degrees; spots within |Δψ| < d/domain_size + half_mosaicity/2 are predicted.
        widen_spots: Multiplies the angular size of spots of the profile model.

    Returns:
        (reflection table with ``panel`` and ``xyzcal.px``, whether it has a ``shoebox`` with the foreground of each
        spot marked: so if the still has a profile model).
    """
    crystal = MosaicCrystalSauter2014(experiment.crystal)
    crystal.set_domain_size_ang(domain_size)
    crystal.set_half_mosaicity_deg(half_mosaicity)
    profile = experiment.profile if hasattr(experiment.profile, "sigma_b") else None
    if profile is not None:
        sigma_b, sigma_m = widen_spots * profile.sigma_b(deg=True), profile.sigma_m(deg=True)
        profile = type(profile)(None, profile.n_sigma(), sigma_b, sigma_m, deg=True)
    still = Experiment(beam=experiment.beam, detector=experiment.detector, crystal=crystal, profile=profile)
    stills = ExperimentList([still])
    predictions = flex.reflection_table.from_predictions_multi(stills)
    if profile is None or not len(predictions):
        return predictions, False
    predictions.compute_bbox(stills)
    predictions["shoebox"] = flex.shoebox(predictions["panel"], predictions["bbox"], allocate=True)
    predictions.compute_mask(stills)
    return predictions, True


def paint_shoeboxes(reflections, shapes, code: int) -> dict[int, np.ndarray]:
    """Pixels that the shoeboxes of reflections mark, clipped at the edges of the panels.

    Args:
        reflections: Table with ``panel`` and ``shoebox``.
        shapes: (slow, fast) size of each panel, pixels.
        code: MaskCode bits, any of which marks a pixel.

    Returns:
        ``{panel: bool array (slow, fast)}`` of the panels that have reflections.
    """
    covered: dict[int, np.ndarray] = {}
    for panel, shoebox in zip(reflections["panel"], reflections["shoebox"]):
        fast_0, fast_1, slow_0, slow_1, _, _ = shoebox.bbox
        n_slow, n_fast = shapes[panel]
        low = max(slow_0, 0), max(fast_0, 0)
        high = min(slow_1, n_slow), min(fast_1, n_fast)
        if high[0] <= low[0] or high[1] <= low[1]:
            continue
        marked = ((flumpy.to_numpy(shoebox.mask).astype(np.int64) & int(code)) != 0).any(axis=0)
        target = covered.setdefault(panel, np.zeros(shapes[panel], dtype=bool))
        marked = marked[low[0] - slow_0 : high[0] - slow_0, low[1] - fast_0 : high[1] - fast_0]
        target[low[0] : high[0], low[1] : high[1]] |= marked
    return covered


def paint_discs(reflections, shapes, radius: float) -> dict[int, np.ndarray]:
    """Pixels whose centre is within ``radius`` (pixels) of a reflection's ``xyzcal.px``; returns as paint_shoeboxes."""
    reach = int(np.ceil(radius)) + 1
    d_slow, d_fast = (d.ravel() for d in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    panels = flumpy.to_numpy(reflections["panel"]).astype(int)
    fast, slow, _ = flumpy.to_numpy(reflections["xyzcal.px"]).T
    covered: dict[int, np.ndarray] = {}
    for panel in np.unique(panels):
        n_slow, n_fast = shapes[panel]
        x, y = fast[panels == panel, None], slow[panels == panel, None]
        i, j = np.floor(y).astype(int) + d_slow, np.floor(x).astype(int) + d_fast
        inside = (i >= 0) & (i < n_slow) & (j >= 0) & (j < n_fast)
        inside &= (i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2 <= radius**2
        covered[int(panel)] = np.zeros((n_slow, n_fast), dtype=bool)
        covered[int(panel)][i[inside], j[inside]] = True
    return covered
