"""One pass over scaled sums, still by still, into the accumulators of the voxels."""

from __future__ import annotations

import numba
import numpy as np

from diffuse_dials.kernels.options import INLINE, OPTIONS

# Columns of the accumulators, shape (n_voxels, columns).
WHOLE = ("numerator", "denominator", "variance", "counts", "one_photon", "square", "product", "response_square")
HALF = WHOLE[:5]
FURTHER = WHOLE[:2]
WITH_BRAGG = ("numerator", "denominator", "square", "product", "response_square")
# Columns of a still's own sums: Σ (C - G) and Σ b R with the rows under the Bragg mask; without them n, d, Σ u² var,
# Σ C, pixels, Σ u and the number of rows.
_ALL_SIGNAL, _ALL_EXPECTED, _SIGNAL, _EXPECTED, _VARIANCE, _COUNTS, _PIXELS, _WEIGHT, _ROWS = range(9)


@numba.njit(**OPTIONS)
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
    sums, touched = np.zeros((longest, 9)), np.zeros(longest, dtype=np.int64)
    begin = 0
    while begin < n_rows:
        end, n_touched = begin, 0
        while end < n_rows and still[end] == still[begin]:
            if not left_out[end]:
                v = voxel[end]
                if slot[v] < 0:
                    slot[v], touched[n_touched] = n_touched, v
                    sums[n_touched, :] = 0.0
                    n_touched += 1
                _add_row(
                    sums, slot[v], bragg[end], weight[end], signal[end], expected[end], variance[end], counts[end],
                    n_pixels[end],
                )  # fmt: skip
            end += 1
        for j in range(n_touched):
            slot[touched[j]] = -1
            _add_still(
                touched[j], sums, j, first, still[begin], whole, whole_n, pixels, every, every_n, half, half_n, further,
                further_n,
            )  # fmt: skip
        begin = end


@numba.njit(**INLINE)
def _add_row(sums, j, bragg, weight, signal, expected, variance, counts, n_pixels):
    """Add a row to the still's own sums for its voxel."""
    sums[j, _ALL_SIGNAL] += signal
    sums[j, _ALL_EXPECTED] += expected
    if bragg:
        return
    sums[j, _SIGNAL] += weight * signal
    sums[j, _EXPECTED] += weight * expected
    sums[j, _VARIANCE] += weight * weight * variance
    sums[j, _COUNTS] += counts
    sums[j, _PIXELS] += n_pixels
    sums[j, _WEIGHT] += weight
    sums[j, _ROWS] += 1.0


@numba.njit(**INLINE)
def _add_still(
    v, sums, j, first, still, whole, whole_n, pixels, every, every_n, half, half_n, further, further_n
):  # fmt: skip
    """Add a still's own sums for a voxel to the accumulators."""
    n, d = sums[j, _ALL_SIGNAL], sums[j, _ALL_EXPECTED]
    every_n[v] += 1
    terms = n, d, n * n, n * d, d * d
    for column in range(5):
        every[v, column] += terms[column]
    if sums[j, _ROWS] == 0.0:
        return
    n, d, u = sums[j, _SIGNAL], sums[j, _EXPECTED], sums[j, _WEIGHT] / sums[j, _ROWS]
    # in the order of WHOLE, of which HALF and FURTHER are the first
    terms = n, d, sums[j, _VARIANCE], sums[j, _COUNTS], u * u, n * n, n * d, d * d
    whole_n[v] += 1
    pixels[v] += np.int64(sums[j, _PIXELS])
    for column in range(8):
        whole[v, column] += terms[column]
    if first[0, still]:
        half_n[v] += 1
        for column in range(5):
            half[v, column] += terms[column]
    for split in range(1, len(first)):
        if first[split, still]:
            further_n[split - 1, v] += 1
            further[split - 1, v, 0] += n
            further[split - 1, v, 1] += d
