"""What diffuse.absolute writes: columns, models in absolute units, and the summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dxtbx.model import Experiment, ExperimentList

from diffuse_dials.adapters.scattering import best_source
from diffuse_dials.algorithms.absolute.methods.base import Evidence, ScaleEstimate
from diffuse_dials.algorithms.absolute.methods.wilson import WilsonPlot
from diffuse_dials.io.columns import COLUMNS


def absolute_columns(merged, result) -> dict[str, np.ndarray]:
    """All columns of merged.refl that we know, and the absolute intensities.

    Args:
        merged: Table of the merged map.
        result: AbsoluteMap.
    """
    columns = {name: values for name, values in merged.columns.items() if name in COLUMNS}
    columns["intensity.absolute.value"] = result.value
    columns["intensity.absolute.variance"] = result.variance
    columns["intensity.incoherent.value"] = result.incoherent
    columns["intensity.coherent.value"] = result.coherent
    return columns


def absolute_models(stills, k: float) -> ExperimentList:
    """The stills with scaling models that lead from counts to e² per cell.

    A still's model b gives counts - background = b · response · I for I in the units of the map. With I = K (I_abs +
    I_inc) the same counts are b' · response · (I_abs + I_inc), b' = b K (b/S with S = 1/K); Compton scattering stays
    a column of the map, because the models have no additive terms.

    Args:
        stills: Experiments of scaled.expt; they are not changed.
        k: K, units of the map per e².
    """
    converted = ExperimentList()
    for still in stills:
        content = still.scaling_model.to_dict()
        overall = content["scale"]
        overall["parameters"] = [float(value) * k for value in overall["parameters"]]
        if overall.get("est_standard_devs"):
            overall["est_standard_devs"] = [float(value) * k for value in overall["est_standard_devs"]]
        content["configuration_parameters"]["absolute_scale"] = k
        converted.append(
            Experiment(
                beam=still.beam, detector=still.detector, goniometer=still.goniometer, scan=still.scan,
                crystal=still.crystal, profile=still.profile, imageset=still.imageset,
                scaling_model=type(still.scaling_model).from_dict(content), identifier=still.identifier,
            )
        )  # fmt: skip
    return converted


@dataclass(frozen=True)
class Outcome:
    """All that a run found, for the files and the report.

    Attributes:
        evidence: What the scale was drawn from.
        chosen: The scale that counts.
        estimates: All estimates, ``chosen`` first.
        refusals: Why each other method could not run, by its name.
        shells, means: Shell means of the map (1/Å; e² per cell, relative with method none).
        compton_subtracted: Whether Compton scattering was subtracted.
        warnings: What the user should look at.
        raw_wilson: Wilson plot of intensities of single stills, or None.
        flux: K by flux and illuminated volume, or None.
        map_over_totals: Mean of the map with Bragg pixels over that of the radial totals, or None.
    """

    evidence: Evidence
    chosen: ScaleEstimate
    estimates: list[ScaleEstimate]
    refusals: dict[str, str]
    shells: np.ndarray
    means: np.ndarray
    compton_subtracted: bool
    warnings: list[str]
    raw_wilson: WilsonPlot | None = None
    flux: float | None = None
    map_over_totals: float | None = None

    @property
    def wilson(self) -> ScaleEstimate | None:
        """The estimate by Wilson statistics, if there is one."""
        return next((e for e in self.estimates if e.wilson is not None), None)

    @property
    def theory(self):
        """Theory to compare the map with: None without a composition, or where the map has no units."""
        return self.evidence.theory if self.chosen.method != "none" else None

    def expected_diffuse(self, s) -> np.ndarray | None:
        """Diffuse scattering of independent vibrations with Wilson's B (e² per cell); None where B is unknown."""
        if self.theory is None or self.wilson is None:
            return None
        return self.theory.diffuse(s, self.wilson.wilson.b)


def summary(outcome: Outcome) -> dict:
    """Content of diffuse.absolute.json."""
    chosen = outcome.chosen
    expected, shown = outcome.expected_diffuse(outcome.shells), outcome.theory
    data = {
        "method": chosen.method,
        "k": chosen.k,
        "relative_error_of_k": chosen.relative_error,
        "units": "relative" if chosen.method == "none" else "electrons squared per unit cell",
        "compton_subtracted": outcome.compton_subtracted,
        "estimates": [estimate.to_dict() for estimate in outcome.estimates],
        "cannot_run": outcome.refusals,
        "map_shells": {
            "s": outcome.shells.tolist(),
            "mean_intensity": outcome.means.tolist(),
            "independent_vibrations": None if expected is None else expected.tolist(),
            "sum_f0_squared": None if shown is None else shown.coherent(outcome.shells).tolist(),
            "incoherent": None if shown is None else shown.incoherent(outcome.shells).tolist(),
        },
        "wilson_plot_of_single_stills": outcome.raw_wilson.to_dict() if outcome.raw_wilson else None,
        "k_by_flux_and_volume": outcome.flux,
        "map_over_radial_totals": outcome.map_over_totals,
        "warnings": outcome.warnings,
    }
    theory, totals = outcome.evidence.theory, outcome.evidence.totals
    if theory is not None:
        data["composition"] = theory.composition.to_dict()
        data["wavelength_A"] = theory.wavelength
        data["source_of_compton"] = best_source()
    if theory is not None and totals is not None:
        sigma = totals.sigma()
        data["total_scattering"] = {
            "s": totals.s.tolist(),
            "measured": (totals.intensity() / chosen.k).tolist(),
            "sigma": [None if np.isnan(v) else float(v / chosen.k) for v in sigma],
            "theory": theory.total(totals.s).tolist(),
            "sum_f0_squared": theory.coherent(totals.s).tolist(),
            "bonds": theory.bonds(totals.s).tolist(),
            "incoherent": theory.incoherent(totals.s).tolist(),
            "overloaded_fraction": totals.overloaded_fraction().tolist(),
        }
    return data
