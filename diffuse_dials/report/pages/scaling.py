"""Scaling: residuals and R factors of scaling, scales against order, how often voxels were measured, mean intensity."""

from __future__ import annotations

from collections import Counter

import numpy as np

from diffuse_dials.algorithms.scaling.quality import Quality
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import load_table
from diffuse_dials.report import scale
from diffuse_dials.report.graphs import Bars, Graph, Series
from diffuse_dials.report.html import Section
from diffuse_dials.report.pages.base import Page, read_json
from diffuse_dials.report.sources import SCALE


class Scaling(Page):
    """What diffuse.scale found, from its JSON, its map and stills.csv."""

    name = "scaling"
    title = "Scaling and merging"

    def __init__(self, sources, params):
        """See :meth:`Page.__init__`."""
        self.record = read_json(sources.beside(SCALE), "diffuse.scale")
        self.quality = Quality.from_dict(self.record)
        path = sources.beside("stills.csv")
        self.order, self.stills = params.order, StillsTable.read(path).rows if path else {}
        self.multiplicity = None if sources.merged is None else load_table(sources.merged)["multiplicity"]

    def sections(self):
        """See :meth:`Page.sections`."""
        quality = self.quality
        yield from scale.statistics_sections(quality.statistics)
        yield scale.r_factor_section(quality)
        yield Section("Mean intensity", "", figure=mean_intensity(quality))
        yield scale.symmetry_section(quality.symmetry, quality.statistics)
        if quality.null is not None:
            yield scale.null_section(quality)
        yield scale.trends_section(quality.trends)
        yield self._scales()
        if self.multiplicity is not None:
            yield Section("Multiplicity", _multiplicity_text(self.multiplicity), figure=multiplicity(self.multiplicity))
        if quality.bragg is not None:
            yield scale.bragg_section(quality.bragg)
        failed = tuple(self.record["failed"].items())
        yield Section("Stills left out of scaling", "" if failed else "None.", ("still", "reason"), failed)

    def _operators(self) -> dict[str, int]:
        """How many stills were re-indexed by which operator, where the lattice can be indexed in several ways."""
        return dict(Counter(row["reindexed_by"] for row in self.stills.values() if row.get("reindexed_by")))

    def _scales(self) -> Section:
        """Scales against the order of the stills, or whatever column of stills.csv was named."""
        rows = [row for row in self.stills.values() if row.get("scale")]
        if not rows:
            stills = self.record["stills"]
            scales, esds = (np.array([s[key] for s in stills.values()]) for key in ("scale", "scale_esd"))
            return scale.scales_section(tuple(stills), scales, esds, self.quality.still_chi_square)
        if not any(row.get(self.order) for row in rows):
            known = ", ".join(rows[0])
            raise ValueError(f"report.order={self.order} is no column of stills.csv with values; it has {known}.")
        x, scales, esds, chi_square = (
            np.array([_number(row.get(name)) for row in rows])
            for name in (self.order, "scale", "scale_esd", "chi_square")
        )
        labels = tuple(f"{row['image'].rpartition('/')[2]}:{row['index']}:{row['lattice']}" for row in rows)
        return scale.scales_section(labels, scales, esds, chi_square, x, self.order)

    def numbers(self):
        """See :meth:`Page.numbers`."""
        names = ("n_stills", "failed", "seed", "n_splits", "cycles", "outliers", "overall", "r_factor")
        found = {name: self.record[name] for name in names}
        scales = np.array([still["scale"] for still in self.record["stills"].values()])
        found["scale_mean"], found["scale_sd"] = float(scales.mean()), float(scales.std())
        rms = {trend.name: trend.rms for trend in self.quality.trends}
        found["residuals_rms"] = {name: None if np.isnan(value) else value for name, value in rms.items()}
        if self._operators():
            found["reindexed"] = self._operators()
        if self.multiplicity is not None:
            found["multiplicity_median"] = float(np.median(self.multiplicity))
            found["voxels_not_measured"] = int((self.multiplicity == 0).sum())
        return found

    def summary(self):
        """See :meth:`Page.summary`."""
        overall, (r, noise) = self.quality.statistics.overall, self.quality.r_factors[:, -1]
        left_out, n_sums = len(self.record["failed"]), self.record["outliers"]["n_sums_left_out"]
        cc_half = "not known" if np.isnan(overall.cc_half) else f"{overall.cc_half:.3f}"
        text = f"{self.record['n_stills']} stills scaled, {left_out} left out; {n_sums} improbable sums left out"
        operators = self._operators()
        if operators:
            text += "; indexed as " + ", ".join(f"{name}: {n} stills" for name, n in operators.items())
        yield text
        yield (
            f"CC½ of the anisotropic part {cc_half}, χ² {overall.chi_square:.3g} (1 if the errors are right), R of the "
            f"scaling {100 * r:.2f} % ({100 * noise:.2f} % by noise alone), completeness "
            f"{100 * overall.completeness:.1f} %, {overall.multiplicity:.1f} stills per voxel"
        )


def mean_intensity(quality: Quality) -> Graph:
    """Mean intensity of the map by resolution, over voxels and over the sphere."""
    shells = quality.statistics.shells
    s = np.array([shell.s for shell in shells])
    mean, sphere = (np.array([getattr(shell, name) for shell in shells]) for name in ("mean", "isotropic_mean"))
    series = (Series(s, mean, "over voxels"), Series(s, sphere, "over the sphere"))
    return Graph("Mean intensity of the map", "1/d (1/Å)", "<I> (relative)", series)


def multiplicity(values: np.ndarray) -> Bars:
    """Histogram of stills per voxel of the asymmetric unit."""
    return Bars.of("Multiplicity of the voxels", "stills", "voxels", values, guide=float(np.median(values)))


def _multiplicity_text(values: np.ndarray) -> str:
    return (
        f"Stills that measured each of {len(values)} voxels of the asymmetric unit that any pixel fell into; "
        f"{int((values == 0).sum())} have pixels under the Bragg mask only (0: not measured). Dotted: median. The map "
        "of the multiplicity is with the sections of the map."
    )


def _number(text: str | None) -> float:
    try:
        return float(text) if text else np.nan
    except ValueError:
        return np.nan
