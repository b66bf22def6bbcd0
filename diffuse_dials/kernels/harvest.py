"""The rows that the pass over a panel leaves, in the order of their voxels, and their columns."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, OPTIONS
from diffuse_dials.kernels.places import SLOTS
from diffuse_dials.kernels.still import (
    BACKGROUND,
    BACKGROUND_VARIANCE,
    COUNTS,
    FAST,
    N_PIXELS,
    PHOTONS,
    POSITIVE,
    RESPONSE,
    SLOW,
)
from diffuse_dials.kernels.vectors import LINE, ones, prefetch, trailing_zeros

_DIGIT = 10  # bits that are sorted by at a time
_AHEAD_BRICKS, _AHEAD_ROWS = 4, 16  # what is fetched into the cache while these are worked on


@njit(**OPTIONS)
def _order(numbers, limit):
    """Places of whole numbers, which are from 0 to below ``limit``, in their ascending order: sorted digit by digit."""
    order, other = np.arange(len(numbers)), np.empty(len(numbers), np.int64)
    shift, last = 0, (1 << _DIGIT) - 1
    while limit - 1 >> shift:
        begin = np.zeros(last + 2, np.int64)
        for number in numbers:
            begin[np.uint64((number >> shift & last) + 1)] += 1
        for digit in range(last):
            begin[digit + 1] += begin[digit]
        for place in order:
            digit = np.uint64(numbers[np.uint64(place)] >> shift & last)
            other[np.uint64(begin[digit])] = place
            begin[digit] += 1
        order, other = other, order
        shift += _DIGIT
    return order


@njit(**OPTIONS)
def _used_bricks(table, bricks, voxels, n_places):
    """Numbers of the bricks in use, in ascending order and with one beyond all; and what ``_count`` takes of each."""
    order = _order(bricks[:n_places], 2 * table.shape[1])
    numbers, places = np.empty(n_places + 1, np.int64), np.full((n_places, 2), -1)
    inside, n = np.zeros((n_places, 2), np.uint64), 0
    for place in order:
        number, b = bricks[place] >> 1, bricks[place] & 1
        n += n == 0 or numbers[n - 1] != number
        numbers[n - 1], places[n - 1, b], inside[n - 1, b] = number, place, voxels[place]
    numbers[n] = table.shape[1]
    return numbers[: n + 1], places[:n], inside[:n]


@njit(**BORROW)
def _count(first, limit, numbers, inside, counts):
    """Count the voxels in use of bricks below a limit, those of each plane (or line) of every brick together.

    Args:
        first: Where the first of the bricks is in their order.
        limit: What their numbers are below.
        numbers: Of the bricks in use, ascending, and one beyond all.
        inside: Which voxels of each are in use, away from Bragg spots and in them, a bit each.
        counts: Result, shape (4,) for planes or (16,) for lines.

    Returns:
        Where the first of the other bricks is.
    """
    n_bits = np.uint64(SLOTS // len(counts))
    last, at = (np.uint64(1) << n_bits) - np.uint64(1), np.uint64(first)
    counts[:] = 0
    while numbers[at] < limit:
        for part in range(len(counts)):
            begin = np.uint64(part) * n_bits
            for b in range(2):
                counts[part] += np.int64(ones(inside[at, np.uint64(b)] >> begin & last))
        at += np.uint64(1)
    return np.int64(at)


@njit(**BORROW)
def _write_brick(h, k, l, places, inside, slots, lines, index, bragg, row):
    """Write what ``in_order`` returns for the voxels of a brick.

    Args:
        h, k, l: Index of its first voxel.
        places, inside: Its places, and which voxels are in use, away from Bragg spots and in them.
        lines: Where each line goes on, shape (16,).
    """
    hit = inside[0] | inside[1]
    while hit:
        voxel = trailing_zeros(hit)
        hit &= hit - np.uint64(1)
        line = voxel >> np.uint64(2)
        n = np.uint64(lines[line])
        for b in range(2):
            if inside[b] >> voxel & np.uint64(1):
                index[n, np.uint64(0)] = h + np.int64(line >> np.uint64(2))
                index[n, np.uint64(1)] = k + np.int64(line & np.uint64(3))
                index[n, np.uint64(2)] = l + np.int64(voxel & np.uint64(3))
                bragg[n], row[n] = b == 1, slots[np.uint64(places[b]) * np.uint64(SLOTS) + voxel]
                n += np.uint64(1)
        lines[line] = n


@njit(**BORROW)
def _fetch(places, slots):
    """Have the slots of a brick in the cache soon."""
    for b in range(2):
        if places[b] >= 0:
            for i in range(0, SLOTS, LINE // 4):
                prefetch(slots, np.uint64(places[b] * SLOTS + i))


@njit(**BORROW)
def _take_out_origin(n_bricks, corner, table, voxels, slots, whole):
    """Take the voxel of s = 0 off ``voxels``; returns its number of rows, and of pixels away from Bragg spots."""
    n_rows = n_pixels = 0
    x, y, z = -corner[0], -corner[1], -corner[2]
    if min(min(x, y), z) < 0 or x >> 2 >= n_bricks[0] or y >> 2 >= n_bricks[1] or z >> 2 >= n_bricks[2]:
        return n_rows, n_pixels
    inside = (x & 3) << 4 | (y & 3) << 2 | z & 3
    bit = np.uint64(1) << np.uint64(inside)
    for b in range(2):
        place = np.int64(table[b, ((x >> 2) * n_bricks[1] + (y >> 2)) * n_bricks[2] + (z >> 2)])
        if place >= 0 and voxels[place] & bit:
            voxels[place] ^= bit
            n_rows += 1
            n_pixels += whole[slots[place * SLOTS + inside], N_PIXELS] * (b == 0)
    return n_rows, n_pixels


@njit(**OPTIONS)
def in_order(n_bricks, corner, table, bricks, voxels, slots, used, whole):
    """All voxels with pixels, in ascending order of their index.

    Args:
        n_bricks: Of the grid, along each axis.
        corner: Index of the grid's first voxel, shape (3,).
        table, bricks, voxels, slots, used, whole: As ``sum_rows`` left them, see places.Places and still.Sums. (Not
            as one tuple: of a long one numba finds the type anew at every call, in Python.)

    Returns:
        (index, shape (n, 3), int32, that of s = 0 left out; bragg, shape (n,), bool; row of the sums, shape (n,);
        number of pixels away from Bragg spots in the voxel that is left out).
    """
    left_out, n_left_out = _take_out_origin(n_bricks, corner, table, voxels, slots, whole)
    n_rows = used[1] - left_out
    index, bragg, row = np.empty((n_rows, 3), np.int32), np.empty(n_rows, np.bool_), np.empty(n_rows, np.uint32)
    numbers, places, inside = _used_bricks(table, bricks, voxels, used[0])
    planes, lines = np.empty(4, np.int64), np.empty(16, np.int64)
    n = start = 0
    while start < len(places):  # a slab of bricks: four planes of voxels, one after the other in the order
        i = numbers[start] // (n_bricks[1] * n_bricks[2])
        stop = _count(start, (i + 1) * n_bricks[1] * n_bricks[2], numbers, inside, planes)
        for x in range(4):
            planes[x], n = n, n + planes[x]
        while start < stop:  # a row of bricks: four lines in each of the planes
            j = numbers[start] // n_bricks[2]
            end = _count(start, (j + 1) * n_bricks[2], numbers, inside, lines)
            for line in range(16):
                x = line >> 2
                lines[line], planes[x] = planes[x], planes[x] + lines[line]
            h, k = corner[0] + 4 * i, corner[1] + 4 * (j - i * n_bricks[1])
            for brick in range(start, end):
                l = corner[2] + 4 * (numbers[brick] - j * n_bricks[2])
                _fetch(places[min(brick + _AHEAD_BRICKS, len(places) - 1)], slots)
                _write_brick(h, k, l, places[brick], inside[brick], slots, lines, index, bragg, row)
            start = end
    return index, bragg, row, n_left_out


@njit(**OPTIONS)
def make_empty(table, bricks, slots, used, whole, real):
    """Make the sums empty again."""
    n_places, n_rows = used
    for place in range(n_places):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
    slots[: n_places * SLOTS] = -1
    whole[:n_rows] = 0
    real[:n_rows] = 0
    used[:] = 0


def columns(whole, real, rows, counting, unit, factor, read_variance, place):
    """What the sums of voxels or |s| bins say.

    Args:
        whole, real: Sums, shape (m, 4 or 5) and (m, 4) or (m, 0).
        rows: Which of them, shape (n,).
        counting: Whether the whole numbers are photons; if not, the real ones are.
        unit: Of the response, sr s.
        factor: Variance of a photon, in photons.
        read_variance: Of each pixel, photons².
        place: For positions: number of the first pixel that was read and the step to the next, along both axes. Or
            None.

    Returns:
        (counts, background, response, variance, number of pixels), shape (n,) each: photons, photons, sr s, photons²,
        and int32; mean fast and slow coordinate on the panel, shape (n, 2), pixels, or None. To be read only: without
        a background it is one 0, and a variance that is the counts is their array, as memory costs more than
        arithmetic.
    """
    found = _columns(whole, real, rows, counting, unit, factor, read_variance, place)
    if real.shape[1]:
        return found
    counts, _, *others = found
    return counts, np.broadcast_to(0.0, counts.shape), *others


@njit(**OPTIONS)
def _columns(whole, real, rows, counting, unit, factor, read_variance, place):
    n, n_columns, with_real = len(rows), whole.shape[1], real.shape[1] > 0
    poisson = counting and not with_real and factor == 1 and read_variance == 0
    counts, response, n_pixels = np.empty(n), np.empty(n), np.empty(n, np.int32)
    variance, background = counts if poisson else np.empty(n), np.empty(n if with_real else 0)
    position = None if place is None else np.empty((n, 2))
    flat = whole.reshape(whole.size)
    for i in range(n):
        ahead = np.uint64(rows[min(i + _AHEAD_ROWS, n - 1)]) * np.uint64(n_columns)
        prefetch(flat, ahead)
        prefetch(flat, ahead + np.uint64(n_columns - 1))
        row = np.uint64(rows[i])
        number = whole[row, N_PIXELS]
        n_pixels[i] = number
        counts[i] = whole[row, COUNTS] if counting else real[row, PHOTONS]
        response[i] = whole[row, RESPONSE] * unit
        if not poisson:
            photons = counts[i] if counting else real[row, POSITIVE]
            variance[i] = factor * photons + read_variance * whole[row, N_PIXELS]
        if with_real:
            background[i] = real[row, BACKGROUND]
            variance[i] += real[row, BACKGROUND_VARIANCE]
        if place is not None:
            first, step = place
            position[i, 0] = first + 0.5 + step * (whole[row, FAST] / (2.0 * number) - 0.5)
            position[i, 1] = first + 0.5 + step * (whole[row, SLOW] / (2.0 * number) - 0.5)
    return counts, background, response, variance, n_pixels, position


@njit(**BORROW)
def away_from_spots(n_pixels, bragg):
    """Number of pixels in the rows that are not of Bragg spots."""
    total = 0
    for i in range(len(bragg)):
        total += n_pixels[i] * (not bragg[i])
    return total
