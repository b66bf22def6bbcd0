"""Pixels → sums per voxel: reference crystal, fractional indices, symmetry."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass

import libtbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import symmetry
from diffuse_dials.algorithms.inputs import Stills, setting_matrix
from diffuse_dials.kernels.sums import group_sums, pack, transform, unpack
from diffuse_dials.models.grid import GridRecord, voxel_index
from diffuse_dials.models.sums import VoxelSums

logger = logging.getLogger(f"dials.{__name__}")

# Above this rms, lattice-bound features of different stills no longer fall into one voxel.
MAX_RMS_DELTA_HKL = 0.1
_SAMPLE = 2000

phil_scope = libtbx.phil.parse(
    """
grid {
  ndiv = 3,3,3
    .type = ints(size=3, value_min=1, value_max=50)
    .help = "Voxels from one lattice point to the next along a*, b* and c*. Lattice points are at centres of voxels."
            "With odd numbers each voxel belongs to one lattice point; with even ones some lie half-way between two."
            "Axes that the symmetry mixes need the same number."
  cell = *own reference
    .type = choice
    .help = "own: h = A^-1 s with each still's cell, so that halos stay around their lattice points."
            "reference: h from the still's orientation and the reference cell, so that |s| stays exact."
  unit_cell = None
    .type = floats(size=6)
    .help = "Reference cell (Å, degrees), from which the resolutions in the map are worked out. It must be the"
            "crystals' own cell, to within 10 % of an edge and 5 degrees. None: the median of the stills' cells."
  laue_group = Auto
    .type = str
    .help = "Space group or Laue group whose symmetry is imposed on the map. Auto: the Laue class of the crystals'"
            "space group."
  positions = True
    .type = bool
    .help = "Keep the mean position on the detector of each sum (24 bytes a row)."
    .expert_level = 1
  engine = *Auto numba numpy
    .type = choice
    .help = "What sums the pixels of an image: compiled code in one pass, or NumPy step by step, many times slower,"
            "with equal counts and numbers of pixels. Auto: numba if it is installed."
    .expert_level = 2
  reader = *dxtbx hdf5
    .type = choice
    .help = "What reads the images. dxtbx: every format. hdf5: NXmx files (Eiger) straight from HDF5, several times"
            "faster; the first image is compared with dxtbx's, and the run stops if they differ."
    .expert_level = 1
  keep_heap = True
    .type = bool
    .help = "Keep the memory of an image in the process for the next one. It makes reading cheaper and takes no more"
            "than the largest image ever needed. Without effect outside of Linux's C library."
    .expert_level = 2
}
"""
)


@dataclass(frozen=True)
class Grid:
    """The grid that all stills share.

    Attributes:
        unit_cell: Reference cell, Å and degrees.
        origin: How it was made.
        ndiv: Subdivisions.
        space_group: cctbx group of the crystals.
        symmetry_group: cctbx group whose Laue class the map has.
        cell_policy: "own" or "reference".
        rms_delta_hkl: Of each still, shape (n_stills,).
        operators: Alternative ways of indexing.
        positions: Whether sums keep their mean position.
        engine: numba or numpy: what sums the pixels of an image.
    """

    unit_cell: tuple[float, ...]
    origin: str
    ndiv: tuple[int, int, int]
    space_group: object
    symmetry_group: object
    cell_policy: str
    rms_delta_hkl: np.ndarray
    operators: tuple[str, ...]
    positions: bool
    engine: str = "numpy"

    def to_hkl(self, experiment) -> np.ndarray:
        """Matrix from s (laboratory) of a still to fractional Miller indices, shape (3, 3), Å.

        Both forms need the orientation of the same still: an average one does not exist for random stills.
        """
        if self.cell_policy == "own":
            return np.linalg.inv(setting_matrix(experiment))
        u = np.array(experiment.crystal.get_U()).reshape(3, 3)
        return np.linalg.inv(symmetry.fractionalization(self.unit_cell)) @ u.T

    def record(self, params, contents: dict) -> GridRecord:
        """grid.json's content: the grid and what each sum contains."""
        return GridRecord(
            unit_cell=self.unit_cell,
            unit_cell_origin=self.origin,
            ndiv=self.ndiv,
            space_group=symmetry.symbol(self.symmetry_group),
            laue_group=symmetry.symbol(symmetry.laue_group(self.symmetry_group)),
            d_min=params.d_min,
            d_max=params.d_max,
            cell_policy=self.cell_policy,
            rms_delta_hkl=_overall(self.rms_delta_hkl),
            ambiguous=bool(self.operators),
            reindexing_operators=self.operators,
            **contents,
        )


