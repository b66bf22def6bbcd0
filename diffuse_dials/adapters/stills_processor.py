"""DIALS's stills_process image by image: spot finding, indexing, refinement, integration, and the outcome of each.

The program dials.stills_process prints the reason of a failure and goes on, and a file that cannot be opened ends it.
Here the same class ``Processor`` works on one image after the other, and each image has an outcome.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import shutil
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import libtbx.phil

from diffuse_dials.adapters.experiments import image_of, load_experiments
from diffuse_dials.adapters.parameters import check_unit_cell
from diffuse_dials.adapters.stills_process import stills_process_module
from diffuse_dials.adapters.symmetry import check_cell
from diffuse_dials.io.masks import load_pickle

phil_scope = stills_process_module().phil_scope.fetch(
    libtbx.phil.parse(
        """
output {
  # shoeboxes of strong spots take more room than all other results; set the names to keep them
  indexed_filename = None
  refined_experiments_filename = None
  integration_pickle = None
}
mp.debug.output_debug_logs = False
"""
    )
)

_STAGES = {"find_spots": "not read", "index": "not indexed", "refine": "not refined", "integrate": "not integrated"}
_SEVERAL = (".expt", ".json", ".h5", ".nxs", ".cxi", ".hdf5")  # files that may hold several images


@dataclass
class Outcome:
    """What stills_process made of one image.

    Attributes:
        kind: "ok", or the stage that failed: "not read", "too few spots", "too many spots", "not indexed",
            "not refined", "not integrated".
        reason: In words; empty if ok.
        n_spots: Strong spots found; None if it did not come to that.
        n_indexed: Of those, indexed.
        n_integrated: Reflections integrated, all lattices.
        n_lattices: Lattices integrated.
        rmsd: Of indexed spots from their predicted positions, pixels.
    """

    kind: str = "ok"
    reason: str = ""
    n_spots: int | None = None
    n_indexed: int | None = None
    n_integrated: int | None = None
    n_lattices: int = 0
    rmsd: float | None = None

    @property
    def ok(self) -> bool:
        return self.kind == "ok"


def check(params) -> None:
    """Refuse parameters of stills_process that choose or name things in a way that does not fit here.

    Raises:
        ValueError: With what to do instead.
    """
    known = params.indexing.known_symmetry
    if known.unit_cell is not None:
        name = "stills_process.indexing.known_symmetry.unit_cell"
        check_unit_cell(name, known.unit_cell.parameters())
        if known.space_group is not None:
            check_cell(known.unit_cell.parameters(), known.space_group.group(), f"{name} or space_group")
    if params.input.reference_geometry is not None:
        load_experiments(params.input.reference_geometry)
    for mask in filter(None, (params.spotfinder.lookup.mask, params.integration.lookup.mask)):
        load_pickle(mask)  # it would be taken for an image that cannot be read
    if params.input.max_images is not None and params.input.max_images < 1:
        raise ValueError(f"stills_process.input.max_images={params.input.max_images} leaves no image. Give 1 or more.")
    output, dispatch = params.output, params.dispatch
    for name in ("integrated_experiments_filename", "integrated_filename"):
        if "%s" not in (getattr(output, name) or ""):
            raise ValueError(f"stills_process.output.{name} must hold %s, in place of which each block has its number.")
    if not (dispatch.find_spots and dispatch.index and dispatch.integrate) or not output.composite_output:
        raise ValueError(
            "A diffuse map needs integrated stills: leave stills_process.dispatch.find_spots, index, integrate and "
            "stills_process.output.composite_output as they are, or run dials.stills_process itself."
        )
    if params.input.image_tag or dispatch.process_percent or params.input.show_image_tags:
        raise ValueError(
            "stills_process.input.image_tag, show_image_tags and dispatch.process_percent are not used here: give "
            "the images that shall be processed."
        )


def images_in(source: str) -> list[tuple[str, int]]:
    """Image file and number of the image in it, from 0, for each image that a file given by a user stands for.

    A single image is not opened here.

    Raises:
        ValueError: If a file of several images cannot be read.
    """
    if not source.lower().endswith(_SEVERAL):
        return [(os.path.abspath(source), 0)]
    return [image_of(experiment) for experiment in _imported(source)]


@lru_cache(maxsize=2)
def _imported(source: str):
    """Experiments of a file, one per image, models not yet loaded."""
    try:
        with redirect_stdout(io.StringIO()):
            return stills_process_module().do_import(source, load_models=False)
    except Exception as error:  # every format class of dxtbx raises what it likes
        raise ValueError(_one_line(error)) from error


class Block:
    """Some images processed one after the other, whose results are written together at the end.

    Args:
        params: Extract of ``phil_scope``.
        folder: Where files are written; it is made, and has nothing else in it.
        tag: Stands for %s in their names, after "idx-".
    """

    def __init__(self, params, folder: Path, tag: str):
        program = stills_process_module()
        params = copy.deepcopy(params)
        params.output.output_dir = str(folder)
        params.mp.method, params.mp.nproc = "multiprocessing", 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._params, self._folder = params, folder
        self._geometry = _Geometry(program, params)
        self._processor = _recorder(program)(copy.deepcopy(params), composite_tag=tag, rank=0)

    def process(self, source: str, number: int) -> Outcome:
        """One image: the ``number``-th in the file ``source``."""
        try:
            experiments = self._load(source, number)
        except Exception as error:  # every format class of dxtbx raises what it likes
            return Outcome("not read", _why_not_read(error))
        processor, outcome = self._processor, Outcome()
        processor.outcome = outcome
        before = len(processor.all_integrated_experiments)
        with redirect_stdout(io.StringIO()):  # the same as in the outcome
            processor.process_experiments(Path(source).stem, experiments)
        experiments[0].imageset.clear_cache()
        outcome.n_lattices = len(processor.all_integrated_experiments) - before
        if outcome.n_lattices == 0 and outcome.ok:
            self._explain(outcome)
        return outcome

    def finish(self) -> None:
        """Write the files of all lattices that were integrated."""
        with redirect_stdout(io.StringIO()):
            self._processor.finalize()
        shutil.rmtree(self._folder / "debug", ignore_errors=True)

    def _load(self, source: str, number: int):
        found = _imported(source)
        if not source.lower().endswith(_SEVERAL) and len(found) > 1:
            raise ValueError(f"it holds {len(found)} images. Import it first (dials.import) and give the .expt file.")
        experiments = found[number : number + 1]
        experiments[0].load_models()
        self._geometry.apply(experiments[0])
        return experiments

    def _explain(self, outcome: Outcome) -> None:
        """Processor stops without an error where the number of spots is out of range."""
        limits = self._params.dispatch.hit_finder
        fewest, most = limits.minimum_number_of_reflections, limits.maximum_number_of_reflections
        if outcome.n_spots is not None and outcome.n_spots < fewest:
            outcome.kind = "too few spots"
            outcome.reason = f"{outcome.n_spots} spots were found, {fewest} are asked for (hit_finder): a blank?"
        elif most is not None and (outcome.n_spots or 0) > most:
            outcome.kind = "too many spots"
            outcome.reason = f"{outcome.n_spots} spots were found, {most} are allowed (hit_finder)."
        else:
            outcome.kind, outcome.reason = "not integrated", "No reflection was left."


class _Geometry:
    """Geometry that a user gives in place of the images' own, as the program applies it."""

    def __init__(self, program, params):
        from dials.command_line.dials_import import ManualGeometryUpdater

        script = program.Script()
        script.params = params
        script.load_reference_geometry()
        self._reference, self._copy_hierarchy = script.reference_detector, params.input.sync_reference_geom
        self._update, self._sync = ManualGeometryUpdater(params), program.sync_geometry

    def apply(self, experiment) -> None:
        imageset = experiment.imageset
        self._update(imageset)
        experiment.beam, experiment.detector = imageset.get_beam(), imageset.get_detector()
        if self._reference is None:
            return
        if self._copy_hierarchy:
            self._sync(self._reference.hierarchy(), imageset.get_detector().hierarchy())
            experiment.detector = imageset.get_detector()
        else:
            experiment.detector = copy.deepcopy(self._reference)


