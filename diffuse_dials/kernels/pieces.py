"""What the kernel must know of a panel: its rows in pieces, and what stills share on each (made by kernels.shared).

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
TOGETHER = 16  # rows for which some things are worked out once
# What a piece holds, and the state of a pixel
USED, MIXED, BEYOND, MASKED = range(4)
# Rows of ``Pieces.bounds``, and further ones of ``Pieces.tiles``
ERROR, CHORD_LOW, CHORD_HIGH, INVERSE_LOW, INVERSE_HIGH, N_BOUNDS = range(6)
REACH, STRAY, WARP, SPREAD, N_TILE_BOUNDS = range(N_BOUNDS, N_BOUNDS + 5)


class Pieces(NamedTuple):
    """The pieces of a panel's rows, m in a row, numbered along the rows; independent of the wavelength.

    Attributes:
        edges: First pixel of each piece of a row, and the row's length, shape (m + 1,).
        polynomials: Coefficients of the unit vector's components in i - n//2, i the number in a piece of n pixels,
            shape (rows, 3, 4·m): the constants of all pieces, then what is linear, and so on.
        bounds: Of each piece, shape (N_BOUNDS, rows·m): error of the polynomial as unit vectors differ; least and
            largest |ŝ1 - ŝ0|; least and largest 1/distance, 1/mm.
        tiles: The same of the pieces in each TOGETHER rows, shape (N_TILE_BOUNDS, m for each TOGETHER rows), and of the
            values of the polynomials in a block of one row or in its tile, the block in all these rows
            (``kernels.tiles``): largest distance from the value in the block's middle, from the straight line through
            it, and from the tile taken for flat; and how much the sum of the sizes of a component's terms is more than
            in the tile's middle row at most.
    """

    edges: np.ndarray
    polynomials: np.ndarray
    bounds: np.ndarray
    tiles: np.ndarray


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
    """Where the pieces of a row begin, and its end, int64: all have PIECE pixels but the last."""
    return np.append(np.arange(0, n_fast, PIECE), n_fast)
