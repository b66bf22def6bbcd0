"""No absolute scale."""

from __future__ import annotations

from diffuse_dials.algorithms.absolute.methods.base import Evidence, Method, ScaleEstimate


class Unscaled(Method):
    """The map keeps its relative units, K = 1, and no Compton scattering is subtracted."""

    name = "none"
    needs = ()
    without_isotropic = True
    sets_units = False
    expected = "relative units"

    def estimate(self, evidence: Evidence, params) -> ScaleEstimate:
        """See :meth:`Method.estimate`."""
        return ScaleEstimate(self.name, 1.0, notes=("The map is in relative units and holds Compton scattering.",))
