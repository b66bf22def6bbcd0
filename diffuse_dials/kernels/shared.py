"""What stills of one wavelength and mask share on a panel, worked out in one pass: responses, |s| bins and states.

Formulas are those of models.geometry and kernels.physics, piece by piece and several pixels at once. Responses agree to
the last bits; where rounding could put a pixel on the other side of a bin's or a limit's edge, the pass repeats
the operations of ``PixelGeometry`` exactly, so that bins and states are the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW, OPTIONS
from diffuse_dials.kernels.pieces import (
    BEYOND,
    CHORD_HIGH,
    CHORD_LOW,
    INVERSE_HIGH,
    INVERSE_LOW,
    MASKED,
    MIXED,
    PIECE,
    USED,
    Shared,
    row_edges,
)
from diffuse_dials.kernels.runs import find_runs
from diffuse_dials.kernels.sums import UNIT_BITS
from diffuse_dials.kernels.vectors import running_sums

_EXACT = {**BORROW, "fastmath": False}  # no operation is contracted with the next
NEAR_EDGE = 1e-9  # of a bin: closer to an edge, rounding could decide; it is below 1e-12
_MARGIN = 1e-7  # of |ŝ1 - ŝ0| in the bounds of a piece: they were worked out in another order
NEAR_BEAM = 1e-3  # as |ŝ1 - ŝ0|: nearer to the beam, differences cancel
_FEW, _ALL = 1e-3, 0.125  # exp(x) - 1 of less is the sum of 4 and of 10 terms, to 1e-17
_C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10 = (1.0 / math.factorial(n) for n in range(3, 11))
LAST_BIN = np.iinfo(np.uint16).max
# Parts of the work on a piece, in one array, or the compiler could not tell that they are apart: number of the pixel,
# |s| in bins, distance, response
_NUMBER, _S, DISTANCE, RESPONSE, LENGTH = (k * PIECE for k in range(5))


class ClosedForm(NamedTuple):
    """The response of a panel's pixels as a product of factors with these parameters; neutral ones leave a factor out.

    Attributes:
        pixel_area: A, mm².
        solid_angle: Whether A |cos α| / r² is a factor.
        polarization: f and g of f (1 - (n·ŝ1)²) + g (1 + (ŝ0·ŝ1)²); both 0: none.
        polarization_normal: Unit vector n, shape (3,).
        sensor: μ t of 1 - exp(-μ t / |cos α|); infinite: none. 0 absorbs nothing, and is refused with the response.
        way, inside, length: μ of the way to the pixel, what is added to it on the first ``length`` mm of it, 1/mm.
        sphere, detector, beam_normal: μ t of foils that the ray crosses at right angles, parallel to the panel, and at
            right angles to the beam.
    """

    pixel_area: float
    solid_angle: bool = False
    polarization: tuple[float, float] = (0.0, 0.0)
    polarization_normal: tuple[float, float, float] = (0.0, 1.0, 0.0)
    sensor: float = math.inf
    way: float = 0.0
    inside: float = 0.0
    length: float = 0.0
    sphere: float = 0.0
    detector: float = 0.0
    beam_normal: float = 0.0


def make_shared(
    shape, plane, shift, beam, normal, bounds, form, factor, use, wavelength, bin_width, s_low, s_high, unit
) -> tuple[Shared, np.ndarray, float] | None:
    """What stills share on a panel.

    Args:
        shape: (slow, fast) pixels.
        plane, shift: As in coordinates.direction.
        beam, normal: Unit vector ŝ0, and the panel's normal.
        bounds: Of the panel's pieces.Pieces.
        form: ClosedForm.
        factor: What multiplies the response besides, shape (slow, fast); None: nothing.
        use: Which pixels are not masked, bool, shape (slow, fast).
        wavelength: Å.
        bin_width: Of the |s| bins, 1/Å; the last one takes what is beyond it.
        s_low, s_high: Limits of resolution, 1/Å.
        unit: Guess of the unit of the response, a power of two.

    Returns:
        (Shared; numbers of unmasked pixels and responses of each |s| bin, shape (n_bins, 2), int64; the unit by the
        rule of sums.in_units); None if a response is not positive, or more than 32 times what the guess stands for.
    """
    edges = row_edges(shape[1])
    n_bins = min(int(bounds[CHORD_HIGH].max() / wavelength / bin_width) + 2, LAST_BIN + 1)
    response, state = np.empty((shape[0], shape[1] + 1), dtype=np.uint32), np.empty(shape, dtype=np.uint8)
    response[:, 0] = 0
    kinds = np.empty((shape[0], len(edges) - 1), dtype=np.uint8)
    numbers = np.empty(kinds.shape, dtype=np.int64)
    stops, bins = np.empty(state.size, dtype=np.uint8), np.empty(state.size, dtype=np.uint16)  # used in part
    while True:
        totals = np.zeros((n_bins, 2), dtype=np.int64)
        found, refused, largest = _share_rows(
            plane, shift, beam, normal, bounds, form, factor, use, wavelength, bin_width, s_low, s_high, unit, edges,
            response, state, kinds, numbers, stops, bins, totals,
        )  # fmt: skip
        if refused:
            return None
        off = int(largest).bit_length() - UNIT_BITS
        if not off:
            break
        unit *= 2.0**off
    first = np.concatenate([[0], np.cumsum(numbers.ravel())])
    shared = Shared(response, state, kinds.ravel(), first, stops[:found].copy(), bins[:found].copy())
    return shared, totals, unit


@njit(**_EXACT)
def exact_s(row, column, plane, shift, beam, wavelength):
    """|s| of a pixel by the operations of PanelPlane.geometry and PixelGeometry.s_lengths, in their order."""
    x = (plane[0, 0] + row * plane[2, 0]) + column * plane[1, 0]
    y = (plane[0, 1] + row * plane[2, 1]) + column * plane[1, 1]
    z = (plane[0, 2] + row * plane[2, 2]) + column * plane[1, 2]
    if shift is not None:
        a, b = np.float64(shift[0, row, column]), np.float64(shift[1, row, column])
        x += a * plane[3, 0]
        y += a * plane[3, 1]
        z += a * plane[3, 2]
        x += b * plane[4, 0]
        y += b * plane[4, 1]
        z += b * plane[4, 2]
    distance = np.sqrt(x * x + y * y + z * z)
    x /= distance
    y /= distance
    z /= distance
    return np.sqrt(max(2 - 2 * (x * beam[0] + y * beam[1] + z * beam[2]), 0.0)) / wavelength


@njit(**BORROW)
def _geometry(n, row, first, plane, shift, beam, form, per_bin, height, work):
    """|s| in bins, distance, and polarization times solid angle of the pixels of a piece."""
    x0 = plane[0, 0] + row * plane[2, 0] + first * plane[1, 0]
    y0 = plane[0, 1] + row * plane[2, 1] + first * plane[1, 1]
    z0 = plane[0, 2] + row * plane[2, 2] + first * plane[1, 2]
    x1, y1, z1 = plane[1]
    a0, a1, a2 = plane[3]
    b0, b1, b2 = plane[4]
    s0, s1, s2 = beam
    n0, n1, n2 = form.polarization_normal
    f, g = form.polarization
    p = 1.0 if f == 0.0 and g == 0.0 else 0.0
    cubed, flat = (form.pixel_area * height, 0.0) if form.solid_angle else (0.0, 1.0)
    if shift is not None:
        shift_fast, shift_slow = shift[0, row, first : first + n], shift[1, row, first : first + n]
    for i in range(n):
        t = work[_NUMBER + i]
        x, y, z = x0 + t * x1, y0 + t * y1, z0 + t * z1
        if shift is not None:
            a, b = np.float64(shift_fast[i]), np.float64(shift_slow[i])
            x += a * a0 + b * b0
            y += a * a1 + b * b1
            z += a * a2 + b * b2
        distance = np.sqrt(x * x + y * y + z * z)
        v = 1.0 / distance
        cosine, along_normal = (x * s0 + y * s1 + z * s2) * v, (x * n0 + y * n1 + z * n2) * v
        chord = 2.0 - 2.0 * cosine
        chord = chord if chord > 0.0 else 0.0
        work[_S + i] = np.sqrt(chord) * per_bin
        work[DISTANCE + i] = distance
        polarization = p + f * (1.0 - along_normal * along_normal) + g * (1.0 + cosine * cosine)
        work[RESPONSE + i] = polarization * (flat + cubed * v * v * v)


@njit(**BORROW)
def _by_few(x):
    """exp(x) - 1 for |x| < _FEW."""
    return x + x * x * (0.5 + x * (_C3 + x * _C4))


@njit(**BORROW)
def _by_all(x):
    """exp(x) - 1 for |x| < _ALL."""
    total = _C9 + x * _C10
    total = _C7 + x * (_C8 + x * total)
    total = _C5 + x * (_C6 + x * total)
    total = _C3 + x * (_C4 + x * total)
    return x + x * x * (0.5 + x * total)


@njit(**BORROW)
def multiply(n, k, spread, one, work):
    """Multiply responses of a piece with 1 - exp(-k r) (``one`` 0) or exp(-k r) (``one`` 1), r the distance.

    Args:
        spread: Bound of how far two distances in the piece are apart.
    """
    middle = work[DISTANCE + n // 2]
    whole = np.expm1(-k * middle)
    # exp(a + x) - 1 = (exp(a) - 1) + exp(a) (exp(x) - 1): x is small, and the last term a short series
    sign = 2.0 * one - 1.0
    constant, rest = one + sign * whole, sign * (1.0 + whole)
    if k * spread < _FEW:
        for i in range(n):
            work[RESPONSE + i] *= constant + rest * _by_few(k * (middle - work[DISTANCE + i]))
    elif k * spread < _ALL:
        for i in range(n):
            work[RESPONSE + i] *= constant + rest * _by_all(k * (middle - work[DISTANCE + i]))
    else:
        for i in range(n):
            work[RESPONSE + i] *= constant + rest * np.expm1(k * (middle - work[DISTANCE + i]))


@njit(**BORROW)
def _attenuate(n, form, per_bin, height, spread, work):
    """Multiply the responses of a piece with the sensor's efficiency and with what gases and foils let through."""
    if form.sensor != np.inf:
        multiply(n, form.sensor / height, spread, 0.0, work)
    k = form.way + form.detector / height
    if k != 0.0:
        multiply(n, k, spread, 1.0, work)
    if form.inside != 0.0:
        for i in range(n):
            distance = work[DISTANCE + i]
            work[RESPONSE + i] *= np.exp(-form.inside * (distance if distance < form.length else form.length))
    if form.beam_normal != 0.0:
        for i in range(n):
            chord = work[_S + i] / per_bin
            work[RESPONSE + i] *= np.exp(-form.beam_normal / abs(1.0 - 0.5 * chord * chord))
    if form.sphere != 0.0:
        through = np.exp(-form.sphere)
        for i in range(n):
            work[RESPONSE + i] *= through


