"""One panel of one still in one pass: pixels → sums per voxel and per |s| bin.

Pixels are taken row by row, in pieces. First what vectorises is worked out for all pixels of a piece (voxel, Bragg
mask, what is trusted), in loops over few arrays, which compilers vectorise, into short buffers that stay in the
processor's cache. Then runs of neighbouring pixels in one voxel and one |s| bin are found, and the sums of a run,
differences of running sums, are added to its voxel and its bin. The running sums are whole numbers, so that no rounding
enters: the response comes as multiples of a small unit.

The NumPy code of algorithms.still_pixels and algorithms.gridding does the same step by step; it is the reference.
"""

from __future__ import annotations

import numpy as np
from numba import njit

PIECE = 512  # pixels of a row handled at once: the buffers fit the processor's first cache
SLOTS = 64  # voxels are kept in bricks of 4 x 4 x 4
MASKED = np.uint16(0xFFFF)  # |s| bin of a pixel that no still uses
OUTSIDE = np.uint16(0x8000)  # bit of the |s| bin of a pixel beyond the resolution limits: in the radial totals only
N_BINS = 0x7FFF
# Columns of the sums: whole numbers (of |s| bins the first four), and real ones where they are needed.
N_PIXELS, COUNTS, RESPONSE, FAST, SLOW = range(5)
N_OVERLOADED = 3
PHOTONS, POSITIVE, BACKGROUND, BACKGROUND_VARIANCE = range(4)
# Parameters of a lattice's Bragg mask: from voxels to its Miller indices (12), metric (6), radius² (5).
N_LATTICE = 23
_options = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_options)
def _inverse_distances(n, x0, y0, z0, fx, fy, fz, inverse):
    for i in range(n):
        t = np.float64(np.int32(i))
        x, y, z = x0 + t * fx, y0 + t * fy, z0 + t * fz
        inverse[i] = 1.0 / np.sqrt(x * x + y * y + z * z)


@njit(**_options)
def _linear(n, at_0, by_1, constant, inverse, u, v, w):
    a0, a1, a2, b0, b1, b2 = at_0[0], at_0[1], at_0[2], by_1[0], by_1[1], by_1[2]
    c0, c1, c2 = constant[0], constant[1], constant[2]
    for i in range(n):
        t, r = np.float64(np.int32(i)), inverse[i]
        u[i] = (a0 + t * b0) * r + c0
        v[i] = (a1 + t * b1) * r + c1
        w[i] = (a2 + t * b2) * r + c2


@njit(**_options)
def _inverse_shifted(n, x0, y0, z0, plane, along_fast, along_slow, inverse):
    fx, fy, fz = plane[1, 0], plane[1, 1], plane[1, 2]
    px, py, pz, qx, qy, qz = plane[3, 0], plane[3, 1], plane[3, 2], plane[4, 0], plane[4, 1], plane[4, 2]
    for i in range(n):
        t, a, b = np.float64(np.int32(i)), np.float64(along_fast[i]), np.float64(along_slow[i])
        x, y, z = x0 + t * fx + a * px + b * qx, y0 + t * fy + a * py + b * qy, z0 + t * fz + a * pz + b * qz
        inverse[i] = 1.0 / np.sqrt(x * x + y * y + z * z)


@njit(**_options)
def _linear_shifted(n, at_0, by_1, by_fast, by_slow, constant, along_fast, along_slow, inverse, out):
    for i in range(n):
        a, b = np.float64(along_fast[i]), np.float64(along_slow[i])
        out[i] = (at_0 + np.float64(np.int32(i)) * by_1 + a * by_fast + b * by_slow) * inverse[i] + constant


@njit(**_options)
def _voxels(first, n, row, plane, shift, to_voxel, u, v, w, inverse):
    """Coordinates in the grid (voxels from its corner, plus ½) and 1/distance (1/mm) of n pixels of a row.

    The position on the panel is linear in the pixel's number, and so is all that follows but for the distance.
    """
    start = plane[0] + row * plane[2] + first * plane[1]
    matrix, constant = to_voxel[:, :3], to_voxel[:, 3]
    at_0, by_1 = _times(matrix, start), _times(matrix, plane[1])
    if shift is None:
        _inverse_distances(n, start[0], start[1], start[2], plane[1, 0], plane[1, 1], plane[1, 2], inverse)
        _linear(n, at_0, by_1, constant, inverse, u, v, w)
    else:
        along_fast, along_slow = shift[0, row, first : first + n], shift[1, row, first : first + n]
        by_fast, by_slow = _times(matrix, plane[3]), _times(matrix, plane[4])
        _inverse_shifted(n, start[0], start[1], start[2], plane, along_fast, along_slow, inverse)
        for j in range(3):
            out = u if j == 0 else v if j == 1 else w
            _linear_shifted(
                n, at_0[j], by_1[j], by_fast[j], by_slow[j], constant[j], along_fast, along_slow, inverse, out
            )


