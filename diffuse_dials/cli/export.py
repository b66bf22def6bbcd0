"""Write a map in the formats of other programs.

From merged.refl or absolute.refl: a CCP4 map for Coot, ChimeraX and PyMOL, an MTZ file of the super-cell, a NeXus file
for NeXpy, a VTK file for ParaView, NumPy arrays, and sections as pictures. Symmetry mates are filled in; voxels that
were never measured are NaN or absent, never 0. From an earlier stage (extracted, gridded or scaled .refl): its rows,
as HDF5 and NumPy arrays.

Examples:

  diffuse.export absolute.expt absolute.refl

  diffuse.export merged.expt merged.refl format=ccp4+mtz isotropic_part=False d_min=2

  diffuse.export absolute.expt absolute.refl format=png planes=hk0,hk0.5,h1/3l

  diffuse.export scaled.expt scaled.refl format=h5
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors
from libtbx import Auto

from diffuse_dials.algorithms.export import choose, write_all
from diffuse_dials.algorithms.export.content import MapContent
from diffuse_dials.algorithms.export.inputs import load_content
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
include scope diffuse_dials.algorithms.export.phil_scope
output {
  prefix = Auto
    .type = path
    .help = "Path of all files without suffix: map gives map.ccp4, map.mtz ... and map_hk0.png. Auto: map for a map,"
            "sums for sums."
  json = diffuse.export.json
    .type = path
    .help = "What each file holds. None: none is written."
  log = diffuse.export.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.export from the command line."""
    usage = "diffuse.export [options] absolute.expt absolute.refl [param=value] [file.phil]"
    call = start(args, phil, __doc__, usage, takes_stores=True)
    params = call.params
    with user_errors():
        content = load_content(call.experiments, call.reflections, params)
        exporters = choose(params.export, of_sums=not isinstance(content, MapContent))
        prefix = params.output.prefix
        if prefix in (None, Auto):
            prefix = "map" if isinstance(content, MapContent) else "sums"
        written = write_all(exporters, content, Path(prefix))
        for path in written:
            logger.info("Wrote %s", path)
        if params.output.json:
            write_json({**content.summary(), "files": written}, params.output.json)
