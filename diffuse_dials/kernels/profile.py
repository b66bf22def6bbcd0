"""The profile of a still over |s|, for a background that is estimated on each still (algorithms.background.radial).

``sum_bins`` sums the pixels of a panel that pass every mask, the Bragg mask too, by |s| bin; ``take_out`` subtracts
those that deviate too much from a profile; ``run_on_profile`` and ``add_run`` give the kernel the profile along a row.
|s| and bins are those of the NumPy code, so that the same pixels are in the same bins and the same ones are left out.
Only one bit is kept for each pixel, and for each piece the extremes of its pixels, which show for most pieces that none
deviates too much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, INLINE, OPTIONS
from diffuse_dials.kernels.pieces import BEYOND, CHORD_HIGH, CHORD_LOW, MASKED, PIECE, TOGETHER, WORD
from diffuse_dials.kernels.shared import NEAR_BEAM, NEAR_EDGE, exact_s
from diffuse_dials.kernels.spots import make_work, mark_near
from diffuse_dials.kernels.vectors import trailing_zeros

WORDS = PIECE // 32  # of 32 bits, one a pixel
# Columns of the sums of a bin. Whole numbers are exact in them; the response is in units.
N_PIXELS, RESPONSE, S_RESPONSE, PHOTONS, POSITIVE, BACKGROUND, BACKGROUND_VARIANCE, N_SUMS = range(8)
LEAST, MOST, LEAST_RESPONSE, MOST_RESPONSE, N_EXTREMES = range(5)  # of a piece: of photons - background, and response
INTENSITY, ERROR_SQUARED, NOISE, N_CURVES = range(4)  # curves of a profile
_LOW, _HIGH, _LOW_NOISE, N_BOUNDS = range(4)  # of the curves in a bin
_SLACK = 1e-9  # relative: what rounding may do to a bound
_NO_NAN = {**OPTIONS, "fastmath": {"contract", "nnan", "nsz"}}  # for extremes of several pixels at once


class Profile(NamedTuple):
    """Curves over |s|, linear between nodes, of which a bin has at most one, and constant beyond them.

    Attributes:
        width: Of the |s| bins, 1/Å.
        node: In each bin, infinite where there is none, shape (n,), 1/Å.
        lines: Of each bin, below the node and from there on, and of each curve (INTENSITY, ERROR_SQUARED, NOISE): value
            at |s| = 0 and slope, shape (n · 2 · 3 · 2,).
        bounds: Of each bin: least and largest intensity, least noise, shape (3, n).
        unit: What a unit of the panel's response stands for in this still, sr s.
    """

    width: float
    node: np.ndarray
    lines: np.ndarray
    bounds: np.ndarray
    unit: float


def make_profile(width, nodes, bin_of_node, n_bins, curves) -> Profile:
    """A profile for the functions below, of unit 1.

    Args:
        width: Of the |s| bins, 1/Å.
        nodes: Ascending, shape (k,), k > 0, 1/Å.
        bin_of_node: Where each lies, ascending.
        n_bins: Number of bins.
        curves: Intensity, its variance, and noise (variance over response of a pixel) at the nodes, shape (3, k).
    """
    slopes = np.zeros((N_CURVES, len(nodes) + 1))
    slopes[:, 1:-1] = np.diff(curves, axis=1) / np.diff(nodes)
    at_zero = curves[:, [0, *range(len(nodes))]] - slopes * nodes[[0, *range(len(nodes))]]
    after = np.searchsorted(bin_of_node, np.arange(n_bins), side="right")  # interval at the upper end of each bin
    before = np.concatenate([[0], after[:-1]])
    intervals = np.stack([before, after], axis=1)
    lines = np.stack([at_zero.T[intervals], slopes.T[intervals]], axis=-1)
    node = np.full(n_bins, np.inf)
    node[bin_of_node] = nodes
    edges = np.arange(n_bins + 1) * width
    bounds = np.empty((N_BOUNDS, n_bins))
    wanted = (_LOW, INTENSITY, np.minimum), (_HIGH, INTENSITY, np.maximum), (_LOW_NOISE, NOISE, np.minimum)
    for row, curve, extreme in wanted:
        at_edges = np.interp(edges, nodes, curves[curve])
        bounds[row] = extreme(at_edges[:-1], at_edges[1:])
        bounds[row, bin_of_node] = extreme(bounds[row, bin_of_node], curves[curve])
    return Profile(width, node, lines.ravel(), bounds, 1.0)


@njit(**BORROW)
def _find_s(row, begin, stop, bounds, plane, shift, beam, wavelength, s):
    """|s| of pixels of a row; those near the beam by NumPy's operations, because there rounding is felt."""
    x0, x1 = plane[0, 0] + row * plane[2, 0], plane[1, 0]
    y0, y1 = plane[0, 1] + row * plane[2, 1], plane[1, 1]
    z0, z1 = plane[0, 2] + row * plane[2, 2], plane[1, 2]
    a0, a1, a2, b0, b1, b2 = plane[3, 0], plane[3, 1], plane[3, 2], plane[4, 0], plane[4, 1], plane[4, 2]
    s0, s1, s2 = beam[0], beam[1], beam[2]
    per_length = 1.0 / wavelength
    if shift is not None:
        shift_fast, shift_slow = shift[0, row], shift[1, row]
    for i in range(begin, stop):
        at, t = np.uint64(i), np.float64(np.int32(i))
        x, y, z = x0 + t * x1, y0 + t * y1, z0 + t * z1
        if shift is not None:
            a, b = np.float64(shift_fast[at]), np.float64(shift_slow[at])
            x += a * a0 + b * b0
            y += a * a1 + b * b1
            z += a * a2 + b * b2
        chord = 2.0 - 2.0 * ((x * s0 + y * s1 + z * s2) / np.sqrt(x * x + y * y + z * z))
        chord = chord if chord > 0.0 else 0.0
        s[at] = np.sqrt(chord) * per_length
    n_pieces = -(-len(s) // PIECE)
    for part in range(begin // PIECE, -(-stop // PIECE)):
        if bounds[CHORD_LOW, row * n_pieces + part] < NEAR_BEAM:
            for i in range(part * PIECE, min((part + 1) * PIECE, stop)):
                s[i] = exact_s(row, i, plane, shift, beam, wavelength)


@njit(**BORROW)
def _find_bins(row, begin, stop, plane, shift, beam, wavelength, width, s, bins):
    """|s| bins of pixels of a row, NumPy's to the pixel."""
    near, per_bin = np.int32(0), 1.0 / width
    for i in range(begin, stop):
        at = np.uint64(i)
        value = s[at] * per_bin
        k = np.int32(value - NEAR_EDGE)
        near = np.int32(near | (k ^ np.int32(value + NEAR_EDGE)))
        bins[at] = k
    if near:  # rounding could decide somewhere
        for i in range(begin, stop):
            value = s[i] * per_bin
            if np.int32(value - NEAR_EDGE) != np.int32(value + NEAR_EDGE):
                bins[i] = np.int32(exact_s(row, i, plane, shift, beam, wavelength) / width)


@njit(**BORROW)
def _find_photons(row, begin, stop, raw, pedestal, gain, photons):
    """Photons of pixels of a row."""
    if gain is None:
        for i in range(begin, stop):
            photons[np.uint64(i)] = np.float64(raw[row, np.uint64(i)])
    else:
        offset_row, gain_row = row % pedestal.shape[0], row % gain.shape[0]
        one_offset, one_gain = pedestal.shape[1] == 1, gain.shape[1] == 1
        for i in range(begin, stop):
            value = raw[row, i] - pedestal[offset_row, 0 if one_offset else i]
            photons[i] = value / gain[gain_row, 0 if one_gain else i]


@njit(**BORROW)
def _find_background(row, begin, stop, background, variance, ratio, out, out_variance):
    """Background and its variance of pixels of a row."""
    first_row, second_row, squared = row % background.shape[0], row % variance.shape[0], ratio**2
    one_value, one_variance = background.shape[1] == 1, variance.shape[1] == 1
    for i in range(begin, stop):
        out[i] = background[first_row, 0 if one_value else i] * ratio
        out_variance[i] = variance[second_row, 0 if one_variance else i] * squared


@njit(**BORROW)
def _find_used(row, values, low, high, state, keep, near, used):
    """Which pixels of a row pass everything, as 0 and 1; ``near`` as in ``spots.mark_near``."""
    states = state[row]
    for i in range(len(values)):
        at = np.uint64(i)
        value = values[at]
        used[at] = np.int32((value >= low) & (value <= high))
    for i in range(len(values)):
        at = np.uint64(i)
        used[at] &= np.int32(states[at] != np.uint8(MASKED))
    for i in range(len(near)):
        bits = near[i]
        while bits:
            used[WORD * i + np.int64(trailing_zeros(bits))] = 0
            bits &= bits - np.uint64(1)
    if keep is not None:
        for i in range(len(values)):
            used[i] &= np.int32(keep[row, i])


@njit(**BORROW)
def _pack(row, n_pieces, used, bits):
    """One bit for each pixel of a row."""
    for part in range(n_pieces):
        for word in range(WORDS):
            total, first = np.uint32(0), part * PIECE + word * 32
            for i in range(32):
                total |= np.uint32(used[np.uint64(first + i)]) << np.uint32(i)
            bits[row * n_pieces + part, word] = total


@njit(**INLINE)
def _extremes(first, stop, use, y, response):
    """Extremes of the used pixels from ``first`` on."""
    least, most, least_response, most_response = np.inf, -np.inf, np.inf, 0.0
    for i in range(first, stop):
        at = np.uint64(i)
        used, value, r = use[at] != np.int32(0), y[at], response[at]
        low, high, low_response = value if used else np.inf, value if used else -np.inf, r if used else np.inf
        high_response = r if used else 0.0
        least = low if low < least else least
        most = high if high > most else most
        least_response = low_response if low_response < least_response else least_response
        most_response = high_response if high_response > most_response else most_response
    return least, most, least_response, most_response


@njit(**_NO_NAN)
def _find_extremes(row, edges, used, y, response, extremes):
    """Extremes of the used pixels of each piece of a row."""
    n_pieces = len(edges) - 1
    for part in range(n_pieces):
        piece = row * n_pieces + part
        least, most, least_response, most_response = _extremes(edges[part], edges[part + 1], used, y, response)
        extremes[piece, LEAST], extremes[piece, MOST] = least, most
        extremes[piece, LEAST_RESPONSE], extremes[piece, MOST_RESPONSE] = least_response, most_response


@njit(**BORROW)
def _add(begin, stop, sign, counting, with_background, bins, used, s, work, sums):
    """Add the used pixels of a row to their bins, or take them away (``sign`` -1); overwrites ``work``."""
    for i in range(begin, stop):
        at = np.uint64(i)
        use = np.float64(used[at])
        response = work[_R, at] * use
        work[_R, at], work[_Y, at] = response, response * s[at]
        work[_P, at] = work[_P, at] if used[at] != np.int32(0) else 0.0  # others may be no numbers
    if with_background:
        for i in range(begin, stop):
            work[_B, i] *= np.float64(used[i])
            work[_V, i] *= np.float64(used[i])
    start, last = begin, len(sums) - 1
    while start < stop:
        s_bin, number = bins[np.uint64(start)], np.int32(0)
        response = s_response = photons = positive = background = variance = 0.0
        i = start
        while i < stop and bins[np.uint64(i)] == s_bin:
            at = np.uint64(i)
            number += used[at]
            response += work[_R, at]
            s_response += work[_Y, at]
            photons += work[_P, at]
            if not counting:
                positive += max(work[_P, at], 0.0)
            if with_background:
                background += work[_B, at]
                variance += work[_V, at]
            i += 1
        start = i
        s_bin = min(s_bin, last)
        sums[s_bin, N_PIXELS] += sign * number
        sums[s_bin, RESPONSE] += sign * response
        sums[s_bin, S_RESPONSE] += sign * s_response
        sums[s_bin, PHOTONS] += sign * photons
        sums[s_bin, POSITIVE] += sign * (photons if counting else positive)
        if with_background:
            sums[s_bin, BACKGROUND] += sign * background
            sums[s_bin, BACKGROUND_VARIANCE] += sign * variance


# Rows of the work space: response, photons less background, photons, background and its variance, two curves
_R, _Y, _P, _B, _V, _J, _K, _N_WORK = (np.uint64(k) for k in range(8))


@njit(**BORROW)
def _load(row, begin, stop, raw, responses, pedestal, gain, background, variance, ratio, work):
    """Fill the work space, but for the curves, for pixels of a row."""
    response = responses[row]
    for i in range(begin, stop):
        work[_R, np.uint64(i)] = np.float64(np.int32(response[np.uint64(i + 1)] - response[np.uint64(i)]))
    _find_photons(row, begin, stop, raw, pedestal, gain, work[_P])
    if background is None:
        for i in range(begin, stop):
            work[_Y, np.uint64(i)] = work[_P, np.uint64(i)]
    else:
        _find_background(row, begin, stop, background, variance, ratio, work[_B], work[_V])
        for i in range(begin, stop):
            work[_Y, np.uint64(i)] = work[_P, np.uint64(i)] - work[_B, np.uint64(i)]


@njit(**OPTIONS)
def sum_bins(
    raw, limits, shared, pieces, plane, shift, crystal, keep, pedestal, gain, background, variance, ratio, width, kinds,
    bits, extremes, sums,
):  # fmt: skip
    """Sum the pixels of a panel that pass everything by |s| bin, beyond the limits of resolution too.

    Args:
        raw, limits, shared, pieces, plane, shift, crystal, keep, pedestal, gain: As in ``still.sum_rows``.
        background, variance: Photons and photons², arrays that broadcast to raw's shape, or None.
        ratio: What multiplies ``background``; its square, ``variance``.
        width: Of the bins, 1/Å.
        kinds: ``shared.kinds`` with BEYOND replaced, for pixels beyond the limits have to be told from Bragg spots too.
        bits: Result: one bit a pixel, set where it is used, shape (pieces, WORDS), uint32.
        extremes: Result: of the used pixels of each piece, shape (pieces, N_EXTREMES).
        sums: Result, added to: shape (bins, N_SUMS).
    """
    low, high, _, _ = limits
    response, state, _, _, _, _ = shared
    edges, _, bounds, _ = pieces
    _, _, _, beam, wavelength, _, _, _, _ = crystal
    n_pieces, (n_rows, n_fast) = len(edges) - 1, raw.shape
    s, bins, used = np.zeros(n_fast), np.zeros(n_fast, np.int32), np.zeros(n_pieces * PIECE, np.int32)
    work, near = np.zeros((7, n_fast)), np.zeros(n_pieces * PIECE // WORD, np.uint64)
    spots = make_work(crystal.lattices, edges)
    for row in range(n_rows):
        near[:] = 0
        mark_near(row, row % TOGETHER == 0, n_fast, kinds, pieces, plane, shift, crystal, spots, near)
        _find_used(row, raw[row], low, high, state, keep, near, used)
        _pack(row, n_pieces, used, bits)
        _find_s(row, 0, n_fast, bounds, plane, shift, beam, wavelength, s)
        _find_bins(row, 0, n_fast, plane, shift, beam, wavelength, width, s, bins)
        _load(row, 0, n_fast, raw, response, pedestal, gain, background, variance, ratio, work)
        _find_extremes(row, edges, used, work[_Y], work[_R], extremes)
        _add(0, n_fast, 1.0, gain is None, background is not None, bins, used, s, work, sums)


@njit(**BORROW)
def _may_reject(piece, pieces_bounds, wavelength, profile, rejection, extremes):
    """Whether a pixel of a piece may be too far off the profile."""
    if extremes[piece, MOST_RESPONSE] == 0:
        return False  # none is used
    last, per_bin = len(profile.node) - 1, 1.0 / (wavelength * profile.width)
    begin = min(np.int64(pieces_bounds[CHORD_LOW, piece] * per_bin * (1 - _SLACK)), last)
    stop = min(np.int64(pieces_bounds[CHORD_HIGH, piece] * per_bin * (1 + _SLACK)), last)
    low, high, noise = np.inf, -np.inf, np.inf
    for i in range(begin, stop + 1):
        low, high = min(low, profile.bounds[_LOW, i]), max(high, profile.bounds[_HIGH, i])
        noise = min(noise, profile.bounds[_LOW_NOISE, i])
    least, most = extremes[piece, LEAST_RESPONSE] * profile.unit, extremes[piece, MOST_RESPONSE] * profile.unit
    reach, expected = rejection**2 / 6, least * noise
    above = (least if low > 0 else most) * low + reach + np.sqrt(reach**2 + rejection**2 * expected)
    below = (most if high > 0 else least) * high - rejection * np.sqrt(expected) - 1
    slack = _SLACK * (1 + abs(above) + abs(below))
    return extremes[piece, MOST] > above - slack or extremes[piece, LEAST] < below + slack


@njit(**INLINE)
def _line(s, s_bin, profile):
    """Where in ``Profile.lines`` those of |s| begin."""
    s_bin = np.uint64(min(s_bin, len(profile.node) - 1))
    upper = np.uint64(s >= profile.node[s_bin])
    return np.uint64(np.uint64(2 * N_CURVES) * (np.uint64(2) * s_bin + upper))


@njit(**OPTIONS)
def take_out(
    raw, shared, pieces, plane, shift, crystal, pedestal, gain, background, variance, ratio, bits, extremes, profile,
    rejection, sums,
):  # fmt: skip
    """Take pixels out of the sums that differ from a profile by more than counting allows.

    Args:
        raw, shared, pieces, plane, shift, crystal, pedestal, gain, background, variance, ratio, bits, extremes: As in
            ``sum_bins``.
        profile: Profile.
        rejection: As in RadialBackground.
        sums: Those of ``sum_bins``; changed.
    """
    edges, _, bounds, _ = pieces
    n_pieces, n_fast = len(edges) - 1, raw.shape[1]
    reach, squared = rejection**2 / 6, rejection**2
    s, bins, used = np.zeros(n_fast), np.zeros(n_fast, np.int32), np.zeros(n_fast, np.int32)
    work, lines = np.zeros((7, n_fast)), profile.lines
    for row in range(raw.shape[0]):
        for part in range(n_pieces):
            piece, begin, stop = row * n_pieces + part, edges[part], edges[part + 1]
            if not _may_reject(piece, bounds, crystal.wavelength, profile, rejection, extremes):
                continue
            found = np.int32(0)
            _find_s(row, begin, stop, bounds, plane, shift, crystal.beam, crystal.wavelength, s)
            _find_bins(row, begin, stop, plane, shift, crystal.beam, crystal.wavelength, profile.width, s, bins)
            _load(row, begin, stop, raw, shared.response, pedestal, gain, background, variance, ratio, work)
            for i in range(begin, stop):
                at, response = _line(s[i], bins[i], profile), work[_R, i] * profile.unit
                intensity = lines[at] + lines[at + np.uint64(1)] * s[i]
                expected = response * (lines[at + np.uint64(4)] + lines[at + np.uint64(5)] * s[i])
                excess = work[_Y, i] - response * intensity
                good = excess <= reach + np.sqrt(reach**2 + squared * expected)
                good &= excess >= -rejection * np.sqrt(expected) - 1
                inside = i - begin
                bit = bits[piece, inside // 32] >> np.uint32(inside % 32) & np.uint32(1)
                used[i] = np.int32(not good) & np.int32(bit)
                found |= used[i]
            if found:
                _add(begin, stop, -1.0, gain is None, background is not None, bins, used, s, work, sums)


@njit(**BORROW)
def run_on_profile(row, kinds, bounds, responses, plane, shift, beam, wavelength, profile, s, bins, running):
    """Running sums of the profile's background and of its variance along a row, where pixels may be for the map.

    They begin anew with each piece, so that little is lost where two of them are subtracted.

    Args:
        row: The row.
        kinds, bounds, responses, plane, shift, beam, wavelength: As in ``still.sum_rows``.
        profile: Profile.
        s, bins: Work space, shape (n_fast,), float64 and int32.
        running: Result, up to and with each pixel, shape (n_fast, 2).
    """
    n_fast, n_pieces = len(s), -(-len(s) // PIECE)
    begin, stop = 0, n_pieces
    while begin < stop and kinds[row * n_pieces + begin] >= BEYOND:
        begin += 1
    while stop > begin and kinds[row * n_pieces + stop - 1] >= BEYOND:
        stop -= 1
    begin, stop = begin * PIECE, min(stop * PIECE, n_fast)
    _find_s(row, begin, stop, bounds, plane, shift, beam, wavelength, s)
    _find_bins(row, begin, stop, plane, shift, beam, wavelength, profile.width, s, bins)
    response, lines, unit = responses[row], profile.lines, profile.unit
    for first in range(begin, stop, PIECE):
        background = variance = 0.0
        for i in range(first, min(first + PIECE, stop)):
            pixel = np.uint64(i)
            value = s[pixel]
            at = _line(value, bins[pixel], profile)
            r = np.float64(np.int32(response[np.uint64(i + 1)] - response[pixel])) * unit
            background += r * (lines[at] + lines[at + np.uint64(1)] * value)
            variance += r * r * (lines[at + np.uint64(2)] + lines[at + np.uint64(3)] * value)
            running[pixel, np.uint64(0)], running[pixel, np.uint64(1)] = background, variance


@njit(**INLINE)
def add_run(start, stop, running, real, slot, column):
    """Add the profile's background and variance of a run of pixels, all of one piece, to two columns of a row."""
    background, variance = running[np.uint64(stop - 1), 0], running[np.uint64(stop - 1), 1]
    if start % PIECE:
        background -= running[np.uint64(start - 1), 0]
        variance -= running[np.uint64(start - 1), 1]
    real[slot, column] += background
    real[slot, column + 1] += variance
