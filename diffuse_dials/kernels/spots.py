"""Which pixels of a row are near a reciprocal lattice point.

Only blocks of pixels in the tiles that may be near one (kernels.tiles) are looked at. A block is treated as a piece of
a straight line, and skipped if its distance from every lattice point exceeds the radius plus its deviation from the
line. The others are worked out in single precision; a pixel whose distance is within the known error of the radius, or
half-way between two lattice points, is decided by the exact formula of ``algorithms.masking.bragg.LatticeMask``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.coordinates import (
    N_CUBICS,
    SINGLE,
    coefficients,
    cubic,
    direction,
    expand,
    farthest_powers,
    find_sizes,
    linear,
    localise,
)
from diffuse_dials.kernels.lattice import (
    AXES,
    HALF_SPACING,
    METRIC,
    METRIC_SIZE,
    OBLIQUE,
    by_metric,
    find_radii,
    miller_step,
    on_lattice,
    radius_squared,
)
from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import BEYOND, BLOCK, ERROR, N_TERMS, PIECE, REACH, STRAY, TOGETHER, WORD, rows_of
from diffuse_dials.kernels.tiles import N_FLAT, find_tiles
from diffuse_dials.kernels.vectors import are_set

_NEAR, _UNSURE = 1, 2  # what may be said of a pixel
FAR, HALF, LEAST, MOST, EDGE, N_TESTS = range(6)  # rows of ``tests``
assert BLOCK == TOGETHER
_SINGLE = 2.0**-20  # bound of the rounding of a squared distance in single precision, over the sum of its terms


class Work(NamedTuple):
    """Memory for ``mark_near``, single precision where nothing else is said; for l lattices and m pieces in a row.

    Attributes:
        metrics: Of the lattices, shape (l, 6).
        powers: As in ``find_sizes``, float64.
        local, bases: Results of ``localise``; a base for each lattice, shape (l, 3, m), float64.
        cubics: Results of ``expand`` for each lattice, where a tile is active, shape (l, m, N_CUBICS).
        size: Result of ``find_sizes``, shape (3, m), float64.
        radii: Least and largest radius, shape (l, 2, m), 1/Å, float64.
        lines: Of ``_find_lines``, shape (l, 4, m).
        flat, found: For ``tiles.find_tiles``, shape (N_FLAT,) and (blocks of a piece,); the latter int32.
        tests: Squared distance of a block for a pixel to be near, half a block's length (0: from its middle); least and
            most of the squared radius as far as it is sure; farthest from a whole number for the nearest one to be
            sure; in TOGETHER rows, shape (l, N_TESTS, m).
        active, n_active: First pixels of the blocks of the tiles that may be near, and their number, shape
            (l, blocks of a row) and (l,), int64.
        close_rows: In which rows they may be near, a bit each, shape (l, blocks of a row), uint64.
        close: First pixels of the blocks of a row that may be near, shape (blocks of a row,), int64.
        here: What is found of the pixels of a block, or of a block's rows, shape (BLOCK,), int32.
    """

    metrics: np.ndarray
    powers: np.ndarray
    local: np.ndarray
    bases: np.ndarray
    cubics: np.ndarray
    size: np.ndarray
    radii: np.ndarray
    lines: np.ndarray
    flat: np.ndarray
    found: np.ndarray
    tests: np.ndarray
    active: np.ndarray
    n_active: np.ndarray
    close_rows: np.ndarray
    close: np.ndarray
    here: np.ndarray


@njit(**OPTIONS)
def make_work(lattices, edges):
    """Work for lattices, shape (l, N_LATTICE), and the pieces between ``edges``."""
    n, m, blocks = len(lattices), len(edges) - 1, PIECE // BLOCK
    return Work(
        lattices[:, METRIC : METRIC + 6].astype(np.float32), farthest_powers(edges), np.empty((3, N_TERMS, m)),
        np.empty((n, 3, m)), np.empty((n, m, N_CUBICS), np.float32), np.empty((3, m)), np.empty((n, 2, m)),
        np.empty((n, 4, m), np.float32), np.empty(N_FLAT, np.float32), np.empty(blocks, np.int32),
        np.empty((n, N_TESTS, m), np.float32), np.empty((n, blocks * m), np.int64), np.zeros(n, np.int64),
        np.empty((n, blocks * m), np.uint64), np.empty(blocks * m, np.int64), np.empty(BLOCK, np.int32),
    )  # fmt: skip


@njit(**BORROW)
def _find_lines(group, polynomials, matrices, lattices, which, lines):
    """The lines along which the pixels of each piece pass a lattice, near enough for a patch's rows (pieces.Pieces).

    Args:
        group: Which group of rows.
        polynomials: Of all patches.
        matrices, lattices, which: Of the crystal, and which of its lattices.
        lines: Result, of ``which``, shape (l, 4, pieces): what the offsets from a lattice point are multiplied by for
            the way along the line, and the way of one pixel, 1/Å.
    """
    for part in range(lines.shape[2]):
        of_group = polynomials[group]
        h, k, l = miller_step(matrices, which, of_group[0, 4, part], of_group[1, 4, part], of_group[2, 4, part])
        a, b, c = by_metric(lattices, which, h, k, l)
        speed = np.sqrt(h * a + k * b + l * c)
        per_way = 1 / speed if speed > 0 else 0.0  # a piece of one pixel has no direction
        lines[which, 0, part], lines[which, 1, part], lines[which, 2, part] = a * per_way, b * per_way, c * per_way
        lines[which, 3, part] = speed


@njit(**BORROW)
def _find_tests(group, patches, wavelength, sizes, lattices, which, size, radii, lines, tests):
    """What blocks and pixels are compared with in TOGETHER rows; the arguments are of ``mark_near`` or ``Work``."""
    n_pieces, rounding = size.shape[1], lattices[which, METRIC_SIZE] * _SINGLE
    for part in range(n_pieces):
        patch = group * n_pieces + part
        error, margin = patches[ERROR, patch] / wavelength, 0.0
        for j in range(3):
            error += SINGLE * size[j, part] * lattices[which, AXES + j]
            margin = max(margin, patches[ERROR, patch] * sizes[which + 1, j] + SINGLE * size[j, part])
        low, high = radii[which, 0, part], radii[which, 1, part]
        # the lattice point of a near pixel is that of its block's middle if both are nearer than half the planes
        reach = high + patches[REACH, patch] / wavelength + error
        half, far = 0.0, np.inf
        if reach <= lattices[which, HALF_SPACING]:
            half = BLOCK // 2 * lines[which, 3, part]
            far = (high + patches[STRAY, patch] / wavelength + 2 * error) ** 2 + rounding
        elif not lattices[which, OBLIQUE]:
            far = (reach + error) ** 2 + rounding
        tests[which, HALF, part], tests[which, FAR, part] = half, far
        tests[which, LEAST, part] = max(low - error, 0.0) ** 2 - rounding
        tests[which, MOST, part] = (high + error) ** 2 + rounding
        tests[which, EDGE, part] = 0.5 - margin - 1e-6


@njit(**INLINE)
def _close_rows(t, part, cubics, m, which, lines, tests, here):
    """Rows of a patch in which a block may have pixels near a lattice point.

    Args:
        t: Of the block's middle, from the piece's middle.
        part, cubics: Which piece, and the results of ``expand``.
        m, which: Metrics, shape (l, 6), single precision, and which of them.
        lines, tests: As in ``Work``.
        here: Result, for each row.
    """
    m00, m11, m22 = m[which, 0], m[which, 1], m[which, 2]
    m01, m02, m12 = m[which, 3], m[which, 4], m[which, 5]
    x, y, z = lines[which, 0, part], lines[which, 1, part], lines[which, 2, part]
    half, far = tests[which, HALF, part], tests[which, FAR, part]
    for i in range(TOGETHER):
        h, k = cubic(t, cubics, part, 0, i), cubic(t, cubics, part, 1, i)
        l = cubic(t, cubics, part, 2, i)
        h, k, l = h - np.rint(h), k - np.rint(k), l - np.rint(l)
        way = np.abs(h * x + k * y + l * z)
        rest = way - half
        rest = rest if rest > np.float32(0) else np.float32(0)
        distance = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l
        here[np.uint64(i)] = np.int32(distance - (way * way - rest * rest) < far)


@njit(**BORROW)
def _close_blocks(row, r, n_pieces, kinds, which, active, n_active, close_rows, close):
    """Write the first pixels of the blocks of a row that may be near; returns their number."""
    found = 0
    for number in range(n_active[which]):
        begin = active[which, number]
        near = np.int64(close_rows[which, number] >> np.uint64(r) & np.uint64(1))
        close[found] = begin
        found += near & np.int64(kinds[row * n_pieces + begin // PIECE] < BEYOND)
    return found


@njit(**INLINE)
def _classify(begin, half, cubics, part, r, m, which, low, high, edge, here):
    """_NEAR and _UNSURE of the pixels from ``begin`` of a piece, as many as ``here`` holds; returns all together."""
    a0, a1, a2, a3 = coefficients(cubics, part, 0, r)
    b0, b1, b2, b3 = coefficients(cubics, part, 1, r)
    c0, c1, c2, c3 = coefficients(cubics, part, 2, r)
    m00, m11, m22 = m[which, 0], m[which, 1], m[which, 2]
    m01, m02, m12 = m[which, 3], m[which, 4], m[which, 5]
    start, found = np.int32(begin - half), np.int32(0)
    for i in range(len(here)):
        t = np.float32(np.int32(start + np.int32(i)))
        h = ((a3 * t + a2) * t + a1) * t + a0
        k = ((b3 * t + b2) * t + b1) * t + b0
        l = ((c3 * t + c2) * t + c1) * t + c0
        h, k, l = h - np.rint(h), k - np.rint(k), l - np.rint(l)
        distance = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l
        near = distance < high
        unsure = (near & (distance > low)) | (max(max(np.abs(h), np.abs(k)), np.abs(l)) > edge)
        value = np.int32(np.int32(near) * np.int32(_NEAR) | np.int32(unsure) * np.int32(_UNSURE))
        here[np.uint64(i)] = value
        found = np.int32(found | value)
    return found


@njit(**BORROW)
def _exactly(row, column, plane, shift, beam, matrices, lattices, which, centring, sigmas_squared, wavelength, s_step):
    """Whether a pixel is near a lattice point, by the exact formula."""
    x, y, z, inverse = direction(row, column, plane, shift)
    chord = np.sqrt(max(2 - 2 * (x * beam[0] + y * beam[1] + z * beam[2]), 0.0))
    radius = radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step)
    h = linear(matrices, which + 1, 0, x, y, z)
    k = linear(matrices, which + 1, 1, x, y, z)
    l = linear(matrices, which + 1, 2, x, y, z)
    o, p, r = h - np.rint(h), k - np.rint(k), l - np.rint(l)
    distance = o * (lattices[which, 0] * o + lattices[which, 3] * p + lattices[which, 4] * r)
    distance += p * (lattices[which, 1] * p + lattices[which, 5] * r) + lattices[which, 2] * r * r
    return distance < radius and on_lattice(np.rint(h), np.rint(k), np.rint(l), centring)


@njit(**BORROW)
def _centred(t, cubics, part, r, base, centring):
    """Whether the lattice point next to a pixel, t from its piece's middle, is none that the centring extinguishes."""
    h, k = np.rint(cubic(t, cubics, part, 0, r)), np.rint(cubic(t, cubics, part, 1, r))
    l = np.rint(cubic(t, cubics, part, 2, r))
    return on_lattice(h + base[0, part], k + base[1, part], l + base[2, part], centring)


