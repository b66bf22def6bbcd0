"""Parameters of the scaling, and what is refused before anything is read."""

from __future__ import annotations

import libtbx.phil

from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS

MODELS = {"still": ("scale",), "still_b": ("scale", "falloff")}
_EXPERIMENTAL = [name for name, cls in SCALE_COMPONENTS.items() if cls.experimental]

phil_scope = libtbx.phil.parse(
    f"""
scale {{
  model = *still still_b
    .type = choice
    .help = "still: one factor per still. still_b: in addition a fall-off exp(-ΔB s²/2) of each still relative to the"
            "others."
  assume_consistent_indexing = False
    .type = bool
    .help = "Scale although the lattice can be indexed in several ways, because the stills are known to be indexed"
            "consistently."
  reindex = False
    .type = bool
    .help = "If the lattice can be indexed in several ways, find for each still the one that agrees with the others."
            "Improbable sums (outlier.probability) are not used for this; stills whose choice is not certain are"
            "listed."
  reindexed_experiments = None
    .type = path
    .help = "With reindex: take the indexing from these experiments (dials.cosym's output) instead of the sums. Stills"
            "are found by identifier."
    .expert_level = 1
  outlier {{
    probability = 1e-6
      .type = float(value_min=0, value_max=0.1)
      .help = "Sums less probable than this, in either direction, given what the other stills say of the voxel, are"
              "left out. 0: none are."
    stills = *report remove ignore
      .type = choice
      .help = "Stills that do not agree with the map of the others (wrong orientation or indexing, no crystal): report"
              "them, leave them out, or do not look."
  }}
  resolution_smoother = 0
    .type = int(value_min=0, value_max=5)
    .help = "Control points of a factor over |s| shared by all stills. Only 0 is possible: all observations of a voxel"
            "have the same |s|, so the data cannot tell such a factor from the map."
    .expert_level = 3
  experimental_scale_model = False
    .type = bool
    .help = "Allow the components below. The log says of each whether it predicts left-out data better."
    .expert_level = 2
  components = {" ".join(_EXPERIMENTAL)}
    .type = choice(multi=True)
    .help = "Further components of the scaling model: panel, a factor per panel; surface, a smooth factor over the"
            "detector; offset, an isotropic intensity added to each still."
    .expert_level = 2
  order = None
    .type = str
    .help = "What orders the stills: file (their order in the files) or a column of stills.csv, such as time_stamp. The"
            "smooth factor over the detector may then change along it. None: it is the same for all stills."
    .expert_level = 2
  engine = *newton SimpleLBFGS GaussNewton LevMar
    .type = choice
    .help = "How the factors converge after alternating maximum likelihood: Newton steps by conjugate gradients, or"
            "one of DIALS's refinement engines (the last two hold a matrix of all parameters)."
    .expert_level = 2
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
{"".join(cls.phil for cls in SCALE_COMPONENTS.values())}
}}
"""
)


def check_options(params) -> None:
    """Refuse what the data cannot determine, and what was not asked for by name.

    Args:
        params: Extract of ``scale``.

    Raises:
        ValueError: With the reason.
    """
    if params.resolution_smoother:
        raise ValueError(
            f"scale.resolution_smoother={params.resolution_smoother}: a factor over |s| shared by all stills cannot "
            "be determined, because all observations of a voxel have the same |s| and the map takes up any such "
            "factor; only a theoretical curve could, and diffuse.absolute is where theory comes in. Leave it at 0, or "
            "use scale.model=still_b for what differs between stills."
        )
    if params.components and not params.experimental_scale_model:
        raise ValueError(
            f"scale.components={'+'.join(params.components)} is experimental. Set scale.experimental_scale_model=True "
            "and look whether the report finds it worth its parameters, or leave it out."
        )
    if params.reindexed_experiments and not params.reindex:
        raise ValueError("scale.reindexed_experiments is used with scale.reindex=True only. Set it, or leave both out.")


def component_names(params) -> list[str]:
    """Components that the parameters ask for, in the order in which they are applied."""
    wanted = {*MODELS[params.model], *(params.components or ())}
    return [name for name in SCALE_COMPONENTS if name in wanted]