@lru_cache(maxsize=1)
def _recorder(program):
    """DIALS's Processor, which writes into its attribute ``outcome`` how far an image came."""

    class Recorder(program.Processor):
        @contextmanager
        def _stage(self, name: str):
            try:
                yield
            except Exception as error:  # raised again: the processor decides what to do with it
                self.outcome.kind, self.outcome.reason = _STAGES[name], _one_line(error)
                if name == "find_spots" and self.outcome.n_spots is None:
                    self.outcome.reason = f"The image cannot be read: {self.outcome.reason}"
                raise

        def find_spots(self, experiments):
            with self._stage("find_spots"):
                found = super().find_spots(experiments)
                self.outcome.n_spots = len(found)
                return found

        def index(self, experiments, reflections):
            with self._stage("index"):
                experiments, indexed = super().index(experiments, reflections)
                self.outcome.n_indexed = int((indexed["id"] >= 0).count(True))
                return experiments, indexed

        def refine(self, experiments, centroids):
            with self._stage("refine"):
                return super().refine(experiments, centroids)

        def integrate(self, experiments, indexed):
            from dials.algorithms.indexing.stills_indexer import calc_2D_rmsd_and_displacements

            with self._stage("integrate"):
                integrated = super().integrate(experiments, indexed)
                self.outcome.n_integrated = len(integrated)
                self.outcome.rmsd = float(calc_2D_rmsd_and_displacements(indexed)[0])
                return integrated

    return Recorder


def _why_not_read(error: BaseException) -> str:
    text = f"The image cannot be read: {_one_line(error)}"
    if "filename template" in text:  # dxtbx, of a single CBF file called image.cbf
        text += " (DIALS asks for a number in the file's name: image_0001.cbf)"
    return text


@contextmanager
def dials_log(path: Path):
    """What DIALS and dxtbx say goes to a file, and nowhere else, while the block runs."""
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx", "cctbx")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        with suppress(OSError):  # a full disk: what is to be written there next says it
            handler.close()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
