"""The truth behind the images, in the form that processing them should give."""

from __future__ import annotations

import iotbx.phil
import numpy as np

from diffuse_dials.adapters.scattering import incoherent, sum_f0_squared
from diffuse_dials.adapters.symmetry import check_ndiv, map_to_asu
from diffuse_dials.algorithms.simulation.llm import DiffuseTruth
from diffuse_dials.algorithms.simulation.model import CrystalModel
from diffuse_dials.models.grid import holds_lattice_point

phil_scope = iotbx.phil.parse(
    """
truth {
  ndiv = 3,3,3
    .type = ints(size=3, value_min=1)
    .help = "Voxels of the true map from one lattice point to the next: grid.ndiv of diffuse.grid."
  d_min = None
    .type = float(value_min=0.5)
    .help = "High-resolution limit of the true map (Å). None: the corner of the detector."
  d_max = None
    .type = float(value_min=0.5)
    .help = "Its low-resolution limit (Å). None: all but the voxel at the origin."
}
"""
)


def true_map(
    truth: DiffuseTruth, model: CrystalModel, params, wavelength: float, s_max: float
) -> dict[str, np.ndarray]:
    """Means of the true coherent diffuse intensity over the voxels of the asymmetric unit.

    Args:
        truth: Fine map.
        model: The crystal.
        params: Extract of ``phil_scope``'s ``truth``.
        wavelength: Å, for the recoil of Compton scattering.
        s_max: Of the corner of the detector, 1/Å.

    Returns:
        Columns as in absolute.refl: miller_index, hkl, rlp, d, lattice_point, intensity.absolute.value (mean over the
        voxel and its symmetry mates), intensity.incoherent.value and intensity.coherent.value (at the centre).

    Raises:
        ValueError: If ndiv does not fit the symmetry, the map does not reach d_min, or no voxel is left.
    """
    group = model.space_group
    try:
        check_ndiv(params.ndiv, group)
    except ValueError as error:
        raise ValueError(str(error).replace("grid.ndiv", "truth.ndiv")) from None
    index, mean = truth.voxel_means(params.ndiv, params.d_min or 1 / s_max)
    length = np.linalg.norm(index / np.asarray(params.ndiv) @ truth.reciprocal.T, axis=1)
    keep = (length > 0) & (length >= (1 / params.d_max if params.d_max else 0))
    if not keep.any():
        limits = " and ".join(f"truth.{name}={getattr(params, name)}" for name in ("d_min", "d_max"))
        raise ValueError(f"{limits} leave no voxel on this detector, which reaches to {1 / s_max:.2f} Å. Change them.")
    asu, mate = np.unique(map_to_asu(index[keep], group), axis=0, return_inverse=True)
    mate = mate.ravel()
    value = np.bincount(mate, mean[keep], len(asu)) / np.bincount(mate, minlength=len(asu))
    hkl = asu / np.asarray(params.ndiv, dtype=float)
    rlp = hkl @ truth.reciprocal.T
    s = np.linalg.norm(rlp, axis=1)
    table = np.linspace(0, s.max(), 2000)
    return {
        "miller_index": asu.astype(np.int32),
        "hkl": hkl,
        "rlp": rlp,
        "d": 1 / s,
        "lattice_point": holds_lattice_point(asu, params.ndiv),
        "intensity.absolute.value": value,
        "intensity.incoherent.value": np.interp(s, table, incoherent(model.composition, table, wavelength)),
        "intensity.coherent.value": np.interp(s, table, sum_f0_squared(model.composition, table)),
    }
