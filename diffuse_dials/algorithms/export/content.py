"""What goes out: the map chosen from a merged table, or the sums of an earlier stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import libtbx.phil
import numpy as np
from dxtbx.model import ExperimentList
from libtbx import Auto

from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.export.volume import Region, Volume, expand
from diffuse_dials.algorithms.merging import excludes_lattice_points
from diffuse_dials.algorithms.quality.statistics import isotropic_part
from diffuse_dials.algorithms.scaling.symmetry import laue_operators, orbit_sizes, reciprocal_vectors
from diffuse_dials.io.tables import Table
from diffuse_dials.models.grid import GridRecord, holds_lattice_point

ABSOLUTE_UNITS = "electron^2 per unit cell"
RELATIVE_UNITS = "relative"

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1)
  .help = "High-resolution limit of what is written (Å). None: as far as the map reaches."
d_max = None
  .type = float(value_min=0.1)
  .help = "Low-resolution limit (Å). None: from the lowest resolution that was measured."
export {
  value = *Auto absolute scale all half1 half2 coherent incoherent
    .type = choice
    .help = "What to write as the intensity. Auto: intensity.absolute if the file has it, else intensity.scale."
            "all: pixels under the Bragg mask included; half1, half2: the map of either random half of the stills;"
            "these three on the absolute scale if the file has one. coherent, incoherent: the theory that"
            "diffuse.absolute used."
  isotropic_part = True
    .type = bool
    .help = "Write the intensities as they are. False: the mean over fine shells of |s| is taken out, of the half maps"
            "that of each."
  exclude_lattice_points = Auto
    .type = bool
    .expert_level = 1
    .help = "Treat voxels that hold a lattice point as not measured. Auto: yes if ndiv is above 1 on all axes, and"
            "never with value=all."
}
"""
)


