"""Scaling by the likelihood of the sums; the model of each still that DIALS stores in scaled.expt."""

from __future__ import annotations

# Must come first: this DIALS module loads every registered scaling model, ours too, while it is imported. Whoever
# reads an .expt with our model in it would otherwise meet a half-initialised module.
import dials.algorithms.scaling.model.model  # noqa: F401
