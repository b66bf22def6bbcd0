"""Images to integrated stills by dials.stills_process, in blocks that are complete or made again.

    integrated/
      00000.json                the images of a block and what became of each; written last: the block is complete
      idx-00000_integrated.expt, idx-00000_integrated.refl     absent if no image of the block was integrated
      idx-00000.log             what DIALS said
      .00001/                   a block that is being made

A block is never changed. A later run with more images makes blocks of the new ones only.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import libtbx.phil
from dials.util.version import dials_version
from libtbx import Auto

from diffuse_dials.adapters.experiments import load_experiments, name_stills, still_keys
from diffuse_dials.adapters.stills_processor import Block, Outcome, check, dials_log, images_in
from diffuse_dials.adapters.symmetry import restore_space_group
from diffuse_dials.algorithms.running.forked import WorkerDied
from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.running.parallel import each, working_on
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import load_flex

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
stills_process
  .help = "Parameters of dials.stills_process, all of them, by their own names. Reading, workers and names of files are"
          "this program's: its mp and output.output_dir are not used."
  .expert_level = 1
{
  include scope diffuse_dials.adapters.stills_processor.phil_scope
}
integration {
  images_per_block = Auto
    .type = int(value_min=1)
    .help = "Images whose results are written together; an interrupted run loses what is unfinished. Auto: 20, or"
            "fewer where that would leave processes without work."
    .expert_level = 1
}
""",
    process_includes=True,
)

_BLOCK = 20
_NOT_HELD = ("stills_process.mp.", "stills_process.output.output_dir", "stills_process.input.glob",
             "stills_process.input.file_list", "stills_process.input.max_images")  # fmt: skip
_LITTLE = 1 << 16  # bytes; a disk with less left is full
_CRASHES = 2  # after so many dead processes an image is given up


@dataclass(frozen=True)
class Image:
    """One image to process.

    Attributes:
        source: The file that the user gave: the image, or what holds several.
        number: Number of the image in it, from 0.
        path: The image file.
        index: Number of the image in the image file.
    """

    source: str
    number: int
    path: str
    index: int

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.index

    @property
    def label(self) -> str:
        return f"{Path(self.path).name}:{self.index}"


@dataclass(frozen=True)
class Result:
    """An image and what became of it.

    Attributes:
        path, index: The image.
        mark: Of the file, which changes when the file does.
        outcome: How far it came.
        identifiers: Of its lattices that were integrated.
    """

    path: str
    index: int
    mark: str
    outcome: Outcome
    identifiers: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.index

    @property
    def label(self) -> str:
        return f"{Path(self.path).name}:{self.index}"

    @classmethod
    def from_dict(cls, data: dict) -> Result:
        outcome, identifiers = Outcome(**data["outcome"]), tuple(data["identifiers"])
        return cls(**{**data, "outcome": outcome, "identifiers": identifiers})


def find_images(names, params) -> tuple[list[Image], list[Result]]:
    """The images that files and patterns given by a user stand for, and those in files that cannot be read.

    Args:
        names: Image files, .expt files of dials.import, or patterns of them.
        params: Extract of stills_process's parameters (input.glob, file_list and max_images count).

    Raises:
        ValueError: If a name stands for no file, or none was given.
    """
    names = [*names, *(params.input.glob or ())]
    if not names and params.input.file_list:
        if not Path(params.input.file_list).is_file():
            raise ValueError(
                f"stills_process.input.file_list={params.input.file_list}: there is no such file. Check name and "
                "folder."
            )
        names = [line.strip() for line in Path(params.input.file_list).read_text("utf-8").splitlines() if line.strip()]
    images, broken, known = [], [], set()
    for name in names:
        found = [name] if Path(name).is_file() else sorted(glob.glob(name))
        if not found:
            raise ValueError(f"There is no file {name}, and it is no parameter of this command. Check name and folder.")
        for source in found:
            source = os.path.abspath(source)
            try:
                inside = images_in(source)
            except ValueError as error:
                outcome = Outcome("not read", f"The file cannot be read: {error}")
                broken.append(Result(source, 0, _mark(source), outcome))
                continue
            for number, (path, index) in enumerate(inside):
                if (path, index) not in known:
                    known.add((path, index))
                    images.append(Image(source, number, path, index))
    if not images and not broken:
        raise ValueError("No images were given. Give image files, patterns in quotation marks, or .expt files.")
    return images[: params.input.max_images], broken


