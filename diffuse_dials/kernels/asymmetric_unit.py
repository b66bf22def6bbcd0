"""Representatives of voxel indices under a Laue group, by cctbx's asymmetric units of reciprocal space."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW

# a * FIRST + b >= 0 says that a > 0, or a == 0 and b >= 0, of whole numbers below it
FIRST = 1 << 20
# The asymmetric units of the Laue classes in their reference settings, as cctbx's
# ``reciprocal_space_asu.reference_as_string`` spells them; and coefficients of h, k and l of numbers that are not
# negative in a unit, and nowhere else all of them.
REFERENCE_UNITS = {
    "l>0 or (l==0 and (h>0 or (h==0 and k>=0)))": ((FIRST, 1, FIRST**2),),  # -1
    "k>=0 and (l>0 or (l==0 and h>=0))": ((0, 1, 0), (1, 0, FIRST)),  # 2/m
    "h>=0 and k>=0 and l>=0": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),  # mmm
    "l>=0 and ((h>=0 and k>0) or (h==0 and k==0))": ((0, 0, 1), (1, 0, 0), (-1, FIRST, 0)),  # 4/m, 6/m
    "h>=k and k>=0 and l>=0": ((1, -1, 0), (0, 1, 0), (0, 0, 1)),  # 4/mmm, 6/mmm
    "(h>=0 and k>0) or (h==0 and k==0 and l>=0)": ((1, 0, 0), (-FIRST, FIRST**2, 1)),  # -3
    "h>=k and k>=0 and (k>0 or l>=0)": ((1, -1, 0), (0, FIRST, 1)),  # -31m
    "h>=k and k>=0 and (h>k or l>=0)": ((0, 1, 0), (FIRST, -FIRST, 1)),  # -3m1
    "h>=0 and ((l>=h and k>h) or (l==h and k==h))": ((1, 0, 0), (-1, 0, 1), (1 - FIRST, FIRST, -1)),  # m-3
    "k>=l and l>=h and h>=0": ((0, 1, -1), (-1, 0, 1), (1, 0, 0)),  # m-3m
}


def conditions(unit: str, to_reference: np.ndarray) -> np.ndarray:
    """What each operator of a Laue group must make of an index that it takes into the asymmetric unit.

    Args:
        unit: One of ``REFERENCE_UNITS``.
        to_reference: The group's matrices followed by the change to the reference setting, times any positive number
            that makes it whole, rows n' = n R, shape (m, 3, 3), int64.

    Returns:
        Coefficients of three numbers that are then not negative, shape (m, 3, 3), int64.
    """
    numbers = np.array((REFERENCE_UNITS[unit] * 3)[:3])  # one stands for all where there are fewer
    return np.ascontiguousarray(np.einsum("ij,mkj->mik", numbers, to_reference))


@njit(**BORROW)
def map_to_asu(index, conditions, rotations, mapped):
    """Write the representative of each voxel index into ``mapped``.

    Args:
        index: Voxel indices n, shape (n, 3), int32; in the reference setting, times the positive number of
            ``conditions``, below FIRST (algorithms.limits refuses others).
        conditions: Result of ``conditions``, shape (m, 3, 3), int64.
        rotations: The Laue group's matrices, rows n' = n R, shape (m, 3, 3), int64; the first is the identity.
        mapped: Result, shape (n, 3), int32.

    Returns:
        Number of indices without a representative: 0, unless the unit does not belong to the group.
    """
    missing, n_rotations, m = 0, len(rotations), np.uint64(0)
    x, y, z = np.uint64(0), np.uint64(1), np.uint64(2)
    for i in range(np.uint64(len(index))):
        h, k, l = np.int64(index[i, x]), np.int64(index[i, y]), np.int64(index[i, z])
        # A neighbour mostly needs the same rotation. Which one is found does not matter: an orbit is in the unit once.
        tried = 0
        while tried < n_rotations:
            a = h * conditions[m, x, x] + k * conditions[m, x, y] + l * conditions[m, x, z]
            b = h * conditions[m, y, x] + k * conditions[m, y, y] + l * conditions[m, y, z]
            c = h * conditions[m, z, x] + k * conditions[m, z, y] + l * conditions[m, z, z]
            if a | b | c >= 0:  # none has the sign
                break
            m = m + np.uint64(1) if m + np.uint64(1) < np.uint64(n_rotations) else np.uint64(0)
            tried += 1
        missing += tried == n_rotations
        for j in (x, y, z):
            mapped[i, j] = h * rotations[m, x, j] + k * rotations[m, y, j] + l * rotations[m, z, j]
    return missing
