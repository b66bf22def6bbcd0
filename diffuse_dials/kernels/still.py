"""One panel of one still in one pass: pixels → sums per voxel and per |s| bin.

Rows are taken in pieces (kernels.pieces). Where the voxel, the Bragg mask or the state of a pixel changes along a piece
is worked out first (kernels.crossings, kernels.spots) and marked by bits; runs of pixels between two marks share all of
it. The sums of a run are differences of running sums, added to its voxel, and those of the static segments of |s| go to
their bins. The running sums are whole numbers, so that no rounding enters: the response comes as multiples of a small
unit. Pieces with untrusted, masked or unwanted pixels take a few more steps.

The NumPy code of algorithms.stills.still_pixels and algorithms.gridding does the same step by step: the reference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.crossings import (
    OPTIONS,
    find_crossings,
    localise,
    trailing_zeros,
    visit_pixels,
)
from diffuse_dials.kernels.pieces import BEYOND, BLOCK, ERROR, MASKED, PIECE, USED
from diffuse_dials.kernels.spots import mark_near

SLOTS = 64  # voxels are found through bricks of 4 x 4 x 4
# Columns of the sums: whole numbers (of |s| bins the first four), and real ones where they are needed.
N_PIXELS, COUNTS, RESPONSE, FAST, SLOW = range(5)
N_OVERLOADED = 3
PHOTONS, POSITIVE, BACKGROUND, BACKGROUND_VARIANCE = range(4)
# A run's key: the voxel relative to the piece's first, 21 bits each, around the middle of their range
_BITS, _MIDDLE = 21, 1 << 20
_FIELD = (1 << _BITS) - 1


class Crystal(NamedTuple):
    """What the orientation of a still decides.

    Attributes:
        matrices: Matrix and constant from a unit vector to coordinates from the grid's corner, and to the Miller
            indices of each lattice of ``lattices``, shape (1 + l, 3, 4).
        n_bricks: Of the grid, along each axis, shape (3,), int64.
        sizes: How much each coordinate changes at most by an error of 1 of the unit vector, shape (1 + l, 3).
        beam: Unit vector ŝ0.
        wavelength: Å.
        lattices: Bragg masks by distance, shape (l, spots.N_LATTICE); l may be 0.
        centring: Centring translations, shape (m, 3).
        sigmas_squared: Square of the Bragg radius in widths of a spot, by |s|; the last holds beyond.
        s_step: Steps of ``sigmas_squared``, 1/Å.
    """

    matrices: np.ndarray
    sizes: np.ndarray
    n_bricks: np.ndarray
    beam: np.ndarray
    wavelength: float
    lattices: np.ndarray
    centring: np.ndarray
    sigmas_squared: np.ndarray
    s_step: float


class Sums(NamedTuple):
    """Where the sums go.

    Attributes:
        table: Place of each brick, -1 unused, shape (2, number of bricks): Bragg pixels apart, int32.
        bricks: Which brick is at each place (twice its number, plus 1 for Bragg pixels), int64.
        slots: Row of each voxel of the bricks in use, -1 unused, shape (places · SLOTS,), int32.
        used: Numbers of places and of rows in use, int64.
        whole, real: Sums, shape (rows, 5) int64 and (rows, 4) or (rows, 0) float64.
        bin_whole, bin_real: Of each |s| bin, shape (bins, 4) each.
    """

    table: np.ndarray
    bricks: np.ndarray
    slots: np.ndarray
    used: np.ndarray
    whole: np.ndarray
    real: np.ndarray
    bin_whole: np.ndarray
    bin_real: np.ndarray


# Numba counts references of arrays, with locked instructions, for each slice and each field of a tuple that is taken:
# but for one slice a piece, the functions get whole arrays and say where.


@njit(**OPTIONS)
def _untrusted(values, low, high):
    """Whether any of the values is beyond the limits."""
    beyond = np.int32(0)
    for i in range(len(values)):
        beyond = np.int32(beyond | np.int32(not ((values[i] >= low) & (values[i] <= high))))
    return beyond


@njit(**OPTIONS)
def _running(values, counts):
    total = np.int64(0)
    for i in range(len(values)):
        total += np.int64(values[i])
        counts[i + 1] = total


@njit(**OPTIONS)
def _running_good(values, bad, counts):
    total = np.int64(0)
    for i in range(len(values)):
        total += np.int64(0) if bad[i] else np.int64(values[i])
        counts[i + 1] = total


@njit(**OPTIONS)
def _screen(
    row, first, values, limits, state, response, segment, segment_stop, segment_bin, bad, skip, words, bin_whole
):
    """Tell which pixels of a piece are no measurement, and take the refused ones out of the bins' static sums.

    Args:
        segment: Number of the piece's first segment.
        bad: Result: no measurement.
        skip: Result: not for the map.
        words: Bits of the pixels where ``skip`` changes; added to.
    """
    low, high, trusted, top = limits
    before = np.uint8(0)
    for i in range(len(values)):
        value = values[i]
        if i == segment_stop[segment]:
            segment += 1
        masked = state[row, first + i] == MASKED
        refused = not (value >= low and value <= high)
        bad[i] = masked or refused
        if refused and not masked:
            s = segment_bin[segment]
            bin_whole[s, N_PIXELS] -= 1
            bin_whole[s, RESPONSE] -= np.int64(np.uint32(response[row, first + i + 1] - response[row, first + i]))
            bin_whole[s, N_OVERLOADED] += trusted < value <= top
        skip[i] = bad[i] or state[row, first + i] == BEYOND
        if skip[i] != before:
            words[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
        before = skip[i]


@njit(**OPTIONS)
def _real_terms(row, first, n, values, bad, dirty, pedestal, gain, background, variance, terms):
    """Photons, their positive part, background and its variance of each pixel of a piece; 0 where it is bad."""
    if gain is not None:
        offset_row, gain_row = row % pedestal.shape[0], row % gain.shape[0]
        one_offset, one_gain = pedestal.shape[1] == 1, gain.shape[1] == 1
        for i in range(n):
            at = first + i
            value = values[i] - pedestal[offset_row, 0 if one_offset else at]
            value /= gain[gain_row, 0 if one_gain else at]
            terms[PHOTONS, i], terms[POSITIVE, i] = value, max(value, 0.0)
    if background is not None:
        for i in range(n):
            terms[BACKGROUND, i], terms[BACKGROUND_VARIANCE, i] = background[row, first + i], variance[row, first + i]
    if dirty:
        for i in range(n):
            if bad[i]:
                for j in range(4):
                    terms[j, i] = 0.0


@njit(**OPTIONS)
def _add_terms(start, stop, terms, slot, real):
    """Add the sums of a run's real terms to a row of the sums."""
    for j in range(real.shape[1]):
        total = 0.0
        for i in range(start, stop):
            total += terms[j, i]
        real[slot, j] += total


