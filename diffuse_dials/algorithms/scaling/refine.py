"""From gridded stills to one scale each: what diffuse.scale does before it merges."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.merging import excludes_lattice_points
from diffuse_dials.algorithms.scaling.anisotropic import NoAnisotropy, anisotropic_scales
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.likelihood import NoSignal, Scales, refine_scales, unconnected_stills
from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel, check_parameter_count
from diffuse_dials.algorithms.scaling.observations import Observations, group_sums
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.algorithms.scaling.weights import resolution_shells
from diffuse_dials.models.grid import holds_lattice_point

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
scale {
  model = *still
    .type = choice
    .help = "still: one factor per still."
  assume_consistent_indexing = False
    .type = bool
    .help = "Scale although the lattice can be indexed in several ways, because the stills are known to agree."
  resolution_smoother = 0
    .type = int(value_min=0)
    .help = "Control points of a factor over |s| shared by all stills. Only 0 is possible: all observations of a voxel"
            "have the same |s|, so the data cannot tell such a factor from the map."
    .expert_level = 3
  panel = False
    .type = bool
    .help = "A factor per detector panel; not in the model 'still'."
    .expert_level = 3
  spatial = False
    .type = bool
    .help = "A smooth factor over the detector; not in the model 'still'."
    .expert_level = 3
  additive = False
    .type = bool
    .help = "An offset per still; not in the model 'still'."
    .expert_level = 3
  experimental_scale_model = False
    .type = bool
    .help = "Allow components beyond one factor per still; not in the model 'still'."
    .expert_level = 3
  min_partiality = 0.1
    .type = float(value_min=0, value_max=1)
    .help = "Bragg spots (input.bragg) below this partiality are counted in the report. Nothing is divided by it."
    .expert_level = 2
  tolerance = 1e-8
    .type = float(value_min=1e-12, value_max=1e-2)
    .help = "Relative change of the scales at which they have converged."
    .expert_level = 2
  max_cycles = 100
    .type = int(value_min=2)
    .help = "Cycles after which scaling stops with an error."
    .expert_level = 2
}
"""
)

_NAMED = 5
_RINGS = 60  # of |s|, within which the mean of an isotropic background is taken to be common


@dataclass(frozen=True)
class ScaledStills:
    """Outcome of the scaling.

    Attributes:
        observations: Sums per (voxel, still) of the stills that have a scale.
        use: Voxels that took part, shape (n_voxels,), bool.
        scales: The scales; NaN for failed stills.
        failed: Why, for stills that have none, by position in the experiment list.
        models: DIALS models of the stills that have a scale, by position.
    """

    observations: Observations
    use: np.ndarray
    scales: Scales
    failed: dict[int, str]
    models: dict[int, DiffuseScalingModel]


def check_options(params) -> None:
    """Refuse what the model "still" does not have.

    Args:
        params: Extract of ``scale``.

    Raises:
        ValueError: With the reason.
    """
    if params.resolution_smoother:
        raise ValueError(
            f"scale.resolution_smoother={params.resolution_smoother}: a factor over |s| shared by all stills cannot "
            "be determined, "
            "because all observations of a voxel have the same |s| and the map takes up any such factor. Leave it at 0."
        )
    for name in ("panel", "spatial", "additive", "experimental_scale_model"):
        if getattr(params, name):
            raise ValueError(
                f"scale.{name}=True: the model 'still' has exactly one parameter per still. Leave scale.{name}=False."
            )


def check_indexing(gridded: Gridded, params) -> None:
    """Refuse stills that may be indexed in different ways.

    Raises:
        ValueError: If grid.json says so and the user has not said that they agree.
    """
    if not gridded.record.ambiguous:
        return
    operators = " and ".join(gridded.record.reindexing_operators)
    if not params.assume_consistent_indexing:
        raise ValueError(
            f"The lattice can be indexed in other ways ({operators}) that give another map, so stills indexed one by "
            "one are a mixture. "
            "Make them agree (dials.cosym) and grid again; if they agree already, set "
            "scale.assume_consistent_indexing=True."
        )
    logger.warning("The indexing is taken to be consistent, as demanded; the lattice also allows %s.", operators)


