"""A report as one HTML file that opens without a network: text, tables and pictures inside it.

Graphs (report.graphs) can be zoomed and label each point; plotly.js is in the page once. Pictures of maps are
matplotlib's, as SVG.
"""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from diffuse_dials import __version__
from diffuse_dials.io.atomic import write_text
from diffuse_dials.report.graphs import Bars, ColourMap, Graph, plotly_library
from diffuse_dials.report.slices import Slices

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 0.9em; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .2em .5em; text-align: right; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; }
.wide { overflow-x: auto; }
nav { margin: 1em 0; }
nav a { margin-right: 1.2em; }
h1.page { border-top: 2px solid #888; margin-top: 2em; padding-top: .6em; }
.handles { display: flex; flex-wrap: wrap; gap: .8em; align-items: center; }
.handles input { flex: 1 1 20em; }
.handles output { min-width: 7em; font-variant-numeric: tabular-nums; }
.plot { max-width: 60em; }
"""

_NUMBER = re.compile(r"[<>±\s]*[-−+]?(\d|nan|inf|$)")  # what stands in a column to the right

# Draws each graph from the JSON beside it, once the library is unpacked.
_DRAW = """
(async () => {
  try {
    const packed = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const library = document.createElement("script");
    library.textContent = text;
    document.head.append(library);
    for (const script of document.querySelectorAll("script.graph")) {
      const graph = JSON.parse(script.textContent);
      const options = {responsive: true, displaylogo: false};
      await Plotly.newPlot(script.previousElementSibling, graph.data, graph.layout, options);
    }
    for (const script of document.querySelectorAll("script.slices")) {
      await startSlices(script.previousElementSibling, JSON.parse(script.textContent));
    }
    document.body.dataset.drawn = "yes";
  } catch (error) {
    console.error(error);
    for (const place of document.querySelectorAll("div.graph:empty, div.plot:empty")) {
      place.textContent = "This browser is too old to draw the graph; the .json file holds its numbers.";
    }
  }
})();
"""


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: Its heading.
        text: Plain text, one line per paragraph.
        headers: Column heads of a table, units included.
        rows: Rows of the table; floats are shown with four digits.
        figure: A picture or a graph below the table, or several.
    """

    title: str
    text: str = ""
    headers: tuple = ()
    rows: tuple = ()
    figure: Figure | Graph | Bars | ColourMap | Slices | tuple | None = None

    @property
    def figures(self) -> tuple:
        """All pictures and graphs."""
        if self.figure is None:
            return ()
        return self.figure if isinstance(self.figure, tuple) else (self.figure,)


def write_report(path, title: str, sections) -> None:
    """Write a report, complete or not at all.

    Args:
        path: The .html file.
        title: Title of the page.
        sections: The parts, in order.

    Raises:
        ValueError: If the file cannot be written.
    """
    sections = tuple(sections)
    _write(path, title, "\n".join(_section(section) for section in sections), sections)


def write_chapters(path, title: str, chapters: dict[str, list[Section]]) -> None:
    """Write a report in chapters, with links to each at the top, complete or not at all.

    Args:
        path: The .html file.
        title: Title of the page.
        chapters: Their sections, by heading.

    Raises:
        ValueError: If the file cannot be written.
    """
    names = {heading: f"chapter{number}" for number, heading in enumerate(chapters)}
    links = "".join(f'<a href="#{name}">{html.escape(heading)}</a>' for heading, name in names.items())
    parts = [f"<nav>{links}</nav>"]
    for heading, sections in chapters.items():
        parts.append(f'<h1 class="page" id="{names[heading]}">{html.escape(heading)}</h1>')
        parts += [_section(section) for section in sections]
    _write(path, title, "\n".join(parts), [section for sections in chapters.values() for section in sections])


def _write(path, title: str, body: str, sections) -> None:
    figures = [figure for section in sections for figure in section.figures]
    if any(not isinstance(figure, Figure) for figure in figures):
        script = _DRAW
        if any(isinstance(figure, Slices) for figure in figures):
            script = (Path(__file__).parent / "templates" / "slices.js").read_text(encoding="utf-8") + script
        library = f'<script type="application/octet-stream" id="plotly">{plotly_library()}</script>'
        body += f"\n{library}\n<script>{script}</script>"
    write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n"
        f"<p>diffuse_dials {__version__}</p></body></html>\n",
        path,
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text.split("\n") if paragraph]
    if section.rows:
        rows = [[_cell(value) for value in row] for row in section.rows]
        kinds = ["" if all(map(_NUMBER.match, column)) else ' class="text"' for column in zip(*rows)]
        head = "".join(f"<th{kind}>{html.escape(str(h))}</th>" for h, kind in zip(section.headers, kinds))
        lines = ("".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds)) for row in rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
    parts += [_drawing(one) for one in section.figures]
    return "\n".join(parts)


def _cell(value) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "-" if text.strip() == "nan" else text


def _drawing(figure) -> str:
    if isinstance(figure, Figure):
        return _svg(figure)
    return figure.html() if isinstance(figure, Slices) else _graph(figure)


def _graph(graph: Graph | Bars | ColourMap) -> str:
    """A place for the graph and, right behind it, what plotly draws there."""
    text = json.dumps(graph.plotly(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    return f'<div class="graph"></div><script type="application/json" class="graph">{text}</script>'


def _svg(figure: Figure) -> str:
    handle = io.StringIO()
    FigureCanvasSVG(figure).print_svg(handle, metadata={"Date": None})
    text = handle.getvalue()
    return text[text.index("<svg") :]
