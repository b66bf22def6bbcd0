"""Which pixels of a row are near a reciprocal lattice point.

Blocks of pixels whose middle is farther from its lattice point than the radius and the block's own extent are passed
over. The others are worked out in single precision; a pixel whose distance is within the known error of the radius, or
half way between two lattice points, is decided by the exact formula of ``algorithms.masking.bragg.LatticeMask``.
"""

from __future__ import annotations

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
)
from diffuse_dials.kernels.voxels import INLINE, NEAR, NEAR_BIT, OPTIONS, SINGLE, direction, linear, localise

# Parameters of a lattice's mask: metric (6); square of the radius (5): constant, by |ŝ1 - ŝ0|², by 1/distance², least
# of the latter term, upper limit; half the distance of lattice planes (infinite where the lattice is not oblique);
# lengths of the axes of the reciprocal lattice (3), and the sum of the metric's sizes
METRIC, RADIUS, HALF_SPACING, AXES, METRIC_SIZE, N_LATTICE = 0, 6, 11, 12, 15, 16
_UNSURE = 1  # a flag beside NEAR
_BLOCKS = PIECE // BLOCK
_SINGLE = 2.0**-20  # bound of the rounding of a squared distance in single precision, over the sum of its terms


@njit(**OPTIONS)
def _radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step):
    """Square of the Bragg radius at one pixel: k²(|s|) σ² up to the largest, LatticeMask.radius_squared."""
    k = sigmas_squared[min(np.int64(chord / wavelength / s_step), len(sigmas_squared) - 1)]
    spread = max(lattices[which, RADIUS + 2] * inverse * inverse, lattices[which, RADIUS + 3])
    squared = k * (lattices[which, RADIUS] + lattices[which, RADIUS + 1] * chord * chord + spread)
    return min(squared, lattices[which, RADIUS + 4])


@njit(**INLINE)
def _radii(lattices, which, sigmas_squared, bounds, piece, wavelength, s_step):
    """Least and largest radius on a piece, 1/Å."""
    last = len(sigmas_squared) - 1
    begin = stop = 0
    if last > 0:
        per_bin = 1 / (wavelength * s_step)
        begin = min(np.int64(bounds[piece, CHORD_LOW] * per_bin * (1 - 1e-12)), last)
        stop = min(np.int64(bounds[piece, CHORD_HIGH] * per_bin * (1 + 1e-12)), last)
    low = high = sigmas_squared[begin]
    for i in range(begin + 1, stop + 1):
        low, high = min(low, sigmas_squared[i]), max(high, sigmas_squared[i])
    factor, limit = lattices[which, RADIUS + 1], lattices[which, RADIUS + 4]
    least = lattices[which, RADIUS] + factor * bounds[piece, CHORD_LOW] ** 2
    least += max(lattices[which, RADIUS + 2] * bounds[piece, INVERSE_LOW] ** 2, lattices[which, RADIUS + 3])
    most = lattices[which, RADIUS] + factor * bounds[piece, CHORD_HIGH] ** 2
    most += max(lattices[which, RADIUS + 2] * bounds[piece, INVERSE_HIGH] ** 2, lattices[which, RADIUS + 3])
    return np.sqrt(min(low * least, limit)) * (1 - 1e-9), np.sqrt(min(high * most, limit)) * (1 + 1e-9)


