"""Formats in which maps leave the package, one file each; another package adds one by an entry point.

An exporter is a class with ``name``, ``phil``, ``from_phil(params)`` and ``write(content, prefix)``, see
:class:`diffuse_dials.algorithms.export.base.Exporter`. The choice in ``export.format`` and its parameters follow from
the class.
"""

from __future__ import annotations

from pathlib import Path

import libtbx.phil

from diffuse_dials.algorithms.export import content as _content
from diffuse_dials.algorithms.export import volume as _volume
from diffuse_dials.algorithms.export.base import Exporter, TableExporter
from diffuse_dials.algorithms.export.ccp4 import Ccp4
from diffuse_dials.algorithms.export.content import MapContent, SumsContent
from diffuse_dials.algorithms.export.mtz import Mtz
from diffuse_dials.algorithms.export.nexus import Nexus
from diffuse_dials.algorithms.export.npz import Npz
from diffuse_dials.algorithms.export.pictures import Png, Svg
from diffuse_dials.algorithms.export.vtk import Vtk
from diffuse_dials.plugins import with_plugins

EXPORTERS = with_plugins("diffuse_dials.exporters", (Ccp4, Mtz, Nexus, Vtk, Npz, Png, Svg))


def _scope() -> str:
    scopes = {cls.scope or name: cls.phil for name, cls in EXPORTERS.items() if cls.phil}
    own = "".join(f"  {name} {{{phil}\n  }}\n" for name, phil in scopes.items())
    return f"""
export {{
  format = {" ".join(EXPORTERS)}
    .type = choice(multi=True)
    .help = "Formats to write, joined by +: format=ccp4+mtz. None: of a map all but svg, of sums h5 and npz."
{own}}}
"""


phil_scope = libtbx.phil.parse(_scope())
phil_scope.adopt_scope(_content.phil_scope)
phil_scope.adopt_scope(_volume.phil_scope)


def choose(params, *, of_sums: bool) -> list[Exporter]:
    """The exporters that were asked for, or all that fit.

    Args:
        params: The extract of ``export``.
        of_sums: Whether a table of sums is written, not a map.

    Raises:
        ValueError: If a format cannot hold sums, or a parameter of a format is wrong.
    """
    able = [name for name, cls in EXPORTERS.items() if not of_sums or issubclass(cls, TableExporter)]
    wanted = params.format or [name for name in able if EXPORTERS[name].by_default]
    for name in wanted:
        if name not in able:
            raise ValueError(
                f"format={name} holds a map, and the file given holds sums of single stills. Give merged.refl of "
                f"diffuse.scale or absolute.refl of diffuse.absolute, or choose among {', '.join(able)}."
            )
    chosen = {name: EXPORTERS[name] for name in wanted}
    return [cls.from_phil(getattr(params, cls.scope or name, None)) for name, cls in chosen.items()]


def write_all(exporters: list[Exporter], content: MapContent | SumsContent, prefix: Path) -> dict[str, dict]:
    """Write every format; what each file holds, by its path.

    Raises:
        ValueError: If one of them cannot hold the map; then nothing is written.
    """
    written = {}
    if isinstance(content, MapContent):
        for exporter in exporters:
            exporter.check(content)
    for exporter in exporters:
        write = exporter.write if isinstance(content, MapContent) else exporter.write_sums
        written.update(write(content, prefix))
    return written
