"""Sums over the pixels that fall into one voxel or one bin, NumPy only."""

from __future__ import annotations

import numpy as np

_AT_A_TIME = 1 << 15  # values: what is in work stays in the processor's cache


def transform(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """matrix @ v for each row v, term by term: equal to the last bit however many rows are given at once.

    Args:
        matrix: Shape (3, 3).
        vectors: Shape (n, 3).

    Returns:
        Shape (n, 3), float64.
    """
    x, y, z = vectors.T
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in np.asarray(matrix, dtype=float)], axis=1)


_BITS = 20
_HALF = 1 << (_BITS - 1)


def pack(index: np.ndarray) -> np.ndarray:
    """One int64 code per voxel index, shape (n,), of 60 bits. Codes sort as the indices do.

    Raises:
        ValueError: If an index does not fit into 20 bits.
    """
    if len(index) and not (-_HALF <= index.min() and index.max() < _HALF):
        raise ValueError(
            f"Voxel indices reach {np.abs(index).max()}, the limit is {_HALF - 1}. "
            "Use a smaller ndiv or a larger d_min."
        )
    shifted = index.astype(np.int64) + _HALF
    return (shifted[:, 0] << 2 * _BITS) | (shifted[:, 1] << _BITS) | shifted[:, 2]


def unpack(code: np.ndarray) -> np.ndarray:
    """The voxel indices of ``pack``'s codes, shape (n, 3), int32."""
    mask = (1 << _BITS) - 1
    parts = np.stack([code >> 2 * _BITS, (code >> _BITS) & mask, code & mask], axis=1)
    return (parts - _HALF).astype(np.int32)


def group_sums(code: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Sum columns over equal codes.

    Neighbouring pixels mostly share a voxel, so runs of equal codes are summed first and only they are sorted;
    a group's terms are added in their order, so the result does not depend on how the pixels reached memory.

    Args:
        code: Group of each element, shape (n,), int64.
        columns: Values, each of shape (n,), summed in float64.

    Returns:
        (codes in ascending order, number of elements of each, sums of each column).
    """
    if not len(code):
        return code, np.zeros(0, dtype=np.int64), [np.zeros(0) for _ in columns]
    starts = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1])))
    lengths = np.diff(np.append(starts, len(code)))
    order = np.argsort(code[starts], kind="stable")
    runs = code[starts][order]
    firsts = np.flatnonzero(np.concatenate(([True], runs[1:] != runs[:-1])))

    def total(run_sums):
        return np.add.reduceat(run_sums[order], firsts)

    sums = [total(np.add.reduceat(np.asarray(column, dtype=np.float64), starts)) for column in columns]
    return runs[firsts], total(lengths), sums


UNIT_BITS = 25  # so that a run of 128 pixels sums up to less than 2³²


def in_units(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Positive numbers as multiples of a power of two, so that their sums are exact in any order.

    Args:
        values: Any shape.

    Returns:
        (multiples, uint32 of the same shape; the unit). The largest value is at least 2²⁴ units, as in a number of
        single precision, and below 2²⁵.

    Raises:
        ValueError: If a value is negative or not finite.
    """
    largest = float(values.max(initial=0.0))
    if not (np.isfinite(largest) and values.min(initial=0.0) >= 0):
        raise ValueError(f"Responses must be finite and not negative, found {values.min()} to {largest}.")
    unit = 2.0 ** (np.frexp(largest)[1] - UNIT_BITS) if largest else 1.0
    multiples = np.empty(values.shape, dtype=np.uint32)
    source, target = values.reshape(-1), multiples.reshape(-1)
    for start in range(0, len(source), _AT_A_TIME):
        piece = np.rint(source[start : start + _AT_A_TIME] / unit)
        target[start : start + _AT_A_TIME] = np.minimum(piece, 2**UNIT_BITS - 1)
    return multiples, unit
