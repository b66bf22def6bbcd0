"""Which pixels of a piece are near a reciprocal lattice point.

Blocks of pixels whose middle is farther from its lattice point than the radius and the block's own extent are passed
over. The others are worked out in single precision; a pixel whose distance is within the known error of the radius, or
half way between two lattice points, is decided by the exact formula of ``algorithms.masking.bragg.LatticeMask``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.crossings import OPTIONS, direction, linear, localise
from diffuse_dials.kernels.pieces import BLOCK, CHORD_HIGH, CHORD_LOW, ERROR, INVERSE_HIGH, INVERSE_LOW, PIECE, REACH

# Parameters of a lattice's mask: metric (6); square of the radius (5): constant, by |ŝ1 - ŝ0|², by 1/distance², least
# of the latter term, upper limit; half the distance of lattice planes (infinite where the lattice is not oblique);
# lengths of the axes of the reciprocal lattice (3), and the sum of the metric's sizes
METRIC, RADIUS, HALF_SPACING, AXES, METRIC_SIZE, N_LATTICE = 0, 6, 11, 12, 15, 16
_NEAR, _UNSURE = 1, 2
_SINGLE = 2.0**-20  # bound of the rounding of a squared distance in single precision, over the sum of its terms


@njit(**OPTIONS)
def _radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step):
    """Square of the Bragg radius at one pixel: k²(|s|) σ² up to the largest, LatticeMask.radius_squared."""
    k = sigmas_squared[min(np.int64(chord / wavelength / s_step), len(sigmas_squared) - 1)]
    spread = max(lattices[which, RADIUS + 2] * inverse * inverse, lattices[which, RADIUS + 3])
    squared = k * (lattices[which, RADIUS] + lattices[which, RADIUS + 1] * chord * chord + spread)
    return min(squared, lattices[which, RADIUS + 4])


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _middle_distances(half, c, m, out):
    """Squared distances of the blocks' middle pixels from the nearest lattice point."""
    a0, a1, a2, a3 = c[0, 0], c[0, 1], c[0, 2], c[0, 3]
    b0, b1, b2, b3 = c[1, 0], c[1, 1], c[1, 2], c[1, 3]
    c0, c1, c2, c3 = c[2, 0], c[2, 1], c[2, 2], c[2, 3]
    m00, m11, m22, m01, m02, m12 = m[0], m[1], m[2], m[3], m[4], m[5]
    start, by = np.float32(BLOCK // 2 - half), np.float32(BLOCK)
    for i in range(PIECE // BLOCK):
        t = start + by * np.float32(np.int32(i))
        h = ((a3 * t + a2) * t + a1) * t + a0
        k = ((b3 * t + b2) * t + b1) * t + b0
        l = ((c3 * t + c2) * t + c1) * t + c0  # noqa: E741
        h, k, l = h - np.rint(h), k - np.rint(k), l - np.rint(l)  # noqa: E741
        out[i] = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l


@njit(**OPTIONS)
def _classify(begin, half, c, m, low, high, edge, here):
    """_NEAR and _UNSURE of the BLOCK pixels from ``begin``; returns both together."""
    a0, a1, a2, a3 = c[0, 0], c[0, 1], c[0, 2], c[0, 3]
    b0, b1, b2, b3 = c[1, 0], c[1, 1], c[1, 2], c[1, 3]
    c0, c1, c2, c3 = c[2, 0], c[2, 1], c[2, 2], c[2, 3]
    m00, m11, m22, m01, m02, m12 = m[0], m[1], m[2], m[3], m[4], m[5]
    start, found = np.int32(begin - half), np.int32(0)
    for i in range(BLOCK):
        t = np.float32(np.int32(start + np.int32(i)))
        h = ((a3 * t + a2) * t + a1) * t + a0
        k = ((b3 * t + b2) * t + b1) * t + b0
        l = ((c3 * t + c2) * t + c1) * t + c0  # noqa: E741
        h, k, l = h - np.rint(h), k - np.rint(k), l - np.rint(l)  # noqa: E741
        distance = h * (m00 * h + m01 * k + m02 * l) + k * (m11 * k + m12 * l) + m22 * l * l
        near = distance < high
        unsure = (near & (distance > low)) | (np.abs(h) > edge) | (np.abs(k) > edge) | (np.abs(l) > edge)
        value = np.int32(np.int32(near) | np.int32(np.int32(unsure) << 1))
        here[i] = value
        found = np.int32(found | value)
    return found


@njit(**OPTIONS)
def _on_lattice(h, k, l, centring):  # noqa: E741
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
    l = linear(matrices, which + 1, 2, x, y, z)  # noqa: E741
    o, p, r = h - np.rint(h), k - np.rint(k), l - np.rint(l)
    distance = o * (lattices[which, 0] * o + lattices[which, 3] * p + lattices[which, 4] * r)
    distance += p * (lattices[which, 1] * p + lattices[which, 5] * r) + lattices[which, 2] * r * r
    return distance < radius and _on_lattice(np.rint(h), np.rint(k), np.rint(l), centring)


@njit(**OPTIONS)
def _centred(i, half, c, base, centring):
    """Whether the lattice point next to pixel i of a piece is none that the centring extinguishes."""
    t = np.float32(i - half)
    h = np.rint(((c[0, 3] * t + c[0, 2]) * t + c[0, 1]) * t + c[0, 0]) + base[0]
    k = np.rint(((c[1, 3] * t + c[1, 2]) * t + c[1, 1]) * t + c[1, 0]) + base[1]
    l = np.rint(((c[2, 3] * t + c[2, 2]) * t + c[2, 1]) * t + c[2, 0]) + base[2]  # noqa: E741
    return _on_lattice(h, k, l, centring)


@njit(**OPTIONS)
def mark_near(
    n, row, first, polynomials, bounds, piece, plane, shift, beam, wavelength, s_step, matrices, sizes, lattices,
    which, centring, sigmas_squared, c, m, middles, here, base, spread, near, words,
):  # fmt: skip
    """Mark the pixels of a piece that are near a point of one lattice.

    Args:
        n: Number of pixels.
        row, first: Place of the first one.
        polynomials, bounds, piece: Of all pieces, and the number of this one.
        plane, shift: As in ``crossings.direction``.
        beam, wavelength: Unit vector ŝ0; Å.
        s_step: By which |s| the radius is looked up, 1/Å.
        matrices: From unit vectors to the voxels, and to the Miller indices of each lattice, shape (1 + l, 3, 4).
        sizes: Of these, as Crystal has them.
        lattices, which: Parameters of the masks, shape (l, N_LATTICE), and which of them.
        centring: Translations, shape (m, 3).
        sigmas_squared: k² by |s|.
        c, m, middles, here, base, spread: Work space: coefficients, metric, distances, classes of pixels, whole
            numbers, bounds of rounding.
        near: Result, shape (PIECE,), uint8: 1 is added to what is there by |.
        words: Bits of the pixels where ``near`` may change; added to.

    Returns:
        Whether any pixel is near.
    """
    half = n // 2
    localise(matrices, which + 1, polynomials, piece, np.float64(half), c, base, spread)
    low, high = _radii(lattices, which, sigmas_squared, bounds, piece, wavelength, s_step)
    error, edge = bounds[piece, ERROR] / wavelength, 0.0
    rounding = lattices[which, METRIC_SIZE] * _SINGLE
    for j in range(6):
        m[j] = lattices[which, METRIC + j]
    for j in range(3):
        edge = max(edge, bounds[piece, ERROR] * sizes[which + 1, j] + spread[j])
        error += spread[j] * lattices[which, AXES + j]
    edge = np.float32(0.5 - edge - 1e-6)
    reach = high + bounds[piece, REACH] / wavelength + error
    everywhere = reach > lattices[which, HALF_SPACING]
    least = np.float32(max(low - error, 0.0) ** 2 - rounding)
    most, far = np.float32((high + error) ** 2 + rounding), np.float32((reach + error) ** 2 + rounding)
    _middle_distances(half, c, m, middles)
    any_near = False
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        if not (everywhere or middles[block] < far or begin + BLOCK // 2 >= n):
            continue
        found = _classify(begin, half, c, m, least, most, edge, here)
        if not found:
            continue
        stop, before = min(begin + BLOCK, n), np.int32(0)
        for i in range(begin, stop):
            value = here[i - begin]
            if value & _UNSURE:
                value = np.int32(_exactly(
                    row, first + i, plane, shift, beam, matrices, lattices, which, centring, sigmas_squared, wavelength,
                    s_step,
                ))  # fmt: skip
            elif value and len(centring) and not _centred(i, half, c, base, centring):
                value = np.int32(0)
            near[i] |= value
            any_near |= value != 0
            if value != before or i == begin:
                words[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
            before = value
        if stop < n:
            words[stop >> 6] |= np.uint64(1) << np.uint64(stop & 63)
    return any_near
