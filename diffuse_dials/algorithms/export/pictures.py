"""Sections of the map as pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from diffuse_dials.algorithms.export.base import Exporter
from diffuse_dials.algorithms.export.content import MapContent
from diffuse_dials.report import sections

_AXES = "hkl"
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:/\d+)?"
_PLANE = re.compile(f"(h|{_NUMBER})(k|{_NUMBER})(l|{_NUMBER})")


@dataclass(frozen=True)
class Plane:
    """A section of constant h, k or l.

    Attributes:
        axis: Which of h, k, l is constant, 0 to 2.
        value: Its value, a fractional Miller index.
    """

    axis: int
    value: float

    @classmethod
    def from_text(cls, text: str) -> Plane:
        """The plane that crystallographers call hk0, h0l, hk0.5 or -1/3kl.

        Raises:
            ValueError: If the text is no such name.
        """
        found = _PLANE.fullmatch(text.strip())
        fixed = [i for i in range(3) if found and found[i + 1] != _AXES[i]]
        if len(fixed) != 1 or found[fixed[0] + 1].endswith("/0"):
            raise ValueError(f"planes={text} is no section. Give names such as hk0, h0l, 0kl, hk0.5 or h1/3l.")
        number, _, divisor = found[fixed[0] + 1].partition("/")
        return cls(fixed[0], float(Fraction(number) / int(divisor or 1)))

    @property
    def name(self) -> str:
        """Such as hk0 or h0.333l."""
        return "".join(f"{self.value:.4g}" if i == self.axis else letter for i, letter in enumerate(_AXES))


@dataclass(frozen=True)
class Sections(Exporter):
    """One picture per plane, one voxel thick, drawn in Cartesian coordinates of the plane (1/Å)."""

    planes: tuple[Plane, ...] = ()
    quantiles: tuple[float, float] = (0.01, 0.99)
    limits: tuple[float, float] | None = None

    scope = "sections"
    phil = """
    planes = hk0 h0l 0kl
      .type = strings
      .help = "Sections to draw: hk0, h0l, 0kl, or with any value of the constant index, hk0.5, h1/3l. Names are"
              "separated by commas or spaces."
    quantiles = 0.01,0.99
      .type = floats(size=2, value_min=0, value_max=1)
      .expert_level = 1
      .help = "Colours reach from the first to the second quantile of the section's intensities; without isotropic part"
              "they are symmetric about 0. None: all of them."
    limits = None
      .type = floats(size=2)
      .expert_level = 1
      .help = "Lowest and highest intensity of the colours, in place of the quantiles."
    """

    @classmethod
    def from_phil(cls, params) -> Sections:
        """See :meth:`Exporter.from_phil`.

        Raises:
            ValueError: If a plane has no known name, or limits are not in ascending order.
        """
        for name in ("quantiles", "limits"):
            value = getattr(params, name)
            if value is not None and value[0] >= value[1]:
                given = f"{cls.scope}.{name}={value[0]:g},{value[1]:g}"
                raise ValueError(f"{given} are not in ascending order. Exchange them.")
        names = [name for text in params.planes or () for name in re.split(r"[\s,]+", text) if name]
        limits = None if params.limits is None else tuple(params.limits)
        return cls(tuple(Plane.from_text(name) for name in names), tuple(params.quantiles or (0.0, 1.0)), limits)

    def check(self, content: MapContent) -> None:
        """See :meth:`Exporter.check`.

        Raises:
            ValueError: If a plane lies outside the map.
        """
        for plane in self.planes:
            self._layer(content, plane)

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        written = {}
        for plane in self.planes:
            drawn, section = self._section(content, plane)
            path = prefix.with_name(f"{prefix.name}_{plane.name}.{self.name}")
            low, high = self.limits or sections.quantile_limits(section.image, self.quantiles, section.signed)
            figure = sections.section_figure(section, low, high)
            sections.save_figure(figure, path, self.name)
            written[str(path)] = {"plane": drawn.name, "limits": [low, high]}
        return written

    def _layer(self, content: MapContent, plane: Plane) -> int:
        """Which layer of the map's voxels holds the plane."""
        axis, ndiv, volume = plane.axis, content.record.ndiv, content.volume
        place = int(np.floor(plane.value * ndiv[axis] + 0.5)) - volume.start[axis]
        if not 0 <= place < volume.shape[axis]:
            low, high = volume.axis(axis, ndiv)[[0, -1]]
            raise ValueError(
                f"The section {plane.name} lies outside the map, whose {_AXES[axis]} runs from {low:g} to {high:g}. "
                "Choose one inside, or a larger region."
            )
        return place

    def _section(self, content: MapContent, plane: Plane) -> tuple[Plane, sections.Section]:
        """The layer of voxels that holds the plane, and what to draw of it."""
        axis, ndiv, volume = plane.axis, content.record.ndiv, content.volume
        place = self._layer(content, plane)
        drawn = Plane(axis, (place + volume.start[axis]) / ndiv[axis])
        first, second = (i for i in range(3) if i != axis)
        edges = [(volume.start[i] + np.arange(volume.shape[i] + 1) - 0.5) / ndiv[i] for i in (first, second)]
        x, y = sections.plane_coordinates(content.b_matrix, axis, drawn.value, *edges)
        image = content.filled("intensity", volume.rows.take(place, axis=axis))
        signed = not content.has_isotropic_part
        title = f"{drawn.name}: {content.name}{', isotropic part removed' if signed else ''}"
        return drawn, sections.Section(x, y, image, (_AXES[first], _AXES[second]), title, content.units, signed)


class Png(Sections):
    """Sections as PNG."""

    name = "png"


class Svg(Sections):
    """Sections as SVG, the voxels in them as an image."""

    name = "svg"
    by_default = False
