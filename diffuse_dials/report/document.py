"""The report of a run: all its pages, as HTML, JSON, pictures and text."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import libtbx.phil
from matplotlib.figure import Figure

from diffuse_dials import __version__
from diffuse_dials.report.graphs import sheet
from diffuse_dials.report.html import Section, write_chapters
from diffuse_dials.report.pages import PAGES
from diffuse_dials.report.pages.base import Missing, Page, plots
from diffuse_dials.report.plots import save_png
from diffuse_dials.report.slices import Slices
from diffuse_dials.report.sources import Sources

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
report {
  order = order
    .type = str
    .help = "Column of stills.csv (numbers) against which the scales are drawn: order, time_stamp, or one of your own."
}
"""
)


@dataclass(frozen=True)
class Document:
    """Pages that could be made, and why others could not.

    Attributes:
        pages: By name.
        sections: Of each page.
        missing: Reasons, by name of the page.
    """

    pages: dict[str, Page]
    sections: dict[str, list[Section]]
    missing: dict[str, str]

    @classmethod
    def of(cls, sources: Sources, params) -> Document:
        """Make all pages that were asked for.

        Args:
            sources: Files of the run.
            params: Extract of this module's ``phil_scope``.

        Raises:
            ValueError: If a file cannot be read, or nothing was found.
        """
        pages, sections, missing = {}, {}, {}
        for name, kind in PAGES.items():
            if sources.pages is not None and name not in sources.pages:
                continue
            try:
                pages[name] = kind(sources, params.report)
            except Missing as reason:
                missing[name] = str(reason)
                continue
            sections[name] = list(pages[name].sections())
        if not pages:
            raise ValueError(
                f"Nothing to report was found in {sources.folder.resolve()}: {'; '.join(missing.values())}. Give the "
                "folder or the .expt and .refl files of a run."
            )
        return cls(pages, sections, missing)

    def log(self) -> None:
        """The numbers of each page in a few lines."""
        for name, page in self.pages.items():
            logger.info("\n%s", page.title)
            for line in page.summary():
                logger.info("  %s", line)
        for name, reason in self.missing.items():
            logger.info("\n%s: not reported, %s", PAGES[name].title, reason)

    def to_dict(self) -> dict:
        """For JSON: numbers and graphs (data and layout of plotly) of each page."""
        return {
            "diffuse_dials": __version__,
            "pages": {
                name: {"title": page.title, "numbers": page.numbers(), "graphs": plots(self.sections[name])}
                for name, page in self.pages.items()
            },
            "missing": self.missing,
        }

    def write_html(self, path) -> None:
        """The page, complete or not at all."""
        chapters = {}
        if self.missing:
            rows = tuple((PAGES[name].title, reason) for name, reason in self.missing.items())
            chapters["Not in this report"] = [Section("Missing stages", "", ("stage", "why"), rows)]
        summary = [Section(page.title, "\n".join(page.summary())) for page in self.pages.values()]
        chapters = {"Summary": summary, **chapters}
        chapters.update({page.title: self.sections[name] for name, page in self.pages.items()})
        write_chapters(path, "diffuse.report", chapters)

    def write_pictures(self, path) -> list[str]:
        """A picture of each page's graphs, as ``name_page.png``, and those that a page draws itself.

        Args:
            path: Of no file itself: folder, start and end of the names.

        Returns:
            Names of the files.
        """
        path, written = Path(path), []
        for name, page in self.pages.items():
            graphs = [
                figure
                for section in self.sections[name]
                for figure in section.figures
                if not isinstance(figure, (Figure, Slices))
            ]
            pictures = {name: sheet(graphs)} if graphs else {}
            pictures.update(page.pictures())
            for picture, figure in pictures.items():
                target = path.with_name(f"{path.stem}_{picture}{path.suffix}")
                save_png(figure, target)
                written.append(str(target))
        return written
