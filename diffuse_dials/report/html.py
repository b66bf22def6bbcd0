"""A report as one HTML file that opens without a network: text, tables and pictures inside it.

Graphs (report.graphs) can be zoomed and say what a point is; plotly.js stands in the page, once. Pictures of maps are
matplotlib's, as SVG.
"""

from __future__ import annotations

import html
import io
import json
from dataclasses import dataclass

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from diffuse_dials import __version__
from diffuse_dials.io.atomic import write_text
from diffuse_dials.report.graphs import ColourMap, Graph, plotly_library

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 0.9em; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .2em .5em; text-align: right; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; }
.wide { overflow-x: auto; }
"""

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
  } catch (error) {
    for (const place of document.querySelectorAll("div.graph")) {
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
        text: Plain text, a line a paragraph.
        headers: Column heads of a table, units included.
        rows: Rows of the table; floats are shown with four digits.
        figure: A picture or a graph below the table, or several.
    """

    title: str
    text: str = ""
    headers: tuple = ()
    rows: tuple = ()
    figure: Figure | Graph | ColourMap | tuple | None = None

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
    body = "\n".join(_section(section) for section in sections)
    if any(isinstance(figure, (Graph, ColourMap)) for section in sections for figure in section.figures):
        library = f'<script type="application/octet-stream" id="plotly">{plotly_library()}</script>'
        body += f"\n{library}\n<script>{_DRAW}</script>"
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
        head = "".join(f"<th>{html.escape(str(h))}</th>" for h in section.headers)
        lines = ("".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) for row in section.rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        parts.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
    parts += [_graph(one) if isinstance(one, (Graph, ColourMap)) else _svg(one) for one in section.figures]
    return "\n".join(parts)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _graph(graph: Graph | ColourMap) -> str:
    """A place for the graph and, right behind it, what plotly draws there."""
    text = json.dumps(graph.plotly(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    return f'<div class="graph"></div><script type="application/json" class="graph">{text}</script>'


def _svg(figure: Figure) -> str:
    handle = io.StringIO()
    FigureCanvasSVG(figure).print_svg(handle, metadata={"Date": None})
    text = handle.getvalue()
    return text[text.index("<svg") :]