@njit(**_options)
def _times(matrix, vector):
    out = np.empty(3)
    for j in range(3):
        out[j] = matrix[j, 0] * vector[0] + matrix[j, 1] * vector[1] + matrix[j, 2] * vector[2]
    return out


@njit(**_options)
def _widths(n, lattice, at_0, by_1, by_fast, by_slow, along_fast, along_slow, inverse, limit):
    """Square of a spot's width σ at each pixel: LatticeMask.width_squared with |s|² = 2(1 - cos 2θ)/λ²."""
    constant, by_cosine, by_footprint, spot = lattice[18], lattice[19], lattice[20], lattice[21]
    if along_fast is None:
        for i in range(n):
            r = inverse[i]
            cosine = (at_0 + np.float64(np.int32(i)) * by_1) * r
            limit[i] = constant - by_cosine * cosine + max(by_footprint * r * r, spot)
    else:
        for i in range(n):
            r, a, b = inverse[i], np.float64(along_fast[i]), np.float64(along_slow[i])
            cosine = (at_0 + np.float64(np.int32(i)) * by_1 + a * by_fast + b * by_slow) * r
            limit[i] = constant - by_cosine * cosine + max(by_footprint * r * r, spot)


@njit(**_options)
def _radius_squared(first, n, row, plane, shift, beam, lattice, sigmas_squared, s_bin, inverse, limit):
    """Square of the Bragg radius at each pixel: k²(|s|) σ² up to the largest, as LatticeMask.radius_squared has it."""
    start = plane[0] + row * plane[2] + first * plane[1]
    at_0, by_1 = _dot(beam, start), _dot(beam, plane[1])
    by_fast, by_slow = _dot(beam, plane[3]), _dot(beam, plane[4])
    if shift is None:
        _widths(n, lattice, at_0, by_1, by_fast, by_slow, None, None, inverse, limit)
    else:
        along_fast, along_slow = shift[0, row, first : first + n], shift[1, row, first : first + n]
        _widths(n, lattice, at_0, by_1, by_fast, by_slow, along_fast, along_slow, inverse, limit)
    last, largest = len(sigmas_squared) - 1, lattice[22]
    if last == 0:
        factor = sigmas_squared[0]
        for i in range(n):
            limit[i] = min(factor * limit[i], largest)
    else:
        for i in range(n):
            limit[i] = min(sigmas_squared[min(np.int64(s_bin[i] & N_BINS), last)] * limit[i], largest)


@njit(**_options)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(**_options)
def _near_lattice(n, lattice, u, v, w, limit, here):
    a00, a01, a02, a03 = lattice[0], lattice[1], lattice[2], lattice[3]
    a10, a11, a12, a13 = lattice[4], lattice[5], lattice[6], lattice[7]
    a20, a21, a22, a23 = lattice[8], lattice[9], lattice[10], lattice[11]
    m00, m11, m22, m01, m02, m12 = lattice[12], lattice[13], lattice[14], lattice[15], lattice[16], lattice[17]
    for i in range(n):
        h = a00 * u[i] + a01 * v[i] + a02 * w[i] + a03
        k = a10 * u[i] + a11 * v[i] + a12 * w[i] + a13
        m = a20 * u[i] + a21 * v[i] + a22 * w[i] + a23
        h, k, m = h - np.rint(h), k - np.rint(k), m - np.rint(m)
        distance = h * (m00 * h + m01 * k + m02 * m) + k * (m11 * k + m12 * m) + m22 * m * m
        here[i] = distance < limit[i]


