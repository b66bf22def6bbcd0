"""Scales of the stills as the map had them, for sums over (still, panel, |s|)."""

from __future__ import annotations

import numpy as np

GAUGED = ("surface", "offset")  # mean 1 over the detector, mean 0 over the stills: nothing to a radial mean


def still_factor(model, panel: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Inverse scale factor of a still's radial sums: the product of scale, fall-off and panel factor.

    A surface over the detector (mean 1) and offsets of stills (mean 0) are left out: a radial sum has no position, and
    in the mean over ring and stills they cancel by the way they are normalised.

    Args:
        model: The scaling model of the still.
        panel: Panel of each sum, shape (n,), int.
        s: |s| of each sum, shape (n,), 1/Å.

    Returns:
        Factor b of each sum, shape (n,): counts - background = b x response x intensity.

    Raises:
        ValueError: If the model has a component that is not known here, or no factor for a panel.
    """
    factor = np.full(len(s), model.scale)
    for name, component in model.components.items():
        values = np.array(component.parameters)
        if name == "falloff":
            factor = factor * np.exp(values[0] * s**2 / 2)  # DIALS's component is exp(B/(2d²))
        elif name == "panel":
            if len(panel) and panel.max() >= len(values):
                raise ValueError(
                    f"The radial totals have panel {panel.max()}, the scaling model {len(values)} panels. Give the "
                    "files "
                    "of one run."
                )
            factor = factor * values[panel]
        elif name not in ("scale", *GAUGED):
            raise ValueError(
                f"The scaling model has a component {name}, which diffuse.absolute cannot apply to the radial totals. "
                "Scale without it."
            )
    return factor
