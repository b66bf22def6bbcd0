"""What a step of diffuse.process is: one command, the files it is given, its parameters, and what it writes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import iotbx.phil

STAGES = ("images", "integrated", "gridded", "scaled", "merged")


@dataclass
class Run:
    """A run of diffuse.process, in the current folder.

    Attributes:
        params: Extract of diffuse.process's PHIL scope.
        given: Files on the command line, in the order given.
        scope: The PHIL scope that ``params`` is an extract of.
    """

    params: object
    given: tuple[str, ...]
    scope: object = field(repr=False)

    def starts_at(self, stage: str) -> bool:
        """Whether the files given are of this stage."""
        return self.params.start_from == stage

    def starts_before(self, stage: str) -> bool:
        """Whether the files of this stage are made by the run."""
        return STAGES.index(self.params.start_from) < STAGES.index(stage)

    def files(self, suffix: str) -> list[str]:
        """The files given with a suffix."""
        return [name for name in self.given if name.endswith(suffix)]

    def named_files(self) -> list[tuple[str, str]]:
        """(how the user named it, path) of each file given, on the command line or as a parameter."""
        named = [("", name) for name in self.given]
        for found in self.scope.format(python_object=self.params).all_definitions():
            if found.object.type is not None and found.object.type.phil_type in ("path", "strings", "str"):
                value = found.object.extract()
                values = value if isinstance(value, list) else [value]
                named += [(f"{found.path}=", name) for name in values if isinstance(name, str) and os.path.isfile(name)]
        return named


class Step(ABC):
    """A step; subclasses are listed in STEPS in the order in which they run.

    Attributes:
        name: Of the step, in messages and in the state file.
        command: As a user types it.
        module: Module that holds the command's ``run``.
        phil: Its parameters, all those of the command that diffuse.process hands on: PHIL with ``include scope``.
        writes: Names of all files that it may write in the current folder; no input of the run may have one of them.
        uses_mpi: Whether several ranks can run it.
        resumes: Whether the command has the parameter ``resume``.
    """

    name: ClassVar[str]
    command: ClassVar[str]
    module: ClassVar[str]
    phil: ClassVar[str] = ""
    writes: ClassVar[tuple[str, ...]] = ()
    uses_mpi: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    def __init__(self):
        self.scope = iotbx.phil.parse(self.phil, process_includes=True)

    def why_not(self, run: Run) -> str | None:
        """Why the step has nothing to do in this run; None: it runs. Empty: nothing need be said."""
        return None

    @abstractmethod
    def inputs(self, run: Run) -> list[str]:
        """Files on its command line."""

    def adapt(self, params, run: Run) -> None:
        """Change the extract of ``scope`` where the output of an earlier step is to be used."""

    def arguments(self, run: Run) -> list[str]:
        """What else is on its command line, besides files and the parameter file."""
        return []

    def read_too(self, run: Run) -> list[str]:
        """Files that it finds beside its inputs and depends on."""
        return []

    @abstractmethod
    def outputs(self, run: Run) -> list[str]:
        """Files whose presence says that it is complete."""

    def summary(self, run: Run) -> list[str]:
        """What to say when it is done."""
        return []


def existing(*names: str) -> list[str]:
    """Those of the files that exist."""
    return [name for name in names if Path(name).is_file()]
