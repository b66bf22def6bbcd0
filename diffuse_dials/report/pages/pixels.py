"""Pixels: masks, corrections, photons before and after them, which pixels pass, where in reciprocal space they lie."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.stills.pixel_statistics import DetectorMaps, StillSample
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.report.corrections import WHAT, described, unit_of
from diffuse_dials.report.graphs import Bars, ColourMap, Graph, Series
from diffuse_dials.report.html import Section
from diffuse_dials.report.pages.base import Missing, Page, read_json
from diffuse_dials.report.sources import EXTRACTED, GRID, MASK, PIXELS

EXPOSURE = "exposure_time"  # among the corrections in grid.json

_FILTERS = (
    ("n_pixels", "pixels read"), ("n_in_mask", "pass the mask of all stills"),
    ("n_good", "in the trusted range, background known"), ("n_in_resolution", "within the resolution limits"),
    ("n_accepted", "pass the Bragg mask: used"),
)  # fmt: skip


class Pixels(Page):
    """What diffuse.grid or diffuse.extract measured, and what diffuse.make_mask left out."""

    name = "pixels"
    title = "Pixels: masks and corrections"

    def __init__(self, sources, params):
        """See :meth:`Page.__init__`."""
        record, mask, statistics = (sources.beside(name) for name in (GRID, MASK, PIXELS))
        record = record or sources.beside(EXTRACTED)
        if record is None and statistics is None and mask is None:
            raise Missing("nothing of diffuse.make_mask, diffuse.extract or diffuse.grid was found")
        self.record = read_json(record, "diffuse.grid") if record else None
        self.mask = read_json(mask, "diffuse.make_mask") if mask else None
        content = read_json(statistics, "diffuse.grid") if statistics else {"stills": [], "pixel_step": 1}
        self.samples = [StillSample.from_dict(still) for still in content["stills"]]
        self.maps = DetectorMaps.from_dict(content["detector"]) if statistics else None
        self.steps = content["pixel_step"], content.get("sample_step", content["pixel_step"])
        self.not_looked_at = "not wanted" if statistics else "there is no pixel_statistics.json"
        path = sources.beside("stills.csv")
        rows = StillsTable.read(path).rows.values() if path else ()
        self.stills = [(row["image"], int(row["n_accepted"])) for row in rows if row.get("n_accepted")]

    def sections(self):
        """See :meth:`Page.sections`."""
        if self.mask is not None:
            yield mask_section(self.mask)
        if self.record is not None:
            yield record_section(self.record)
        if self.maps is not None:
            figures = tuple(factor_map(name, self.maps) for name in self.maps.factors)
            text = "Each factor of the response over the detector, seen along the beam: smooth, unless one is wrong."
            yield Section("Corrections over the detector", text, figure=figures)
        if self.samples:
            yield filters_section(self.samples, *self.steps)
            text = (
                "Pixels that are used, by their photons and by (photons - background) x mean response / response: "
                "lower by the background, and narrower if a correction or the background varies over the detector. A "
                "second peak far below 0 means too much background. The highest thousandth is left out."
            )
            yield Section("Photons before and after", text, figure=tuple(histogram(sample) for sample in self.samples))
            text = (
                "Some pixels of each still in the crystal's frame (x along a, z along c*): sheets of the Ewald "
                "sphere, each still in another direction. If all have the same direction, the crystals are oriented "
                "alike, and parts of the map stay empty."
            )
            yield Section("Coverage of reciprocal space", text, figure=tuple(coverage(self.samples)))
        else:
            yield Section("Single stills", f"None was looked at pixel by pixel: {self.not_looked_at}.")
        if self.stills:
            yield Section("Pixels of each still", "", figure=accepted(self.stills))

    def numbers(self):
        """See :meth:`Page.numbers`."""
        names = [name for name, _ in _FILTERS]
        found = {"stills": {sample.label: {name: getattr(sample, name) for name in names} for sample in self.samples}}
        if self.record is not None:
            found.update({name: self.record[name] for name in ("corrections", "noise", "background")})
        if self.mask is not None:
            found["mask"] = {name: self.mask[name] for name in ("n_pixels", "n_used")}
        if self.stills:
            found["median_n_accepted"] = float(np.median([n for _, n in self.stills]))
        return found

    def summary(self):
        """See :meth:`Page.summary`."""
        if self.record is not None:
            missing = [name for name, values in self.record["corrections"].items() if not values["applied"]]
            over_detector = [name for name in missing if name != EXPOSURE]
            if over_detector:
                yield f"WARNING: not corrected for {', '.join(over_detector)}"
            if EXPOSURE in missing:
                yield "Exposure times are not known: the scales of the stills take them up"
            if self.record["background"].get("method") in (None, "none"):
                yield "WARNING: no background was subtracted: scattering by air and liquid is in the map"
        if self.mask is not None:
            share = 100 * self.mask["n_used"] / self.mask["n_pixels"]
            yield f"The mask of all stills leaves {share:.1f} % of {self.mask['n_pixels']} pixels"
        if self.stills:
            number = np.median([n for _, n in self.stills])
            yield f"{len(self.stills)} stills measured, {number:.0f} pixels used of the median still"


def mask_section(record: dict) -> Section:
    """What each step of diffuse.make_mask left out."""
    rows = tuple((step["name"], step["masked"], step["newly_masked"]) for step in record["steps"])
    text = (
        f"{record['n_used']} of {record['n_pixels']} pixels are left. diffuse.make_mask.html shows them over an image. "
        "Many newly masked in a step that looks at the images: a shadow, or a limit that is too strict."
    )
    return Section("Mask of all stills", text, ("step", "masks (pixels)", "newly (pixels)"), rows)


def record_section(record: dict) -> Section:
    """Corrections, noise and background that are in the sums, or why not."""
    rows = [(name, *described(values)) for name, values in record["corrections"].items()]
    rows += [(name, "", described(record[name])[1]) for name in ("noise", "background") if record.get(name)]
    text = (
        "A correction that is not applied remains in the map as a slope over the detector; an unknown exposure time "
        "goes into the scale of its still."
    )
    return Section("Corrections and background", text, ("", "applied", "values"), tuple(rows))


def factor_map(name: str, maps: DetectorMaps) -> ColourMap:
    """One factor of the response over the detector."""
    label = unit_of(name) or "factor"
    return ColourMap(WHAT.get(name, name), "x (mm)", "y (mm)", label, maps.x, maps.y, maps.factors[name], equal=True)


def filters_section(samples: list[StillSample], pixel_step: int, sample_step: int) -> Section:
    """How many pixels pass which filter.

    Args:
        samples: The stills.
        pixel_step: Every so-many-th pixel along both directions was measured.
        sample_step: And every so-many-th was looked at.
    """
    rows = []
    for name, text in _FILTERS:
        numbers = [getattr(sample, name) for sample in samples]
        rows.append((text, *(f"{n} ({100 * n / s.n_pixels:.1f} %)" for n, s in zip(numbers, samples))))
    rows.append(("overloaded", *(str(sample.n_overloaded) for sample in samples)))
    text = "Each line counts the pixels that pass the lines above it too; overloaded pixels are lost in the third."
    if pixel_step > 1:
        text += f" Only one pixel in {pixel_step**2} was read (extraction.pixel_step={pixel_step})."
    if sample_step > pixel_step:
        text += f" The share of the Bragg mask was found on one pixel in {sample_step**2}: the fourth line is rough."
    return Section("Pixels that pass", text, ("filter", *(sample.label for sample in samples)), tuple(rows))


def histogram(sample: StillSample) -> Bars:
    """Photons of the pixels of a still, raw and corrected."""
    heights = {"photons": sample.raw, "corrected, at the mean response": sample.corrected}
    return Bars(f"Photons per pixel: {sample.label}", "photons", "pixels", sample.edges, heights)


def coverage(samples: list[StillSample]):
    """Two projections of the pixels of several stills in the crystal's frame."""
    for first, second in ((0, 1), (0, 2)):
        x, y = ("xyz"[i] for i in (first, second))
        series = tuple(
            Series(sample.s[:, first], sample.s[:, second], sample.label, lines=False, size=3) for sample in samples
        )
        title = f"Coverage along {'zy'[second - 1]}"
        yield Graph(title, f"s_{x} (1/Å)", f"s_{y} (1/Å)", series, equal=True)


def accepted(stills) -> Graph:
    """Pixels used of each still.

    Args:
        stills: (image, number of pixels) of each.
    """
    names = tuple(image.rpartition("/")[2] for image, _ in stills)
    values = np.array([n for _, n in stills], dtype=float)
    series = (Series(np.arange(len(values)), values, "", None, names, lines=False),)
    return Graph("Pixels used of each still", "still", "pixels", series)
