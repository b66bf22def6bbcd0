"""Steps from images to integrated stills."""

from __future__ import annotations

import glob
import os
from collections import Counter

from diffuse_dials.algorithms.integration import block_files
from diffuse_dials.algorithms.process.base import Run, Step
from diffuse_dials.io.masks import combine_masks
from diffuse_dials.io.stills import StillsTable

FOLDER = "integrated"
COMBINED_MASK = "given.mask"


class Blanks(Step):
    """Images of blank exposures, given as input.background, become blank.expt."""

    name = "blanks"
    command = "dials.import"
    module = "dials.command_line.dials_import"
    writes = ("blank.expt", "dials.import.log")

    def why_not(self, run: Run) -> str | None:
        return None if blank_images(run) and run.starts_before("gridded") else ""

    def inputs(self, run: Run) -> list[str]:
        return blank_images(run)

    def arguments(self, run: Run) -> list[str]:
        return ["convert_sequences_to_stills=True", "output.experiments=blank.expt", "output.log=dials.import.log"]

    def outputs(self, run: Run) -> list[str]:
        return ["blank.expt"]


class Integrate(Step):
    """Images to integrated stills."""

    name = "integrate"
    command = "diffuse.integrate"
    module = "diffuse_dials.cli.integrate"
    writes = (COMBINED_MASK, "diffuse.integrate.log")
    uses_mpi = True
    resumes = True
    phil = """
        include scope diffuse_dials.algorithms.integration.phil_scope
        include scope diffuse_dials.algorithms.running.parallel.mpi_phil_scope
        """

    def why_not(self, run: Run) -> str | None:
        return None if run.starts_at("images") else ""

    def inputs(self, run: Run) -> list[str]:
        return list(run.given)

    def adapt(self, params, run: Run) -> None:
        """Put what the user said once into the places where stills_process looks for it."""
        ours, theirs = run.params, params.stills_process
        symmetry = theirs.indexing.known_symmetry
        symmetry.unit_cell = _one("unit_cell", ours.unit_cell, symmetry.unit_cell)
        symmetry.space_group = _one("space_group", ours.space_group, symmetry.space_group)
        reference = _one("input.reference_geometry", ours.input.reference_geometry, theirs.input.reference_geometry)
        theirs.input.reference_geometry = reference
        masks = [name for name in ours.input.mask if name]
        lookups = (theirs.spotfinder.lookup, theirs.integration.lookup)
        if masks and not all(lookup.mask for lookup in lookups):
            mask = masks[0]
            if len(masks) > 1:  # stills_process takes one
                mask = COMBINED_MASK
                combine_masks(masks, mask)
            for lookup in lookups:
                lookup.mask = lookup.mask or mask
        if ours.masking.bragg.method == "shoebox":
            theirs.integration.debug.output = True
            theirs.integration.debug.separate_files = False
            theirs.integration.debug.delete_shoeboxes = False

    def summary(self, run: Run) -> list[str]:
        table = StillsTable.read("stills.csv").rows.values()
        images = {(row["image"], row["index"]): row["reason"].partition(":")[0] or "integrated" for row in table}
        return ["images: " + ", ".join(f"{number} {kind}" for kind, number in Counter(images.values()).most_common())]

    def outputs(self, run: Run) -> list[str]:
        return [str(path) for path in block_files(FOLDER)] or [f"{FOLDER}/idx-00000_integrated.expt"]


def blank_images(run: Run) -> list[str]:
    """Images among what input.background names (.expt files are taken as they are)."""
    names = [name for name in run.params.input.background if name and not name.endswith(".expt")]
    return [found for name in names for found in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]


def integrated(run: Run, suffix: str) -> list[str]:
    """The integrated stills: those given, or those made."""
    if run.starts_at("integrated"):
        return run.files(suffix)
    return [str(path) for path in block_files(FOLDER) if str(path).endswith(suffix)]


def _one(name: str, ours, theirs):
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    if str(ours) != str(theirs) and os.path.abspath(str(ours)) != os.path.abspath(str(theirs)):
        raise ValueError(f"{name}={ours!s} and {theirs!s} in stills_process contradict each other. Give one.")
    return theirs
