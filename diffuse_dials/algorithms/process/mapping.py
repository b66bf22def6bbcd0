"""Steps from integrated stills to the map and its files."""

from __future__ import annotations

import functools
from pathlib import Path

from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.algorithms.masking.chosen import needs_profile
from diffuse_dials.algorithms.process.base import Run, Step, existing
from diffuse_dials.algorithms.process.integrating import blank_images, integrated
from diffuse_dials.algorithms.quality.bragg_statistics import REQUIRED
from diffuse_dials.io.atomic import write_text
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table

PROFILE = "bragg_profile.json"


def mask_name(run: Run) -> str:
    """The mask that is made: pixels.mask, or another name where the user's own mask is the file of that name."""
    own = Path("pixels.mask").resolve()
    return "pixels_made.mask" if own in [Path(n).resolve() for n in run.params.input.mask if n] else own.name


def hand_on_spots(params, run: Run) -> None:
    """Use the integrated reflections of the run for the Bragg statistics, unless the user named others.

    Files given with start_from=integrated may lack the intensities (indexed.refl, for its shoeboxes): then not.
    """
    if any(params.input.bragg) or not run.starts_before("gridded"):
        return
    names = integrated(run, ".refl")
    if run.starts_at("images") or set(REQUIRED) <= set(load_table(names[0]).columns):
        params.input.bragg = names


class MakeMask(Step):
    """Pixels that no still should use."""

    name = "make_mask"
    command = "diffuse.make_mask"
    module = "diffuse_dials.cli.make_mask"
    writes = ("masked.expt", PROFILE, "diffuse.make_mask.json", "diffuse.make_mask.html", "diffuse.make_mask.log")
    # not d_min and d_max: the radial totals go to the corner of the detector, whatever the map does
    phil = """
        input {
          mask = None
            .type = path
            .multiple = True
        }
        include scope diffuse_dials.algorithms.masking.phil_scope
        include scope diffuse_dials.algorithms.running.parallel.phil_scope
        """

    def why_not(self, run: Run) -> str | None:
        return None if run.starts_before("gridded") else ""

    def inputs(self, run: Run) -> list[str]:
        needs_tables = run.params.masking.bragg.method != "lattice"
        return integrated(run, ".expt") + (integrated(run, ".refl") if needs_tables else [])

    def arguments(self, run: Run) -> list[str]:
        return [f"output.pixel_mask={mask_name(run)}"] if mask_name(run) != "pixels.mask" else []

    def outputs(self, run: Run) -> list[str]:
        return [mask_name(run), "masked.expt"]


class Grid(Step):
    """Sums per voxel and still."""

    name = "grid"
    command = "diffuse.grid"
    module = "diffuse_dials.cli.grid"
    writes = ("gridded.expt", "gridded.refl", "gridded.h5", "radial_totals.refl", "grid.json", "diffuse.grid.log",
              "pixel_statistics.json")  # fmt: skip
    uses_mpi = True
    resumes = True
    phil = """
        include scope diffuse_dials.algorithms.gridding.phil_scope
        include scope diffuse_dials.algorithms.extraction.phil_scope
        include scope diffuse_dials.algorithms.pipeline.phil_scope
        include scope diffuse_dials.algorithms.running.parallel.mpi_phil_scope
        """

    def why_not(self, run: Run) -> str | None:
        return None if run.starts_before("gridded") else ""

    def inputs(self, run: Run) -> list[str]:
        return integrated(run, ".expt") + integrated(run, ".refl")

    def adapt(self, params, run: Run) -> None:
        params.input.mask = [mask_name(run)]  # it contains the masks given
        if blank_images(run):
            params.input.background = [n for n in params.input.background if n.endswith(".expt")] + ["blank.expt"]
        bragg = params.masking.bragg
        if needs_profile(bragg) and bragg.profile is None and Path(PROFILE).is_file():
            bragg.profile = PROFILE  # as make_mask measured it, on the same images with the same mask
        if run.starts_at("integrated"):
            _bring_stills(run)
        params.extraction.skip_failed = True
        params.resume = False  # process.json knows what was interrupted

    def outputs(self, run: Run) -> list[str]:
        sums = "gridded.h5" if Path("gridded.h5").is_file() else "gridded.refl"
        return ["gridded.expt", sums, "radial_totals.refl", "grid.json"]


def _bring_stills(run: Run) -> None:
    """Copy the stills.csv of the integrated stills, if there is none here."""
    found = Path(run.files(".expt")[0]).absolute().parent
    for folder in (found, found.parent):  # diffuse.integrate writes it beside the folder of its results
        if (folder / "stills.csv").is_file() and not Path("stills.csv").exists():
            write_text((folder / "stills.csv").read_text("utf-8"), "stills.csv")