@dataclass(frozen=True)
class MapContent:
    """A map as it is written: a row per measured voxel of the asymmetric unit.

    Attributes:
        index: Voxels n, shape (n, 3), int32; h = n / ndiv.
        columns: Arrays of shape (n,) by name: ``intensity`` always; ``sigma``, ``multiplicity``, ``n_pixels``,
            ``half1``, ``half1_sigma``, ``half1_multiplicity`` and the same of ``half2`` where the input has them. Not
            measured is NaN in float columns and 0 in integer ones.
        name: What the intensity is, in words.
        units: Its unit.
        record: The grid.
        region: What part of reciprocal space a box holds.
        has_isotropic_part: Whether the intensity still holds its mean over shells of |s|.
        without_lattice_points: Whether voxels with a lattice point were left out.
        wavelength: Å, or None where no experiment gave it.
    """

    index: np.ndarray
    columns: dict[str, np.ndarray]
    name: str
    units: str
    record: GridRecord
    region: Region
    has_isotropic_part: bool
    without_lattice_points: bool
    wavelength: float | None = None

    @cached_property
    def b_matrix(self) -> np.ndarray:
        """B of the reference cell, columns a*, b*, c*, shape (3, 3), 1/Å."""
        return fractionalization(self.record.unit_cell)

    @cached_property
    def volume(self) -> Volume:
        """The map in a box, symmetry mates filled in; made when a format first asks for it."""
        return expand(self.index, laue_operators(self.record), self.record, self.region)

    def filled(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of a column at rows of the table, −1 standing for a voxel that was not measured.

        Args:
            name: Of ``columns``.
            rows: Row numbers, any shape.

        Returns:
            float32 with NaN where not measured, or int32 with 0, of the shape of ``rows``.
        """
        values = self.columns[name]
        integer = np.issubdtype(values.dtype, np.integer)
        padded = np.append(values, 0 if integer else np.nan).astype(np.int32 if integer else np.float32)
        return padded[rows]

    def title(self) -> str:
        """One line for the head of a file."""
        text = self.name if self.has_isotropic_part else f"{self.name}, isotropic part removed"
        return f"{text} ({self.units})"

    def summary(self) -> dict:
        """What was written, for the .json."""
        return {
            "intensity": self.name,
            "units": self.units,
            "isotropic_part": self.has_isotropic_part,
            "without_lattice_points": self.without_lattice_points,
            "voxels_of_asymmetric_unit": len(self.index),
            "columns": list(self.columns),
            "unit_cell": list(self.record.unit_cell),
            "ndiv": list(self.record.ndiv),
            "laue_group": self.record.laue_group,
        }


@dataclass(frozen=True)
class SumsContent:
    """The table of an earlier stage, column by column.

    Attributes:
        table: Its columns.
        record: The grid, or None where nothing has been gridded yet.
        experiments: The stills, or None if no .expt file was given.
    """

    table: Table
    record: GridRecord | None
    experiments: ExperimentList | None

    def summary(self) -> dict:
        """What was written, for the .json."""
        return {"table": self.table.path, "rows": len(self.table), "columns": list(self.table.columns)}


def is_map(table: Table) -> bool:
    """Whether a table is a merged map, in relative or absolute units."""
    return "miller_index" in table and any(f"intensity.{kind}.value" in table for kind in ("scale", "absolute"))


def is_sums(table: Table) -> bool:
    """Whether a table holds sums over pixels, or pixels, of diffuse.extract, diffuse.grid or diffuse.scale."""
    return all(name in table for name in ("id", "counts", "background", "response", "variance"))


def map_content(table: Table, record: GridRecord, params, wavelength: float | None = None) -> MapContent:
    """Choose the intensity that was asked for, and the voxels that are written.

    Args:
        table: merged.refl, absolute.refl or the truth of a simulation.
        record: Its grid.
        params: Extract of diffuse.export.
        wavelength: Of the stills, Å.

    Raises:
        ValueError: If the table lacks the intensity, or no voxel is left.
    """
    columns, name, units = _intensities(table, params.export.value)
    index = table["miller_index"]
    s = np.linalg.norm(reciprocal_vectors(index, record), axis=1)
    setting = params.export.exclude_lattice_points
    total = setting in (None, Auto) and params.export.value == "all"
    without_lattice_points = not total and excludes_lattice_points(setting, record.ndiv)
    keep = np.isfinite(columns["intensity"])
    if without_lattice_points:
        keep &= ~holds_lattice_point(index, record.ndiv)
    rounding = 1e-9
    keep &= s <= (1 / params.d_min + rounding if params.d_min else np.inf)
    keep &= s >= (1 / params.d_max - rounding if params.d_max else 0)
    if not keep.any():
        raise ValueError(
            f"No measured voxel of {table.path} is left. Check d_min, d_max, value and exclude_lattice_points."
        )
    index, s = index[keep], s[keep]
    columns = {name: values[keep] for name, values in columns.items()}
    if not params.export.isotropic_part:
        weights = orbit_sizes(index, record)
        for name_of_map in {"intensity", "half1", "half2"} & set(columns):
            values = columns[name_of_map]
            seen = np.isfinite(values)
            if seen.any():
                values[seen] -= isotropic_part(s[seen], values[seen], weights[seen])
    return MapContent(
        index, columns, name, units, record, Region.from_phil(params.region), params.export.isotropic_part,
        without_lattice_points, wavelength,
    )  # fmt: skip


def _intensities(table: Table, wanted) -> tuple[dict[str, np.ndarray], str, str]:
    """The columns that are written, before voxels are left out; what the intensity is, and its unit."""
    wanted = "Auto" if wanted in (None, Auto) else wanted
    has_absolute = "intensity.absolute.value" in table
    kind = wanted
    if wanted in ("Auto", "all", "half1", "half2"):
        kind = "absolute" if has_absolute else "scale"
    source = kind if wanted == "Auto" else wanted
    if f"intensity.{source}.value" not in table:
        writer = "diffuse.scale" if source in ("scale", "all", "half1", "half2") else "diffuse.absolute"
        raise ValueError(f"{table.path} has no column intensity.{source}.value. Give a file of {writer}.")
    factor, offset = _to_absolute(table) if kind == "absolute" else (1.0, 0.0)
    unchanged = source in ("absolute", "scale", "coherent", "incoherent")
    columns = _measured(table, source, "intensity", *((1.0, 0.0) if unchanged else (factor, offset)))
    multiplicity = f"multiplicity.{source}" if f"multiplicity.{source}" in table else "multiplicity"
    if multiplicity in table:
        columns["multiplicity"] = table[multiplicity].astype(np.int32)
    if source == kind:
        if "n_pixels" in table:
            columns["n_pixels"] = table["n_pixels"].astype(np.int32)
        for half in ("half1", "half2"):
            if f"intensity.{half}.value" in table:
                columns.update(_measured(table, half, half, factor, offset))
                if f"multiplicity.{half}" in table:
                    columns[f"{half}_multiplicity"] = table[f"multiplicity.{half}"].astype(np.int32)
    relative = kind == "scale" or (kind == "absolute" and _stayed_relative(table))
    names = {
        "scale": "diffuse intensity", "absolute": "diffuse intensity", "all": "intensity, Bragg pixels included",
        "half1": "diffuse intensity, half 1 of the stills", "half2": "diffuse intensity, half 2 of the stills",
        "coherent": "sum of f0 squared", "incoherent": "incoherent scattering",
    }  # fmt: skip
    return columns, names[source], RELATIVE_UNITS if relative else ABSOLUTE_UNITS


def _measured(table: Table, source: str, name: str, factor: float, offset) -> dict[str, np.ndarray]:
    """One intensity with its sigma, NaN where no still measured it (variance below 0)."""
    value = factor * table[f"intensity.{source}.value"] + offset
    if f"intensity.{source}.variance" not in table:
        return {name: value}
    variance = table[f"intensity.{source}.variance"]
    seen = variance >= 0
    sigma = factor * np.sqrt(np.where(seen, variance, 0))
    return {
        name: np.where(seen, value, np.nan),
        "sigma" if name == "intensity" else f"{name}_sigma": np.where(seen, sigma, np.nan),
    }


def _to_absolute(table: Table) -> tuple[float, np.ndarray | float]:
    """Factor and offset (of each voxel) that lead from intensities on the relative scale to absolute ones.

    diffuse.absolute writes I/K − Compton scattering with the variance σ²/K², of the map alone. Half maps, and the
    intensity with Bragg pixels, are in the file in relative units: the same K, from the variances, serves them.
    """
    offset = -table["intensity.incoherent.value"] if "intensity.incoherent.value" in table else 0.0
    if "intensity.scale.variance" not in table:
        return 1.0, offset
    variance = table["intensity.scale.variance"]
    seen = variance > 0
    if not seen.any():
        return 1.0, offset
    return float(np.sqrt(np.median(table["intensity.absolute.variance"][seen] / variance[seen]))), offset


def _stayed_relative(table: Table) -> bool:
    """Whether diffuse.absolute ran with method=none, which leaves the map as it is."""
    if "intensity.scale.value" not in table:
        return False
    return np.array_equal(table["intensity.absolute.value"], table["intensity.scale.value"])