@njit(**_options)
def _near_own_lattice(n, lattice, u, v, w, limit, here):
    """The same for the lattice that the grid subdivides: each index depends on one coordinate."""
    a00, a03, a11, a13, a22, a23 = lattice[0], lattice[3], lattice[5], lattice[7], lattice[10], lattice[11]
    m00, m11, m22, m01, m02, m12 = lattice[12], lattice[13], lattice[14], lattice[15], lattice[16], lattice[17]
    for i in range(n):
        h, k, m = a00 * u[i] + a03, a11 * v[i] + a13, a22 * w[i] + a23
        h, k, m = h - np.rint(h), k - np.rint(k), m - np.rint(m)
        distance = h * (m00 * h + m01 * k + m02 * m) + k * (m11 * k + m12 * m) + m22 * m * m
        here[i] = distance < limit[i]


@njit(**_options)
def _not_centred(n, lattice, centring, u, v, w, here):
    """Take back what is near a lattice point that the centring extinguishes."""
    for i in range(n):
        if here[i]:
            h = np.rint(lattice[0] * u[i] + lattice[1] * v[i] + lattice[2] * w[i] + lattice[3])
            k = np.rint(lattice[4] * u[i] + lattice[5] * v[i] + lattice[6] * w[i] + lattice[7])
            m = np.rint(lattice[8] * u[i] + lattice[9] * v[i] + lattice[10] * w[i] + lattice[11])
            for j in range(len(centring)):
                phase = h * centring[j, 0] + k * centring[j, 1] + m * centring[j, 2]
                if np.abs(phase - np.rint(phase)) >= 0.01:
                    here[i] = 0


@njit(**_options)
def _add(n, here, near):
    for i in range(n):
        near[i] |= here[i]


@njit(**_options)
def _codes(n, n_bricks, u, v, w, keys):
    """Brick and place in it of each pixel's voxel; ``keys`` is int32 where that is enough, else int64."""
    bricks_1, bricks_2, kind = np.int32(n_bricks[1]), np.int32(n_bricks[2]), keys.dtype.type
    for i in range(n):
        # The coordinates are positive: truncation is floor
        a, b, c = np.int32(u[i]), np.int32(v[i]), np.int32(w[i])
        inner = ((a & 3) << 4) | ((b & 3) << 2) | (c & 3)
        slab = kind(a >> 2) * bricks_1 + kind(b >> 2)
        keys[i] = ((slab * bricks_2 + kind(c >> 2)) << 6) | inner


@njit(**_options)
def _flag(n, no_voxel, low, high, raw, s_bin, near, keys):
    """Voxel code and Bragg bit in one key, -1 where masked or untrusted; returns how many are overloaded."""
    kind, overloaded = keys.dtype.type, np.int32(0)
    none, outside = kind(-1), kind(no_voxel)
    for i in range(n):
        use = s_bin[i] != MASKED
        good = use & (raw[i] >= low) & (raw[i] <= high)
        overloaded += np.int32(use & (raw[i] > high))
        key = outside if s_bin[i] >= OUTSIDE else keys[i]
        key = kind(key << 1) | kind(near[i])
        keys[i] = key if good else none
    return overloaded


@njit(**_options)
def _changes(n, keys, s_bin, changed):
    for i in range(1, n):
        changed[i] = (keys[i] != keys[i - 1]) | (s_bin[i] != s_bin[i - 1])


@njit(**_options)
def _starts(n, changed, starts):
    m = 1
    for i in range(1, n):
        starts[m] = i
        m += changed[i]
    starts[m] = n
    return m


@njit(**_options)
def _running(n, factors, values, responses, counts):
    response = total = np.int64(0)
    for i in range(n):
        response += np.int64(factors[i])
        responses[i + 1] = response
        total += np.int64(values[i])
        counts[i + 1] = total


@njit(**_options)
def _running_responses(n, factors, responses):
    response = np.int64(0)
    for i in range(n):
        response += np.int64(factors[i])
        responses[i + 1] = response


@njit(**_options)
def _slot(code, bragg, table, bricks):
    """Place of a voxel in the sums; its brick is taken into use if it is new."""
    brick = code >> 6
    place = table[bragg, brick]
    if place < 0:
        place = bricks[-1]
        table[bragg, brick] = place
        bricks[place] = brick << 1 | bragg
        bricks[-1] += 1
    return np.int64(place) << 6 | (code & 63)


@njit(**_options)
def _photons(start, stop, row, first, values, pedestal, gain):
    """Sum of (raw - pedestal)/gain over a run, and of its positive terms."""
    offset_row, gain_row = pedestal[row % len(pedestal)], gain[row % len(gain)]
    one_offset, one_gain = len(offset_row) == 1, len(gain_row) == 1
    photons = positive = 0.0
    for i in range(start, stop):
        value = values[i] - offset_row[0 if one_offset else first + i]
        value /= gain_row[0 if one_gain else first + i]
        photons += value
        positive += max(value, 0.0)
    return photons, positive


