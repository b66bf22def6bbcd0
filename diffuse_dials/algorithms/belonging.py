"""Whether files belong together: a table and its experiments, grid.json and the sums or the map beside it.

Tables and experiments of one run share identifiers. grid.json has none of what it describes, so it is compared with
it: the cell against the crystals, the symmetry against the asymmetric unit, ndiv against where a voxel lies. What was
corrected and subtracted shows in neither: grid.json has the sums of one still, which those beside it must have as
well, and the identifier of a map ends in a hash of what grid.json says of its sums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.symmetry import fractionalization, map_to_asu, parse_space_group, same_lattice, symbol
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors, super_cell_experiment
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import Table
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import VoxelSums

logger = logging.getLogger(f"dials.{__name__}")

_SAMPLE = 1000  # rows that are looked at
_CELL_TOLERANCE = 1e-3  # relative, of what was worked out with one and the same cell
_FARTHEST = 0.75  # voxels; the pixels of a sum are within 0.5 of its centre
_SUM_TOLERANCE = 1e-5  # relative; a store rounds each row to 6e-8
_SUMMED = ("n_pixels", "counts", "background", "response")
_CONTENTS = ("corrections", "noise", "background", "masks", "isotropic_removed")  # of grid.json: what the sums hold
_CONTENTS_DIGITS = 7
_MAP_IDENTIFIER = re.compile(rf"[0-9a-f]{{24}}-[0-9a-f]{{{_CONTENTS_DIGITS}}}")  # as long as DIALS's own


def map_identifier(stills: ExperimentList, record: GridRecord) -> str:
    """Identifier of a map's experiment, so that scaled.expt and grid.json tell whether it is theirs.

    A hash of the scaled stills, and one of what grid.json says of their sums. Scales enter with six digits: sums over
    ranks of MPI differ in the last ones.

    Args:
        stills: Those of scaled.expt, each with its scaling model.
        record: Of the sums.
    """
    scaled = _hash(*(f"{still.identifier} {still.scaling_model.scale:.6g}" for still in stills))
    return f"{scaled[:24]}-{_contents(record)}"


def absolute_identifier(relative: str, k: float) -> str:
    """Identifier of the experiment of the same map in absolute units.

    Args:
        relative: That of the relative map.
        k: K, units of the relative map per e².
    """
    return f"{_hash(relative, f'{k:.6g}')[:24]}-{relative[-_CONTENTS_DIGITS:]}"


def _hash(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _contents(record: GridRecord) -> str:
    return _hash(json.dumps([getattr(record, name) for name in _CONTENTS], sort_keys=True))[:_CONTENTS_DIGITS]


def one_still(identifier: str, rows: dict[str, np.ndarray]) -> dict:
    """What grid.json keeps of one still, so that it is known to belong to the file beside it.

    Args:
        identifier: Of the still.
        rows: Columns of its rows, by name; background may be missing where it is 0.
    """
    return {"identifier": identifier, **{name: float(np.sum(rows.get(name, 0))) for name in _SUMMED}}


def _still_differs(known: dict, find) -> str | None:
    """How the sums of the still that grid.json knows differ, in words; None where they do not, or it is not there.

    Args:
        known: Result of one_still.
        find: Function identifier → its rows by name of the column, or None.
    """
    rows = find(known["identifier"]) if known else None
    if rows is None:
        return None
    for name in _SUMMED:
        found = float(np.sum(rows[name]))
        if not np.isclose(found, known[name], rtol=_SUM_TOLERANCE, atol=0):
            what = {"n_pixels": "number of pixels"}.get(name, name)
            still = known["identifier"]
            return f"by it the {what} of still {still} in all is {known[name]:.6g}, and there it is {found:.6g}"
    return None


def check_experiments(table_name: str, identifiers: Iterable[str], known, experiment_files: str) -> None:
    """Hold a table against the .expt files given with it.

    Args:
        table_name: Of the file.
        identifiers: Experiments that its rows refer to.
        known: Identifiers of the experiments given.
        experiment_files: Their files, for the message.

    Raises:
        ValueError: If one is not there.
    """
    for identifier in identifiers:
        if identifier not in known:
            raise ValueError(
                f"{table_name} refers to experiment {identifier}, which {experiment_files} does not hold. Give the "
                f".expt and {Path(table_name).suffix} that one run wrote together."
            )


def check_map_experiment(table: Table, record: GridRecord, experiments: ExperimentList, experiment_file: str) -> None:
    """Hold the experiment of a map against the map.

    Args:
        table: merged.refl or absolute.refl.
        record: Its grid.
        experiments: Those of the .expt file.
        experiment_file: Its name.

    Raises:
        ValueError: If it is another map's, or none of a map.
    """
    crystals = [one.crystal for one in experiments if one.crystal is not None]
    expected = super_cell_experiment(record).crystal
    if len(crystals) != 1 or not _same_crystal(crystals[0], expected):
        raise ValueError(
            f"{experiment_file} is not the experiment of the map {table.path}: it must hold one crystal with the "
            f"super-cell {_text(expected.get_unit_cell().parameters())}, {symbol(expected.get_space_group())}. Give "
            "the .expt written with the .refl."
        )
    check_experiments(table.path, table.identifiers.values(), set(experiments.identifiers()), experiment_file)


def check_map_record(table: Table, record: GridRecord) -> None:
    """Hold grid.json against the map beside it.

    Args:
        table: merged.refl, absolute.refl or the truth of a simulation.
        record: The grid.json beside it.

    Raises:
        ValueError: If it is another's.
    """
    what = map_differs(table, record)
    if not what:
        (identifier, *_) = [*table.identifiers.values(), ""]
        if _MAP_IDENTIFIER.fullmatch(identifier) and not identifier.endswith(f"-{_contents(record)}"):
            what = "the corrections, background or masks that it describes are not those of the map"
    if what:
        raise _another(table.path, what)


def map_differs(table: Table, record: GridRecord) -> str | None:
    """How the grid of a map differs from the one described, in words; None where it does not.

    Args:
        table: As in check_map_record.
        record: A grid.
    """
    index = table["miller_index"][_sample(len(table))]
    if "d" in table:
        s, d = np.linalg.norm(reciprocal_vectors(index, record), axis=1), table["d"][_sample(len(table))]
        wrong = np.flatnonzero(~np.isclose(s * d, 1, rtol=_CELL_TOLERANCE) & (s > 0))
        if len(wrong):
            worst = wrong[np.argmax(np.abs(s * d - 1)[wrong])]
            return (
                f"by its unit_cell {_text(record.unit_cell)} and ndiv {_text(record.ndiv)} voxel "
                f"{_text(index[worst])} is at {1 / s[worst]:.3f} Å, and in the table at {d[worst]:.3f} Å"
            )
    code = pack(map_to_asu(table["miller_index"], parse_space_group(record.space_group)))
    if len(np.unique(code)) < len(code):
        return f"some of its voxels are symmetry mates in the space_group {record.space_group}"
    return None


def check_folder(folder, record: GridRecord) -> None:
    """Refuse a folder for a map whose grid.json stays there and says other things of the sums.

    Args:
        folder: Of gridded.refl, with its grid.json.
        record: Of the map.

    Raises:
        ValueError: If they differ.
    """
    if _contents(load_grid_record(Path(folder) / "gridded.refl")) != _contents(record):
        raise ValueError(
            f"The map would go beside {Path(folder) / 'grid.json'}, which has another background, mask or noise than "
            "the first of the files given. Work in another folder, or give the files of this one first."
        )


def check_totals(table: Table, record: GridRecord, beside: str) -> None:
    """Hold radial totals against grid.json.

    Args:
        table: radial_totals.refl.
        record: A grid.json.
        beside: The file that it lies beside.

    Raises:
        ValueError: If they are of another run.
    """
    numbers = {identifier: number for number, identifier in table.identifiers.items()}

    def find(identifier):
        rows = table["id"] == numbers.get(identifier, -1)
        return {name: table[name][rows] for name in _SUMMED} if rows.any() else None

    what = _still_differs(record.totals_of_a_still, find)
    if what:
        raise ValueError(
            f"{table.path} is not of the run that {Path(beside).parent / 'grid.json'} describes: {what}. Give the "
            "radial_totals.refl that was written with the sums (diffuse.grid) or the pixels (diffuse.extract)."
        )


def check_sums_record(name: str, sums: VoxelSums | None, experiments: ExperimentList, record: GridRecord) -> None:
    """Hold grid.json against the sums beside it.

    Args:
        name: Of the file of the sums.
        sums: All of its rows, or all of some stills; None: it has none.
        experiments: ``sums.still`` is the position in it.
        record: The grid.json beside it.

    Raises:
        ValueError: If it is another's.
    """
    if sums is None or not len(sums):
        return
    rows = sums.select(_sample(len(sums)))
    stills = [experiments[int(number)] for number in rows.still]
    check_crystals(name, stills, record)
    if not np.array_equal(map_to_asu(rows.index, parse_space_group(record.space_group)), rows.asu_index):
        raise _another(name, f"its space_group {record.space_group} has another asymmetric unit than the sums")
    _check_places(name, rows, stills, record)
    numbers = {still.identifier: number for number, still in enumerate(experiments)}

    def find(identifier):
        of_still = sums.still == numbers.get(identifier, -1)
        return {name: getattr(sums, name)[of_still] for name in _SUMMED} if of_still.any() else None

    what = _still_differs(record.sums_of_a_still, find)
    if what:
        raise _another(name, what)


def _check_places(name: str, rows: VoxelSums, stills: list, record: GridRecord) -> None:
    """Hold ndiv against the places of the sums on the detector."""
    if rows.position is None or any(still.crystal is None for still in stills):
        return
    hkl = np.array([_hkl(still, *row, record) for still, row in zip(stills, zip(rows.panel, rows.position))])
    if _explains(record.ndiv, hkl, rows.index):
        return
    ndiv = np.rint((rows.index * hkl).sum(axis=0) / (hkl**2).sum(axis=0)).astype(int)
    if _explains(ndiv, hkl, rows.index):
        raise _another(name, f"its ndiv is {_text(record.ndiv)}, that of the sums {_text(ndiv)}")
    logger.warning(
        "The sums of %s lie elsewhere on the detector than the crystals of the .expt put their voxels. Give the .expt "
        "and .refl that one run of diffuse.grid wrote together.", name,
    )  # fmt: skip


def _explains(ndiv, hkl: np.ndarray, index: np.ndarray) -> bool:
    """Whether sums at fractional indices are those of their voxels; nearly all, since a mean position is not exact."""
    return bool(np.quantile(np.abs(hkl * ndiv - index).max(axis=1), 0.9) < _FARTHEST)


def check_crystals(name: str, experiments: Iterable, record: GridRecord) -> None:
    """Hold the cell of grid.json against that of the stills.

    Args:
        name: Of the file beside which grid.json lies.
        experiments: Stills.
        record: grid.json.

    Raises:
        ValueError: If it is another crystal's.
    """
    crystals = {id(one.crystal): one.crystal for one in experiments if one.crystal is not None}.values()
    cells = [crystal.get_unit_cell().parameters() for crystal in crystals]
    if cells and not same_lattice(record.unit_cell, np.median(cells, axis=0)):
        what = f"its unit_cell is {_text(record.unit_cell)}, that of the stills {_text(np.median(cells, axis=0))}"
        raise _another(name, what)


def _same_crystal(one, other) -> bool:
    cells = [crystal.get_unit_cell().parameters() for crystal in (one, other)]
    return np.allclose(*cells, rtol=_CELL_TOLERANCE) and one.get_space_group() == other.get_space_group()


def _another(name: str, what: str) -> ValueError:
    return ValueError(
        f"{Path(name).parent / 'grid.json'} is not that of {name}: {what}. Put the grid.json there that diffuse.grid "
        "wrote in the same run."
    )


def _hkl(still, panel, position, record: GridRecord) -> np.ndarray:
    """Fractional index of a place on the detector, as diffuse.grid works it out."""
    panel = still.detector[int(panel)]
    s1 = np.array(panel.get_lab_coord(panel.pixel_to_millimeter(tuple(map(float, position)))))
    s = s1 / np.linalg.norm(s1) / still.beam.get_wavelength() - np.array(still.beam.get_s0())
    if record.cell_policy == "own":
        return np.linalg.solve(setting_matrix(still), s)
    u = np.array(still.crystal.get_U()).reshape(3, 3)
    return np.linalg.solve(fractionalization(record.unit_cell), u.T @ s)


def _sample(n: int) -> slice:
    return slice(0, n, max(1, n // _SAMPLE))


def _text(values) -> str:
    return ",".join(f"{value:.6g}" for value in values)
