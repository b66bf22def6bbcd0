"""A relative map, totals and composition → scale and map in e² per cell: the core of diffuse.absolute, in one call."""

from __future__ import annotations

import logging

from diffuse_dials.algorithms.absolute import doubts, scale
from diffuse_dials.algorithms.absolute.bragg import box_integrated
from diffuse_dials.algorithms.absolute.composition import composition_from_phil, log_composition
from diffuse_dials.algorithms.absolute.inputs import Inputs, describe, total_scattering
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.absolute.output import Outcome
from diffuse_dials.algorithms.absolute.raw_bragg import raw_bragg, raw_wilson
from diffuse_dials.algorithms.absolute.reference_data import find_reference
from diffuse_dials.algorithms.absolute.theory import Theory
from diffuse_dials.algorithms.absolute.totals import map_over_totals

logger = logging.getLogger(f"dials.{__name__}")


def put_on_absolute_scale(inputs: Inputs, params) -> tuple[Outcome, scale.AbsoluteMap]:
    """The scale by all methods, the map with the one that counts, and what to doubt.

    Args:
        inputs: The map, the scaled stills, their radial totals and the record of the grid.
        params: Extract of ``absolute`` (of composition and scale).

    Raises:
        ValueError: If the method asked for cannot run, or inputs and parameters do not fit together.
    """
    evidence = _evidence(inputs, params)
    chosen, estimates, refusals = scale.find_scale(evidence, params)
    relative, variance = (inputs.merged[f"intensity.scale.{name}"] for name in ("value", "variance"))
    result = scale.absolute_map(relative, variance, inputs.s, chosen, evidence)
    shells, means = scale.shell_means(result.value, inputs.s, inputs.merged["multiplicity"])
    flux = scale.flux_check(params, inputs.unit_cell.volume()) if chosen.method != "none" else None
    # after a radial background the map lacks what the totals keep
    totals = None if evidence.isotropic_removed else evidence.totals
    same = map_over_totals(totals, inputs.merged.columns, inputs.s)
    flux_doubts, ratio = doubts.of_flux(chosen.k, flux)
    if ratio is not None:
        logger.info("Flux and illuminated volume give K = %.4g; K found is %.3g times that.", flux, ratio)
    warnings = [
        *chosen.notes,
        *doubts.of_scale(estimates, evidence, shells, means),
        *doubts.of_record(inputs.record, len(inputs.stills), chosen.method),
        *doubts.of_totals(same),
        *flux_doubts,
    ]
    raw_plot = raw_wilson(evidence.raw_bragg, evidence.theory, params)
    compton = scale.subtracts_compton(chosen, evidence)
    return Outcome(
        evidence, chosen, estimates, refusals, shells, means, compton, warnings, raw_plot, flux, same
    ), result


def _evidence(inputs: Inputs, params) -> Evidence:
    space_group = inputs.space_group(params.space_group)
    describe(inputs, space_group)
    totals = total_scattering(inputs, params.min_pixels)
    theory = None
    stays_relative = params.scale is None and not scale.method_named(params.method).sets_units
    needed = not (stays_relative or inputs.record.isotropic_removed)
    if needed or params.model or params.sequence or params.formula:
        composition = composition_from_phil(params, inputs.unit_cell, space_group)
        logger.info("\nThe unit cell:")
        log_composition(composition)
        integrating = params.detector == "integrating"
        theory = Theory(composition, inputs.wavelength, params.bonds, params.anomalous, integrating)
    bragg = box_integrated(inputs.merged.columns, inputs.record, space_group)
    reference, missing = find_reference(params, inputs.unit_cell, space_group, bragg)
    raw = raw_bragg(inputs.raw, inputs.stills, space_group)
    return Evidence(theory, totals, inputs.record.isotropic_removed, bragg, reference, raw, missing)
