"""What the kernel must know of a panel: its rows in pieces, and what stills share on each (made by kernels.shared).

A piece are up to PIECE neighbouring pixels of a row; the same pieces of TOGETHER rows make a patch. On a patch the unit
vector to a pixel is a polynomial of the pixel's numbers to within a bound that is measured on every pixel, whatever
the panel's parallax does. All that is linear in the unit vector, as the coordinates in a crystal's grid are, then needs
a few operations a patch and not a pixel, and the bound says where the exact formula must decide.

|s| bins come as segments, neighbouring pixels of one bin; the response as running sums along a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW

WORD = 64  # pixels that have a bit each in a word
WORDS = 2  # of a piece
PIECE = WORDS * WORD  # pixels
BLOCK = 16  # pixels that are tested together for Bragg spots
TOGETHER = 16  # rows of a patch
# Exponents of t and r (``Pieces.polynomials``) in the terms of a polynomial, in the order of the former
TERMS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1))
N_TERMS = len(TERMS)
# What a piece holds, and the state of a pixel
USED, MIXED, BEYOND, MASKED = range(4)
# Rows of ``Pieces.bounds``, and further ones of ``Pieces.patches``
CHORD_LOW, CHORD_HIGH, INVERSE_LOW, INVERSE_HIGH, N_BOUNDS = range(5)
ERROR, REACH, STRAY, WARP, N_PATCH_BOUNDS = range(N_BOUNDS, N_BOUNDS + 5)


class Pieces(NamedTuple):
    """The pieces of a panel's rows, m in a row, numbered along the rows, and its patches; whatever the wavelength.

    Attributes:
        edges: First pixel of each piece of a row, and the row's length, shape (m + 1,).
        polynomials: Coefficients of the unit vector's components on each patch, in the order of TERMS, shape
            (groups of rows, 3, N_TERMS, m), in t and r: a pixel's number in its piece of n pixels less n//2, and its
            row's among the patch's n rows less n//2.
        bounds: Of each piece, shape (N_BOUNDS, rows·m): least and largest |ŝ1 - ŝ0|; least and largest 1/distance,
            1/mm.
        patches: The same of each patch, shape (N_PATCH_BOUNDS, groups·m); the error of its polynomials as unit vectors
            differ; and of their values in a block of one row, or in its tile, the block in all rows of the patch
            (``kernels.tiles``): largest distance from the value in the block's middle, from the straight line through
            it, and from the tile treated as flat.
    """

    edges: np.ndarray
    polynomials: np.ndarray
    bounds: np.ndarray
    patches: np.ndarray


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


@njit(**BORROW)
def rows_of(group, n_rows):
    """First row of a group of TOGETHER rows, and how many there are in it."""
    first = group * TOGETHER
    return first, min(TOGETHER, n_rows - first)
