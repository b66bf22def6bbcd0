"""Intensities integrated on stills one by one: they give a Wilson plot and B, but no scale for a diffuse map."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from diffuse_dials.adapters.symmetry import epsilons, systematically_absent
from diffuse_dials.algorithms.absolute.methods.wilson import D_MAX, WHY_NOT_RAW, WilsonPlot, wilson_plot
from diffuse_dials.io.tables import Table
from diffuse_dials.kernels import physics

logger = logging.getLogger(f"dials.{__name__}")

COLUMNS = ("id", "miller_index", "d", "s1", "intensity.sum.value")


@dataclass(frozen=True)
class RawBragg:
    """Rows of integrated.refl; each holds the part of its reflection that the Ewald sphere cut.

    Attributes:
        s: |s|, shape (n,), 1/Å.
        intensity: Counts of the spot over polarization and the still's scale, shape (n,).
        epsilon: Factor of symmetry on the mean |F|², shape (n,).
        source: The files.
    """

    s: np.ndarray
    intensity: np.ndarray
    epsilon: np.ndarray
    source: str


def raw_bragg(tables: list[Table], stills, space_group) -> RawBragg | None:
    """Intensities of all predictions, weak and negative ones too; never divided by a partiality.

    For stills DIALS's column of partialities holds the placeholder 1. The intensities are corrected for polarization
    and for the scale of the still, not for sensor and air, which would change B by a fraction of an Å².

    Args:
        tables: Reflections of dials.stills_process.
        stills: Experiments with scaling models; their beam gives the polarization.
        space_group: cctbx space group of the crystal.

    Returns:
        The intensities; None without tables.

    Raises:
        ValueError: If a table lacks columns.
    """
    if not tables:
        return None
    beam = stills[0].beam
    direction = np.array(beam.get_unit_s0())
    normal, fraction = np.array(beam.get_polarization_normal()), beam.get_polarization_fraction()
    scales = {e.identifier: e.scaling_model.scale for e in stills}
    parts = []
    for table in tables:
        table.require(COLUMNS, "dials.stills_process")
        good = np.isfinite(table["intensity.sum.value"]) & (table["d"] > 0)
        good &= ~systematically_absent(table["miller_index"], space_group)
        s1 = table["s1"][good] / np.linalg.norm(table["s1"][good], axis=1, keepdims=True)
        known = np.array([scales.get(table.identifiers.get(int(i)), 1.0) for i in table["id"][good]])
        polarization = physics.polarization(s1, direction, normal, fraction)
        intensity = table["intensity.sum.value"][good] / polarization / known
        parts.append((1 / table["d"][good], intensity, epsilons(table["miller_index"][good], space_group)))
    s, intensity, epsilon = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return RawBragg(s, intensity, epsilon, ", ".join(table.path for table in tables))


def raw_wilson(raw: RawBragg | None, theory, params) -> WilsonPlot | None:
    """Wilson plot of raw intensities, for B and the report; None, with a note in the log, where there can be none."""
    if raw is None or theory is None:
        return None
    expected = raw.epsilon * theory.ordered(raw.s)
    try:
        d_max = params.bragg.d_max or D_MAX
        plot = wilson_plot(raw.s, raw.intensity, np.ones(len(raw.s)), expected, params.bragg.d_min, d_max)
    except ValueError as error:
        logger.info("No Wilson plot of %s: %s", raw.source, error)
        return None
    logger.info("\nWilson plot of %s: B = %.1f Å². %s", raw.source, plot.b, WHY_NOT_RAW)
    return plot
