"""Scales of the stills as the map had them, for sums over (still, panel, |s|)."""

from __future__ import annotations

import numpy as np


def still_factor(model, panel: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Inverse scale factor of a still's radial sums: the product of its components' factors.

    Args:
        model: The scaling model of the still.
        panel: Panel of each sum, shape (n,), int.
        s: |s| of each sum, shape (n,), 1/Å.

    Returns:
        Factor b of each sum, shape (n,): counts - background = b x response x intensity.

    Raises:
        ValueError: If the model has a component that does not say what it does to them, or no factor for a panel.
    """
    factor = np.ones(len(s))
    for component in model.components.values():
        factor = factor * component.radial_factor(panel, s)
    return factor
