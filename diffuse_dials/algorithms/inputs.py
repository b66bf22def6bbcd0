"""Integrated stills as the commands receive them: several .expt and .refl files that belong together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from dials.array_family import flex
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import StillKey, load_together, name_stills, still_keys
from diffuse_dials.adapters.images import panel_shapes
from diffuse_dials.io.tables import load_flex

logger = logging.getLogger(f"dials.{__name__}")

_TOGETHER = "Give the .expt and .refl files that one run of dials.stills_process wrote together."


@dataclass(frozen=True)
class Stills:
    """Integrated stills.

    Attributes:
        experiments: One per (image, lattice), each with an identifier and a crystal.
        keys: What names each, in the same order.
        reflections: Table of each still that has one, by identifier.
    """

    experiments: ExperimentList
    keys: tuple[StillKey, ...]
    reflections: dict[str, flex.reflection_table]

    def __len__(self) -> int:
        return len(self.keys)

    def same_image(self, number: int) -> list[int]:
        """Numbers of all stills (lattices) on the image of still ``number``, itself included."""
        key = self.keys[number]
        return self._by_image[key.image, key.index]

    @cached_property
    def _by_image(self) -> dict[tuple[str, int], list[int]]:
        found: dict[tuple[str, int], list[int]] = {}
        for number, key in enumerate(self.keys):
            found.setdefault((key.image, key.index), []).append(number)
        return found


def load_stills(experiment_files, reflection_files, read_reflections: bool = True) -> Stills:
    """Read integrated stills and check that the tables belong to them.

    Args:
        experiment_files: Names of .expt files.
        reflection_files: Names of .refl files; tables and experiments are linked by identifier.
        read_reflections: Whether the tables are needed; if not they are only checked.

    Returns:
        The stills, in the order of the files.

    Raises:
        ValueError: If a file cannot be read, an experiment is not a still, has no crystal or image or occurs twice, or
            a table belongs to none of the experiments.
    """
    if not experiment_files:
        raise ValueError("No .expt file was given. Give the integrated.expt that dials.stills_process wrote.")
    experiments = load_together(experiment_files, _refuse_other_than_stills)
    keys = still_keys(experiments)
    name_stills(experiments, keys)
    _refuse_duplicates(experiments, keys)
    found = {}
    for name in reflection_files:
        found.update(_tables_of(name, experiments, len(experiment_files) == len(reflection_files) == 1))
    if reflection_files:
        without = [i for i in experiments.identifiers() if i not in found]
        if without:
            raise ValueError(
                f"{len(without)} of {len(experiments)} stills, the first {without[0]}, have no reflections in "
                f"{', '.join(reflection_files)}. {_TOGETHER}"
            )
    return Stills(experiments, tuple(keys), found if read_reflections else {})


def _refuse_other_than_stills(name, experiments: ExperimentList) -> None:
    """For rotation images the crystal model is that at angle 0, not that of the image."""
    if any(experiment.crystal is None for experiment in experiments):
        raise ValueError(
            f"{name} has experiments without a crystal. Give the integrated.expt that dials.stills_process wrote."
        )
    for experiment in experiments:
        if not experiment.is_still():
            raise ValueError(
                f"{name} holds images of a rotation, {experiment.scan.get_oscillation()[1]:g}° each. Give stills: "
                "dials.import convert_sequences_to_stills=True, then dials.stills_process."
            )


def check_together(stills: Stills, shapes, lattices: str) -> None:
    """Refuse stills that cannot be measured in one run.

    Args:
        stills: The stills.
        shapes: (slow, fast) of each panel of the first.
        lattices: "refuse" images with more than one lattice, or use the "first".

    Raises:
        ValueError: If detectors have different panels, or for several lattices on an image.
    """
    for key, experiment in zip(stills.keys, stills.experiments):
        if panel_shapes(experiment.detector) != shapes:
            raise ValueError(
                f"The detector of {key.image} has other panels than that of {stills.keys[0].image}. "
                "Process each detector by itself."
            )
    several = [key.image for key in stills.keys if key.lattice]
    if several and lattices == "refuse":
        raise ValueError(
            f"{len(several)} images have more than one lattice, the first {several[0]}. "
            "Say extraction.lattices=first to use them."
        )


def check_photons_range(given) -> None:
    """Warn of what a cut on the photons of single pixels does; ``given`` is extraction.photons_range.

    Raises:
        ValueError: If its limits are the wrong way round.
    """
    if not given:
        return
    if given[0] > given[1]:
        raise ValueError(f"extraction.photons_range={given[0]:g},{given[1]:g}: the smaller number comes first.")
    logger.warning(
        "extraction.photons_range leaves out pixels by their own counts: means are biased, %s where few photons "
        "are expected. Radial totals and absolute scale are biased with them.",
        "upwards" if given[0] > 0 else "downwards",
    )


def _tables_of(name: str, experiments: ExperimentList, only_pair: bool) -> dict[str, flex.reflection_table]:
    table = load_flex(name)
    if not len(table):
        raise ValueError(f"{name} is empty. Check the log of dials.stills_process.")
    for column in ("id", "miller_index"):
        if column not in table:
            raise ValueError(
                f"{name} has no column {column}. Give the integrated.refl that dials.stills_process wrote."
            )
    names = dict(zip(table.experiment_identifiers().keys(), table.experiment_identifiers().values()))
    if not names and only_pair and flex.max(table["id"]) < len(experiments):
        names = dict(enumerate(experiments.identifiers()))  # written by a program that sets no identifiers
    known = set(experiments.identifiers())
    strangers = [identifier for identifier in names.values() if identifier not in known]
    if strangers or not names:
        what = "has no experiment identifiers"
        if strangers:
            what = f"refers to experiment {strangers[0]}, which none of the .expt files holds"
        raise ValueError(f"{name} {what}. {_TOGETHER}")
    ids = table["id"]
    return {identifier: table.select(ids == number) for number, identifier in names.items()}


def _refuse_duplicates(experiments: ExperimentList, keys: list[StillKey]) -> None:
    """The same lattice on the same image, given twice, would count every photon twice."""
    by_image: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(keys):
        by_image.setdefault((key.image, key.index), []).append(number)
    for (image, index), numbers in by_image.items():
        settings = [setting_matrix(experiments[number]) for number in numbers]
        for i, first in enumerate(settings):
            if any(np.allclose(first, second, rtol=0, atol=1e-9) for second in settings[i + 1 :]):
                raise ValueError(
                    f"Image {index} of {image} was given twice with the same lattice. Give each .expt file once."
                )


def setting_matrix(experiment) -> np.ndarray:
    """A = U B of a still, shape (3, 3), 1/Å: s = A h in the laboratory."""
    crystal = experiment.crystal
    a = crystal.get_A_at_scan_point(0) if crystal.num_scan_points > 0 else crystal.get_A()
    return np.array(a).reshape(3, 3)
