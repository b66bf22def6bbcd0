"""Cells of the detector, over the order of the stills too: where shared factors are told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dxtbx import flumpy

_N_CELLS = 2000


@dataclass(frozen=True)
class DetectorCells:
    """Cells, ordered by panel, slow, fast and order.

    Attributes:
        panel: Panel of each cell, shape (n_cells,), int.
        x, y: Direction of its centre, 2θ cos φ and 2θ sin φ, same shape, radian.
        order: Mean order of the stills of its bin, same shape.
        n_panels: Panels of the detector.
        n_order: Bins of the order; 1 without one.
        first: Number of the first cell of each panel at the first order, shape (n_panels,), in cells of one order.
        divisions: Cells along fast and slow of each panel, shape (n_panels, 2).
        size: Pixels along fast and slow of each panel, same shape.
        bin_of_still: Order bin of each still, shape (n_stills,).
    """

    panel: np.ndarray
    x: np.ndarray
    y: np.ndarray
    order: np.ndarray
    n_panels: int
    n_order: int
    first: np.ndarray
    divisions: np.ndarray
    size: np.ndarray
    bin_of_still: np.ndarray

    def __len__(self) -> int:
        return len(self.panel)

    @property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.x, self.y, self.order

    def __call__(self, sums) -> np.ndarray:
        """Cell of each row of gridded sums, shape (n,), int32; by its panel alone where positions were not kept."""
        panel = sums.panel
        cell = self.first[panel]
        if sums.position is not None:
            place = np.floor(sums.position / self.size[panel] * self.divisions[panel]).astype(np.int64)
            place = np.clip(place, 0, self.divisions[panel] - 1)
            cell = cell + place[:, 1] * self.divisions[panel, 0] + place[:, 0]
        return (cell * self.n_order + self.bin_of_still[sums.still]).astype(np.int32)


def make_cells(detector, beam, positions: bool, order: np.ndarray | None, n_stills: int, n_order: int) -> DetectorCells:
    """Cut a detector into about 2000 cells, at least one per panel.

    Args:
        detector, beam: Models of DIALS.
        positions: Whether the sums know their position; else a panel is one cell.
        order: Order of each still, shape (n_stills,), or None.
        n_stills: Number of stills.
        n_order: Bins of the order.
    """
    side = max(1, int(np.sqrt(_N_CELLS / len(detector)))) if positions else 1
    size = np.array([panel.get_image_size() for panel in detector], dtype=np.int64)
    divisions = np.minimum(size, side)
    s0 = np.array(beam.get_unit_s0())
    across = np.cross(s0, np.eye(3)[np.argmin(np.abs(s0))])
    across /= np.linalg.norm(across)
    axes = np.stack([across, np.cross(s0, across), s0])
    panels, places = [], []
    for number, panel in enumerate(detector):
        n_fast, n_slow = divisions[number]
        slow, fast = np.divmod(np.arange(n_fast * n_slow), n_fast)
        pixels = (np.stack([fast, slow], axis=1) + 0.5) / divisions[number] * size[number]
        millimetre = panel.pixel_to_millimeter(flumpy.vec_from_numpy(np.ascontiguousarray(pixels)))
        lab = flumpy.to_numpy(panel.get_lab_coord(millimetre))
        u, v, w = axes @ lab.T
        radius = np.hypot(u, v)
        angle = np.arctan2(radius, w) / np.where(radius > 0, radius, 1)
        panels.append(np.full(len(pixels), number))
        places.append(np.stack([angle * u, angle * v]))
    x, y = np.concatenate(places, axis=1)
    bins, mean = _order_bins(order, n_stills, n_order)
    counts = divisions.prod(axis=1)
    return DetectorCells(
        np.repeat(np.concatenate(panels), len(mean)), np.repeat(x, len(mean)), np.repeat(y, len(mean)),
        np.tile(mean, len(x)), len(detector), len(mean), np.cumsum(counts) - counts, divisions, size, bins,
    )  # fmt: skip


def _order_bins(order, n_stills: int, n_order: int) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each still, of equal numbers, and mean order of each bin."""
    if order is None or n_order <= 1:
        return np.zeros(n_stills, dtype=np.int64), np.zeros(1)
    rank = np.argsort(np.argsort(order, kind="stable"), kind="stable")
    n_order = min(n_order, n_stills)
    bins = rank * n_order // n_stills
    return bins, np.bincount(bins, order, n_order) / np.bincount(bins, minlength=n_order)