@njit(**BORROW)
def _mark_blocks(
    found, close, row, r, n_fast, plane, shift, beam, wavelength, s_step, matrices, lattices, which, centring,
    sigmas_squared, metrics, cubics, base, tests, here, near,
):  # fmt: skip
    """Mark the pixels of blocks; the arguments are of ``mark_near`` or ``Work``."""
    for number in range(found):
        begin = close[number]
        part = begin // PIECE
        first = part * PIECE
        half = min(PIECE, n_fast - first) // 2
        least, most, edge = (
            tests[which, LEAST, part], tests[which, MOST, part], tests[which, EDGE, part]
        )  # fmt: skip
        together = _classify(begin - first, half, cubics, part, r, metrics, which, least, most, edge, here)
        if together & _UNSURE or (together and len(centring)):
            for i in range(min(BLOCK, n_fast - begin)):
                if here[i] & _UNSURE:
                    here[i] = _exactly(
                        row, begin + i, plane, shift, beam, matrices, lattices, which, centring, sigmas_squared,
                        wavelength, s_step,
                    )  # fmt: skip
                elif here[i] and not _centred(np.float32(begin + i - first - half), cubics, part, r, base, centring):
                    here[i] = 0
        if together:
            near[begin // WORD] |= are_set(here) << np.uint64(begin % WORD)


@njit(**BORROW)
def mark_near(row, anew, n_fast, kinds, pieces, plane, shift, crystal, work, near):
    """Mark the pixels of a row that are near a point of one of the lattices.

    Args:
        row, n_fast: The row, and its number of pixels.
        anew: Whether the work space does not hold yet what TOGETHER rows share: for the first row, and each that is a
            multiple of TOGETHER.
        kinds, pieces: Of all pieces: pieces.Shared.kinds, and pieces.Pieces.
        plane, shift: As in ``coordinates.direction``.
        crystal: still.Crystal.
        work: Work of the same lattices and pieces.
        near: A bit for each pixel, WORD of them in each element, uint64, those of a piece in elements of its own; set
            where a pixel is near. Bits behind the last pixel have no meaning.
    """
    _, polynomials, _, patches = pieces
    matrices, sizes, _, beam, wavelength, lattices, centring, sigmas_squared, s_step = crystal
    (
        metrics,
        powers,
        local,
        bases,
        cubics,
        size,
        radii,
        lines,
        flat,
        found,
        tests,
        active,
        n_active,
        close_rows,
        close,
        here,
    ) = work
    group, n_rows = row // TOGETHER, len(kinds) // bases.shape[2]
    first, n_slow = rows_of(group, n_rows)
    for which in range(len(lattices)):
        base = bases[which]
        if anew:
            find_radii(group, lattices, which, sigmas_squared, patches, wavelength, s_step, radii)
            _find_lines(group, polynomials, matrices, lattices, which, lines)
            localise(matrices, which + 1, polynomials, group, 1.0, base, local)
            find_sizes(powers, local, size)
            _find_tests(group, patches, wavelength, sizes, lattices, which, size, radii, lines, tests)
            n_active[which] = find_tiles(
                group, n_rows, n_fast, polynomials, patches, kinds, matrices, lattices, which, size, radii, wavelength,
                local, flat, found, active,
            )  # fmt: skip
            before = -1
            for number in range(n_active[which]):
                begin = active[which, number]
                part = begin // PIECE
                if part != before:
                    expand(part, n_slow, local, cubics[which])
                before = part
                t = begin + BLOCK // 2 - part * PIECE - min(PIECE, n_fast - part * PIECE) // 2
                _close_rows(np.float32(t), part, cubics[which], metrics, which, lines, tests, here)
                close_rows[which, number] = are_set(here)
        if n_active[which] == 0:
            continue
        r = row - first
        n_close = _close_blocks(row, r, bases.shape[2], kinds, which, active, n_active, close_rows, close)
        _mark_blocks(
            n_close, close, row, r, n_fast, plane, shift, beam, wavelength, s_step, matrices, lattices, which, centring,
            sigmas_squared, metrics, cubics[which], base, tests, here, near,
        )  # fmt: skip
