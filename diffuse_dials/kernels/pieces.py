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

PIECE = 128  # pixels: two words of 64 bits mark where something changes
BLOCK = 16  # pixels that are tested together for Bragg spots
# What a piece holds, and the state of a pixel
USED, MIXED, BEYOND, MASKED = range(4)
# Columns of ``Pieces.bounds``
ERROR, REACH, CHORD_LOW, CHORD_HIGH, INVERSE_LOW, INVERSE_HIGH = range(6)
_DEGREE = 3
_ROUNDING = 1e-15  # of a unit vector


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


def make_pieces(shape, rows_of) -> Pieces:
    """The pieces of a panel.

    Args:
        shape: (slow, fast) pixels.
        rows_of: Iterable of (slice of rows, PixelGeometry of these rows), all rows in turn.
    """
    edges = row_edges(shape[1])
    n_pieces = len(edges) - 1
    polynomials = np.empty((shape[0], n_pieces, 3, _DEGREE + 1))
    bounds = np.empty((shape[0], n_pieces, 6))
    for rows, geometry in rows_of:
        direction = geometry.direction.reshape(*geometry.shape, 3)
        chord = np.sqrt(np.maximum(2 - 2 * direction @ geometry.beam_direction, 0))
        inverse = 1 / geometry.distance.reshape(geometry.shape)
        for piece in range(n_pieces):
            part = slice(edges[piece], edges[piece + 1])
            polynomial, error, reach = _fit(direction[:, part])
            polynomials[rows, piece] = polynomial
            bounds[rows, piece] = np.stack(
                [error, reach, chord[:, part].min(1), chord[:, part].max(1), inverse[:, part].min(1),
                 inverse[:, part].max(1)], axis=1,
            )  # fmt: skip
    return Pieces(edges, polynomials.reshape(-1, 3, _DEGREE + 1), bounds.reshape(-1, 6))


def _fit(direction):
    """Polynomials through four pixels of each row, shape (rows, 3, 4); their error, and the reach of a block."""
    n = direction.shape[1]
    number = np.arange(n, dtype=np.float64) - n // 2
    degree = min(_DEGREE, n - 1)
    at = np.rint((n - 1) / 2 * (1 - np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)))).astype(int)
    if len(np.unique(at)) < degree + 1:
        at = np.arange(degree + 1)
    polynomial = np.zeros((len(direction), 3, _DEGREE + 1))
    solve = np.linalg.inv(np.vander(number[at], degree + 1, increasing=True))
    polynomial[..., : degree + 1] = np.einsum("dk,rkc->rcd", solve, direction[:, at])
    powers = np.vander(number, _DEGREE + 1, increasing=True)
    middles = np.minimum(np.arange(n) // BLOCK * BLOCK + BLOCK // 2, n - 1)
    found = np.einsum("id,rcd->ric", powers, polynomial)
    error = np.sqrt(np.max(np.sum((found - direction) ** 2, axis=2), axis=1)) + _ROUNDING
    reach = np.sqrt(np.max(np.sum((direction - direction[:, middles]) ** 2, axis=2), axis=1)) + _ROUNDING
    return polynomial, error, reach


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
        """Some rows: response in units, |s| bins and states of their pixels, shape (rows, fast)."""
        np.cumsum(units, axis=1, dtype=np.uint32, out=self._response[rows, 1:])
        self._state[rows] = state
        starts = self._edges[:-1]
        least, most = np.minimum.reduceat(state, starts, axis=1), np.maximum.reduceat(state, starts, axis=1)
        self._kinds[rows] = np.where(least == most, least, MIXED)
        begins = np.zeros(s_bin.shape, dtype=bool)
        begins[:, 1:] = s_bin[:, 1:] != s_bin[:, :-1]
        begins[:, starts] = True
        self._number[rows] = np.add.reduceat(begins, starts, axis=1, dtype=np.int64)
        slow, fast = np.nonzero(begins)
        stop = np.append(fast[1:], s_bin.shape[1])
        stop[stop == 0] = s_bin.shape[1]
        first = self._edges[np.searchsorted(self._edges, fast, side="right") - 1]
        self._segments.append(((stop - first).astype(np.uint8), s_bin[slow, fast].astype(np.uint16)))
        good = state != MASKED
        for column, values in enumerate((None, units[good])):
            self.bins[:, column] += np.bincount(s_bin[good], values, len(self.bins)).astype(np.int64)

    def finish(self) -> Shared:
        """The result; ``bins`` holds numbers of pixels and responses of each |s| bin, shape (n_bins, 2)."""
        first = np.concatenate([[0], np.cumsum(self._number.ravel())])
        stop, s_bin = (np.concatenate(columns) for columns in zip(*self._segments))
        return Shared(self._response, self._state, self._kinds.ravel(), first, stop, s_bin)