def integrate(images: list[Image], scope, params, folder, nproc: int, comm: Communicator, resume: bool):
    """Process all images that were not processed before.

    Args:
        images: What to process.
        scope: The command's PHIL scope.
        params: Extract of it.
        folder: The folder of the blocks.
        nproc: Processes, where there is one rank.
        comm: The ranks.
        resume: Whether blocks of an earlier run, of the same parameters and unchanged images, are kept.

    Returns:
        The results in the order of the blocks, on rank 0; None on the others.

    Raises:
        ValueError: If the folder cannot be written, another run writes it, or it holds images.
    """
    check(params.stills_process)
    home, lock = Path(folder), None
    _refuse_images(home, images)
    key = _key(scope, params)
    with comm.together():
        if comm.rank == 0:
            lock = _lock(home)
            done = _finished(home, key, images) if resume else {}
            _remove_all_but(home, done)
            plan = _plan(images, done, params.integration.images_per_block, nproc if comm.size == 1 else comm.size)
            seen = done, plan
    done, plan = comm.from_first(seen if comm.rank == 0 else None)
    n_images, n_done = sum(len(block) for block in plan.values()), sum(len(block) for block in done.values())
    if done:
        logger.info("%d images were processed before, %d are new", n_done, n_images)
    crashes: Counter = Counter()
    while plan:
        work = _Work(params.stills_process, home, key, plan, crashes)
        try:
            total, name = sum(len(block) for block in plan.values()), work.name
            for number, results in each(
                work, sorted(plan), nproc, "integrate", comm=comm, total=total, name=name, isolated=True
            ):
                done[number] = results
            break
        except WorkerDied as died:
            if died.item < 0:
                raise
            image = work.images[died.item]
            crashes[image.key] += 1
            logger.warning("%s: %s", image.label, died)
            done.update({number: _load_block(home, number)[1] for number in plan if _path(home, number).is_file()})
            plan = {number: block for number, block in plan.items() if number not in done}
    del lock
    return [result for number in sorted(done) for result in done[number]] if comm.rank == 0 else None


class _Work:
    """Makes one block; called in a worker process."""

    def __init__(self, params, home: Path, key: str, plan: dict[int, list[Image]], crashes: Counter):
        self._params, self._home, self._key, self._plan, self._crashes = params, home, key, plan, crashes
        self.images = [image for number in sorted(plan) for image in plan[number]]
        self._first = {}
        for number in sorted(plan):
            self._first[number] = sum(len(plan[before]) for before in self._first)

    def name(self, item: int) -> str:
        return self.images[item].label if item < len(self.images) else str(item)

    def __call__(self, number: int) -> tuple[int, list[Result]]:
        folder = self._home / f".{number:05d}"
        with _writing(self._home, folder):
            return number, self._make(number, folder)

    def _make(self, number: int, folder: Path) -> list[Result]:
        tag = f"{number:05d}"
        log = self._home / f".{tag}.log"
        with dials_log(log):
            block = Block(self._params, folder, tag)
            results = []
            for place, image in enumerate(self._plan[number]):
                working_on(self._first[number] + place)
                mark = _mark(image.path)
                if self._crashes[image.key] >= _CRASHES:
                    outcome = Outcome("crashed", "The process that worked on it died, twice: a broken file?")
                else:
                    outcome = block.process(image.source, image.number)
                results.append(Result(image.path, image.index, mark, outcome))
            block.finish()
        os.replace(log, self._home / f"idx-{tag}.log")
        results = self._with_identifiers(results, folder, tag)
        for path in folder.iterdir():
            os.replace(path, self._home / path.name)
        folder.rmdir()
        _save_block(self._home, number, self._key, results)
        return results

    def _with_identifiers(self, results: list[Result], folder: Path, tag: str) -> list[Result]:
        """Name the lattices after their images, the same in every run, in the files and in the results."""
        output = self._params.output
        names = (output.integrated_experiments_filename, output.integrated_filename)
        expt, refl = (folder / (name % f"idx-{tag}") for name in names)
        if not expt.is_file():
            return results
        experiments, table = load_experiments(expt), load_flex(refl)
        keys = still_keys(experiments)
        known = self._params.indexing.known_symmetry.space_group
        for experiment in experiments:
            experiment.identifier = ""
            if known is not None:
                restore_space_group(experiment.crystal, known.group())
        name_stills(experiments, keys)
        for number, identifier in enumerate(experiments.identifiers()):
            table.experiment_identifiers()[number] = identifier
        experiments.as_file(str(expt))
        table.as_file(str(refl))
        if len(load_flex(refl)) != len(table):  # DIALS's writer may say nothing of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        named: dict[tuple[str, int], list[str]] = {}
        for key, identifier in zip(keys, experiments.identifiers()):
            named.setdefault((key.image, key.index), []).append(identifier)
        return [replace(result, identifiers=tuple(named.get(result.key, ()))) for result in results]


