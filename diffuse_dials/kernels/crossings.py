"""Where the pixels of a patch pass from voxel to voxel along its rows.

Where a coordinate only rises or only falls along the rows, by less than a voxel from pixel to pixel, it passes each
whole number at one place of a row. That is solved for in all rows of the patch at once, and then checked at the pixels
on both sides, given the margin to within which the coordinate is right. The few rows where this leaves a doubt are
worked out pixel by pixel (kernels.voxels).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import coefficients
from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import PIECE, TOGETHER, WORD, WORDS
from diffuse_dials.kernels.vectors import or_into, set_bits
from diffuse_dials.kernels.voxels import CENTRE, FIELD

_OPEN = 2 * PIECE  # stands for the number of a pixel that is not certain
_STEADY = 0.01  # of the steepest slope: what the least must be at least for a coordinate to be solved for
# Elements of what is known of a piece of a row: WORDS for each coordinate, and
FIRST_KEY, UNSURE, N_KNOWN = range(3 * WORDS, 3 * WORDS + 3)


class Crossings(NamedTuple):
    """What is known of the pixels of the patches of a group of rows, n in a row.

    Attributes:
        rows: In each row and of each piece, uint64: bits of the pixels at which a coordinate is in another voxel than
            at the pixel before, for each coordinate; key (kernels.voxels) of the first pixel; whether all that is not
            known. Shape (TOGETHER, n, N_KNOWN).
        steps: What a key changes by where a coordinate passes into another voxel, shape (n, 3).
        marks, first_keys, unsure: Work space for one patch: the contents of ``rows``, shape (3 · WORDS · TOGETHER,),
            uint64, and twice (TOGETHER,), int32.
        numbers, ends: Work space: results of ``_solve`` and ``_find_ends``, shape (2 · TOGETHER,), int32 and single
            precision.
    """

    rows: np.ndarray
    steps: np.ndarray
    marks: np.ndarray
    first_keys: np.ndarray
    unsure: np.ndarray
    numbers: np.ndarray
    ends: np.ndarray


@njit(**OPTIONS)
def make_crossings(n_pieces):
    """Crossings of so many patches."""
    return Crossings(
        np.zeros((TOGETHER, n_pieces, N_KNOWN), np.uint64), np.zeros((n_pieces, 3), np.int64),
        np.zeros(3 * WORDS * TOGETHER, np.uint64), np.zeros(TOGETHER, np.int32), np.zeros(TOGETHER, np.int32),
        np.zeros(2 * TOGETHER, np.int32), np.zeros(2 * TOGETHER, np.float32),
    )  # fmt: skip


# Loops in functions of their own, as the compiler makes no vector instructions of a loop within another.


@njit(**INLINE)
def _floor(value):
    whole = np.int32(value)
    return np.int32(whole - np.int32(np.float32(whole) > value))


@njit(**INLINE)
def _find_ends(part, j, half, n, cubics, ends):
    """In each row the value at the first pixel, then in each row the pixels for each voxel on the way to the last."""
    begin, end = np.float32(-half), np.float32(n - 1 - half)
    for i in range(TOGETHER):
        a, b, c, d = coefficients(cubics, part, j, i)
        first = ((d * begin + c) * begin + b) * begin + a
        last = ((d * end + c) * end + b) * end + a
        ends[np.uint64(i)] = first
        ends[np.uint64(TOGETHER + i)] = np.float32(n - 1) / (last - first)


@njit(**INLINE)
def _add_first_keys(j, ends, first_keys):
    shift = np.int32(FIELD * (2 - j))
    for i in range(TOGETHER):
        r = np.uint64(i)
        first_keys[r] += np.int32(np.int32(_floor(ends[r]) + np.int32(CENTRE)) << shift)


@njit(**INLINE)
def _number(a, b, c, d, t, per_slope, sign, middle, n, margin):
    """Number of the first pixel at which a cubic, of which ``t`` is nearly a root, is beyond 0; n if none is."""
    last, one = np.float32(n - 1), np.float32(1)
    # by Newton's method, the slope taken once, and what divides by it from what does so for the slope on average
    per_slope *= np.float32(2) - per_slope * ((np.float32(3) * d * t + np.float32(2) * c) * t + b)
    t -= (((d * t + c) * t + b) * t + a) * per_slope
    t -= (((d * t + c) * t + b) * t + a) * per_slope
    place = t + middle
    place = place if place > -one else -one
    place = place if place < last else last
    number = np.int32(place + one)
    t = np.float32(number) - middle
    beyond = sign * (((d * t + c) * t + b) * t + a)
    t -= one
    before = sign * (((d * t + c) * t + b) * t + a)
    certain = ((beyond > margin) | (number == np.int32(n))) & ((before < -margin) | (number == np.int32(0)))
    return number if certain else np.int32(_OPEN)


@njit(**INLINE)
def _solve(part, j, k, sign, half, n, margin, cubics, ends, numbers):
    """Number of the first pixel that is beyond a whole number k in each row, and for k + 1; n if none is.

    Args:
        sign: 1 where the coordinate rises, -1 where it falls.
        half: n // 2.
        numbers: Result, _OPEN where it is not certain.
    """
    middle = np.float32(half)
    for i in range(TOGETHER):
        a, b, c, d = coefficients(cubics, part, j, i)
        per_slope = ends[np.uint64(TOGETHER + i)]
        t = (k - ends[np.uint64(i)]) * per_slope - middle
        a -= k
        numbers[np.uint64(i)] = _number(a, b, c, d, t, per_slope, sign, middle, n, margin)
        t += per_slope
        a -= np.float32(1)
        numbers[np.uint64(TOGETHER + i)] = _number(a, b, c, d, t, per_slope, sign, middle, n, margin)


@njit(**INLINE)
def _stay(part, j, far, margin, cubics, first_keys, unsure):
    """Rows along which a coordinate stays in one voxel; the others are unsure.

    Args:
        far: Farthest pixel from the middle.
    """
    shift = np.int32(FIELD * (2 - j))
    for i in range(TOGETHER):
        a, b, c, d = coefficients(cubics, part, j, i)
        reach = ((np.abs(d) * far + np.abs(c)) * far + np.abs(b)) * far + margin
        low, high = _floor(a - reach), _floor(a + reach)
        unsure[np.uint64(i)] |= np.int32(low != high) * np.int32(_OPEN)
        first_keys[np.uint64(i)] += np.int32(np.int32(low + np.int32(CENTRE)) << shift)


@njit(**BORROW)
def find_crossings(part, n, local, cubics, margin, crossings):
    """What is known of the rows of a patch.

    Args:
        part, n: Which piece, and its number of pixels.
        local, cubics: Results of ``coordinates.localise`` and ``coordinates.expand``.
        margin: To within which they are right.
        crossings: Result, of this piece.
    """
    rows, steps, marks, first_keys, unsure, numbers, ends = crossings
    marks[:], first_keys[:], unsure[:] = np.uint64(0), np.int32(0), np.int32(0)
    half, far_r = n // 2, np.float64(TOGETHER // 2)
    far, margin = np.float64(half), np.float32(margin)
    for j in range(3):
        slope = local[j, 4, part]
        turn = np.abs(local[j, 5, part]) * far_r + np.abs(local[j, 6, part]) * far_r**2
        bend = np.abs(local[j, 7, part]) + np.abs(local[j, 8, part]) * far_r + np.abs(local[j, 9, part]) * far_r**2
        twist = np.abs(local[j, 10, part]) + np.abs(local[j, 11, part]) * far_r
        change = turn + 2 * far * bend + 3 * far**2 * twist
        least, most = np.abs(slope) - change, np.abs(slope) + change
        if not (least > _STEADY * most and most < 1 - _STEADY):
            _stay(part, j, np.float32(far), margin, cubics, first_keys, unsure)
            continue
        begin, end = -far, np.float64(n - 1 - half)
        bend, twist = local[j, 7, part], local[j, 10, part]
        first = ((twist * begin + bend) * begin + slope) * begin + local[j, 0, part]
        last = ((twist * end + bend) * end + slope) * end + local[j, 0, part]
        spread = np.abs(local[j, 1, part]) * far_r + np.abs(local[j, 2, part]) * far_r**2
        spread += np.abs(local[j, 3, part]) * far_r**3 + far * turn + far**3 * np.abs(local[j, 11, part]) * far_r
        spread += far**2 * (np.abs(local[j, 8, part]) * far_r + np.abs(local[j, 9, part]) * far_r**2) + margin
        sign = np.float32(1 if slope > 0 else -1)
        steps[part, j] = np.int64(sign) << FIELD * (2 - j)
        _find_ends(part, j, half, n, cubics, ends)
        _add_first_keys(j, ends, first_keys)
        low, high = np.floor(min(first, last) - spread), np.floor(max(first, last) + spread)
        for k in range(np.int64(low) + 1, np.int64(high) + 1, 2):  # two at a time, to keep the processor busy
            _solve(part, j, np.float32(k), sign, half, n, margin, cubics, ends, numbers)
            for i in range(2):
                or_into(numbers, TOGETHER * i, unsure)
                for word in range(WORDS):  # but for a piece's first pixel, where a run begins anyway
                    first, stop = np.int32(max(WORD * word, 1)), np.int32(min(WORD * (word + 1), n))
                    set_bits(numbers, TOGETHER * i, first, stop, marks, (WORDS * j + word) * TOGETHER)
    for r in range(TOGETHER):
        at = np.uint64(r)
        for word in range(3 * WORDS):
            rows[at, part, np.uint64(word)] = marks[np.uint64(word * TOGETHER) + at]
        rows[at, part, np.uint64(FIRST_KEY)] = np.uint64(first_keys[at])
        rows[at, part, np.uint64(UNSURE)] = np.uint64(unsure[at] & np.int32(_OPEN))
