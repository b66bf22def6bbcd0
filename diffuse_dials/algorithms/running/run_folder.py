"""What a run has done so far, kept beside its output: finished parts, and what they were made from.

    gridded_parts/            beside gridded.refl or gridded.h5
      lock                    held while a run works here
      3f1c0a.../              parts of one run, named by its key: a hash of parameters, inputs and code
        plan.json             which stills belong to which part
        00000.part ...        finished parts (00000.h5 ... for gridded.h5): each appears complete or not at all

A part is never changed. Whatever moment a run is killed at, ``resume=True`` finds the finished parts and makes the
others.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import libtbx.phil
from dials.util.version import dials_version

import diffuse_dials
from diffuse_dials.adapters.experiments import image_of, load_blanks
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.gridded_store import part_folder
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.store_parts import Part

logger = logging.getLogger(f"dials.{__name__}")

_SUFFIXES = ".part", ".h5"  # of a part: it is put into a table and then removed, or gridded.h5 keeps it

phil_scope = libtbx.phil.parse(
    """
resume = False
  .type = bool
  .help = "Continue an interrupted run with the same parameters and inputs: only what is missing is done. A complete"
          "run is left as it is."
"""
)

_WHOLE_FILE = 1 << 26  # larger inputs are known by size and time of change
_NOT_HELD = ("mp.", "output.", "resume", "extraction.skip_failed")  # change nothing in a finished part


def run_key(command: str, scope, params, files, stills) -> str:
    """Hash of all that the parts of a run depend on, but the images (see :func:`images_mark`).

    Args:
        command: Name of the command.
        scope: Its PHIL scope.
        params: Extract of it.
        files: The input files given on the command line.
        stills: The stills in them.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()

    def add(*values):
        digest.update(json.dumps([str(value) for value in values]).encode())

    add(command, dials_version(), code_hash())
    for name in files:
        add(name, *_file_mark(name))
    add(*_lookup_marks(stills.experiments), *_blanks_marks(getattr(params.input, "background", ())))
    for found in scope.format(python_object=params).all_definitions():
        if found.path.startswith(_NOT_HELD):
            continue
        value = found.object.extract()
        add(found.path, value)
        if found.object.type.phil_type == "path" and value:
            add(*_file_mark(value))
    monitor = getattr(getattr(params, "input", None), "monitor", None)
    if monitor:
        rows = StillsTable.beside(params.output.stills).rows
        add(*_file_mark(monitor), *(f"{identifier} {row.get(monitor)}" for identifier, row in rows.items()))
    return digest.hexdigest()


@functools.cache
def code_hash() -> str:
    """Hash of this package's source."""
    digest = hashlib.sha256()
    folder = Path(diffuse_dials.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _file_mark(name) -> tuple:
    """What changes when a file does."""
    path = Path(name)
    if not path.is_file():
        return ("missing",)
    found = path.stat()
    if found.st_size > _WHOLE_FILE:
        return (path.absolute(), found.st_size, found.st_mtime_ns)
    return (hashlib.sha256(path.read_bytes()).hexdigest(), found.st_size)


def _lookup_marks(experiments) -> list[str]:
    """What changes when a mask, gain or pedestal file that the stills name does."""
    names = set()
    for experiment in experiments:
        lookup = experiment.imageset.external_lookup
        names.update((lookup.mask.filename, lookup.gain.filename, lookup.pedestal.filename))
    return [f"{name} {_file_mark(name)}" for name in sorted(names - {""})]


def _blanks_marks(names) -> list[str]:
    """What changes when an image of the blanks does."""
    return [_images_of(image_of(e)[0] for e in load_blanks(name)) for name in names if name]


def images_mark(keys) -> str:
    """What changes when one of the images of these stills (StillKeys) does: sizes and times of change."""
    return _images_of(key.image for key in keys)


def _images_of(paths) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns};".encode())
        except OSError:
            digest.update(f"{path} missing;".encode())
    return digest.hexdigest()