@njit(**_options)
def sum_rows(
    first_row, raw, limits, response, s_bin, plane, shift, beam, lattices, own_first, centring, sigmas_squared, keep,
    pedestal, gain, background, background_variance, to_voxel, n_bricks, key_type, table, bricks, whole, real,
    bin_whole, bin_real,
):  # fmt: skip
    """Add the pixels of a panel to the sums, row after row, as long as there is room for a row's new bricks.

    Args:
        first_row: Where to start.
        raw: Values as stored, shape (slow, fast), whole or real numbers.
        limits: Lowest and highest trusted value and the highest that is no sentinel, of raw's type.
        response: Multiples of a unit, shape (slow, fast), uint32; without the exposure time.
        s_bin: |s| bin, with OUTSIDE, or MASKED, same shape, uint16.
        plane: Position of the centre of the first pixel, steps to the next one along fast and slow, unit vectors along
            fast and slow, shape (5, 3), mm.
        shift: What parallax adds along fast and slow, shape (2, slow, fast), mm; or None.
        beam: Unit vector ŝ0.
        lattices: Bragg masks by distance, shape (n, N_LATTICE); may be empty.
        own_first: Whether the first lattice is the one that the grid subdivides.
        centring: Centring translations, shape (m, 3).
        sigmas_squared: Square of the Bragg radius in widths of a spot, by |s| bin; the last holds beyond.
        keep: Which pixels pass other Bragg masks, shape (slow, fast), or None.
        pedestal, gain: Arrays that broadcast to raw's shape; None for whole numbers that are photons.
        background, background_variance: Photons and photons², shape (slow, fast), or None.
        to_voxel: Matrix and constant from a unit vector to coordinates from the grid's corner, shape (3, 4).
        n_bricks: Of the grid, along each axis.
        key_type: An array of the type that holds twice the number of voxels: int32 or int64.
        table: Place of each brick in the sums, -1 unused, shape (2, number of bricks): Bragg pixels apart.
        bricks: Which brick is at each place; the last element is the number of places in use.
        whole, real: Sums of each place's SLOTS voxels, shape (n, 5) and (n, 4) or (n, 0).
        bin_whole, bin_real: Sums of each |s| bin.

    Returns:
        The row to go on with after making room; the number of rows when all are done.
    """
    n_rows, n_fast = raw.shape
    low, high, top = limits
    u, v, w = np.empty(PIECE), np.empty(PIECE), np.empty(PIECE)
    inverse, limit = np.empty(PIECE), np.empty(PIECE)
    here, near = np.zeros(PIECE, np.uint8), np.zeros(PIECE, np.uint8)
    changed, starts, keys = np.zeros(PIECE, np.uint8), np.zeros(PIECE + 1, np.int32), np.empty(PIECE, key_type.dtype)
    counts, responses = np.zeros(PIECE + 1, np.int64), np.zeros(PIECE + 1, np.int64)
    no_voxel = table.shape[1] * SLOTS
    for row in range(first_row, n_rows):
        if bricks[-1] + min(n_fast, 2 * table.shape[1]) > len(bricks) - 1:
            return row
        for first in range(0, n_fast, PIECE):
            n = min(PIECE, n_fast - first)
            values, factors = raw[row, first : first + n], response[row, first : first + n]
            bins = s_bin[row, first : first + n]
            _voxels(first, n, row, plane, shift, to_voxel, u, v, w, inverse)
            near[:] = 0
            if keep is not None:
                for i in range(n):
                    near[i] = not keep[row, first + i]
            for j in range(len(lattices)):
                lattice = lattices[j]
                _radius_squared(first, n, row, plane, shift, beam, lattice, sigmas_squared, bins, inverse, limit)
                if j == 0 and own_first:
                    _near_own_lattice(n, lattice, u, v, w, limit, here)
                else:
                    _near_lattice(n, lattice, u, v, w, limit, here)
                if len(centring):
                    _not_centred(n, lattice, centring, u, v, w, here)
                _add(n, here, near)
            _codes(n, n_bricks, u, v, w, keys)
            if _flag(n, no_voxel, low, high, values, bins, near, keys):
                for i in range(n):
                    if bins[i] != MASKED and high < values[i] <= top:
                        bin_whole[bins[i] & N_BINS, N_OVERLOADED] += 1
            _changes(n, keys, bins, changed)
            n_runs = _starts(n, changed, starts)
            if gain is None:
                _running(n, factors, values, responses, counts)
            else:
                _running_responses(n, factors, responses)
            for j in range(n_runs):
                start, stop = starts[j], starts[j + 1]
                key = np.int64(keys[start])
                if key < 0:
                    continue
                s, n_pixels = bins[start] & N_BINS, np.int64(stop - start)
                factor = responses[stop] - responses[start]
                bin_whole[s, N_PIXELS] += n_pixels
                bin_whole[s, RESPONSE] += factor
                slot = np.int64(-1)
                if key >> 1 < no_voxel:
                    slot = _slot(key >> 1, key & 1, table, bricks)
                    whole[slot, N_PIXELS] += n_pixels
                    whole[slot, RESPONSE] += factor
                    whole[slot, FAST] += n_pixels * (2 * first + start + stop)
                    whole[slot, SLOW] += n_pixels * (2 * row + 1)
                if gain is None:
                    total = counts[stop] - counts[start]
                    bin_whole[s, COUNTS] += total
                    if slot >= 0:
                        whole[slot, COUNTS] += total
                else:
                    photons, positive = _photons(start, stop, row, first, values, pedestal, gain)
                    bin_real[s, PHOTONS] += photons
                    bin_real[s, POSITIVE] += positive
                    if slot >= 0:
                        real[slot, PHOTONS] += photons
                        real[slot, POSITIVE] += positive
                if background is not None:
                    photons = variance = 0.0
                    for i in range(first + start, first + stop):
                        photons += background[row, i]
                        variance += background_variance[row, i]
                    bin_real[s, BACKGROUND] += photons
                    bin_real[s, BACKGROUND_VARIANCE] += variance
                    if slot >= 0:
                        real[slot, BACKGROUND] += photons
                        real[slot, BACKGROUND_VARIANCE] += variance
    return n_rows