@contextmanager
def _writing(home: Path, folder: Path):
    """One clear line if a block cannot be written, and nothing of it left behind.

    Raises:
        ValueError: Instead of all that DIALS raises when a disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        full = home.is_dir() and shutil.disk_usage(home).free < _LITTLE
        shutil.rmtree(folder, ignore_errors=True)
        if not full and not isinstance(error, OSError):
            raise
        why = os.strerror(errno.ENOSPC) if full else error.strerror or error
        raise ValueError(
            f"Cannot write {home}: {why}. Check the folder, its permissions and the free space."
        ) from error


def _path(home: Path, number: int) -> Path:
    return home / f"{number:05d}.json"


def _save_block(home: Path, number: int, key: str, results: list[Result]) -> None:
    write_json({"key": key, "images": [asdict(result) for result in results]}, _path(home, number))


def _load_block(home: Path, number: int) -> tuple[str, list[Result]]:
    content = json.loads(_path(home, number).read_text("utf-8"))
    return content["key"], [Result.from_dict(image) for image in content["images"]]


def _finished(home: Path, key: str, images: list[Image]) -> dict[int, list[Result]]:
    """Blocks of an earlier run that are just as this run would make them."""
    wanted, done = {image.key for image in images}, {}
    for path in sorted(home.glob("[0-9]*.json")):
        try:
            known, results = _load_block(home, int(path.stem))
        except (ValueError, KeyError, TypeError):  # of another version of the program
            continue
        same = known == key and all(r.key in wanted and r.mark == _mark(r.path) for r in results)
        if same and (len(block_files(home, int(path.stem))) == 2 or not any(r.outcome.ok for r in results)):
            done[int(path.stem)] = results
    return done


def _refuse_images(home: Path, images: list[Image]) -> None:
    """The folder is this program's own: what earlier runs made there is removed, by its name."""
    inputs = {os.path.dirname(name): name for image in images for name in (image.source, image.path)}
    for folder, name in inputs.items():
        if os.path.realpath(folder) == os.path.realpath(home):
            raise ValueError(
                f"output.folder={home} holds {os.path.basename(name)}, an input of this run. Give a folder of its own."
            )