@njit(**INLINE)
def _middle_distances(n, c, piece, m, which, far, out):
    """Squared distances of the middle pixels of a piece's blocks from the nearest lattice point, less ``far``."""
    a0, a1, a2, a3 = c[piece, 0, 0], c[piece, 0, 1], c[piece, 0, 2], c[piece, 0, 3]
    b0, b1, b2, b3 = c[piece, 1, 0], c[piece, 1, 1], c[piece, 1, 2], c[piece, 1, 3]
    c0, c1, c2, c3 = c[piece, 2, 0], c[piece, 2, 1], c[piece, 2, 2], c[piece, 2, 3]
    m00, m11, m22 = m[which, 0], m[which, 1], m[which, 2]
    m01, m02, m12 = m[which, 3], m[which, 4], m[which, 5]
    start, by = np.float32(BLOCK // 2 - n // 2), np.float32(BLOCK)
    for i in range(-(-n // BLOCK)):
        t = start + by * np.float32(np.int32(i))
        h = ((a3 * t + a2) * t + a1) * t + a0
        k = ((b3 * t + b2) * t + b1) * t + b0
        l = ((c3 * t + c2) * t + c1) * t + c0
        h, k, l = h - np.rint(h), k - np.rint(k), l - np.rint(l)
        distance = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l
        out[np.uint64(piece * _BLOCKS + i)] = distance - far


@njit(**INLINE)
def _classify(begin, half, c, piece, m, which, low, high, edge, here):
    """NEAR and _UNSURE of the pixels from ``begin`` of a piece, as many as ``here`` holds; returns all together."""
    a0, a1, a2, a3 = c[piece, 0, 0], c[piece, 0, 1], c[piece, 0, 2], c[piece, 0, 3]
    b0, b1, b2, b3 = c[piece, 1, 0], c[piece, 1, 1], c[piece, 1, 2], c[piece, 1, 3]
    c0, c1, c2, c3 = c[piece, 2, 0], c[piece, 2, 1], c[piece, 2, 2], c[piece, 2, 3]
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
def _centred(t, c, piece, base, centring):
    """Whether the lattice point next to a pixel, t from its piece's middle, is none that the centring extinguishes."""
    h = np.rint(((c[piece, 0, 3] * t + c[piece, 0, 2]) * t + c[piece, 0, 1]) * t + c[piece, 0, 0]) + base[piece, 0]
    k = np.rint(((c[piece, 1, 3] * t + c[piece, 1, 2]) * t + c[piece, 1, 1]) * t + c[piece, 1, 0]) + base[piece, 1]
    l = np.rint(((c[piece, 2, 3] * t + c[piece, 2, 2]) * t + c[piece, 2, 1]) * t + c[piece, 2, 0])
    return _on_lattice(h, k, l + base[piece, 2], centring)


@njit(**OPTIONS)
def mark_near(
    row, n_fast, kinds, polynomials, bounds, plane, shift, beam, wavelength, s_step, matrices, sizes, lattices, which,
    centring, sigmas_squared, metrics, c, base, size, limits, middles, close, here, keys,
):  # fmt: skip
    """Mark the pixels of a row that are near a point of one lattice.

    Args:
        row, n_fast: The row, and its number of pixels.
        kinds, polynomials, bounds: Of all pieces.
        plane, shift: As in ``voxels.direction``.
        beam, wavelength: Unit vector ŝ0; Å.
        s_step: By which |s| the radius is looked up, 1/Å.
        matrices: From unit vectors to the voxels, and to the Miller indices of each lattice, shape (1 + l, 3, 4).
        sizes: Of these, as Crystal has them.
        lattices, which: Parameters of the masks, shape (l, N_LATTICE), and which of them.
        centring: Translations, shape (m, 3).
        sigmas_squared: k² by |s|.
        metrics: Those of all lattices, shape (l, 6), single precision.
        c, base, size: Work space for ``localise``, with room for the pieces.
        limits: Work space, single precision, shape (pieces, 3): least and most of the squared radius as far as it is
            sure, and farthest from a whole number for the nearest one to be sure.
        middles, close: Work space, shape (blocks + 1,), for what is less than 0 where pixels may be near, single
            precision, and for the numbers of these blocks, int64.
        here: Work space, shape (BLOCK,), int32.
        keys: Of the pixels, as in ``voxels.find_voxels``; NEAR is added to them.
    """
    n_pieces = len(c)
    rounding = lattices[which, METRIC_SIZE] * _SINGLE
    for part in range(n_pieces):
        piece = row * n_pieces + part
        if kinds[piece] >= BEYOND:
            middles[part * _BLOCKS : (part + 1) * _BLOCKS] = 0
            continue
        n = min(PIECE, n_fast - part * PIECE)
        localise(matrices, which + 1, polynomials, piece, np.float64(n // 2), 1.0, part, c, base, size)
        low, high = _radii(lattices, which, sigmas_squared, bounds, piece, wavelength, s_step)
        error, edge = bounds[piece, ERROR] / wavelength, 0.0
        for j in range(3):
            edge = max(edge, bounds[piece, ERROR] * sizes[which + 1, j] + SINGLE * size[part, j])
            error += SINGLE * size[part, j] * lattices[which, AXES + j]
        reach = high + bounds[piece, REACH] / wavelength + error
        far = np.inf if reach > lattices[which, HALF_SPACING] else (reach + error) ** 2 + rounding
        limits[part, 0] = max(low - error, 0.0) ** 2 - rounding
        limits[part, 1] = (high + error) ** 2 + rounding
        limits[part, 2] = 0.5 - edge - 1e-6
        _middle_distances(n, c, part, metrics, which, np.float32(far), middles)
    n_blocks, found = -(-n_fast // BLOCK), 0
    if n_fast - (n_blocks - 1) * BLOCK <= BLOCK // 2 and kinds[row * n_pieces + n_pieces - 1] < BEYOND:
        middles[n_blocks - 1] = -1  # its middle is not in the image
    for block in range(n_blocks):
        close[found] = block
        found += middles[block] < 0
    for block in close[:found]:
        part, begin = block // _BLOCKS, block * BLOCK
        first = part * PIECE
        half = min(PIECE, n_fast - first) // 2
        least, most, edge = limits[part, 0], limits[part, 1], limits[part, 2]
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