@njit(**_options)
def harvest(n_bricks, table, bricks, whole, real):
    """Rows of all voxels with pixels, in ascending order of their index, and the sums made empty again.

    Args:
        n_bricks, table, bricks, whole, real: As in ``sum_rows``.

    Returns:
        (index from the grid's corner, shape (n, 3); bragg, shape (n,), uint8; whole and real sums, shape (n, 5)
        and (n, 4) or (n, 0)).
    """
    n_used = bricks[-1]
    used = np.unique(bricks[:n_used] >> 1)
    n = 0
    for slot in range(n_used * SLOTS):
        n += whole[slot, N_PIXELS] > 0
    index, bragg = np.empty((n, 3), np.int32), np.empty(n, np.uint8)
    rows, real_rows = np.empty((n, whole.shape[1]), np.int64), np.empty((n, real.shape[1]), np.float64)
    n = 0
    slab = n_bricks[1] * n_bricks[2]
    start = 0
    while start < len(used):
        stop = start
        while stop < len(used) and used[stop] // slab == used[start] // slab:
            stop += 1
        for x in range(4):
            left = start
            while left < stop:
                right = left
                while right < stop and used[right] // n_bricks[2] == used[left] // n_bricks[2]:
                    right += 1
                for y in range(4):
                    for i in range(left, right):
                        for z in range(4):
                            for b in range(2):
                                place = table[b, used[i]]
                                if place < 0:
                                    continue
                                slot = place * SLOTS + (x << 4 | y << 2 | z)
                                if whole[slot, N_PIXELS] == 0:
                                    continue
                                index[n, 0] = (used[i] // slab) * 4 + x
                                index[n, 1] = (used[i] % slab) // n_bricks[2] * 4 + y
                                index[n, 2] = used[i] % n_bricks[2] * 4 + z
                                bragg[n] = b
                                for c in range(whole.shape[1]):
                                    rows[n, c] = whole[slot, c]
                                for c in range(real.shape[1]):
                                    real_rows[n, c] = real[slot, c]
                                n += 1
                left = right
        start = stop
    for place in range(n_used):
        table[bricks[place] & 1, bricks[place] >> 1] = -1
        whole[place * SLOTS : (place + 1) * SLOTS] = 0
        real[place * SLOTS : (place + 1) * SLOTS] = 0
    bricks[-1] = 0
    return index, bragg, rows, real_rows
