"""A report as one HTML file that opens without a network: text, tables and pictures inside it."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from diffuse_dials import __version__
from diffuse_dials.io.atomic import write_text

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .2em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; }
"""


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: Its heading.
        text: A paragraph, plain text.
        headers: Column heads of a table, units included.
        rows: Rows of the table; floats are shown with four digits.
        figure: A picture below the table.
    """

    title: str
    text: str = ""
    headers: tuple = ()
    rows: tuple = ()
    figure: Figure | None = None


def write_report(path, title: str, sections) -> None:
    """Write a report, complete or not at all.

    Args:
        path: The .html file.
        title: Title of the page.
        sections: The parts, in order.

    Raises:
        ValueError: If the file cannot be written.
    """
    body = "\n".join(_section(section) for section in sections)
    write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n"
        f"<p>diffuse_dials {__version__}</p></body></html>\n",
        path,
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.rows:
        head = "".join(f"<th>{html.escape(str(h))}</th>" for h in section.headers)
        lines = ("".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) for row in section.rows)
        parts.append(f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>")
    if section.figure is not None:
        parts.append(_svg(section.figure))
    return "\n".join(parts)


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _svg(figure: Figure) -> str:
    handle = io.StringIO()
    FigureCanvasSVG(figure).print_svg(handle, metadata={"Date": None})
    text = handle.getvalue()
    return text[text.index("<svg") :]