@njit(**BORROW)
def _bins(n, work, bins):
    """|s| bins of a piece, from number 1 on; returns whether rounding could decide somewhere."""
    near = np.int32(0)
    for i in range(n):
        s = work[_S + i]
        k = np.int32(s - NEAR_EDGE)
        near = np.int32(near | (k ^ np.int32(s + NEAR_EDGE)))
        bins[i + 1] = k
    return near != 0


@njit(**BORROW)
def _states(n, row, first, plane, shift, beam, wavelength, s_low, s_high, low, high, use, states):
    """States of a piece whose |s| are between ``low`` and ``high``; returns the lowest and the highest."""
    if low > s_high or high < s_low:
        states[:] = BEYOND
    else:
        states[:] = USED
        if not (low > s_low and high < s_high and low > 0.0):
            for i in range(n):
                s = exact_s(row, first + i, plane, shift, beam, wavelength)
                if s <= 0 or s > s_high or s < s_low:
                    states[i] = BEYOND
    lowest, highest = np.uint8(MASKED), np.uint8(USED)
    for i in range(n):
        value = states[i] if use[i] else np.uint8(MASKED)
        states[i] = value
        lowest = value if value < lowest else lowest
        highest = value if value > highest else highest
    return lowest, highest


@njit(**BORROW)
def _units(n, per_unit, largest, work, units):
    """Responses of a piece as multiples of the unit; returns whether one is refused, and the largest, rounded down."""
    refused = np.int32(0)
    for i in range(n):
        value = work[RESPONSE + i] * per_unit
        refused = np.int32(refused | np.int32(not ((value > 0.0) & (value < 1073741824.0))))
        work[RESPONSE + i] = value
    if refused:
        return refused, largest
    for i in range(n):
        value = np.int32(work[RESPONSE + i])
        largest = value if value > largest else largest
    top = np.int32((1 << UNIT_BITS) - 1)
    for i in range(n):
        value = np.int32(np.rint(work[RESPONSE + i]))
        units[i] = value if value < top else top
    return refused, largest


