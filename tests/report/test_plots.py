from __future__ import annotations

import numpy as np

from diffuse_dials.report import plots


def test_sections_side_by_side_share_their_colours(rng):
    """They end at quantiles of the map, whatever a section holds; single voxels do not set them."""
    index = np.stack(np.meshgrid(*(np.arange(-6, 7),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    values = rng.normal(0, 1, len(index)) * (1 + np.abs(index[:, 2]))  # the section of l = 0 varies least
    values[0] = 1e9
    frame = plots.VoxelFrame((1, 1, 1), np.diag([0.02, 0.02, 0.03]), np.eye(3, dtype=int)[None])
    figure = plots.sections({"map": values}, index, frame, ("hk0", "h0l", "0kl"))
    limits = {axes.collections[0].get_clim() for axes in figure.axes[:1] + figure.axes[2:3] if axes.collections}
    assert len(limits) == 1
    ((low, high),) = limits
    assert high == -low == np.quantile(np.abs(values), 0.98)
