"""The map itself: sections at any h, k or l, with and without the isotropic part, and how often it was measured."""

from __future__ import annotations

import libtbx.phil
import numpy as np

from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.export.content import map_content
from diffuse_dials.algorithms.export.content import phil_scope as content_scope
from diffuse_dials.algorithms.export.volume import phil_scope as region_scope
from diffuse_dials.algorithms.quality.statistics import isotropic_part
from diffuse_dials.algorithms.scaling.symmetry import laue_operators, orbit_sizes, reciprocal_vectors
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table
from diffuse_dials.report import plots
from diffuse_dials.report.html import Section
from diffuse_dials.report.pages.base import Missing, Page
from diffuse_dials.report.slices import Quantity, Slices, fitting

_TEXT = (
    "Symmetry mates are filled in; what no still measured, and voxels with a lattice point where they are left out, "
    "are grey. Colours are the same for all sections: they end at the 1 and 99 % quantiles of the map, without the "
    "isotropic part at its 98 % quantile. A pointer over a voxel says which it is. Values beyond a thousandth at "
    "either end are cut off here (not in the .refl file)."
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
        self.content = map_content(load_table(name), self.record, options.extract())
        self.file = name

    def sections(self):
        """See :meth:`Page.sections`."""
        drawn = slices(self.content, self.record)
        text = f"{self.content.title()}, from {self.file}. {_TEXT}"
        yield Section("Sections", f"{text}\n{drawn.shown}" if drawn.shown else text, figure=drawn)

    def pictures(self) -> dict:
        """Figures of matplotlib by name: the three sections through the origin, with and without isotropic part."""
        content, frame = self.content, _frame(self.record)
        isotropic = _isotropic(content, self.record)
        whole, planes = content.columns["intensity"], tuple(plots.PLANES)
        return {
            "map": plots.sections({"intensity": whole}, content.index, frame, planes, signed=False),
            "map_anisotropic": plots.sections({"anisotropic": whole - isotropic}, content.index, frame, planes),
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
            f"intensity {middle:.4g} (median), {low:.4g} to {high:.4g} (1 to 99 %), {numbers['units']}"
        )


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
