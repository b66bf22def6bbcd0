from __future__ import annotations

import numpy as np
import pytest

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


def test_axes_end_with_the_voxels_of_an_oblique_cell():
    """A disc of radius 0.2/Å in hk0 of a hexagonal cell, whose box of indices is twice as wide; to a voxel's width."""
    b_matrix = np.array([[0.02, 0.01, 0], [0, 0.02 * np.sqrt(0.75), 0], [0, 0, 0.02]])
    index = np.stack(np.meshgrid(np.arange(-15, 16), np.arange(-15, 16), [0], indexing="ij"), -1).reshape(-1, 3)
    index = index[np.linalg.norm(index @ b_matrix.T, axis=1) < 0.2]
    frame = plots.VoxelFrame((1, 1, 1), b_matrix, np.eye(3, dtype=int)[None])
    axes = plots.sections({"map": np.ones(len(index))}, index, frame, ("hk0",)).axes[0]
    for limits in (axes.get_xlim(), axes.get_ylim()):
        assert np.abs(limits) == pytest.approx(0.2, abs=0.03)
