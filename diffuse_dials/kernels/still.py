"""One panel of one still in one pass: pixels → sums per voxel and per |s| bin.

``sum_rows`` takes the rows one after the other through these steps; what is known of a row comes in pieces, and what
is known of TOGETHER rows of a piece in patches (kernels.pieces).

1. Running sums of the counts; pixels that are no measurement are found on the way.
2. The |s| bins, by segments that all stills share.
3. Once per patch: where the coordinates pass from voxel to voxel along its rows (kernels.crossings). In the few rows
   where that is not certain, each pixel gets a key of 32 bits that tells its voxel (kernels.voxels).
4. Which pixels are near a Bragg spot (kernels.tiles, kernels.spots), and which are not for the map, a bit each.
5. Runs of pixels with the same voxel and flags, and the key of each run (kernels.runs).
6. The row of the sums for each run's voxel (kernels.places), to which differences of the running sums are added.

The running sums are whole numbers, so that no rounding enters: the response comes as multiples of a small unit.

The NumPy code of algorithms.stills.still_pixels and algorithms.gridding does the same step by step; it is the
reference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import N_CUBICS, expand, farthest_powers, find_margins, find_sizes, localise
from diffuse_dials.kernels.crossings import UNSURE, find_crossings, make_crossings
from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import BEYOND, MASKED, MIXED, N_TERMS, PIECE, TOGETHER, WORD, rows_of
from diffuse_dials.kernels.places import KNOWN_BITS, find_others, look_up
from diffuse_dials.kernels.profile import add_run, run_on_profile
from diffuse_dials.kernels.runs import list_runs
from diffuse_dials.kernels.spots import make_work, mark_near
from diffuse_dials.kernels.vectors import prefetch, running_sums
from diffuse_dials.kernels.voxels import ALONE, STEEP, decide_close, find_voxels

LARGEST = 2**32 // PIECE - 1  # count of a pixel, where whole numbers are photons
# Columns of the sums: whole numbers (of |s| bins the first four), and real ones where they are needed.
N_PIXELS, COUNTS, RESPONSE, FAST, SLOW = range(5)
N_OVERLOADED = 3
PHOTONS, POSITIVE, BACKGROUND, BACKGROUND_VARIANCE = range(4)
_FAR = 48.0  # voxels from the base: then it is chosen anew


class Crystal(NamedTuple):
    """What the orientation of a still decides.

    Attributes:
        matrices: Matrix and constant from a unit vector to coordinates from the grid's corner, and to the Miller
            indices of each lattice of ``lattices``, shape (1 + l, 3, 4).
        n_bricks: Of the grid, along each axis, shape (3,), int64.
        sizes: How much each coordinate changes at most by an error of 1 of the unit vector, shape (1 + l, 3).
        beam: Unit vector ŝ0.
        wavelength: Å.
        lattices: Bragg masks by distance, shape (l, lattice.N_LATTICE); l may be 0.
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
        whole, real: Of each voxel, shape (rows, 5) int64 and (rows, 4) or (rows, 0) float64.
        bin_whole, bin_real: Of each |s| bin, shape (bins, 4) each.
    """

    whole: np.ndarray
    real: np.ndarray
    bin_whole: np.ndarray
    bin_real: np.ndarray


@njit(**INLINE)
def _untrusted(first, n, values, low, high):
    """Whether any of the values of a piece is beyond the limits, or no number."""
    least = most = values[np.uint64(first)]
    no_number = np.int32(0)
    for i in range(n):
        value = values[np.uint64(first + i)]
        least, most = min(least, value), max(most, value)
        no_number = np.int32(no_number | np.int32(value != value))
    return no_number != 0 or least < low or most > high


@njit(**BORROW)
def _screen(row, first, n, raw, limits, state, response, segment, segment_stop, segment_bin, bad, bin_whole):
    """Tell which pixels of a piece are no measurement, and take the refused ones out of the bins' static sums.

    Args:
        segment: Number of the piece's first segment.
        bad: Result: no measurement, of the pixels of the row.
    """
    low, high, trusted, top = limits
    for i in range(n):
        value = raw[row, first + i]
        if i == segment_stop[segment]:
            segment += 1
        masked = state[row, first + i] == MASKED
        refused = not (value >= low and value <= high)
        bad[first + i] = masked or refused
        if refused and not masked:
            s = segment_bin[segment]
            bin_whole[s, N_PIXELS] -= 1
            bin_whole[s, RESPONSE] -= np.int64(np.uint32(response[row, first + i + 1] - response[row, first + i]))
            bin_whole[s, N_OVERLOADED] += trusted < value <= top


@njit(**BORROW)
def _count(row, raw, limits, shared, counting, dirty, bad, counts, bin_whole):
    """Running sums of a row's counts.

    Args:
        counting: Whether the values are counts.
        dirty: Result: which pieces have pixels that are no measurement, or some that are not for the map.
        bad: Result: which pixels of these are no measurement.
        counts: Result, shape (row + 1,), uint32. They overflow; the difference over a piece is right as long as no
            value is above LARGEST.
        bin_whole: Sums of the |s| bins; what is refused is taken out of the static ones.
    """
    low, high, _, _ = limits
    response, state, kinds, first_segment, segment_stop, segment_bin = shared
    values, total = raw[row], np.uint32(0)
    n_fast, n_pieces = len(values), len(dirty)
    for part in range(n_pieces):
        piece, first = row * n_pieces + part, part * PIECE
        n = min(PIECE, n_fast - first)
        if kinds[piece] == MASKED:
            dirty[part], bad[first : first + n], counts[first + 1 : first + n + 1] = True, True, total
            continue
        dirty[part] = kinds[piece] == MIXED or _untrusted(first, n, values, low, high)
        if dirty[part]:
            _screen(
                row, first, n, raw, limits, state, response, first_segment[piece], segment_stop, segment_bin, bad,
                bin_whole,
            )  # fmt: skip
        if counting and dirty[part]:
            for i in range(first, first + n):
                total += np.uint32(0) if bad[i] else np.uint32(values[i])
                counts[i + 1] = total
        elif counting:
            total = running_sums(values, first, n, total, counts, first + 1)


@njit(**BORROW)
def _real_terms(row, raw, bad, dirty, pedestal, gain, background, variance, ratio, terms):
    """Photons, their positive part, background and its variance of each pixel of a row; 0 where it is bad."""
    n_fast = raw.shape[1]
    if gain is not None:
        offset_row, gain_row = row % pedestal.shape[0], row % gain.shape[0]
        one_offset, one_gain = pedestal.shape[1] == 1, gain.shape[1] == 1
        for i in range(n_fast):
            value = raw[row, i] - pedestal[offset_row, 0 if one_offset else i]
            value /= gain[gain_row, 0 if one_gain else i]
            terms[i, PHOTONS], terms[i, POSITIVE] = value, max(value, 0.0)
    if background is not None:
        first_row, second_row, squared = row % background.shape[0], row % variance.shape[0], ratio**2
        one_value, one_variance = background.shape[1] == 1, variance.shape[1] == 1
        for i in range(n_fast):
            terms[i, BACKGROUND] = background[first_row, 0 if one_value else i] * ratio
            terms[i, BACKGROUND_VARIANCE] = variance[second_row, 0 if one_variance else i] * squared
    for part in range(len(dirty)):
        if dirty[part]:
            for i in range(part * PIECE, min((part + 1) * PIECE, n_fast)):
                if bad[i]:
                    terms[i, :] = 0.0


@njit(**BORROW)
def _add_terms(start, stop, terms, slot, real):
    """Add the sums of a run's real terms to a row of the sums."""
    photons = positive = background = variance = 0.0
    for i in range(np.uint64(start), np.uint64(stop)):
        photons += terms[i, PHOTONS]
        positive += terms[i, POSITIVE]
        background += terms[i, BACKGROUND]
        variance += terms[i, BACKGROUND_VARIANCE]
    real[slot, PHOTONS] += photons
    real[slot, POSITIVE] += positive
    real[slot, BACKGROUND] += background
    real[slot, BACKGROUND_VARIANCE] += variance


