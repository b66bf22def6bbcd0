"""The map itself: sections at any h, k or l, with and without the isotropic part, and how often it was measured."""

from __future__ import annotations

import libtbx.phil
import numpy as np

from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.belonging import check_map_record
from diffuse_dials.algorithms.export.content import map_content
from diffuse_dials.algorithms.export.content import phil_scope as content_scope
from diffuse_dials.algorithms.export.volume import phil_scope as region_scope
from diffuse_dials.algorithms.quality.statistics import isotropic_part
from diffuse_dials.algorithms.scaling.symmetry import laue_operators, orbit_sizes, reciprocal_vectors
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import Table, load_table
from diffuse_dials.report import plots
from diffuse_dials.report.html import Section
from diffuse_dials.report.pages.base import Missing, Page
from diffuse_dials.report.slices import Quantity, Slices, fitting

_TEXT = (
    "Symmetry mates are filled in. Grey: voxels that no still measured, or with a lattice point if those are left "
    "out. Colours are the same for all sections: they end at the 1 and 99 % quantiles of the map, or without the "
    "isotropic part at its 98 % quantile. Hover over a voxel to see its indices. The highest and lowest thousandth of "
    "the values are cut off here (not in the .refl file)."
)


class Map(Page):
    """absolute.refl where there is one, else merged.refl."""

    name = "map"
    title = "The map"

    def __init__(self, sources, params):
        """See :meth:`Page.__init__`."""
        name = sources.absolute or sources.merged
        if name is None:
            raise Missing("neither merged.refl (diffuse.scale) nor absolute.refl (diffuse.absolute) was found")
        self.record = load_grid_record(name)
        options = libtbx.phil.parse("")
        options.adopt_scope(content_scope)
        options.adopt_scope(region_scope)
        table = load_table(name)
        check_map_record(table, self.record)
        _check_experiments(sources, table)
        self.content = map_content(table, self.record, options.extract())
        self.file, self.units = name, self.content.units.replace("^2", "²")

    def sections(self):
        """See :meth:`Page.sections`."""
        drawn = slices(self.content, self.record)
        title = self.content.title().replace("^2", "²")
        yield Section("Crystal and grid", "", ("", ""), tuple(crystal_rows(self.record)))
        text = f"{title}, from {self.file}. {_TEXT}"
        yield Section("Sections", f"{text}\n{drawn.shown}" if drawn.shown else text, figure=drawn)

    def pictures(self) -> dict:
        """Figures of matplotlib by name: the three sections through the origin, with and without isotropic part."""
        content, frame = self.content, _frame(self.record)
        isotropic = _isotropic(content, self.record)
        whole, planes = content.columns["intensity"], tuple(plots.PLANES)
        return {
            "map": plots.sections({"intensity": whole}, content.index, frame, planes, signed=False, units=self.units),
            "map_anisotropic": plots.sections(
                {"without isotropic part": whole - isotropic}, content.index, frame, planes, units=self.units
            ),
        }

    def numbers(self):
        """See :meth:`Page.numbers`."""
        values = self.content.columns["intensity"]
        quantiles = np.quantile(values, (0.01, 0.5, 0.99))
        return {
            **self.content.summary(),
            "file": self.file,
            "quantiles": dict(zip(("1 %", "50 %", "99 %"), quantiles.tolist())),
        }

    def summary(self):
        """See :meth:`Page.summary`."""
        numbers = self.numbers()
        low, middle, high = numbers["quantiles"].values()
        yield (
            f"{numbers['voxels_of_asymmetric_unit']} voxels of the asymmetric unit ({numbers['laue_group']}); "
            f"intensity {middle:.4g} (median), {low:.4g} to {high:.4g} (1 to 99 %), {self.units}"
        )
        yield f"{crystal_line(self.record)}; {' x '.join(map(str, self.record.ndiv))} voxels per reciprocal cell"


