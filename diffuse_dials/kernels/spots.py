"""Which pixels of a row are near a reciprocal lattice point.

Blocks of pixels are taken for pieces of straight lines, and passed over if they are farther from a lattice point than
the radius and what they stray from the line. The others are worked out in single precision; a pixel whose distance is
within the known error of the radius, or half way between two lattice points, is decided by the exact formula of
``algorithms.masking.bragg.LatticeMask``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.pieces import (
    BEYOND,
    BLOCK,
    CHORD_HIGH,
    CHORD_LOW,
    ERROR,
    INVERSE_HIGH,
    INVERSE_LOW,
    PIECE,
    REACH,
    STRAY,
    TOGETHER,
)
from diffuse_dials.kernels.voxels import (
    INLINE,
    NEAR,
    NEAR_BIT,
    OPTIONS,
    SINGLE,
    direction,
    find_margins,
    half_lengths,
    linear,
    localise,
)

# Parameters of a lattice's mask: metric (6); square of the radius (5): constant, by |ŝ1 - ŝ0|², by 1/distance², least
# of the latter term, upper limit; half the distance of lattice planes; lengths of the axes of the reciprocal lattice
# (3); the sum of the metric's sizes; whether the lattice is oblique
METRIC, RADIUS, HALF_SPACING, AXES, METRIC_SIZE, OBLIQUE, N_LATTICE = 0, 6, 11, 12, 15, 16, 17
_UNSURE = 1  # a flag beside NEAR
_BLOCKS = PIECE // BLOCK
FAR, HALF, LEAST, MOST, EDGE, N_TESTS = range(6)  # rows of ``tests``
_SINGLE = 2.0**-20  # bound of the rounding of a squared distance in single precision, over the sum of its terms


class Work(NamedTuple):
    """Memory for ``mark_near``, single precision where nothing else is said; for l lattices and m pieces in a row.

    Attributes:
        metrics: Of the lattices, shape (l, 6).
        powers: As in ``localise``, float64.
        c, bases, size, margins: Results of ``localise`` and ``find_margins``; a base for each lattice, shape (l, 3, m).
        radii: Least and largest radius, shape (l, 2, m), 1/Å, float64.
        lines: Of ``_find_lines``, shape (l, 4, m).
        tests: Squared distance of a block for a pixel to be near, half a block's length (0: from its middle); least and
            most of the squared radius as far as it is sure; farthest from a whole number for the nearest one to be
            sure; shape (N_TESTS, m).
        fractions, less: Of one block in each piece, shape (3, m) and (m,).
        distances: Less than 0 where a pixel of a block may be near, shape (blocks of a piece, m).
        close: First pixels of these blocks, shape (blocks of a row + 1,), int64.
        here: What is found of the pixels of a block, shape (BLOCK,), int32.
    """

    metrics: np.ndarray
    powers: np.ndarray
    c: np.ndarray
    bases: np.ndarray
    size: np.ndarray
    margins: np.ndarray
    radii: np.ndarray
    lines: np.ndarray
    tests: np.ndarray
    fractions: np.ndarray
    less: np.ndarray
    distances: np.ndarray
    close: np.ndarray
    here: np.ndarray


@njit(**OPTIONS)
def make_work(lattices, edges):
    """Work for lattices, shape (l, N_LATTICE), and the pieces between ``edges``."""
    n, m = len(lattices), len(edges) - 1
    return Work(
        lattices[:, METRIC : METRIC + 6].astype(np.float32), half_lengths(edges), np.empty((3, 4, m), np.float32),
        np.empty((n, 3, m)), np.empty((3, m)), np.empty(m), np.empty((n, 2, m)), np.empty((n, 4, m), np.float32),
        np.empty((N_TESTS, m), np.float32), np.empty((3, m), np.float32), np.empty(m, np.float32),
        np.empty((_BLOCKS, m), np.float32), np.empty(_BLOCKS * m + 1, np.int64), np.empty(BLOCK, np.int32),
    )  # fmt: skip


@njit(**OPTIONS)
def _radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step):
    """Square of the Bragg radius at one pixel: k²(|s|) σ² up to the largest, LatticeMask.radius_squared."""
    k = sigmas_squared[min(np.int64(chord / wavelength / s_step), len(sigmas_squared) - 1)]
    spread = max(lattices[which, RADIUS + 2] * inverse * inverse, lattices[which, RADIUS + 3])
    squared = k * (lattices[which, RADIUS] + lattices[which, RADIUS + 1] * chord * chord + spread)
    return min(squared, lattices[which, RADIUS + 4])


@njit(**OPTIONS)
def _find_radii(row, stop, lattices, which, sigmas_squared, bounds, wavelength, s_step, radii):
    """Least and largest radius on each piece of a row and of those that follow it.

    Args:
        row, stop: The first of the rows, and the one after the last.
        lattices, which: Parameters of the masks, and which of them.
        sigmas_squared, wavelength, s_step: Of the crystal.
        bounds: Of all pieces.
        radii: Result, of ``which``, shape (l, 2, pieces), 1/Å.
    """
    n_pieces, last = radii.shape[2], len(sigmas_squared) - 1
    factor, limit = lattices[which, RADIUS + 1], lattices[which, RADIUS + 4]
    for part in range(n_pieces):
        near, far, least_inverse, most_inverse = np.inf, 0.0, np.inf, 0.0
        for piece in range(row * n_pieces + part, stop * n_pieces, n_pieces):
            near, far = min(near, bounds[CHORD_LOW, piece]), max(far, bounds[CHORD_HIGH, piece])
            least_inverse = min(least_inverse, bounds[INVERSE_LOW, piece])
            most_inverse = max(most_inverse, bounds[INVERSE_HIGH, piece])
        begin = end = 0
        if last > 0:
            per_bin = 1 / (wavelength * s_step)
            begin = min(np.int64(near * per_bin * (1 - 1e-12)), last)
            end = min(np.int64(far * per_bin * (1 + 1e-12)), last)
        low = high = sigmas_squared[begin]
        for i in range(begin + 1, end + 1):
            low, high = min(low, sigmas_squared[i]), max(high, sigmas_squared[i])
        least = lattices[which, RADIUS] + factor * near**2
        least += max(lattices[which, RADIUS + 2] * least_inverse**2, lattices[which, RADIUS + 3])
        most = lattices[which, RADIUS] + factor * far**2
        most += max(lattices[which, RADIUS + 2] * most_inverse**2, lattices[which, RADIUS + 3])
        radii[which, 0, part] = np.sqrt(min(low * least, limit)) * (1 - 1e-9)
        radii[which, 1, part] = np.sqrt(min(high * most, limit)) * (1 + 1e-9)


@njit(**OPTIONS)
def _find_lines(row, polynomials, matrices, lattices, which, lines):
    """The lines along which the pixels of each piece pass a lattice, near enough for TOGETHER rows (pieces.Pieces).

    Args:
        row: The first of these rows.
        polynomials: Of all pieces.
        matrices, lattices, which: Of the crystal, and which of its lattices.
        lines: Result, of ``which``, shape (l, 4, pieces): what the offsets from a lattice point are multiplied by for
            the way along the line, and the way of one pixel, 1/Å.
    """
    n_pieces = lines.shape[2]
    d, e, f = 0.5 * lattices[which, 3], 0.5 * lattices[which, 4], 0.5 * lattices[which, 5]
    for part in range(n_pieces):
        linear_term = n_pieces + part
        x, y, z = polynomials[row, 0, linear_term], polynomials[row, 1, linear_term], polynomials[row, 2, linear_term]
        h = linear(matrices, which + 1, 0, x, y, z) - matrices[which + 1, 0, 3]
        k = linear(matrices, which + 1, 1, x, y, z) - matrices[which + 1, 1, 3]
        l = linear(matrices, which + 1, 2, x, y, z) - matrices[which + 1, 2, 3]
        a = lattices[which, 0] * h + d * k + e * l
        b = d * h + lattices[which, 1] * k + f * l
        c = e * h + f * k + lattices[which, 2] * l
        speed = np.sqrt(h * a + k * b + l * c)
        lines[which, 0, part], lines[which, 1, part], lines[which, 2, part] = a / speed, b / speed, c / speed
        lines[which, 3, part] = speed


@njit(**INLINE)
def _fractions(j, middle, powers, c, out):
    """How far coordinate j of a pixel of each piece is from the nearest whole number."""
    for i in range(out.shape[1]):
        part = np.uint64(i)
        t = middle - np.float32(powers[1, part])
        value = ((c[j, 3, part] * t + c[j, 2, part]) * t + c[j, 1, part]) * t + c[j, 0, part]
        out[j, part] = value - np.rint(value)


@njit(**INLINE)
def _along(which, fractions, lines, tests, out):
    """What a squared distance from the middle of a block is less if it is from the nearest point of the block."""
    for i in range(out.shape[0]):
        part = np.uint64(i)
        way = fractions[0, part] * lines[which, 0, part] + fractions[1, part] * lines[which, 1, part]
        way = np.abs(way + fractions[2, part] * lines[which, 2, part])
        rest = max(way - tests[HALF, part], np.float32(0))
        out[part] = way * way - rest * rest


@njit(**INLINE)
def _distances(block, m, which, fractions, less, tests, out):
    """Squared distance by a metric, less what it must be to be near."""
    m00, m11, m22 = m[which, 0], m[which, 1], m[which, 2]
    m01, m02, m12 = m[which, 3], m[which, 4], m[which, 5]
    for i in range(out.shape[1]):
        part = np.uint64(i)
        h, k, l = fractions[0, part], fractions[1, part], fractions[2, part]
        distance = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l
        out[block, part] = distance - less[part] - tests[FAR, part]


@njit(**OPTIONS)
def _block_distances(powers, c, m, which, lines, tests, fractions, less, out):
    """Squared distances of the blocks of a row from the nearest lattice point, less what they must be to be near.

    Args:
        powers, c: As in ``localise``.
        m, which: Metrics, shape (l, 6), single precision, and which of them.
        lines, tests, fractions, less: As in ``Work``.
        out: Result, of the first, second... block of each piece, shape (PIECE / BLOCK, pieces), single precision.
    """
    for block in range(_BLOCKS):
        middle = np.float32(np.int32(block * BLOCK + BLOCK // 2))
        for j in range(3):
            _fractions(j, middle, powers, c, fractions)
        _along(which, fractions, lines, tests, less)
        _distances(block, m, which, fractions, less, tests, out)


@njit(**INLINE)
def _classify(begin, half, c, part, m, which, low, high, edge, here):
    """NEAR and _UNSURE of the pixels from ``begin`` of a piece, as many as ``here`` holds; returns all together."""
    a0, a1, a2, a3 = c[0, 0, part], c[0, 1, part], c[0, 2, part], c[0, 3, part]
    b0, b1, b2, b3 = c[1, 0, part], c[1, 1, part], c[1, 2, part], c[1, 3, part]
    c0, c1, c2, c3 = c[2, 0, part], c[2, 1, part], c[2, 2, part], c[2, 3, part]
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
        value = np.int32(np.int32(np.int32(near) << NEAR_BIT) | np.int32(unsure))
        here[np.uint64(i)] = value
        found = np.int32(found | value)
    return found


@njit(**OPTIONS)
def _on_lattice(h, k, l, centring):
    """Whether no centring extinguishes the lattice point."""
    for j in range(len(centring)):
        phase = h * centring[j, 0] + k * centring[j, 1] + l * centring[j, 2]
        if np.abs(phase - np.rint(phase)) >= 0.01:
            return False
    return True


@njit(**OPTIONS)
def _exactly(row, column, plane, shift, beam, matrices, lattices, which, centring, sigmas_squared, wavelength, s_step):
    """Whether a pixel is near a lattice point, by the exact formula."""
    x, y, z, inverse = direction(row, column, plane, shift)
    chord = np.sqrt(max(2 - 2 * (x * beam[0] + y * beam[1] + z * beam[2]), 0.0))
    radius = _radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step)
    h = linear(matrices, which + 1, 0, x, y, z)
    k = linear(matrices, which + 1, 1, x, y, z)
    l = linear(matrices, which + 1, 2, x, y, z)
    o, p, r = h - np.rint(h), k - np.rint(k), l - np.rint(l)
    distance = o * (lattices[which, 0] * o + lattices[which, 3] * p + lattices[which, 4] * r)
    distance += p * (lattices[which, 1] * p + lattices[which, 5] * r) + lattices[which, 2] * r * r
    return distance < radius and _on_lattice(np.rint(h), np.rint(k), np.rint(l), centring)


@njit(**OPTIONS)
def _centred(t, c, part, base, centring):
    """Whether the lattice point next to a pixel, t from its piece's middle, is none that the centring extinguishes."""
    h = np.rint(((c[0, 3, part] * t + c[0, 2, part]) * t + c[0, 1, part]) * t + c[0, 0, part])
    k = np.rint(((c[1, 3, part] * t + c[1, 2, part]) * t + c[1, 1, part]) * t + c[1, 0, part])
    l = np.rint(((c[2, 3, part] * t + c[2, 2, part]) * t + c[2, 1, part]) * t + c[2, 0, part])
    return _on_lattice(h + base[0, part], k + base[1, part], l + base[2, part], centring)


