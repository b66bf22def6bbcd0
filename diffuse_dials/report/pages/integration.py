"""Integration: indexing, unit cells, spots, residuals of their positions, partialities."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.quality.integrated_statistics import (
    CELL,
    PARTIALITY_EDGES,
    IntegratedStatistics,
    integrated_statistics,
)
from diffuse_dials.report.graphs import Bars, Graph, Series
from diffuse_dials.report.html import Section
from diffuse_dials.report.pages.base import Missing, Page

_UNITS = ("Å", "Å", "Å", "°", "°", "°")


class Integration(Page):
    """Integrated stills of dials.stills_process or diffuse.integrate."""

    name = "integration"
    title = "Indexing and integration"

    def __init__(self, sources, params):
        """See :meth:`Page.__init__`."""
        experiments = [name for name in sources.integrated if name.endswith(".expt")]
        if not experiments:
            raise Missing("no *integrated.expt of dials.stills_process or diffuse.integrate was found")
        reflections = [name for name in sources.integrated if name.endswith(".refl")]
        self.found = integrated_statistics(experiments, reflections, sources.beside("stills.csv"))

    def sections(self):
        """See :meth:`Page.sections`."""
        found = self.found
        yield images_section(found)
        yield Section(
            "Unit cells", "Dotted: mean. Several peaks mean several crystal forms; a wide one means a poor geometry.",
            IntegratedStatistics.headers, tuple(found.cell_rows()), tuple(cell_graphs(found)),
        )  # fmt: skip
        text = "A still far below its neighbours hit a small crystal, or its lattice is wrong."
        graph = spots_graph(found)
        if graph.series:
            yield Section("Spots", text, figure=(graph, *spots_bars(found)))
        else:
            yield Section("Spots", "Not known: no .refl file of the integrated stills was found.")
        if np.isfinite(found.rmsd).any():
            text = f"Distance of observed and predicted spots: {found.rmsd_source}. Below a pixel, as a rule."
            yield Section("Residuals of positions", text, figure=(rmsd_graph(found), rmsd_bars(found)))
        yield partiality_section(found)

    def numbers(self):
        """See :meth:`Page.numbers`."""
        return self.found.to_dict()

    def summary(self):
        """See :meth:`Page.summary`."""
        numbers = self.found.to_dict()
        yield _rate(self.found)
        sd = numbers["cell_sd"]
        cells = ", ".join(
            f"{name} {mean:.3f}" + (f" ± {sd[name]:.3f}" if sd else "") for name, mean in numbers["cell_mean"].items()
        )
        yield f"Unit cell, mean ± standard deviation: {cells}"
        if numbers["median_n_integrated"] is not None:
            yield f"Median {numbers['median_n_integrated']:.4g} integrated spots per still"
        if numbers["median_rmsd"] is not None:
            yield f"Median {numbers['median_rmsd']:.2f} pixels rmsd of spot positions per still"


def _rate(found: IntegratedStatistics) -> str:
    images = found.images
    if images.n_images is None:
        return (
            f"{images.n_integrated} images integrated; the indexing rate is not known: dials.stills_process keeps no "
            "list of the images that it could not index (diffuse.integrate does, in stills.csv)"
        )
    return (
        f"{images.n_indexed} of {images.n_images} images indexed ({100 * images.indexing_rate:.1f} %), "
        f"{images.n_integrated} integrated"
    )


def images_section(found: IntegratedStatistics) -> Section:
    """How many images came how far, and why others did not."""
    rows = tuple((f"lost: {reason}", number) for reason, number in found.images.reasons.items())
    text = f"{_rate(found)}; {len(found.labels)} lattices."
    return Section("Images", text, ("", "images") if rows else (), rows)


def cell_graphs(found: IntegratedStatistics):
    """Histogram of each cell parameter; none for one that all stills share, or that equals another by symmetry."""
    seen: dict[bytes, str] = {}
    for name, unit, values in zip(CELL, _UNITS, found.cells.T):
        if seen.setdefault(np.round(values, 6).tobytes(), name) == name and np.ptp(values) > 1e-6:
            mean, sd = values.mean(), values.std(ddof=1)
            title = f"{name}: {mean:.3f} ± {sd:.3f} {unit}"
            yield Bars.of(title, f"{name} ({unit})", "stills", values, guide=float(mean))


def spots_graph(found: IntegratedStatistics) -> Graph:
    """Spots found, indexed and integrated, still by still."""
    number = np.arange(len(found.labels))
    values = {"found": found.n_spots, "indexed": found.n_indexed, "integrated": found.n_integrated}
    series = tuple(
        Series(number, counts, name, None, found.labels, lines=False)
        for name, counts in values.items()
        if np.isfinite(counts).any()
    )
    return Graph("Spots of each still", "still, in the order of the files", "spots", series)


def spots_bars(found: IntegratedStatistics):
    """Histograms of the numbers of indexed and integrated spots."""
    for name, counts in (("indexed", found.n_indexed), ("integrated", found.n_integrated)):
        known = counts[np.isfinite(counts)].astype(int)
        if len(known):
            title = f"Spots {name} per still"
            yield Bars.of(title, f"spots {name}", "stills", known, guide=float(np.median(known)))


def rmsd_graph(found: IntegratedStatistics) -> Graph:
    """Residual of the spot positions, still by still."""
    number = np.arange(len(found.labels))
    series = (Series(number, found.rmsd, "", None, found.labels, lines=False),)
    guide = float(np.nanmedian(found.rmsd))
    label = "still, in the order of the files"
    return Graph("Residual of spot positions, each still; dotted: median", label, "rmsd (pixels)", series, guide)


def rmsd_bars(found: IntegratedStatistics) -> Bars:
    """Histogram of the residuals."""
    known = found.rmsd[np.isfinite(found.rmsd)]
    return Bars.of("Residual of spot positions", "rmsd (pixels)", "stills", known, guide=float(np.median(known)))


def partiality_section(found: IntegratedStatistics) -> Section:
    """Partialities, where the files hold real ones."""
    if found.partiality is None:
        return Section("Partialities", "The files hold none.")
    if found.placeholder:
        n = int(found.partiality.sum())
        text = (
            f"All {n} are exactly 1: the placeholder that DIALS writes for stills with a Gaussian profile model, not a "
            "measurement. Nothing here divides by it."
        )
        return Section("Partialities", text)
    graph = Bars("Partiality of the spots", "partiality", "spots", PARTIALITY_EDGES, {"": found.partiality})
    return Section("Partialities", "As the files give them; nothing here divides by them.", figure=graph)