def _check_experiments(sources, table: Table) -> None:
    """Hold the .expt files given with maps against these.

    Raises:
        ValueError: If one is of none.
    """
    names = [table.path, *([sources.merged] if sources.absolute and sources.merged else [])]
    for file in sources.map_experiments:
        given = set(load_experiments(file).identifiers())
        tables = (table if name == table.path else load_table(name) for name in names)
        if all(found.identifiers and given.isdisjoint(found.identifiers.values()) for found in tables):
            raise ValueError(
                f"{file} is not the experiment of {' or '.join(names)}. Give the .expt and .refl that one run wrote "
                "together."
            )


def crystal_line(record) -> str:
    """Space group and reference cell."""
    lengths, angles = record.unit_cell[:3], record.unit_cell[3:]
    cell = " ".join([*(f"{x:.3f}" for x in lengths), *(f"{x:.2f}" for x in angles)])
    return f"Space group {record.space_group}, cell {cell} (Å, °)"


def crystal_rows(record):
    """What the map is a map of: (name, value) for a table, from its GridRecord."""
    cell = " ".join([*(f"{x:.3f} Å" for x in record.unit_cell[:3]), *(f"{x:.2f}°" for x in record.unit_cell[3:])])
    yield "space group", record.space_group
    yield "Laue group of the map", record.laue_group
    yield "reference cell", f"{cell}, {record.unit_cell_origin}"
    yield "voxels per reciprocal cell", " x ".join(map(str, record.ndiv))
    high = "corner of the detector" if record.d_min is None else f"{record.d_min:g} Å"
    low = "beamstop" if record.d_max is None else f"{record.d_max:g} Å"
    yield "limits", f"{low} to {high}"
    yield "h of a still by", "its own cell" if record.cell_policy == "own" else "the reference cell"
    yield "rms Δhkl of the stills' cells", f"{record.rms_delta_hkl:.4f} (above 0.1: not isomorphous)"
    others = ", ".join(record.reindexing_operators)
    yield "other ways to index the lattice", others if record.ambiguous else "none"
    removed = "yes: a radial background of each still took it" if record.isotropic_removed else "no"
    yield "isotropic part lost with the background", removed


def slices(content, record) -> Slices:
    """The map, ready to be cut in a page.

    Args:
        content: MapContent, isotropic part included.
        record: Its grid.
    """
    frame = _frame(record)
    s = np.linalg.norm(reciprocal_vectors(content.index, record), axis=1)
    isotropic = _isotropic(content, record)
    shown = np.flatnonzero(fitting(content.index, s, frame))
    shown = shown[np.lexsort(content.index[shown].T[::-1])]
    values = content.columns["intensity"]
    units = content.units.replace("^2", "²")
    quantities = [Quantity.intensity("the intensity", units, values[shown], s[shown], isotropic[shown])]
    if "multiplicity" in content.columns:
        stills = content.columns["multiplicity"][shown]
        limits = (0.0, float(np.quantile(stills, 0.99)) or 1.0)
        quantities.append(Quantity("stills per voxel", "stills", stills, limits))
    if "sigma" in content.columns:
        sigma = content.columns["sigma"][shown]
        quantities.append(Quantity("sigma", units, sigma, (0.0, float(np.quantile(sigma, 0.99)) or 1.0)))
    cut = ""
    if len(shown) < len(s):
        cut = (
            f"To keep the page small it holds the map to {1 / s[shown].max():.2f} Å, {len(shown)} of {len(s)} voxels; "
            "diffuse.export draws the rest."
        )
    return Slices("Map", content.index[shown], frame, tuple(quantities), cut)


def _isotropic(content, record) -> np.ndarray:
    s = np.linalg.norm(reciprocal_vectors(content.index, record), axis=1)
    return isotropic_part(s, content.columns["intensity"], orbit_sizes(content.index, record))


def _frame(record) -> plots.VoxelFrame:
    return plots.VoxelFrame(record.ndiv, fractionalization(record.unit_cell), laue_operators(record))
