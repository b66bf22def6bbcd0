"""Representatives of voxel indices under a Laue group, by cctbx's asymmetric units of reciprocal space."""

from __future__ import annotations

import numpy as np
from numba import njit

# The asymmetric units of the Laue classes in their reference settings, as cctbx's
# ``reciprocal_space_asu.reference_as_string`` spells them; ``_inside`` knows them by their place here.
REFERENCE_UNITS = (
    "l>0 or (l==0 and (h>0 or (h==0 and k>=0)))",  # -1
    "k>=0 and (l>0 or (l==0 and h>=0))",  # 2/m
    "h>=0 and k>=0 and l>=0",  # mmm
    "l>=0 and ((h>=0 and k>0) or (h==0 and k==0))",  # 4/m, 6/m
    "h>=k and k>=0 and l>=0",  # 4/mmm, 6/mmm
    "(h>=0 and k>0) or (h==0 and k==0 and l>=0)",  # -3
    "h>=k and k>=0 and (k>0 or l>=0)",  # -31m
    "h>=k and k>=0 and (h>k or l>=0)",  # -3m1
    "h>=0 and ((l>=h and k>h) or (l==h and k==h))",  # m-3
    "k>=l and l>=h and h>=0",  # m-3m
)


@njit(nogil=True, cache=True, error_model="numpy")
def _inside(unit, h, k, l):
    if unit == 0:
        return l > 0 or (l == 0 and (h > 0 or (h == 0 and k >= 0)))
    if unit == 1:
        return k >= 0 and (l > 0 or (l == 0 and h >= 0))
    if unit == 2:
        return h >= 0 and k >= 0 and l >= 0
    if unit == 3:
        return l >= 0 and ((h >= 0 and k > 0) or (h == 0 and k == 0))
    if unit == 4:
        return h >= k and k >= 0 and l >= 0
    if unit == 5:
        return (h >= 0 and k > 0) or (h == 0 and k == 0 and l >= 0)
    if unit == 6:
        return h >= k and k >= 0 and (k > 0 or l >= 0)
    if unit == 7:
        return h >= k and k >= 0 and (h > k or l >= 0)
    if unit == 8:
        return h >= 0 and ((l >= h and k > h) or (l == h and k == h))
    return k >= l and l >= h and h >= 0


@njit(nogil=True, cache=True, error_model="numpy")
def map_to_asu(index, unit, rotations, to_reference, mapped):
    """Write the representative of each voxel index into ``mapped``.

    Args:
        index: Voxel indices n, shape (n, 3), int32.
        unit: Place of the asymmetric unit in ``REFERENCE_UNITS``.
        rotations: The Laue group's matrices, rows n' = n R, shape (m, 3, 3), int64; the first is the identity.
        to_reference: The same followed by the change to the reference setting, times any positive number that makes
            it whole: the conditions are homogeneous. Shape (m, 3, 3), int64.
        mapped: Result, shape (n, 3), int32.

    Returns:
        Number of indices without a representative: 0, unless the unit does not belong to the group.
    """
    missing, n_rotations, m = 0, len(rotations), 0
    for i in range(len(index)):
        h, k, l = np.int64(index[i, 0]), np.int64(index[i, 1]), np.int64(index[i, 2])
        found = False
        # A neighbour mostly needs the same rotation. Which one is found does not matter: an orbit is in the unit once.
        for _ in range(n_rotations):
            if _inside(
                unit,
                h * to_reference[m, 0, 0] + k * to_reference[m, 1, 0] + l * to_reference[m, 2, 0],
                h * to_reference[m, 0, 1] + k * to_reference[m, 1, 1] + l * to_reference[m, 2, 1],
                h * to_reference[m, 0, 2] + k * to_reference[m, 1, 2] + l * to_reference[m, 2, 2],
            ):
                for j in range(3):
                    mapped[i, j] = h * rotations[m, 0, j] + k * rotations[m, 1, j] + l * rotations[m, 2, j]
                found = True
                break
            m = m + 1 if m + 1 < n_rotations else 0
        missing += not found
    return missing