@njit(**BORROW)
def _add_to_bins(row, kinds, first_segment, segment_stop, segment_bin, counting, counts, terms, bin_whole, bin_real):
    """Add a row to the |s| bins, segment by segment."""
    n_pieces = -(-(len(counts) - 1) // PIECE)
    for part in range(n_pieces):
        piece, start = row * n_pieces + part, part * PIECE
        if kinds[piece] == MASKED:
            continue
        for j in range(first_segment[piece], first_segment[piece + 1]):
            s, stop = np.uint64(segment_bin[np.uint64(j)]), part * PIECE + np.int64(segment_stop[np.uint64(j)])
            if counting:
                bin_whole[s, COUNTS] += np.int64(np.uint32(counts[np.uint64(stop)] - counts[np.uint64(start)]))
            if bin_real.shape[1]:
                _add_terms(start, stop, terms, s, bin_real)
            start = stop


@njit(**BORROW)
def _largest(size):
    most = 0.0
    for j in range(size.shape[0]):
        for part in range(size.shape[1]):
            most = max(most, size[j, part])
    return most


@njit(**BORROW)
def _find_patches(
    group, begin, n_rows, n_fast, kinds, polynomials, patches, matrices, sizes, powers, local, base, size, margins,
    cubics, crossings, known,
):  # fmt: skip
    """What is known of the pixels of a group of rows.

    Args:
        begin: Whether there is no base yet.
        powers: As in ``find_sizes``.
        local, base, size, margins: Results of ``localise``, ``find_sizes`` and ``find_margins``; the base is a
            multiple of 4, that keys count bricks, and kept from group to group, so that keys stay comparable, until
            the coordinates have gone far from it.
        cubics, crossings: Results of ``expand`` and ``find_crossings``.
        known: Emptied where the base changes.
    """
    n_pieces = base.shape[1]
    localise(matrices, 0, polynomials, group, 4.0 * begin, base, local)
    find_sizes(powers, local, size)
    if not begin and _largest(size) > _FAR:
        localise(matrices, 0, polynomials, group, 4.0, base, local)
        find_sizes(powers, local, size)
        begin = True
    if begin:
        known[:] = -1
    find_margins(0, group, patches, sizes, size, margins)
    first, n_slow = rows_of(group, n_rows)
    for part in range(n_pieces):
        used = False
        for piece in range(first * n_pieces + part, (first + n_slow) * n_pieces, n_pieces):
            used |= kinds[piece] < BEYOND
        if not used:
            continue
        expand(part, n_slow, local, cubics)
        # what the exact formula says may be farther from the base than the polynomials are, by the margin
        if max(max(size[0, part], size[1, part]), size[2, part]) + margins[part] > STEEP:
            crossings.rows[:, part, UNSURE] = 1
        else:
            find_crossings(part, min(PIECE, n_fast - part * PIECE), local, cubics, margins[part], crossings)


@njit(**BORROW)
def _find_voxels(row, r, n_fast, kinds, plane, shift, matrices, base, size, margins, cubics, known_rows, keys):
    """Keys of the pixels of a row, but for the flags NEAR and SKIP, in pieces whose crossings are not known.

    Args:
        r: The row's number in its patches.
        base, size, margins, cubics: Of the patches.
        known_rows: ``rows`` of the crossings.
        keys: Result.
    """
    for part in range(len(margins)):
        if not known_rows[r, part, UNSURE] or kinds[row * len(margins) + part] >= BEYOND:
            continue
        first = part * PIECE
        n = min(PIECE, n_fast - first)
        if max(max(size[0, part], size[1, part]), size[2, part]) + margins[part] > STEEP:
            for i in range(n):
                keys[1 + first + i] = ALONE | i
        elif find_voxels(first, n, cubics, part, r, margins[part], keys):
            decide_close(row, first, n, cubics, part, r, margins[part], plane, shift, matrices, base, keys)


@njit(**BORROW)
def _find_skipped(row, n_fast, state, dirty, bad, skip):
    """Which pixels are not for the map, a bit each."""
    for part in range(len(dirty)):
        if dirty[part]:
            for i in range(part * PIECE, min((part + 1) * PIECE, n_fast)):
                skipped = np.uint64(bad[i] or state[row, i] == BEYOND)
                skip[i // WORD] |= skipped << np.uint64(i % WORD)


@njit(**BORROW)
def _mark_left_out(row, keep, near):
    """Mark the pixels that other Bragg masks leave out as near."""
    for i in range(keep.shape[1]):
        near[i // WORD] |= np.uint64(not keep[row, i]) << np.uint64(i % WORD)


@njit(**BORROW)
def _add_runs(row, n_runs, starts, slot_of, raw, responses, counting, counts, with_terms, terms, running, whole, real):
    """Add the sums of a row's runs to their voxels.

    Args:
        raw: Values of the panel; those of the next row are asked for, which come from memory meanwhile.
        with_terms: Whether there are real terms.
        running: Results of ``profile.run_on_profile``, or None.
    """
    response, n_fast = responses[row], raw.shape[1]
    for run in range(n_runs):
        if run % 2 == 0:  # an address past the end does no harm
            prefetch(raw, np.uint64((row + 1) * n_fast + np.int64(starts[np.uint64(run)])))
        slot = slot_of[np.uint64(run)]
        if slot < 0:
            continue
        slot, start, stop = np.uint64(slot), np.int64(starts[np.uint64(run)]), np.int64(starts[np.uint64(run + 1)])
        n_pixels = stop - start
        begin, end = np.uint64(start), np.uint64(stop)
        whole[slot, N_PIXELS] += n_pixels
        if counting:
            whole[slot, COUNTS] += np.int64(np.uint32(counts[end] - counts[begin]))
        whole[slot, RESPONSE] += np.int64(np.uint32(response[end] - response[begin]))
        whole[slot, FAST] += n_pixels * (start + stop)
        whole[slot, SLOW] += n_pixels * (2 * row + 1)
        if with_terms:
            _add_terms(start, stop, terms, slot, real)
        if running is not None:
            add_run(start, stop, running, real, slot, BACKGROUND)


@njit(**OPTIONS)
def sum_rows(
    first_row, raw, limits, shared, segments, pieces, plane, shift, crystal, spots, keep, pedestal, gain, background,
    variance, ratio, profile, used, places, sums,
):  # fmt: skip
    """Add the pixels of a panel to the sums, row after row, as long as there is room for what a row may need.

    No tuple has more than four arrays: of longer ones numba may find the type anew at each call, in Python.

    Args:
        first_row: Where to start.
        raw: Values as stored, shape (slow, fast), whole or real numbers.
        limits: Lowest and highest value to use, the highest trusted one and the highest that is no sentinel, of raw's
            type.
        shared, segments: pieces.Shared of the panel, the first three and the others; the bins' numbers of pixels and
            responses are in the sums already.
        pieces: pieces.Pieces of the panel.
        plane: Position of the centre of the first pixel, steps to the next one along fast and slow, unit vectors along
            fast and slow, shape (5, 3), mm.
        shift: What parallax adds along fast and slow, shape (2, slow, fast), mm; or None.
        crystal, spots: Crystal, the first five and the others.
        keep: Which pixels pass other Bragg masks, shape (slow, fast), or None.
        pedestal, gain: Arrays that broadcast to raw's shape; None for whole numbers from 0 to LARGEST that are photons.
        background, variance: Photons and photons², arrays that broadcast to raw's shape, or None.
        ratio: What multiplies the background; its square, the variance.
        profile: profile.Profile of the background that was estimated on this still, for the voxels only; or None.
        used: Numbers of places and of rows in use, int64.
        places, sums: places.Places and Sums.

    Returns:
        The row to go on with after making room; the number of rows when all are done.
    """
    n_rows, n_fast = raw.shape
    shared, crystal = shared + segments, crystal + spots
    response, state, kinds, first_segment, segment_stop, segment_bin = shared
    edges, polynomials, bounds, patches = pieces
    matrices, sizes, n_bricks, beam, wavelength, lattices, _, _, _ = crystal
    table, bricks, voxels, slots = places
    whole, real, bin_whole, bin_real = sums
    n_pieces, counting = len(edges) - 1, gain is None
    local, base, size = np.empty((3, N_TERMS, n_pieces)), np.empty((3, n_pieces)), np.empty((3, n_pieces))
    margins, powers = np.empty(n_pieces), farthest_powers(edges)
    cubics, crossings = np.empty((n_pieces, N_CUBICS), np.float32), make_crossings(n_pieces)
    near, skip = np.zeros(n_pieces * PIECE // WORD, np.uint64), np.zeros(n_pieces * PIECE // WORD, np.uint64)
    dirty, bad = np.zeros(n_pieces, np.bool_), np.zeros(n_fast, np.bool_)
    keys, run_keys = np.zeros(n_pieces * PIECE + 1, np.int32), np.zeros(n_fast + 8, np.int32)
    starts, slot_of = np.zeros(n_fast + 8, np.int32), np.zeros(n_fast, np.int64)
    others, voxel_of = np.zeros(n_fast + 8, np.int32), np.zeros(n_fast, np.int64)
    counts = np.zeros(n_fast + 1, np.uint32)
    terms, known = np.zeros((n_fast, 4)), np.zeros((n_pieces, 1 << KNOWN_BITS, 2), np.int32)
    s, bins, running = np.zeros(n_fast), np.zeros(n_fast, np.int32), np.zeros((n_fast, 2))
    work = make_work(lattices, edges)
    for row in range(first_row, n_rows):
        if used[0] + min(n_fast, 2 * table.shape[1]) > len(bricks) or used[1] + n_fast > len(whole):
            return row
        anew = row == first_row or row % TOGETHER == 0
        _count(row, raw, limits, shared, counting, dirty, bad, counts, bin_whole)
        if gain is not None or background is not None:
            _real_terms(row, raw, bad, dirty, pedestal, gain, background, variance, ratio, terms)
        _add_to_bins(row, kinds, first_segment, segment_stop, segment_bin, counting, counts, terms, bin_whole, bin_real)
        if profile is not None:
            run_on_profile(row, kinds, bounds, response, plane, shift, beam, wavelength, profile, s, bins, running)
        group = row // TOGETHER
        r = row - group * TOGETHER
        if anew:
            _find_patches(
                group, row == first_row, n_rows, n_fast, kinds, polynomials, patches, matrices, sizes, powers, local,
                base, size, margins, cubics, crossings, known,
            )  # fmt: skip
        _find_voxels(row, r, n_fast, kinds, plane, shift, matrices, base, size, margins, cubics, crossings.rows, keys)
        near[:], skip[:] = 0, 0
        if keep is not None:
            _mark_left_out(row, keep, near)
        mark_near(row, anew, n_fast, kinds, pieces, plane, shift, crystal, work, near)
        _find_skipped(row, n_fast, state, dirty, bad, skip)
        n_runs = list_runs(row, r, n_fast, kinds, crossings, keys, near, skip, response, starts, run_keys)
        n_others = look_up(n_runs, starts, run_keys, known, slot_of, others)
        find_others(
            row, n_others, others, starts, run_keys, base, plane, shift, matrices, n_bricks, table, bricks, voxels,
            slots, used, known, voxel_of, slot_of,
        )  # fmt: skip
        _add_runs(
            row, n_runs, starts, slot_of, raw, response, counting, counts, bin_real.shape[1] > 0, terms,
            None if profile is None else running, whole, real,
        )  # fmt: skip
    return n_rows
