"""One factor per panel of the detector, shared by all stills."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.scale_components import ScaleComponentBase
from dials.array_family import flex
from scipy import sparse
from scitbx import sparse as scitbx_sparse

from diffuse_dials.algorithms.scaling.components.base import Component


class PanelFactors(Component, ScaleComponentBase):
    """Relative response of the panels, mean 1 over those that were measured.

    A factor that depends on |s| alone is degenerate with the map: panels are told apart by the stills in which they
    measure the same voxels. The restraint is a prior of mean 1 and the given width.
    """

    name: ClassVar[str] = "panel"
    kind: ClassVar[str] = "detector"
    column: ClassVar[str] = "panel"
    phil: ClassVar[str] = """
panel {
  sigma = 0.3
    .type = float(value_min=1e-4)
    .help = "Restraint: panel factors are 1 within this much."
    .expert_level = 3
}
"""
    null_parameter_value = 1.0

    @classmethod
    def columns(cls, layout):
        panel = layout.cells.panel
        shape = (len(panel), layout.cells.n_panels)
        return sparse.csr_matrix((np.ones(len(panel)), (np.arange(len(panel)), panel)), shape)

    @classmethod
    def precision(cls, layout, k):
        return np.eye(k) / layout.options.panel.sigma**2

    def radial_factor(self, panel, s):
        values = np.array(self.parameters)
        if len(panel) and panel.max() >= len(values):
            raise ValueError(
                f"The radial totals have panel {panel.max()}, the scaling model {len(values)} panels. Give the files "
                "of one run."
            )
        return values[panel]

    @ScaleComponentBase.data.setter
    def data(self, data):
        assert set(data) == {"panel"}, set(data)
        self._data = data

    def update_reflection_data(self, selection=None, block_selections=None):
        """Panels of the reflections of each block."""
        panel = self.data["panel"]
        self._panel = [panel.select(s) for s in block_selections or ([selection] if selection else [])] or [panel]
        self._n_refl = [part.size() for part in self._panel]

    def calculate_scales(self, block_id=0):
        """Factor of each reflection."""
        return self.parameters.select(flex.size_t(int(p) for p in self._panel[block_id]))

    def calculate_scales_and_derivatives(self, block_id=0):
        """Factors, and a 1 in the column of the panel."""
        panel = self._panel[block_id]
        derivatives = scitbx_sparse.matrix(panel.size(), self.n_params)
        for row, column in enumerate(panel):
            derivatives[row, int(column)] = 1.0
        return self.calculate_scales(block_id), derivatives
