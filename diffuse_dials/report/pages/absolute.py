"""Absolute scale: the scale in electron units, total scattering against theory, diffuse scattering, Wilson plot."""

from __future__ import annotations

from diffuse_dials.algorithms.absolute.methods import METHODS
from diffuse_dials.report import absolute
from diffuse_dials.report.pages.base import Page, read_json
from diffuse_dials.report.sources import ABSOLUTE


class Absolute(Page):
    """What diffuse.absolute found, from its JSON."""

    name = "absolute"
    title = "Absolute scale"

    def __init__(self, sources, params):
        """See :meth:`Page.__init__`."""
        self.record = read_json(sources.beside(ABSOLUTE), "diffuse.absolute")

    def sections(self):
        """See :meth:`Page.sections`."""
        return list(absolute.sections(self.record, METHODS))

    def numbers(self):
        """See :meth:`Page.numbers`."""
        names = ("method", "k", "relative_error_of_k", "units", "compton_subtracted", "warnings")
        found = {name: self.record[name] for name in names}
        found["k_by_method"] = {estimate["method"]: estimate["k"] for estimate in self.record["estimates"]}
        return found

    def summary(self):
        """See :meth:`Page.summary`."""
        yield from (f"WARNING: {warning}" for warning in self.record["warnings"])
        error = self.record["relative_error_of_k"]
        known = "" if error is None else f" ± {100 * error:.1f} %"
        if self.record["method"] == "none":
            yield "The map stays on the relative scale (absolute.method=none)"
        else:
            yield f"K = {self.record['k']:.5g}{known} map units per e², by {self.record['method']}"