def define_grid(params, stills: Stills, d_min: float) -> Grid:
    """Reference crystal and symmetry of the map.

    Args:
        params: Extract of ``grid``.
        stills: All stills.
        d_min: Resolution to which non-isomorphism is judged, Å.

    Returns:
        The grid.

    Raises:
        ValueError: If the stills have different space groups, grid.unit_cell is another crystal's, or cell, symmetry
            and ndiv do not fit together.
    """
    distinct = []  # a symbol takes cctbx some milliseconds
    for experiment in stills.experiments:
        group = experiment.crystal.get_space_group()
        if group not in distinct:
            distinct.append(group)
    groups = {symmetry.symbol(group): group for group in distinct}
    if len(groups) > 1:
        raise ValueError(
            f"The stills have different space groups: {', '.join(sorted(groups))}. Process them with one "
            "indexing.known_symmetry.space_group."
        )
    (space_group,) = groups.values()
    given = params.laue_group
    symmetry_group = space_group if given in (None, Auto) else symmetry.parse_space_group(given, "grid.laue_group")
    cells = np.array([e.crystal.get_unit_cell().parameters() for e in stills.experiments])
    median = f"median of {len(cells)} stills"
    if params.unit_cell is not None:
        unit_cell, origin = tuple(params.unit_cell), "given"
        symmetry.check_same_lattice(unit_cell, np.median(cells, axis=0), median)
        symmetry.check_cell(unit_cell, symmetry_group)
    else:
        unit_cell, origin = symmetry.mean_cell(cells, symmetry_group), median
    symmetry.check_ndiv(params.ndiv, symmetry_group)
    engine = choose_engine(params.engine)
    if params.reader == "hdf5" and engine == "numpy":
        raise ValueError("grid.reader=hdf5 goes with grid.engine=numba. Leave one of them out.")
    deltas = rms_delta_hkl(stills, unit_cell, d_min)
    grid = Grid(
        unit_cell, origin, tuple(params.ndiv), space_group, symmetry_group, params.cell, deltas,
        symmetry.reindexing_operators(unit_cell, symmetry_group), params.positions, engine,
    )  # fmt: skip
    _log(grid, cells, stills, d_min)
    return grid


def choose_engine(engine: str) -> str:
    """numba or numpy, for a parameter that may be Auto.

    Raises:
        ValueError: If numba is asked for and not installed.
    """
    available = importlib.util.find_spec("numba") is not None
    if engine == "numba" and not available:
        raise ValueError("grid.engine=numba, but numba is not installed. Install it, or leave engine at Auto.")
    return "numba" if engine != "numpy" and available else "numpy"


def rms_delta_hkl(stills: Stills, unit_cell, d_min: float) -> np.ndarray:
    """How far each still's cell moves lattice points: rms of B_ref⁻¹ B_i h - h over integer h to d_min.

    It measures non-isomorphism only; the orientation cancels.

    Returns:
        Shape (n_stills,), in units of the Miller index.
    """
    b_ref = symmetry.fractionalization(unit_cell)
    # A fixed sample of lattice points, uniform in the sphere: the rms needs no more.
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(_SAMPLE, 3))
    directions *= (rng.uniform(size=_SAMPLE) ** (1 / 3) / d_min / np.linalg.norm(directions, axis=1))[:, None]
    hkl = np.rint(transform(np.linalg.inv(b_ref), directions))
    rms = []
    for experiment in stills.experiments:
        strain = np.linalg.inv(b_ref) @ symmetry.fractionalization(
            experiment.crystal.get_unit_cell().parameters()
        ) - np.eye(3)
        rms.append(np.sqrt(np.mean(np.sum(transform(strain, hkl) ** 2, axis=1))))
    return np.array(rms)


def _overall(rms: np.ndarray) -> float:
    return float(np.sqrt(np.mean(rms**2)))