@njit(**OPTIONS)
def _slot(a, b, c, bragg, bricks_1, bricks_2, table, bricks, slots, used):
    """Row of a voxel in the sums; brick and row are taken into use if they are new."""
    brick = ((a >> 2) * bricks_1 + (b >> 2)) * bricks_2 + (c >> 2)
    place = table[bragg, brick]
    if place < 0:
        place = np.int32(used[0])
        table[bragg, brick] = place
        bricks[place] = brick << 1 | bragg
        used[0] += 1
    at = np.int64(place) * SLOTS + ((a & 3) << 4 | (b & 3) << 2 | (c & 3))
    slot = slots[at]
    if slot < 0:
        slot = np.int32(used[1])
        slots[at] = slot
        used[1] += 1
    return np.int64(slot)


@njit(**OPTIONS)
def _mark_keep(row, first, n, keep, near, words):
    """Add to ``near`` what other Bragg masks leave out."""
    any_near, before = False, np.uint8(0)
    for i in range(n):
        left_out = np.uint8(not keep[row, first + i])
        near[i] |= left_out
        any_near |= left_out != 0
        if left_out != before:
            words[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
        before = left_out
    return any_near


@njit(**OPTIONS)
def sum_rows(
    first_row, raw, limits, shared, pieces, plane, shift, crystal, keep, pedestal, gain, background, variance, sums
):
    """Add the pixels of a panel to the sums, row after row, as long as there is room for what a row may need.

    Args:
        first_row: Where to start.
        raw: Values as stored, shape (slow, fast), whole or real numbers.
        limits: Lowest and highest value to use, the highest trusted one and the highest that is no sentinel, of raw's
            type.
        shared: pieces.Shared of the panel; the bins' numbers of pixels and responses are in the sums already.
        pieces: pieces.Pieces of the panel.
        plane: Position of the centre of the first pixel, steps to the next one along fast and slow, unit vectors along
            fast and slow, shape (5, 3), mm.
        shift: What parallax adds along fast and slow, shape (2, slow, fast), mm; or None.
        crystal: Crystal.
        keep: Which pixels pass other Bragg masks, shape (slow, fast), or None.
        pedestal, gain: Arrays that broadcast to raw's shape; None for whole numbers that are photons.
        background, variance: Photons and photons², shape (slow, fast), or None.
        sums: Sums.

    Returns:
        The row to go on with after making room; the number of rows when all are done.
    """
    n_rows, n_fast = raw.shape
    low, high, _, _ = limits
    response, state, kinds, first_segment, segment_stop, segment_bin = shared
    edges, polynomials, bounds = pieces
    matrices, sizes, n_bricks, beam, wavelength, lattices, centring, sigmas_squared, s_step = crystal
    table, bricks, slots, used, whole, real, bin_whole, bin_real = sums
    n_pieces, n_lattices, bricks_1, bricks_2 = len(edges) - 1, len(lattices), n_bricks[1], n_bricks[2]
    c, base, spread = np.empty((3, 4), np.float32), np.empty(3), np.empty(3)
    metric, middles, here = np.empty(6, np.float32), np.empty(PIECE // BLOCK, np.float32), np.empty(BLOCK, np.int32)
    places, floors = np.empty(PIECE + 8, np.int32), np.empty(PIECE, np.int32)
    near, bad, skip = np.zeros(PIECE, np.uint8), np.zeros(PIECE, np.uint8), np.zeros(PIECE, np.uint8)
    step, words = np.zeros(PIECE + 1, np.int64), np.zeros(2, np.uint64)
    counts, terms = np.zeros(PIECE + 1, np.int64), np.zeros((4, PIECE))
    for row in range(first_row, n_rows):
        if used[0] + min(n_fast, 2 * table.shape[1]) > len(bricks) or used[1] + n_fast > len(whole):
            return row
        for part in range(n_pieces):
            piece = row * n_pieces + part
            kind, first = kinds[piece], edges[part]
            n = edges[part + 1] - first
            if kind == MASKED:
                continue
            values = raw[row, first : first + n]
            words[0] = words[1] = 0
            dirty = kind != USED or _untrusted(values, low, high)
            if dirty:
                _screen(
                    row, first, values, limits, state, response, first_segment[piece], segment_stop, segment_bin, bad,
                    skip, words, bin_whole,
                )  # fmt: skip
            if gain is None:
                if dirty:
                    _running_good(values, bad, counts)
                else:
                    _running(values, counts)
            if gain is not None or background is not None:
                _real_terms(row, first, n, values, bad, dirty, pedestal, gain, background, variance, terms)
            start = np.int64(0)
            for j in range(first_segment[piece], first_segment[piece + 1]):
                stop, s = np.int64(segment_stop[j]), np.int64(segment_bin[j])
                if gain is None:
                    bin_whole[s, COUNTS] += counts[stop] - counts[start]
                if gain is not None or background is not None:
                    _add_terms(start, stop, terms, s, bin_real)
                start = stop
            if kind == BEYOND:
                continue
            any_near = False
            if keep is not None:
                any_near = _mark_keep(row, first, n, keep, near, words)
            for j in range(n_lattices):
                any_near |= mark_near(
                    n, row, first, polynomials, bounds, piece, plane, shift, beam, wavelength, s_step, matrices,
                    sizes, lattices, j, centring, sigmas_squared, c, metric, middles, here, base, spread, near, words,
                )  # fmt: skip
            localise(matrices, 0, polynomials, piece, np.float64(n // 2), c, base, spread)
            u, v, w = np.int64(base[0]), np.int64(base[1]), np.int64(base[2])
            key = np.int64(0)
            for j in range(3):
                margin = bounds[piece, ERROR] * sizes[0, j] + spread[j]
                unit = np.int64(1) << ((2 - j) * _BITS)
                below, certain = find_crossings(n, c, j, margin, unit, places, step, words)
                if not certain:
                    below = visit_pixels(
                        n, c, j, margin, unit, row, first, plane, shift, matrices, base, floors, step, words
                    )
                key += (below + _MIDDLE) * unit
            start, half, word = np.int64(0), 0, words[0] & ~np.uint64(1)
            while start < n:
                if word == 0 and half == 0:
                    half, word = 1, words[1]
                stop = n
                if word != 0:
                    stop = np.int64(trailing_zeros(word)) + 64 * half
                    word &= word - np.uint64(1)
                if not (dirty and skip[start]):
                    bragg = np.int64(near[start]) if any_near else np.int64(0)
                    slot = _slot(
                        u - _MIDDLE + (key >> (2 * _BITS)), v - _MIDDLE + ((key >> _BITS) & _FIELD),
                        w - _MIDDLE + (key & _FIELD), bragg, bricks_1, bricks_2, table, bricks, slots, used,
                    )  # fmt: skip
                    n_pixels = stop - start
                    whole[slot, N_PIXELS] += n_pixels
                    if gain is None:
                        whole[slot, COUNTS] += counts[stop] - counts[start]
                    whole[slot, RESPONSE] += np.int64(
                        np.uint32(response[row, first + stop] - response[row, first + start])
                    )
                    whole[slot, FAST] += n_pixels * (2 * first + start + stop)
                    whole[slot, SLOW] += n_pixels * (2 * row + 1)
                    if gain is not None or background is not None:
                        _add_terms(start, stop, terms, slot, real)
                key += step[stop]
                step[stop] = 0
                start = stop
            if any_near:
                near[:] = 0
    return n_rows
