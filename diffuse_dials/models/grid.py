"""The grid of voxels in reciprocal space and its record, grid.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np


@dataclass(frozen=True)
class GridRecord:
    """What a later command must know of the grid and of what the sums contain (grid.json).

    Attributes:
        unit_cell: Reference cell a, b, c (Å), α, β, γ (degrees).
        unit_cell_origin: How it was made, in words.
        ndiv: Voxels from one lattice point to the next along a*, b*, c*.
        space_group: Hermann-Mauguin symbol of the crystals, or what grid.laue_group gave in its place.
        laue_group: Hermann-Mauguin symbol of the group whose symmetry the map has.
        d_min: High-resolution limit, Å; None is the corner of the detector.
        d_max: Low-resolution limit, Å; None is the beamstop.
        cell_policy: "own" (h = A_i⁻¹ s) or "reference" (h = B_ref⁻¹ U_iᵀ s).
        rms_delta_hkl: Non-isomorphism: rms of B_ref⁻¹ B_i h - h over stills and integer h to d_min.
        ambiguous: Whether the lattice has more symmetry than the Laue group.
        reindexing_operators: The alternatives, e.g. "k,h,-l"; empty where there are none.
        s_bin_width: Width of the |s| bins of the radial totals, 1/Å.
        corrections: For each registered correction: applied or not, with which values.
        noise: How the variance of counts was worked out.
        background: Method and values of what was subtracted.
        masks: What took pixels out, with its values.
        run_key: Of the run of diffuse.grid, for resume=True.
        isotropic_removed: Whether a per-still radial background took the crystal's isotropic part with it.
        sums_of_a_still, totals_of_a_still: Its identifier and its sums over all rows of the file beside the record
            (algorithms.belonging), so that a grid.json of another run is known; empty: not known.
    """

    unit_cell: tuple[float, ...]
    unit_cell_origin: str
    ndiv: tuple[int, int, int]
    space_group: str
    laue_group: str
    d_min: float | None
    d_max: float | None
    cell_policy: str
    rms_delta_hkl: float
    ambiguous: bool
    reindexing_operators: tuple[str, ...]
    s_bin_width: float
    corrections: dict = field(default_factory=dict)
    noise: dict = field(default_factory=dict)
    background: dict = field(default_factory=dict)
    masks: dict = field(default_factory=dict)
    isotropic_removed: bool = False
    sums_of_a_still: dict = field(default_factory=dict)
    totals_of_a_still: dict = field(default_factory=dict)
    run_key: str = ""

    def to_dict(self) -> dict:
        """A dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> GridRecord:
        """The record in ``data``; keys of a newer version are ignored.

        Raises:
            ValueError: If a value is missing.
        """
        names = set(cls.__dataclass_fields__)
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in names}
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"grid.json is incomplete ({error}). Give the one that diffuse.grid wrote.") from None


def voxel_index(hkl: np.ndarray, ndiv) -> np.ndarray:
    """Voxel of each fractional index: n = floor(h·ndiv + ½), so that integer h is a voxel's centre.

    Args:
        hkl: Fractional Miller indices, shape (n, 3).
        ndiv: Subdivisions, three integers.

    Returns:
        int32 array, shape (n, 3).
    """
    return np.floor(hkl * np.asarray(ndiv, dtype=np.float64) + 0.5).astype(np.int32)


def holds_lattice_point(index: np.ndarray, ndiv) -> np.ndarray:
    """Whether each voxel n contains an integer h, shape (n,), bool.

    Integer h = n/ndiv are voxel centres, and a voxel is one ndiv-th wide: only n divisible by ndiv on all axes.
    """
    return np.all(index % np.asarray(ndiv) == 0, axis=1)