def _log(grid: Grid, cells: np.ndarray, stills: Stills, d_min: float) -> None:
    logger.info("Reference cell: %s (%s)", " ".join(f"{x:.3f}" for x in grid.unit_cell), grid.origin)
    logger.info("Standard deviations over the stills: %s", " ".join(f"{x:.3f}" for x in cells.std(axis=0)))
    logger.info(
        "Space group %s, Laue group %s, ndiv %s",
        symmetry.symbol(grid.space_group),
        symmetry.symbol(symmetry.laue_group(grid.symmetry_group)),
        grid.ndiv,
    )
    overall = _overall(grid.rms_delta_hkl)
    logger.info("rms Δhkl between the stills' cells and the reference, to %.2f Å: %.3f", d_min, overall)
    if overall > MAX_RMS_DELTA_HKL:
        median = tuple(np.median(cells, axis=0))
        among_them = overall if grid.origin != "given" else _overall(rms_delta_hkl(stills, median, d_min))
        if among_them <= MAX_RMS_DELTA_HKL:
            logger.warning(
                "rms Δhkl is above %.1f (%.3f against the stills' median cell %s): grid.unit_cell is not that of these "
                "crystals. The map's resolutions are those of grid.unit_cell; leave it out unless that is intended.",
                MAX_RMS_DELTA_HKL, among_them, " ".join(f"{x:.3f}" for x in median),
            )  # fmt: skip
        else:
            worst = np.argsort(grid.rms_delta_hkl)[::-1][:5]
            names = ", ".join(f"{stills.keys[i].label} ({grid.rms_delta_hkl[i]:.2f})" for i in worst)
            logger.warning(
                "rms Δhkl is above %.1f: the crystals are not isomorphous. Farthest: %s. Keep grid.cell=own, or leave "
                "them out.",
                MAX_RMS_DELTA_HKL,
                names,
            )
    if grid.operators:
        logger.warning(
            "The lattice has more symmetry than the Laue group: stills indexed one by one are a mixture related by %s. "
            "Run diffuse.scale with scale.reindex=True, which makes them agree, or, if they do already, with "
            "scale.assume_consistent_indexing=True.",
            " and ".join(grid.operators),
        )


def voxel_sums(number: int, panels, to_hkl: np.ndarray, ndiv, positions: bool) -> VoxelSums:
    """Sum the pixels of one still per (voxel, panel, bragg), in P1.

    Args:
        number: Position of the still in the experiment list.
        panels: Its pixels, ``PanelPixels`` or the same columns read from a file, panel by panel.
        to_hkl: Matrix from s to fractional Miller indices, shape (3, 3), Å.
        ndiv: Subdivisions.
        positions: Whether to keep mean positions.

    Returns:
        Rows sorted by panel, voxel and bragg; ``asu_index`` still equals ``index``.
    """
    parts = []
    for pixels in panels:
        index = voxel_index(transform(to_hkl, pixels.s), ndiv)
        code = pack(index) * 2 + pixels.bragg
        columns = [pixels.counts, pixels.background, pixels.response, pixels.variance]
        if positions:
            columns += list(pixels.position.T)
        code, n_pixels, sums = group_sums(code, *columns)
        voxel = unpack(code >> 1)
        full = np.full(len(code), 1, dtype=np.int32)
        position = np.stack(sums[4:], axis=1) / n_pixels[:, None] if positions else None
        parts.append(
            VoxelSums(
                full * number,
                voxel,
                voxel,
                full * pixels.panel,
                (code & 1).astype(bool),
                *sums[:4],
                n_pixels.astype(np.int32),
                position,
            )
        )
    return VoxelSums.concatenate(parts)


def without_origin(sums: VoxelSums) -> VoxelSums:
    """All rows except the voxel around s = 0, which is the direct beam, and not a reflection for cctbx."""
    return sums.select(np.any(sums.index != 0, axis=1))


def with_asu_index(sums: VoxelSums, symmetry_group) -> VoxelSums:
    """The same rows with the representative of each voxel under the Laue group; only distinct voxels are mapped."""
    code, inverse = np.unique(pack(sums.index), return_inverse=True)
    mapped = symmetry.map_to_asu(unpack(code), symmetry_group)[inverse]
    columns = {name: getattr(sums, name) for name in sums.__dataclass_fields__}
    return VoxelSums(**{**columns, "asu_index": mapped})
