"""The files of one run, told apart by their contents and checked against one another."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from cctbx import uctbx
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.adapters.symmetry import parse_space_group, symbol
from diffuse_dials.algorithms.absolute.factors import still_factor
from diffuse_dials.algorithms.absolute.totals import TotalScattering
from diffuse_dials.algorithms.belonging import (
    check_crystals,
    check_map_experiment,
    check_map_record,
    check_totals,
    map_identifier,
)
from diffuse_dials.algorithms.scaling.model import check_registered
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import Table, load_table
from diffuse_dials.models.grid import GridRecord

logger = logging.getLogger(f"dials.{__name__}")

_MERGED_COLUMNS = ("miller_index", "d", "intensity.scale.value", "intensity.scale.variance", "multiplicity")
_RADIAL_COLUMNS = ("id", "panel", "s", "counts", "background", "response", "variance", "n_pixels", "n_overloaded")


@dataclass(frozen=True)
class Inputs:
    """What diffuse.scale, diffuse.grid and diffuse.extract left.

    Attributes:
        merged: Table of the map.
        map_experiments: Its one experiment, with the super-cell crystal.
        stills: Experiments with their scaling models.
        scales: Inverse scale factor b of each still, by identifier.
        radial: Table of the radial totals, or None.
        record: grid.json.
        raw: Tables of intensities that dials.stills_process integrated.
    """

    merged: Table
    map_experiments: ExperimentList
    stills: ExperimentList
    scales: dict[str, float]
    radial: Table | None
    record: GridRecord
    raw: tuple[Table, ...] = ()

    @property
    def unit_cell(self):
        """Reference cell of the crystal, cctbx."""
        return uctbx.unit_cell(self.record.unit_cell)

    @property
    def s(self) -> np.ndarray:
        """|s| of the voxel centres, 1/Å."""
        return 1 / self.merged["d"]

    @property
    def wavelength(self) -> float:
        """Mean over the stills, Å."""
        return float(np.mean([experiment.beam.get_wavelength() for experiment in self.stills]))

    def space_group(self, wanted):
        """The crystal's space group, translations included.

        Args:
            wanted: Symbol that the user gave, or None for that of the stills' crystals.
        """
        return parse_space_group(wanted, "absolute.space_group") if wanted else self.stills[0].crystal.get_space_group()


def load_inputs(experiment_files, reflection_files) -> Inputs:
    """Read merged.expt, merged.refl, scaled.expt, radial_totals.refl and integrated .refl files, in any order.

    Raises:
        ValueError: If one is missing, given twice, or belongs to another run than the rest.
    """
    merged, radial, raw = _tables(reflection_files)
    (map_file, map_experiments), (stills_file, stills) = _experiments(experiment_files)
    scales = {e.identifier: e.scaling_model.scale for e in stills}
    record = load_grid_record(merged.path)
    check_map_record(merged, record)
    check_map_experiment(merged, record, map_experiments, map_file)
    check_crystals(merged.path, stills, record)
    _check_stills(merged, record, stills, stills_file)
    if radial is not None:
        _check_identifiers(radial, scales)
        check_totals(radial, record, merged.path)
    return Inputs(merged, map_experiments, stills, scales, radial, record, raw)


def _tables(names) -> tuple[Table, Table | None, tuple[Table, ...]]:
    merged = radial = None
    raw = []
    for name in names:
        table = load_table(name)
        if "intensity.absolute.value" in table:
            raise ValueError(f"{name} is on an absolute scale already. Give merged.expt and merged.refl.")
        if "intensity.scale.value" in table:
            merged = _only(merged, table, "merged map")
        elif "s" in table and "response" in table:
            table.require(_RADIAL_COLUMNS, "diffuse.extract or diffuse.grid")
            radial = table if radial is None else _joined(radial, table)
        elif "intensity.sum.value" in table:
            raw.append(table)
        else:
            raise ValueError(
                f"{name} is none of a merged map, radial totals and integrated intensities. Give merged.refl of "
                "diffuse.scale and radial_totals.refl."
            )
    if merged is None:
        raise ValueError("No merged map was given. Give merged.expt and merged.refl, which diffuse.scale wrote.")
    merged.require(_MERGED_COLUMNS, "diffuse.scale")
    for column in ("intensity.scale.value", "intensity.scale.variance"):
        if not np.all(np.isfinite(merged[column])):
            raise ValueError(f"{merged.path} has values in {column} that are no numbers. Run diffuse.scale again.")
    return merged, radial, tuple(raw)


def _only(first, second, what):
    if first is not None:
        raise ValueError(f"{first.path} and {second.path} are both a {what}. Give one.")
    return second


def _joined(first: Table, second: Table) -> Table:
    """Radial totals of one run in several files (radial_totals_00001.refl ...), each with stills of its own."""
    if first.identifiers != second.identifiers or np.intersect1d(first["id"], second["id"]).size:
        raise ValueError(
            f"{first.path} and {second.path} are both a set of radial totals, and not the blocks of one run. Give one."
        )
    columns = {name: np.concatenate([first[name], second[name]]) for name in _RADIAL_COLUMNS}
    return Table(columns, first.identifiers, first.path)


def _experiments(names) -> tuple[tuple[str, ExperimentList], tuple[str, ExperimentList]]:
    """(file, experiments) of the map and of the scaled stills."""
    check_registered()
    merged, scaled = [], []
    for name in names:
        experiments = load_experiments(name)
        if any("absolute_scale" in (e.scaling_model.configdict if e.scaling_model else ()) for e in experiments):
            raise ValueError(f"{name} holds scales in absolute units, by diffuse.absolute. Give scaled.expt.")
        with_model = [e for e in experiments if e.scaling_model is not None]
        if not with_model:
            merged.append((name, experiments))
        elif len(with_model) == len(experiments) and all(hasattr(e.scaling_model, "scale") for e in experiments):
            scaled.append((name, experiments))
        else:
            raise ValueError(
                f"{name} has stills without a scale of diffuse.scale. Give the scaled.expt that diffuse.scale wrote."
            )
    if len(merged) != 1 or len(scaled) != 1:
        found = f"{len(merged)} without and {len(scaled)} with scaling models were given"
        raise ValueError(
            f"One .expt of the map and one with the scales of the stills are needed; {found}. Give merged.expt and "
            "scaled.expt."
        )
    name, experiments = merged[0]
    if len(experiments) != 1 or experiments[0].crystal is None:
        raise ValueError(
            f"{name} is not the experiment of a merged map. Give the merged.expt that diffuse.scale wrote."
        )
    return merged[0], scaled[0]


def _check_stills(merged: Table, record: GridRecord, stills: ExperimentList, name: str) -> None:
    """The map must be that of these stills with these scales; one of another program has no identifier."""
    identifiers = [identifier for identifier in merged.identifiers.values() if identifier]
    if identifiers and identifiers != [map_identifier(stills, record)]:
        raise ValueError(
            f"{merged.path} was not merged from the stills of {name} with the scales in it. Give merged.refl and "
            "scaled.expt of one run of diffuse.scale."
        )


def _text(cell) -> str:
    return " ".join(f"{value:.2f}" for value in cell)


def _check_identifiers(radial: Table, scales) -> None:
    shared = set(radial.identifiers.values()) & set(scales)
    if not shared:
        raise ValueError(
            f"{radial.path} and the scaled stills have no experiment in common ({len(radial.identifiers)} and "
            f"{len(scales)}). "
            "Give the radial_totals.refl of the run that was scaled."
        )
    missing = len(scales) - len(shared)
    if missing:
        logger.warning("%d of %d scaled stills have no radial totals and are left out.", missing, len(scales))
    unused = len(radial.identifiers) - len(shared)
    if unused:
        logger.info("%d stills of %s were not scaled and are left out.", unused, radial.path)


def total_scattering(inputs: Inputs, min_pixels: int) -> TotalScattering | None:
    """The radial totals of the scaled stills on the scale of the map; None where there are no radial totals.

    Stills are found by their identifiers, never by position.

    Args:
        inputs: The files.
        min_pixels: Pixels that a bin needs.

    Raises:
        ValueError: If the bins do not fit grid.json.
    """
    radial = inputs.radial
    if radial is None:
        return None
    models = {e.identifier: e.scaling_model for e in inputs.stills}
    known = {number: models[name] for number, name in radial.identifiers.items() if name in models}
    used = np.isin(radial["id"], list(known))
    numbers, still = np.unique(radial["id"][used], return_inverse=True)
    panel, s = radial["panel"][used].astype(int), radial["s"][used]
    factor = np.empty(len(s))
    order = np.argsort(still, kind="stable")
    for number, rows in zip(numbers, np.split(order, np.cumsum(np.bincount(still))[:-1])):
        factor[rows] = still_factor(known[int(number)], panel[rows], s[rows])
    return TotalScattering.from_rows(
        still,
        s,
        (radial["counts"] - radial["background"])[used],
        radial["response"][used] * factor,
        radial["variance"][used],
        radial["n_pixels"][used],
        radial["n_overloaded"][used],
        width=inputs.record.s_bin_width,
        min_pixels=min_pixels,
        overload_counts=_overload_counts(inputs.stills),
    )


def _overload_counts(stills) -> float | None:
    """Photons above which a pixel is overloaded, the least of all panels; None without a detector model."""
    limits = []
    for detector in {id(still.detector): still.detector for still in stills if still.detector}.values():
        limits += [panel.get_trusted_range()[1] / (panel.get_gain() or 1) for panel in detector]
    limits = [limit for limit in limits if 0 < limit < 1e15]
    return float(min(limits)) if limits else None


def describe(inputs: Inputs, space_group) -> None:
    """Log what was read."""
    cell = inputs.record.unit_cell
    logger.info(
        "Map of %d voxels, cell %s, space group %s, %d scaled stills, %.5f Å",
        len(inputs.merged),
        _text(cell),
        symbol(space_group),
        len(inputs.stills),
        inputs.wavelength,
    )
