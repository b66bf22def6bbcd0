"""How far a map reaches: its resolution, and the numbering of its asymmetric unit, the same for every process."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters import symmetry
from diffuse_dials.adapters.panels import beam_direction, corner_s_length, edge_directions, pixel_geometry
from diffuse_dials.algorithms.gridding import Grid
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.kernels.asymmetric_unit import FIRST
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.asu import AsuBox

_MARGIN = 1.02  # parallax moves a corner by a few pixels
_SAMPLE = 4096
_BYTES_PER_BRICK = 2 * 4  # of 4 x 4 x 4 voxels, Bragg pixels apart


def largest_s(stills: Stills, d_min: float | None) -> float:
    """Upper bound of |s| (1/Å) over all pixels of all stills, from ``d_min`` or the corners of the detectors."""
    if d_min is not None:
        return 1 / d_min
    largest, known = 0.0, {}
    for experiment in stills.experiments:
        detector, s0 = experiment.detector, beam_direction(experiment.beam)
        key = (id(detector), tuple(np.round(s0, 9)))
        if key not in known:
            known[key] = (detector, corner_s_length(detector, s0))  # the detector is kept so that its id is not reused
        largest = max(largest, known[key][1] / experiment.beam.get_wavelength())
    return largest


def corner_resolution(experiment) -> float:
    """Resolution (Å) of the pixel with the largest |s|: the limit of a map for which none is given."""
    s0 = beam_direction(experiment.beam)
    # Up to 2θ = 90° the largest |s| of a panel is at its edge; behind the sample its middle may be the farthest.
    smallest = min(float((edge_directions(panel) @ s0).min()) for panel in experiment.detector)
    if smallest < 0:
        smallest = min(float((pixel_geometry(panel, s0).direction @ s0).min()) for panel in experiment.detector)
    return experiment.beam.get_wavelength() / np.sqrt(2 - 2 * smallest)


def table_bytes(grid: Grid, experiment, d_min: float | None) -> int:
    """Memory of the table by which a process finds the voxels of a panel, see kernels.accumulator.

    Args:
        grid: The grid.
        experiment: A still that represents all.
        d_min: Limit of the resolution, Å; None: the corner of the detector.
    """
    if grid.engine == "numpy":
        return 0
    d_min = max(corner_resolution(experiment), d_min or 0.0)
    reach = np.ceil(np.array(grid.unit_cell[:3]) * grid.ndiv / d_min) + 1
    return int(_BYTES_PER_BRICK * np.prod((2 * reach + 4) // 4))


def asu_box(grid: Grid, stills: Stills, s_max: float) -> AsuBox:
    """The box that contains the representatives of all voxels.

    An index n_j of a voxel's mate under the rotation R is ndiv_j (Σ_i R_ij a_i)·s, so that no still reaches beyond
    ndiv_j |Σ_i R_ij a_i| s_max.

    Args:
        grid: The grid.
        stills: All stills.
        s_max: Largest |s|, 1/Å.

    Raises:
        ValueError: If the box is too large to be numbered, or indices for what works with them.
    """
    if grid.cell_policy == "own":
        cells = np.unique([np.round(e.crystal.get_unit_cell().parameters(), 6) for e in stills.experiments], axis=0)
    else:
        cells = np.array([grid.unit_cell])
    bases = np.array([np.linalg.inv(symmetry.fractionalization(cell)) for cell in cells])  # rows: a, b, c
    rotations = symmetry.integer_rotations(symmetry.laue_group(grid.symmetry_group))
    mates = np.einsum("rij,cik->crjk", rotations, bases)
    reach = np.linalg.norm(mates, axis=3).max(axis=(0, 1)) * s_max * _MARGIN * np.asarray(grid.ndiv)
    high = np.ceil(reach + np.abs(rotations).sum(axis=1).max(axis=0) / 2).astype(int)
    pack(high[np.newaxis])
    _, _, (to_reference, *_) = symmetry.asymmetric_unit(grid.symmetry_group)
    most = (high @ np.abs(to_reference)).max()
    if most >= FIRST:
        raise ValueError(
            f"Voxel indices reach {high.max()}, the limit with this symmetry is {FIRST * high.max() // most}. Use a "
            "smaller grid.ndiv or a larger d_min."
        )
    # Where the asymmetric unit has no negative indices, the box has none.
    sample = np.random.default_rng(0).integers(-high * 8, high * 8 + 1, (_SAMPLE, 3)).astype(np.int32)
    negative = symmetry.map_to_asu(sample, grid.symmetry_group).min(axis=0) < 0
    low = np.where(negative, -high, 0)
    box = AsuBox(tuple(int(x) for x in low), tuple(int(x) for x in high - low + 1))
    box.check()
    return box
