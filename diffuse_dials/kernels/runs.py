"""Runs of neighbouring pixels of a row that share something: a voxel and flags, or an |s| bin."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.crossings import FIRST_KEY, UNSURE
from diffuse_dials.kernels.options import BORROW, INLINE
from diffuse_dials.kernels.pieces import BEYOND, PIECE, WORD, WORDS
from diffuse_dials.kernels.vectors import LINE, changes, ones, prefetch, trailing_zeros
from diffuse_dials.kernels.voxels import NEAR, SKIP


@njit(**BORROW)
def find_runs(n, keys, starts):
    """Where runs of equal keys begin along a row; one begins with each piece.

    Args:
        n: Number of pixels.
        keys: int32, one for each pixel, from number 1 on, and room for whole pieces.
        starts: Result, int32, shape (n + 8,): first pixel of each run, and n after them.

    Returns:
        The number of runs.
    """
    found = 0
    for begin in range(0, n, WORD):
        word = changes(keys, begin)
        if begin % PIECE == 0:
            word |= np.uint64(1)
        if begin + WORD > n:
            word &= (np.uint64(1) << np.uint64(n - begin)) - np.uint64(1)
        stop, place = found + np.int64(ones(word)), found
        while place < stop:  # eight at a time, so that branches are rarely mispredicted
            for k in range(8):
                starts[np.uint64(place + k)] = begin + np.int32(trailing_zeros(word))
                word &= word - np.uint64(1)
            place += 8
        found = stop
    starts[found] = n
    return found


@njit(**INLINE)
def _where(word, from_top, value):
    """A value where a bit of a word is set, 0 where not; its number is counted from the highest one."""
    return np.int64(word << from_top) >> 63 & value


@njit(**INLINE)
def _from_crossings(word, begin, key, found, u, v, w, steps, near, skip, starts, run_keys):
    """Runs that begin at the set bits of a word, where the key is known at the pixel before and changes by crossings.

    Args:
        word: A bit for each of the pixels from number ``begin`` on.
        key: Of the pixel before.
        found: Number of runs before.
        u, v, w: Where each coordinate is in another voxel than at the pixel before, a bit each.
        steps: What the key changes by there, for each coordinate.
        near, skip: Where NEAR and SKIP change.
        starts, run_keys: Results.
    """
    du, dv, dw = steps[0], steps[1], steps[2]
    place, stop = found, found + np.int64(ones(word))
    while place < stop:  # eight at a time, so that branches are rarely mispredicted
        for k in range(8):
            at = trailing_zeros(word)
            from_top = ~at & np.uint64(WORD - 1)
            key += _where(u, from_top, du) + _where(v, from_top, dv) + _where(w, from_top, dw)
            key ^= _where(near, from_top, NEAR) | _where(skip, from_top, SKIP)
            starts[np.uint64(place + k)] = begin + np.int64(at)
            run_keys[np.uint64(place + k)] = key
            word &= word - np.uint64(1)
        place += 8
    return stop


@njit(**INLINE)
def _from_keys(word, begin, keys, found, near, skip, starts, run_keys):
    """Runs that begin at the set bits of a word, where the key of each pixel is known, but for NEAR and SKIP."""
    stop = found + np.int64(ones(word))
    for place in range(found, stop):
        at = trailing_zeros(word)
        start = begin + np.int32(at)
        starts[place] = start
        from_top = ~at & np.uint64(WORD - 1)
        run_keys[place] = keys[1 + start] | _where(near, from_top, NEAR) | _where(skip, from_top, SKIP)
        word &= word - np.uint64(1)
    return stop


@njit(**INLINE)
def _edges(bits, before):
    """Where bits differ from those of the pixels before; ``before`` is the word of those before the first pixel."""
    return bits ^ (bits << np.uint64(1) | before >> np.uint64(WORD - 1))


@njit(**BORROW)
def _list_with_flags(first, n, key, known, steps, near, skip, keys, found, starts, run_keys):
    """Runs of a piece where pixels are flagged, or their keys known, or that is no whole piece; returns their number.

    Args:
        first, n: Number of the first pixel, and of pixels.
        key, known, steps: Of the first pixel, what is known (crossings.Crossings), and what the key changes by.
        near, skip: Of the words of the piece.
        keys, found, starts, run_keys: As in ``list_runs``; number of runs before.
    """
    near_before = skip_before = np.uint64(0)
    for i in range(WORDS):
        begin, end = WORD * i, min(WORD * (i + 1), n)
        if begin >= end:
            break
        inside = ~np.uint64(0) >> np.uint64(begin + WORD - end)
        near_edges, skip_edges = _edges(near[i], near_before), _edges(skip[i], skip_before)
        word = np.uint64(i == 0) | near_edges | skip_edges
        if known[UNSURE]:
            word = (word | changes(keys, first + begin)) & inside
            found = _from_keys(word, first + begin, keys, found, near[i], skip[i], starts, run_keys)
        else:
            u, v, w = known[i], known[WORDS + i], known[2 * WORDS + i]
            found = _from_crossings(
                (word | u | v | w) & inside, first + begin, key, found, u, v, w, steps, near_edges, skip_edges, starts,
                run_keys,
            )  # fmt: skip
            key = np.int64(run_keys[found - 1])
        near_before, skip_before = near[i], skip[i]
    return found


@njit(**BORROW)
def list_runs(row, r, n_fast, kinds, crossings, keys, near, skip, response, starts, run_keys):
    """Runs of pixels of one key along a row; one begins with each piece.

    Args:
        row, r, n_fast: The row, its number in its patches, and its number of pixels.
        kinds: Of all pieces (pieces.Shared).
        crossings: crossings.Crossings of the patches.
        keys: Keys of the pixels of pieces whose crossings are not known, as in ``voxels.find_voxels``.
        near, skip: Which pixels are near a Bragg spot, and which are not for the map, a bit each, shape
            (words of a row,).
        response: Of the panel (pieces.Shared); this row's is asked for, which comes from memory meanwhile.
        starts: Result, int32, shape (n_fast + 8,): first pixel of each run, and ``n_fast`` after them.
        run_keys: Result, int32, shape (n_fast + 8,): key of each.

    Returns:
        The number of runs.
    """
    rows, steps = crossings.rows, crossings.steps
    n_pieces, found, none = len(steps), 0, np.uint64(0)
    for part in range(n_pieces):
        first, word = part * PIECE, WORDS * part
        for at in range(first, first + PIECE, LINE // 4):
            prefetch(response, np.uint64(row * (n_fast + 1) + at))
        if kinds[row * n_pieces + part] >= BEYOND:
            starts[found], run_keys[found] = first, SKIP
            found += 1
            continue
        known, key = rows[r, part], np.int64(rows[r, part, FIRST_KEY])
        flags = none
        for i in range(WORDS):
            flags |= near[word + i] | skip[word + i]
        if flags | known[UNSURE] or first + PIECE > n_fast:
            found = _list_with_flags(
                first, min(PIECE, n_fast - first), key, known, steps[part], near[word : word + WORDS],
                skip[word : word + WORDS], keys, found, starts, run_keys,
            )  # fmt: skip
            continue
        for i in range(WORDS):
            u, v, w = known[i], known[WORDS + i], known[2 * WORDS + i]
            bits = u | v | w | np.uint64(i == 0)
            found = _from_crossings(
                bits, first + WORD * i, key, found, u, v, w, steps[part], none, none, starts, run_keys
            )
            key = np.int64(run_keys[found - 1])
    starts[found] = n_fast
    return found