@njit(**BORROW)
def _add_segments(
    row, first, n_segments, begins, s_bins, lowest, highest, units, response, state, found, stops, bins, totals
):
    """Write the segments of a piece, from number ``found`` on, and add them to their bins.

    Args:
        begins: First pixel of each in the piece, and the piece's length.
        s_bins: Of the pixels, from number 1 on.
        lowest, highest: State of its pixels.
    """
    for k in range(n_segments):
        start, stop = np.int64(begins[k]), np.int64(begins[k + 1])
        s = min(np.int64(s_bins[start + 1]), LAST_BIN)
        stops[found + k], bins[found + k] = stop, s
        if highest != MASKED:
            totals[s, 0] += stop - start
            totals[s, 1] += np.int64(np.uint32(response[row, first + stop] - response[row, first + start]))
        elif lowest != MASKED:
            for i in range(start, stop):
                if state[row, first + i] != MASKED:
                    totals[s, 0] += 1
                    totals[s, 1] += units[i]


@njit(**OPTIONS)
def _share_rows(
    plane, shift, beam, normal, bounds, form, factor, use, wavelength, bin_width, s_low, s_high, unit, edges, response,
    state, kinds, numbers, stops, bins, totals,
):  # fmt: skip
    """Fill the arrays of ``Shared`` and the bins' totals; the arguments are those of ``make_shared``.

    Returns:
        (number of segments, whether a response is not positive, largest response in units, rounded down).
    """
    work, found = np.zeros(LENGTH), 0
    s_bins, units, begins = np.empty(PIECE + 1, np.int32), np.empty(PIECE, np.int32), np.empty(PIECE + 8, np.int32)
    for i in range(PIECE):
        work[_NUMBER + i] = i
    height = abs(plane[0, 0] * normal[0] + plane[0, 1] * normal[1] + plane[0, 2] * normal[2])
    per_bin, per_unit = 1.0 / (wavelength * bin_width), 1.0 / unit
    any_refused, largest = np.int32(0), np.int32(0)
    for row in range(response.shape[0]):
        total = np.uint32(0)
        for part in range(len(edges) - 1):
            piece, first = row * (len(edges) - 1) + part, edges[part]
            n = edges[part + 1] - first
            _geometry(n, row, first, plane, shift, beam, form, per_bin, height, work)
            spread = 1.0 / bounds[INVERSE_LOW, piece] - 1.0 / bounds[INVERSE_HIGH, piece]
            _attenuate(n, form, per_bin, height, spread, work)
            if factor is not None:
                factors = factor[row, first : first + n]
                for i in range(n):
                    work[RESPONSE + i] *= factors[i]
            refused, largest = _units(n, per_unit, largest, work, units)
            any_refused |= refused
            if _bins(n, work, s_bins) or bounds[CHORD_LOW, piece] < NEAR_BEAM:
                for i in range(n):
                    s_bins[i + 1] = np.int32(exact_s(row, first + i, plane, shift, beam, wavelength) / bin_width)
            lowest, highest = _states(
                n, row, first, plane, shift, beam, wavelength, s_low, s_high,
                (bounds[CHORD_LOW, piece] - _MARGIN) / wavelength, (bounds[CHORD_HIGH, piece] + _MARGIN) / wavelength,
                use[row, first : first + n], state[row, first : first + n],
            )  # fmt: skip
            kinds[row, part] = lowest if lowest == highest else MIXED
            total = running_sums(units, 0, n, total, response, row * response.shape[1] + first + 1)
            n_segments = find_runs(n, s_bins, begins)
            _add_segments(
                row, first, n_segments, begins, s_bins, lowest, highest, units, response, state, found, stops, bins,
                totals,
            )  # fmt: skip
            numbers[row, part], found = n_segments, found + n_segments
    return found, any_refused, largest
