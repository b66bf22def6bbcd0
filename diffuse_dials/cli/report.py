"""Show how a run went, stage by stage, as one page that opens in a browser without a network.

Give a folder to report every stage found in it, or the .expt and .refl files of one or several stages. The JSON and
CSV files that the commands wrote are found beside them by their names. Stages without files are listed as missing.
docs/report.md explains each graph, and what a bad one looks like.

Examples:

  diffuse.report .

  diffuse.report integrated.expt integrated.refl

  diffuse.report absolute.expt absolute.refl output.png=None
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors

from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_text
from diffuse_dials.report.document import Document
from diffuse_dials.report.sources import Sources

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.report.document.phil_scope
output {
  html = diffuse.report.html
    .type = path
    .help = "The page. None: none is written."
  json = diffuse.report.json
    .type = path
    .help = "The numbers, and each graph as data and layout of plotly. None: none is written."
  png = diffuse.report.png
    .type = path
    .help = "Pictures: diffuse.report_scaling.png and so on. None: none."
  log = diffuse.report.log
    .type = path
    .help = "What is said on the screen. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.report from the command line."""
    usage = "diffuse.report [options] folder|stage.expt stage.refl [param=value] [file.phil]"
    call = start(args, phil, __doc__, usage, takes_others=True, takes_stores=True)
    output = call.params.output
    with user_errors():
        document = Document.of(_sources(call), call.params)
        document.log()
        written = []
        if output.html:
            document.write_html(output.html)
            written.append(output.html)
        if output.json:
            text = json.dumps(document.to_dict(), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            write_text(text + "\n", output.json)
            written.append(output.json)
        if output.png:
            written += document.write_pictures(output.png)
        logger.info("\nWrote %s", ", ".join(written) if written else "nothing")


def _sources(call) -> Sources:
    if len(call.others) > 1 or (call.others and call.files):
        raise ValueError(f"{' '.join((*call.files, *call.others))}: give either one folder, or files of its stages.")
    if call.others:
        (name,) = call.others
        if Path(name).exists() and not Path(name).is_dir():
            raise ValueError(f"{name} is neither a folder nor an .expt or .refl file. See -h for what it takes.")
        return Sources.of_folder(name)
    return Sources.of_files(call.files)
