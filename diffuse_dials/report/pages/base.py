"""What a page of diffuse.report is: the stage it shows, its sections, and its numbers."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from matplotlib.figure import Figure

from diffuse_dials.report.html import Section
from diffuse_dials.report.sources import Sources


class Missing(Exception):
    """A stage that left nothing to show; the text says what is not there and which command writes it."""


class Page(ABC):
    """Base of the pages; a new one is a file with a subclass and its name in pages/__init__.py.

    Class attributes:
        name: Of the page, in the JSON file and in names of pictures.
        title: Its heading.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def __init__(self, sources: Sources, params):
        """Read what the page shows.

        Args:
            sources: Where it is.
            params: Extract of ``report``.

        Raises:
            Missing: If the stage left nothing.
            ValueError: If a file cannot be read.
        """

    @abstractmethod
    def sections(self) -> list[Section]:
        """Parts of the page, in order."""

    def pictures(self) -> dict[str, Figure]:
        """Pictures besides those of the graphs, by the end of their file names."""
        return {}

    @abstractmethod
    def numbers(self) -> dict:
        """The numbers to remember, for JSON."""

    @abstractmethod
    def summary(self) -> list[str]:
        """The same in a few lines for the log, worst news first."""


def plots(sections) -> dict:
    """Graphs of some sections by a short name each, as ``{"data": ..., "layout": ...}`` of plotly.

    dials.report keeps its plots in the same form, so what draws those draws these.
    """
    found = {}
    for section in sections:
        for figure in section.figures:
            if isinstance(figure, Figure):
                continue
            content = figure.plotly()
            name = base = re.sub(r"\W+", "_", content["layout"]["title"]["text"].lower()).strip("_")
            number = 2
            while name in found:
                name, number = f"{base}_{number}", number + 1
            found[name] = content
    return found


def read_json(path: Path | None, written_by: str) -> dict:
    """Content of a record.

    Raises:
        Missing: If ``path`` is None.
        ValueError: If it is no JSON.
    """
    if path is None:
        raise Missing(f"nothing of {written_by} was found")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}). Run {written_by} again.") from None
