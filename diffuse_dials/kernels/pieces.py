"""What the kernel must know of a panel, worked out once: its rows in pieces, and what stills share on each.

On a piece, up to PIECE neighbouring pixels of a row, the unit vector to a pixel is a cubic polynomial of the pixel's
number to within a bound that is measured on every pixel, whatever the panel's parallax does. All that is linear in
the unit vector, as the coordinates in a crystal's grid are, then needs a few operations a piece and not a pixel, and
the bound says where the exact formula must decide.

|s| bins come as segments, neighbouring pixels of one bin; the response as running sums along a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

PIECE = 128  # pixels: two words of 64 bits mark where something changes
BLOCK = 16  # pixels that are tested together for Bragg spots
# What a piece holds, and the state of a pixel
USED, MIXED, BEYOND, MASKED = range(4)
# Columns of ``Pieces.bounds``
ERROR, REACH, CHORD_LOW, CHORD_HIGH, INVERSE_LOW, INVERSE_HIGH = range(6)


class Pieces(NamedTuple):
    """The pieces of a panel's rows, m in a row, numbered along the rows; independent of the wavelength.

    Attributes:
        edges: First pixel of each piece of a row, and the row's length, shape (m + 1,).
        polynomials: Coefficients of the unit vector's components in i - n//2, i the number in a piece of n pixels,
            shape (rows·m, 3, 4).
        bounds: Of each piece, shape (rows·m, 6): error of the polynomial, largest distance of a pixel from the middle
            of its block, both as unit vectors differ; least and largest |ŝ1 - ŝ0|; least and largest 1/distance, 1/mm.
    """

    edges: np.ndarray
    polynomials: np.ndarray
    bounds: np.ndarray


class Shared(NamedTuple):
    """What stills of one wavelength and mask share on a panel.

    Attributes:
        response: Running sums along each row of multiples of a unit, shape (slow, fast + 1), uint32. They overflow; the
            difference over a piece is right as long as a pixel has less than 2³²/PIECE units.
        state: USED, BEYOND the resolution limits (in the radial totals only) or MASKED, shape (slow, fast), uint8.
        kinds: The state of all pixels of a piece, or MIXED, shape (pieces,), uint8.
        first_segment: Of each piece, shape (pieces + 1,), int64.
        segment_stop: Where a segment ends in its piece, uint8.
        segment_bin: Its |s| bin, uint16.
    """

    response: np.ndarray
    state: np.ndarray
    kinds: np.ndarray
    first_segment: np.ndarray
    segment_stop: np.ndarray
    segment_bin: np.ndarray


def row_edges(n_fast: int) -> np.ndarray:
    """Where the pieces of a row begin, and its end; they differ by one pixel at most, int64."""
    n_pieces = -(-n_fast // PIECE)
    return np.arange(n_pieces + 1) * n_fast // n_pieces


@njit(nogil=True, cache=True, error_model="numpy")
def _add_rows(units, s_bin, state, edges, response, kinds, numbers, stops, bins, totals):
    """Rows of ``Shared``: running sums, kinds, numbers of segments, the segments, and the bins' totals.

    Returns:
        The number of segments.
    """
    found = 0
    for row in range(units.shape[0]):
        total = np.uint32(0)
        for part in range(len(edges) - 1):
            first, stop = edges[part], edges[part + 1]
            kind, begin = state[row, first], found
            for i in range(first, stop):
                s = s_bin[row, i]
                if i > first and s != s_bin[row, i - 1]:
                    stops[found], bins[found] = i - first, s_bin[row, i - 1]
                    found += 1
                if state[row, i] != kind:
                    kind = MIXED
                if state[row, i] != MASKED:
                    totals[s, 0] += 1
                    totals[s, 1] += np.int64(units[row, i])
                total = np.uint32(total + units[row, i])
                response[row, i + 1] = total
            stops[found], bins[found] = stop - first, s_bin[row, stop - 1]
            found += 1
            kinds[row, part], numbers[row, part] = kind, found - begin
    return found


class SharedMaker:
    """Puts together what stills share, rows after rows."""

    def __init__(self, shape, n_bins: int):
        """For a panel of (slow, fast) pixels, whose |s| bins are below ``n_bins``."""
        self._edges = row_edges(shape[1])
        n_pieces = len(self._edges) - 1
        self._response = np.zeros((shape[0], shape[1] + 1), dtype=np.uint32)
        self._state = np.empty(shape, dtype=np.uint8)
        self._kinds = np.empty((shape[0], n_pieces), dtype=np.uint8)
        self._number = np.zeros((shape[0], n_pieces), dtype=np.int64)
        self._segments: list = []
        self.bins = np.zeros((n_bins, 2), dtype=np.int64)

    def add(self, rows: slice, units, s_bin, state) -> None:
        """Some rows: response in units (uint32), |s| bins (uint16) and states (uint8) of their pixels."""
        stops, bins = np.empty(units.size, dtype=np.uint8), np.empty(units.size, dtype=np.uint16)
        self._state[rows] = state
        found = _add_rows(
            units, s_bin, state, self._edges, self._response[rows], self._kinds[rows], self._number[rows], stops, bins,
            self.bins,
        )  # fmt: skip
        self._segments.append((stops[:found].copy(), bins[:found].copy()))

    def finish(self) -> Shared:
        """The result; ``bins`` holds numbers of pixels and responses of each |s| bin, shape (n_bins, 2)."""
        first = np.concatenate([[0], np.cumsum(self._number.ravel())])
        stop, s_bin = (np.concatenate(columns) for columns in zip(*self._segments))
        return Shared(self._response, self._state, self._kinds.ravel(), first, stop, s_bin)