@njit(**OPTIONS)
def _find_tests(row, kinds, bounds, wavelength, lattices, which, size, margins, radii, lines, tests):
    """What the blocks and pixels of a row are held against; the arguments are of ``mark_near`` or ``Work``."""
    n_pieces = tests.shape[1]
    rounding = lattices[which, METRIC_SIZE] * _SINGLE
    for part in range(n_pieces):
        piece = row * n_pieces + part
        if kinds[piece] >= BEYOND:
            tests[FAR, part] = -np.inf
            continue
        error = bounds[ERROR, piece] / wavelength
        for j in range(3):
            error += SINGLE * size[j, part] * lattices[which, AXES + j]
        low, high = radii[which, 0, part], radii[which, 1, part]
        # the lattice point of a near pixel is that of its block's middle if both are nearer than half the planes
        reach = high + bounds[REACH, piece] / wavelength + error
        half, far = np.float32(0), np.inf
        if reach <= lattices[which, HALF_SPACING]:
            half = np.float32(BLOCK // 2 * lines[which, 3, part])
            far = (high + bounds[STRAY, piece] / wavelength + 2 * error) ** 2 + rounding
        elif not lattices[which, OBLIQUE]:
            far = (reach + error) ** 2 + rounding
        tests[HALF, part], tests[FAR, part] = half, far
        tests[LEAST, part] = max(low - error, 0.0) ** 2 - rounding
        tests[MOST, part] = (high + error) ** 2 + rounding
        tests[EDGE, part] = 0.5 - margins[part] - 1e-6


@njit(**OPTIONS)
def _close_blocks(row, n_fast, kinds, distances, close):
    """Write the first pixels of the blocks that may be near; returns their number."""
    n_pieces = distances.shape[1]
    found, rest = 0, n_fast - (n_pieces - 1) * PIECE
    for block in range(_BLOCKS):
        begin = block * BLOCK
        if 0 < rest - begin <= BLOCK // 2 and kinds[row * n_pieces + n_pieces - 1] < BEYOND:
            distances[block, n_pieces - 1] = -1  # its middle is not in the image
        for part in range(n_pieces - (rest <= begin)):
            close[found] = part * PIECE + begin
            found += distances[block, part] < 0
    return found


@njit(**OPTIONS)
def _mark_blocks(
    found, close, row, n_fast, plane, shift, beam, wavelength, s_step, matrices, lattices, which, centring,
    sigmas_squared, metrics, c, base, tests, here, keys,
):  # fmt: skip
    """Mark the pixels of blocks; the arguments are of ``mark_near`` or ``Work``."""
    for number in range(found):
        begin = close[number]
        part = begin // PIECE
        first = part * PIECE
        half = min(PIECE, n_fast - first) // 2
        least, most, edge = tests[LEAST, part], tests[MOST, part], tests[EDGE, part]
        together = _classify(begin - first, half, c, part, metrics, which, least, most, edge, here)
        if together & _UNSURE or (together and len(centring)):
            for i in range(min(BLOCK, n_fast - begin)):
                if here[i] & _UNSURE:
                    near = _exactly(
                        row, begin + i, plane, shift, beam, matrices, lattices, which, centring, sigmas_squared,
                        wavelength, s_step,
                    )  # fmt: skip
                    here[i] = NEAR if near else 0
                elif here[i] and not _centred(np.float32(begin + i - first - half), c, part, base, centring):
                    here[i] = 0
        if together:
            for i in range(BLOCK):
                keys[np.uint64(1 + begin + i)] |= here[i]


@njit(**OPTIONS)
def mark_near(row, anew, n_fast, kinds, pieces, plane, shift, crystal, work, keys):
    """Mark the pixels of a row that are near a point of one of the lattices.

    Args:
        row, n_fast: The row, and its number of pixels.
        anew: Whether the work space does not hold yet what TOGETHER rows share: for the first row, and each that is a
            multiple of TOGETHER.
        kinds, pieces: Of all pieces: pieces.Shared.kinds, and pieces.Pieces.
        plane, shift: As in ``voxels.direction``.
        crystal: still.Crystal.
        work: Work of the same lattices and pieces.
        keys: Of the pixels, as in ``voxels.find_voxels``; NEAR is added to them.
    """
    _, polynomials, bounds = pieces
    matrices, sizes, _, beam, wavelength, lattices, centring, sigmas_squared, s_step = crystal
    metrics, powers, c, bases, size, margins, radii, lines, tests, fractions, less, distances, close, here = work
    n_rows, step = len(polynomials), 1.0 if anew else 0.0
    for which in range(len(lattices)):
        if anew:
            stop = min(row + TOGETHER - row % TOGETHER, n_rows)
            _find_radii(row, stop, lattices, which, sigmas_squared, bounds, wavelength, s_step, radii)
            _find_lines(row // TOGETHER * TOGETHER, polynomials, matrices, lattices, which, lines)
        base = bases[which]
        localise(matrices, which + 1, polynomials, row, powers, step, c, base, size)
        find_margins(which + 1, row, bounds, sizes, size, margins)
        _find_tests(row, kinds, bounds, wavelength, lattices, which, size, margins, radii, lines, tests)
        _block_distances(powers, c, metrics, which, lines, tests, fractions, less, distances)
        found = _close_blocks(row, n_fast, kinds, distances, close)
        _mark_blocks(
            found, close, row, n_fast, plane, shift, beam, wavelength, s_step, matrices, lattices, which, centring,
            sigmas_squared, metrics, c, base, tests, here, keys,
        )  # fmt: skip