def _remove_all_but(home: Path, done) -> None:
    """Remove what earlier runs made here, finished or not, except the blocks that are kept."""
    for path in home.iterdir():
        ours = re.fullmatch(r"\.(\d{5})([_.].*)?|(\d{5})\.json|idx-(\d{5})[_.].*", path.name)
        if ours and (path.name.startswith(".") or int(ours[3] or ours[4]) not in done):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _plan(images: list[Image], done, per_block, n_workers: int) -> dict[int, list[Image]]:
    """The blocks to make, by number.

    Blocks that an interrupted run did not finish keep their numbers, so that the stills come in the same order. If the
    images have changed since, the new ones follow in blocks after the last.
    """
    if per_block in (None, Auto):
        per_block = max(map(len, done.values()), default=min(_BLOCK, max(1, len(images) // (4 * n_workers))))
    whole = dict(enumerate(images[start : start + per_block] for start in range(0, len(images), per_block)))
    known = {number: [result.key for result in results] for number, results in done.items()}
    if all([image.key for image in whole.get(number, ())] == keys for number, keys in known.items()):
        return {number: block for number, block in whole.items() if number not in done}
    keys = {key for block in known.values() for key in block}
    new = [image for image in images if image.key not in keys]
    blocks = (new[start : start + per_block] for start in range(0, len(new), per_block))
    return dict(enumerate(blocks, max(done) + 1))


def block_files(home, number: int | None = None) -> list[Path]:
    """Integrated .expt and .refl files of one block, or of all: first all .expt, then all .refl."""
    tag = "*" if number is None else f"{number:05d}"
    return [path for suffix in ("expt", "refl") for path in sorted(Path(home).glob(f"idx-{tag}_*integrated.{suffix}"))]


def _lock(home: Path):
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = open(home / "lock", "w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"Another run is writing {home} now. Wait for it, or work in another folder.") from None
    except OSError as error:
        raise ValueError(f"Cannot write {home}: {error.strerror}. Check the folder and its permissions.") from error
    return lock


def _mark(path) -> str:
    """What changes when an image file does."""
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _key(scope, params) -> str:
    """Hash of the parameters, and of the files that they name."""
    digest = hashlib.sha256(dials_version().encode())
    for found in scope.format(python_object=params).all_definitions():
        if not found.path.startswith("stills_process.") or found.path.startswith(_NOT_HELD):
            continue
        value = found.object.extract()
        digest.update(json.dumps([found.path, str(value)]).encode())
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and Path(name).is_file():
                digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
    return digest.hexdigest()


def counts(results: list[Result]) -> list[tuple[str, int, str]]:
    """Rows (what became of them, images, spots found in the median) for a table."""
    rows = []
    for kind, number in Counter(result.outcome.kind for result in results).most_common():
        spots = [r.outcome.n_spots for r in results if r.outcome.kind == kind and r.outcome.n_spots is not None]
        rows.append(("integrated" if kind == "ok" else kind, number, f"{median(spots):g}" if spots else "-"))
    return rows


def check_any(results: list[Result]) -> None:
    """Refuse to continue with nothing.

    Raises:
        ValueError: If no image was integrated, with the numbers and the likely causes.
    """
    if any(result.outcome.ok for result in results):
        return
    numbers = ", ".join(
        f"{n} {kind}" + ("" if spots == "-" else f" (median {spots} spots)") for kind, n, spots in counts(results)
    )
    kinds = Counter(result.outcome.kind for result in results)
    kind = kinds.most_common(1)[0][0]
    likely = {
        "not read": "Check that these are images, and complete.",
        "too few spots": "Few spots point at blanks or at thresholds: spotfinder.threshold.dispersion (gain, "
        "sigma_strong, global_threshold), spotfinder.filter.min_spot_size, the mask and the trusted range.",
        "not indexed": "Spots that cannot be indexed point at the unit cell and space group given, or at the geometry: "
        "distance, beam centre, wavelength (input.reference_geometry).",
        "not integrated": "Wide spots are dropped beyond profile.gaussian_rs.parameters.sigma_b_cutoff (None keeps "
        "them), and stills without significant intensities by significance_filter.",
    }.get(kind, "See the reason of each image.")
    first = next(result for result in results if result.outcome.kind == kind)
    raise ValueError(
        f"None of {len(results)} images was integrated: {numbers}. {likely} For example {first.label}: "
        f"{sentence(first.outcome.reason)} stills.csv has the reason for each."
    )


def update_stills(table: StillsTable, results: list[Result]) -> StillsTable:
    """stills.csv with a line for each lattice, and for each image without one; columns that a user added stay."""
    fresh = StillsTable()
    for result in results:
        outcome = result.outcome
        name = hashlib.sha256(f"{result.path}:{result.index}:0".encode()).hexdigest()[:32]
        for lattice, identifier in enumerate(result.identifiers or (name,)):
            fresh.rows[identifier] = dict(table.rows.get(identifier, {"identifier": identifier}))
            fresh.update(
                identifier, image=result.path, index=result.index, lattice=lattice,
                status="integrated" if outcome.ok else "failed",
                reason="" if outcome.ok else f"{outcome.kind}: {outcome.reason}",
                n_spots=outcome.n_spots, n_indexed=outcome.n_indexed, n_integrated=outcome.n_integrated,
                rmsd=outcome.rmsd,
            )  # fmt: skip
    return fresh
