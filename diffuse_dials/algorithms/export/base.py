"""What an exporter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from diffuse_dials.algorithms.export.content import MapContent, SumsContent


class Exporter(ABC):
    """One file format.

    Attributes:
        name: By which ``export.format`` chooses it.
        phil: Its parameters; empty if it has none.
        scope: The scope in which they stand; None: one of the exporter's name. Exporters may share one.
        by_default: Whether it is written when no format was chosen.
    """

    name: ClassVar[str]
    phil: ClassVar[str] = ""
    scope: ClassVar[str | None] = None
    by_default: ClassVar[bool] = True

    @classmethod
    def from_phil(cls, params) -> Exporter:
        """An exporter with the values of its scope; ``params`` is None where it has no parameters.

        Raises:
            ValueError: If values do not fit one another.
        """
        return cls()

    def check(self, content: MapContent) -> None:
        """Refuse a map that the format cannot hold, before any file is written; most formats hold all.

        Raises:
            ValueError: If it cannot.
        """

    @abstractmethod
    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """Write a map.

        Args:
            content: The map.
            prefix: Path of the files without their suffix.

        Returns:
            What there is to know of each file that was written, by its path, for the log and the .json.
        """


class TableExporter(Exporter):
    """A format that also holds the tables of earlier stages."""

    @abstractmethod
    def write_sums(self, content: SumsContent, prefix: Path) -> dict[str, dict]:
        """Write a table; arguments as in :meth:`Exporter.write`."""
