"""One pass over scaled sums, still by still, into the accumulators of the voxels."""

from __future__ import annotations

import numba
import numpy as np

# Columns of the accumulators, shape (n_voxels, columns).
WHOLE = ("numerator", "denominator", "variance", "counts", "one_photon", "square", "product", "response_square")
HALF = WHOLE[:5]
FURTHER = WHOLE[:2]
WITH_BRAGG = ("numerator", "denominator", "square", "product", "response_square")


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_stills(
    still, voxel, bragg, left_out, weight, signal, expected, variance, counts, n_pixels, first,
    whole, whole_n, pixels, every, every_n, half, half_n, further, further_n, slot,
):  # fmt: skip
    """Add rows to the accumulators; a still's rows of one voxel (mates, panels) count as one measurement of it.

    With n = Σ u (C - G), d = Σ u b R over those rows, a still adds n, d, Σ u² var, Σ C, ū², n², n d and d².

    Args:
        still, voxel: Of each row, shape (n,), int; rows of a still stand together.
        bragg, left_out: Pixels under the Bragg mask; rows that count nowhere; same shape, bool.
        weight, signal, expected, variance, counts, n_pixels: u, C - G, b R, var(C - G), C and pixels, same shape.
        first: Stills of the first half of each split, shape (n_splits, n_stills), bool.
        whole, half, further: Accumulators of ``WHOLE``, ``HALF`` (first split) and ``FURTHER`` (each further split,
            shape (n_splits - 1, n_voxels, 2)); ``*_n`` count stills, int32; ``pixels`` pixels.
        every: Accumulators of ``WITH_BRAGG``, with the rows under the Bragg mask and u = 1.
        slot: Scratch, shape (n_voxels,), int32, all -1; left so.
    """
    n_rows = len(still)
    longest, begin = 0, 0
    for r in range(1, n_rows + 1):
        if r == n_rows or still[r] != still[begin]:
            longest, begin = max(longest, r - begin), r
    sums = np.zeros((longest, 9))
    touched = np.zeros(longest, dtype=np.int64)
    begin = 0
    while begin < n_rows:
        i = still[begin]
        end, k = begin, 0
        while end < n_rows and still[end] == i:
            if not left_out[end]:
                v = voxel[end]
                j = slot[v]
                if j < 0:
                    j, slot[v], touched[k] = k, k, v
                    sums[j, :] = 0.0
                    k += 1
                sums[j, 0] += signal[end]
                sums[j, 1] += expected[end]
                if not bragg[end]:
                    u = weight[end]
                    sums[j, 2] += u * signal[end]
                    sums[j, 3] += u * expected[end]
                    sums[j, 4] += u * u * variance[end]
                    sums[j, 5] += counts[end]
                    sums[j, 6] += n_pixels[end]
                    sums[j, 7] += u
                    sums[j, 8] += 1.0
            end += 1
        for j in range(k):
            v = touched[j]
            slot[v] = -1
            n, d = sums[j, 0], sums[j, 1]
            every_n[v] += 1
            every[v, 0] += n
            every[v, 1] += d
            every[v, 2] += n * n
            every[v, 3] += n * d
            every[v, 4] += d * d
            if sums[j, 8] == 0.0:
                continue
            n, d = sums[j, 2], sums[j, 3]
            u = sums[j, 7] / sums[j, 8]
            whole_n[v] += 1
            pixels[v] += np.int64(sums[j, 6])
            whole[v, 0] += n
            whole[v, 1] += d
            whole[v, 2] += sums[j, 4]
            whole[v, 3] += sums[j, 5]
            whole[v, 4] += u * u
            whole[v, 5] += n * n
            whole[v, 6] += n * d
            whole[v, 7] += d * d
            if first[0, i]:
                half_n[v] += 1
                half[v, 0] += n
                half[v, 1] += d
                half[v, 2] += sums[j, 4]
                half[v, 3] += sums[j, 5]
                half[v, 4] += u * u
            for split in range(1, len(first)):
                if first[split, i]:
                    further_n[split - 1, v] += 1
                    further[split - 1, v, 0] += n
                    further[split - 1, v, 1] += d
        begin = end