def scale_stills(gridded: Gridded, params) -> ScaledStills:
    """Refine one scale per still.

    Args:
        gridded: Stills and sums.
        params: Extract of diffuse.scale: ``scale`` and ``merging``.

    Raises:
        ValueError: If options do not fit the model, indexing is ambiguous, the stills do not hang together, or
            nothing can be scaled.
    """
    check_options(params.scale)
    check_indexing(gridded, params.scale)
    n_stills = len(gridded.experiments)
    check_parameter_count([DiffuseScalingModel.initial() for _ in range(n_stills)])
    observations = group_sums(gridded.sums, n_stills)
    use = np.ones(observations.n_voxels, dtype=bool)
    if excludes_lattice_points(params.merging.exclude_lattice_points, gridded.record.ndiv):
        use = ~holds_lattice_point(observations.index, gridded.record.ndiv)
    failed = _without_photons(observations, use, gridded)
    s = np.linalg.norm(reciprocal_vectors(observations.index, gridded.record), axis=1)
    while True:
        if len(failed) == n_stills:
            raise ValueError(
                f"None of the {n_stills} stills can be scaled. The first: {gridded.keys[0].label}: {failed[0]}."
            )
        remaining = _without(observations, failed)
        _check_overlap(remaining, use, gridded, n_stills - len(failed))
        try:
            shells = resolution_shells(s, use & (remaining.sum_by_voxel(remaining.response) > 0))
            options = params.scale.tolerance, params.scale.max_cycles
            if gridded.record.isotropic_removed:
                scales = refine_anisotropic(remaining, s, use, *options)
            else:
                scales = refine_scales(remaining, shells, use, *options)
            break
        except NoSignal as error:
            failed.update(dict.fromkeys(error.stills, "its counts do not exceed the background"))
        except NoAnisotropy as error:
            failed.update(dict.fromkeys(error.stills, "it shows nothing of the others' anisotropic scattering"))
    for still, reason in failed.items():
        logger.warning("%s is left out: %s", gridded.keys[still].label, reason)
    n_scaled = n_stills - len(failed)
    if n_scaled == 1:
        logger.warning("Only one still could be scaled: there is nothing to compare it with.")
    logger.info("%d scales converged in %d cycles (last change %.1e)", n_scaled, scales.n_cycles, scales.last_change)
    configuration = {
        "gauge": f"mean scale 1 over {n_scaled} stills",
        "uncertainty": f"counting statistics, {scales.esd_method}",
    }
    models = {
        i: DiffuseScalingModel.from_scale(float(scales.scale[i]), float(scales.esd[i]), **configuration)
        for i in range(n_stills)
        if i not in failed
    }
    return ScaledStills(remaining, use, scales, failed, models)


def refine_anisotropic(
    observations: Observations, s: np.ndarray, use: np.ndarray, tolerance: float, max_cycles: int
) -> Scales:
    """Scales of stills whose isotropic scattering was subtracted; arguments as of ``refine_scales``, ``s`` is |s|."""
    shell = np.minimum((s / s.max() * _RINGS).astype(int), _RINGS - 1)
    part = np.flatnonzero(use[observations.voxel] & (observations.response > 0))
    columns = (observations.voxel, observations.still, observations.signal, observations.response, observations.variance)
    found = anisotropic_scales(*(c[part] for c in columns), shell, observations.n_stills, tolerance, max_cycles)
    b = np.nan_to_num(found.scale, nan=1.0)[observations.still]
    noise = observations.response * found.noise_per_response[observations.still, shell[observations.voxel]]
    weight = np.divide(b * observations.response, noise, out=np.zeros_like(noise), where=noise > 0)
    logger.info("The isotropic part was subtracted from the stills: they are scaled on what is left of the scattering.")
    return Scales(
        found.scale, found.esd, "diagonal, isotropic part removed", weight / max(float(weight.max()), 1e-300),
        np.zeros(observations.n_voxels), noise, found.n_cycles, found.last_change,
    )  # fmt: skip


def _without_photons(observations: Observations, use: np.ndarray, gridded: Gridded) -> dict[int, str]:
    """Stills that cannot have a scale, with the reason."""
    part = use[observations.voxel] & (observations.n_pixels > 0)
    pixels = observations.sum_by_still(part * observations.n_pixels)
    photons = observations.sum_by_still(part * observations.counts)
    failed = {}
    for i, identifier in enumerate(gridded.experiments.identifiers()):
        if pixels[i] == 0:
            known = gridded.stills.rows.get(identifier, {})
            failed[i] = known.get("reason") or "no pixel of it fell into a voxel that is used"
        elif photons[i] <= 0:
            failed[i] = "it holds no photons"
    return failed


def _without(observations: Observations, failed) -> Observations:
    if not failed:
        return observations
    keep = ~np.isin(observations.still, list(failed))
    rows = [f.name for f in fields(Observations) if f.name not in ("index", "n_stills")]
    return replace(observations, **{name: getattr(observations, name)[keep] for name in rows})


def _check_overlap(observations: Observations, use: np.ndarray, gridded: Gridded, n_scaled: int) -> None:
    apart = unconnected_stills(observations, use)
    if len(apart):
        names = ", ".join(gridded.keys[i].label for i in apart[:_NAMED]) + (" ..." if len(apart) > _NAMED else "")
        raise ValueError(
            f"{len(apart)} of {n_scaled} stills share no voxel that holds photons with the other stills: {names}. "
            "They cannot be put on one scale: use larger voxels (smaller grid.ndiv), more stills, or leave them out."
        )
