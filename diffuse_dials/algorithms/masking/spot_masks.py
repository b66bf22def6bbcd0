"""Masks of Bragg spots where DIALS predicts or found them; as in bragg.py, True = use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from dials.algorithms.shoebox import MaskCode

from diffuse_dials.algorithms.masking import spots
from diffuse_dials.algorithms.masking.bragg import mosaic_model, need_crystal


@dataclass(frozen=True)
class _SpotMask:
    """Pixels painted per panel; what predicted and found spots have in common.

    Attributes:
        covered: ``{panel: bool array (slow, fast)}``, True = a spot covers the pixel; panels without spots are absent.
        details: What describe() adds to the method.
    """

    covered: dict[int, np.ndarray]
    details: dict
    name: ClassVar[str] = ""
    needs_positions: ClassVar[bool] = False  # of keep's arguments, s and hkl

    def keep(self, panel: int, shape, s: np.ndarray, hkl: np.ndarray) -> np.ndarray:
        """Which pixels pass the mask; ``s`` and ``hkl`` are those of all pixels of the panel and are not needed.

        Returns:
            bool, shape (slow x fast,), True = use.
        """
        covered = self.covered.get(panel)
        return np.ones(shape[0] * shape[1], dtype=bool) if covered is None else ~covered.ravel()

    def describe(self) -> dict:
        """Method and numbers for grid.json and the log."""
        return {"method": self.name, **self.details}


@dataclass(frozen=True)
class PredictedMask(_SpotMask):
    """Leaves out the spots that DIALS predicts for a crystal more mosaic than the still's, and those in the .refl."""

    name: ClassVar[str] = "predicted"
    phil: ClassVar[str] = """
widen_mosaicity = 2
  .type = float(value_min=1, value_max=100)
  .help = "method=predicted predicts with the mosaicity and the inverse domain size multiplied by this."
  .expert_level = 1
widen_spots = 2
  .type = float(value_min=1, value_max=100)
  .help = "method=predicted multiplies the angular size of spots, which DIALS's profile model measured, by this."
  .expert_level = 1
spot_radius = 4
  .type = float(value_min=0.5, value_max=1000)
  .help = "Radius (pixels) of predicted spots where the still has no profile model."
  .expert_level = 1
"""

    @classmethod
    def from_phil(cls, params, experiment, reflections=None) -> PredictedMask:
        """From ``masking.bragg``; reflections given are masked too, where they were predicted.

        Raises:
            ValueError: If the still has no crystal, or the reflections have no predicted positions.
        """
        need_crystal(cls.name, experiment)
        domain_size, half_mosaicity = mosaic_model(experiment.crystal, params)
        predictions, profiled = spots.predict(
            experiment,
            domain_size / params.widen_mosaicity,
            half_mosaicity * params.widen_mosaicity,
            params.widen_spots,
        )
        shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
        if profiled:
            covered = spots.paint_shoeboxes(predictions, shapes, MaskCode.Foreground)
        else:
            covered = spots.paint_discs(predictions, shapes, params.spot_radius)
        n_spots = len(predictions)
        if reflections is not None and len(reflections):
            _need_columns(cls.name, reflections, ("panel", "xyzcal.px"))
            given = spots.paint_discs(reflections, shapes, params.spot_radius)
            for panel, pixels in given.items():
                covered[panel] = covered[panel] | pixels if panel in covered else pixels
        shape = "profile" if profiled else "disc"
        return cls(covered, {"n_predicted": n_spots, "widen_mosaicity": params.widen_mosaicity, "shape": shape})


@dataclass(frozen=True)
class ShoeboxMask(_SpotMask):
    """Leaves out pixels that spot finding or integration marked as strong or as foreground in their shoeboxes."""

    name: ClassVar[str] = "shoebox"
    phil: ClassVar[str] = ""

    @classmethod
    def from_phil(cls, params, experiment, reflections=None) -> ShoeboxMask:
        """From the shoeboxes of the reflections.

        Raises:
            ValueError: If there are no reflections or they hold no shoeboxes.
        """
        if reflections is None:
            raise ValueError("masking.bragg.method=shoebox needs the .refl of the stills. Give it, or take lattice.")
        _need_columns(cls.name, reflections, ("panel", "shoebox"))
        shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
        covered = spots.paint_shoeboxes(reflections, shapes, MaskCode.Foreground | MaskCode.Strong)
        return cls(covered, {"n_shoeboxes": len(reflections)})


def _need_columns(name, reflections, columns) -> None:
    missing = [c for c in columns if c not in reflections]
    if missing:
        raise ValueError(
            f"masking.bragg.method={name} needs the column {missing[0]} in the .refl file, which has none. Give "
            "indexed.refl, or integrate with integration.debug.output=True integration.debug.separate_files=False, "
            "or use method=lattice."
        )