class RunFolder:
    """The folder of the parts of one run.

    Attributes:
        path: The folder; None before :meth:`open`.
        plan: What was planned when the run began; None if it begins now.
    """

    def __init__(self, path: Path, plan: dict | None = None):
        self.path = path
        self.plan = plan
        self._lock = None

    @classmethod
    def open(cls, output: str, key: str, resume: bool) -> RunFolder:
        """Find or make the folder of a run, alone in it.

        Args:
            output: The file that the run will write.
            key: Of the run.
            resume: Whether to go on with finished parts of the same key.

        Raises:
            ValueError: If another run works there, parts of another key would have to be thrown away to go on, or
                the folder cannot be written.
        """
        home = _home(output)
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock = open(home / "lock", "w", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"Cannot write {home}: {error.strerror}. Check the folder and its permissions.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Another run is writing {output} now. Wait for it, or choose another output folder."
            ) from None
        kept = part_folder(Path(output).with_suffix(".h5"))
        unfinished = _unfinished(output)
        plan = None
        if resume:
            ours = [path for path in unfinished if _plan_of(path).get("key") == key]
            if not ours and any(_has_parts(path) for path in unfinished):
                lock.close()
                raise ValueError(
                    f"resume=True: the parts in {home} were made with other parameters, inputs or another version of "
                    "the program, or what is measured on some stills first (Bragg profile, gain) came out otherwise. "
                    "Give the same as before, or leave resume out to begin anew."
                )
            if ours:
                plan = _plan_of(ours[0])
                path = ours[0]
        if plan is None:
            for path in unfinished:
                shutil.rmtree(path)
            path = home / key[:16]
            if path == kept:  # the same run once more: the present output stays until the new one is complete
                path = home / f"{key[:16]}-again"
            path.mkdir()
        for leftover in path.glob(".*"):
            leftover.unlink()
        folder = cls(path, plan)
        folder._lock = lock
        return folder

    def begin(self, plan: dict) -> None:
        """Keep the plan of a run that begins."""
        self.plan = plan
        write_json(plan, self.path / "plan.json")

    def part(self, number: int) -> Path:
        """Path of a part."""
        return self.path / f"{number:05d}{_SUFFIXES[bool(self.plan.get('store'))]}"

    def finished(self, number: int, key: str, mark: str) -> Part | None:
        """A part, if it is complete and was made from what is there now."""
        path = self.part(number)
        if not path.is_file():
            return None
        try:
            part = Part.open(path)
        except ValueError as error:
            logger.warning("%s It is made again.", error)
            return None
        if part.key != key or part.mark != mark:
            logger.warning("Images of part %s have changed: it is made again.", path)
            return None
        return part

    def remove(self, output: str) -> None:
        """The output is complete without parts: they go, of every run."""
        shutil.rmtree(_home(output), ignore_errors=True)
        self.close()

    def discard(self) -> None:
        """The run failed with nothing to go on with."""
        shutil.rmtree(self.path, ignore_errors=True)
        if not [path for path in self.path.parent.iterdir() if path.is_dir()]:
            shutil.rmtree(self.path.parent, ignore_errors=True)
        self.close()

    def keep_only_this(self, output: str) -> None:
        """The output points at the parts of this run: those of others go."""
        for path in _home(output).iterdir():
            if path.is_dir() and path != self.path:
                shutil.rmtree(path)
        self.close()

    def close(self) -> None:
        """Let other runs work here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _home(output: str) -> Path:
    path = Path(output)
    return path.with_name(f"{path.stem}_parts")


def _has_parts(path: Path) -> bool:
    return any(file.suffix in _SUFFIXES for file in path.glob("[0-9]*"))


def _plan_of(path: Path) -> dict:
    try:
        return json.loads((path / "plan.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def parts_key(key: str, record: dict) -> str:
    """Key of a run whose set-up measured things on the images (Bragg profile, gain): other values, other parts.

    Args:
        key: Of its parameters and inputs.
        record: ``Measurement.record``.
    """
    return hashlib.sha256(f"{key} {json.dumps(record, sort_keys=True, default=str)}".encode()).hexdigest()


def result_key(key: str, stills, failed: bool) -> str:
    """What the JSON that a run writes last says of it: its key, the images, and whether some of them failed.

    Args:
        key: Of the run.
        stills: Its stills.
        failed: Whether a still could not be measured.
    """
    return hashlib.sha256(f"{key} {images_mark(stills.keys)} {failed}".encode()).hexdigest()


def is_complete(record: str, key: str, stills, skip_failed: bool, output: str, others) -> bool:
    """Whether a run has written all its outputs from what is there now, and none was begun since.

    Args:
        record: The JSON that it writes last.
        key: Of the run.
        stills: Its stills.
        skip_failed: Whether outputs without the stills that failed are good enough.
        output: The file that its folder of parts is beside.
        others: Other files that it writes.
    """
    try:
        found = json.loads(Path(record).read_text(encoding="utf-8")).get("run_key")
    except (OSError, json.JSONDecodeError):
        return False
    wanted = [result_key(key, stills, failed) for failed in ((False, True) if skip_failed else (False,))]
    return found in wanted and all(Path(name).is_file() for name in others) and not _unfinished(output)


def _unfinished(output: str) -> list[Path]:
    """Folders of runs that the present output does not point at."""
    home, kept = _home(output), part_folder(Path(output).with_suffix(".h5"))
    return [path for path in home.iterdir() if path.is_dir() and path != kept] if home.is_dir() else []