class Scale(Step):
    """One scale per still, and the merged map."""

    name = "scale"
    command = "diffuse.scale"
    module = "diffuse_dials.cli.scale"
    writes = ("scaled.expt", "scaled.refl", "merged.expt", "merged.refl", "diffuse.scale.*")
    uses_mpi = True
    phil = """
        include scope diffuse_dials.algorithms.scaling.options.phil_scope
        include scope diffuse_dials.algorithms.merging.phil_scope
        include scope diffuse_dials.algorithms.quality.statistics.phil_scope
        include scope diffuse_dials.algorithms.quality.bragg_statistics.phil_scope
        include scope diffuse_dials.algorithms.running.parallel.ranks_phil_scope
        """

    def why_not(self, run: Run) -> str | None:
        return None if run.starts_before("scaled") else ""

    def inputs(self, run: Run) -> list[str]:
        if run.starts_at("gridded"):
            return run.files(".expt") + run.files(".refl") + run.files(".h5")
        return ["gridded.expt", *existing("gridded.refl", "gridded.h5")]

    def read_too(self, run: Run) -> list[str]:
        return existing(str(Path(self.inputs(run)[0]).parent / "grid.json"))

    def adapt(self, params, run: Run) -> None:
        record = load_grid_record(self.inputs(run)[0])
        if record.ambiguous and not params.scale.assume_consistent_indexing:
            params.scale.reindex = True
        hand_on_spots(params, run)

    def outputs(self, run: Run) -> list[str]:
        return ["scaled.expt", "merged.expt", "merged.refl"]


class Absolute(Step):
    """The map in electron units."""

    name = "absolute"
    command = "diffuse.absolute"
    module = "diffuse_dials.cli.absolute"
    writes = ("absolute.expt", "absolute.refl", "absolute_models.expt", "diffuse.absolute.*")
    phil = """
        include scope diffuse_dials.algorithms.absolute.composition.phil_scope
        include scope diffuse_dials.algorithms.absolute.scale.phil_scope
        input {
          composition = None
            .type = path
            .help = "Model (PDB, mmCIF) or sequence (FASTA) of what the crystal holds: the same as absolute.model or"
                    "absolute.sequence."
          bragg = None
            .type = path
            .multiple = True
        }
        """

    def why_not(self, run: Run) -> str | None:
        ours = run.params.absolute
        if run.starts_at("merged"):
            return ""
        known = (ours.model, ours.sequence, ours.formula, run.params.input.composition, ours.scale)
        if not any(known) and ours.method != "reference":
            return "nothing says what the cell holds (input.composition): the map stays relative"
        return None

    def adapt(self, params, run: Run) -> None:
        hand_on_spots(params, run)
        if run.params.space_group is not None and params.absolute.space_group is None:
            params.absolute.space_group = str(run.params.space_group)  # that of given crystals may be a Patterson group

    def inputs(self, run: Run) -> list[str]:
        if run.starts_at("scaled"):
            return list(run.given)
        totals = "radial_totals.refl"
        if run.starts_at("gridded"):
            totals = str(Path(run.files(".expt")[0]).parent / totals)
        return ["merged.expt", "merged.refl", "scaled.expt", totals]

    def read_too(self, run: Run) -> list[str]:
        return existing(str(Path(run.files(".expt")[0]).parent / "grid.json")) if run.starts_at("scaled") else []

    def outputs(self, run: Run) -> list[str]:
        return ["absolute.expt", "absolute.refl"]


@functools.cache
def _map_among(names: tuple[str, ...]) -> tuple[str, ...]:
    """The map, and before it its experiment, among the files of diffuse.scale and diffuse.grid, by what they hold."""
    tables = (load_table(name) for name in names if name.endswith(".refl"))
    table = next(table for table in tables if "intensity.scale.value" in table)
    known = set(table.identifiers.values())
    experiments = [n for n in names if n.endswith(".expt") and known & set(load_experiments(n).identifiers())]
    return (*experiments, table.path)


class Export(Step):
    """The map in the formats of other programs."""

    name = "export"
    command = "diffuse.export"
    module = "diffuse_dials.cli.export"
    writes = ("map.*", "map_*", "diffuse.export.*")
    phil = "include scope diffuse_dials.algorithms.export.phil_scope"

    def adapt(self, params, run: Run) -> None:
        if not self.read_too(run):
            return
        # the map's own limits, at which voxels reach beyond, cut nothing
        record = load_grid_record(self.inputs(run)[0])
        if None not in (params.d_min, record.d_min) and params.d_min <= record.d_min:
            params.d_min = None
        if None not in (params.d_max, record.d_max) and params.d_max >= record.d_max:
            params.d_max = None

    def inputs(self, run: Run) -> list[str]:
        if run.starts_at("merged"):
            return list(run.given)
        if Absolute().why_not(run) is None:
            return ["absolute.expt", "absolute.refl"]
        if run.starts_at("scaled"):
            return list(_map_among(run.given))
        return ["merged.expt", "merged.refl"]

    def read_too(self, run: Run) -> list[str]:
        return existing(str(Path(self.inputs(run)[0]).parent / "grid.json"))

    def outputs(self, run: Run) -> list[str]:
        return ["diffuse.export.json"]


class Report(Step):
    """All stages on one page."""

    name = "report"
    command = "diffuse.report"
    module = "diffuse_dials.cli.report"
    writes = ("diffuse.report.*", "diffuse.report_*")
    phil = "include scope diffuse_dials.report.document.phil_scope"

    def inputs(self, run: Run) -> list[str]:
        if run.starts_at("merged"):
            return list(run.given)
        names = []
        if run.starts_before("gridded"):
            names += integrated(run, ".expt") + integrated(run, ".refl")
            names += existing("gridded.expt", "gridded.refl", "gridded.h5")
        if run.starts_before("scaled"):
            names += ["merged.expt", "merged.refl"]
        if Absolute().why_not(run) is None:
            names += ["absolute.expt", "absolute.refl"]
        return names or list(_map_among(run.given))

    def outputs(self, run: Run) -> list[str]:
        return ["diffuse.report.html", "diffuse.report.json"]
