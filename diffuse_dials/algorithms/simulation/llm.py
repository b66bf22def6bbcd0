"""Diffuse scattering of liquid-like motions on a fine grid of reciprocal space, and its exact means over voxels.

Atoms move isotropically with variance u² along any direction, and together over short distances: the correlation
of the displacements of atoms r apart is γ(r) = exp(-r/ℓ). With x = 4π²s²u² = B s²/2 the crystal scatters

    I(s) = e^{-x} Σ_{n≥0} xⁿ/n! (I_0 * Γ_n)(s),     I_0(s) = (1/V) Σ_h |F_h|² δ(s - h),     Γ_n = FT of γⁿ

per unit cell: n = 0 are the Bragg peaks, the rest is diffuse [Caspar et al. (1988) Nature 332, 659; Clarage et al.
(1992) Proteins 12, 145]. γ(0) = 1, so ∫(I_0 * Γ_n) = ∫I_0 for all n: displacements move intensity, they lose none.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import ceil, factorial, log, pi

import libtbx.phil
import numpy as np
import scipy.fft
from libtbx import Auto
from scipy.ndimage import map_coordinates

from diffuse_dials.algorithms.running.forecast import available_memory

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
disorder {
  b_factor = 12
    .type = float(value_min=0.01, value_max=1000)
    .help = "B = 8π²u² (Å²) of all atoms. Larger: less Bragg, more diffuse scattering."
  correlation_length = 10
    .type = float(value_min=0.5, value_max=1000)
    .help = "Distance (Å) over which displacements lose their correlation by 1/e. Longer: sharper diffuse features."
  orders = 4
    .type = int(value_min=1, value_max=10)
    .help = "Terms of the expansion that have a map of their own; the last one stands for all higher ones."
  fine = Auto
    .type = ints(size=3, value_min=2)
    .help = "Points of the fine grid from one lattice point to the next. Auto: at least 4, and as many as the"
            "correlation length needs."
}
"""
)
_EDGE = 1e-4  # γ may have fallen to this at the edge of the super-cell
_TAIL = 4.0  # half widths 1/(2πℓ) of Γ_1 by which Bragg intensities reach beyond the last pixel


@dataclass(frozen=True)
class DiffuseTruth:
    """Coherent diffuse intensity, defined everywhere by trilinear interpolation of a fine grid.

    Attributes:
        grid: e² per cell at h = (index - centre)/fine on the first two axes, index/fine on the third (l ≥ 0, the rest
            follows from Friedel's law), float32.
        fine: Grid points per reciprocal-lattice unit along a*, b*, c*.
        reciprocal: B, columns a*, b*, c*, shape (3, 3), 1/Å.
    """

    grid: np.ndarray
    fine: tuple[int, int, int]
    reciprocal: np.ndarray

    @property
    def centre(self) -> tuple[int, int, int]:
        """Index of h = 0."""
        return (self.grid.shape[0] // 2, self.grid.shape[1] // 2, 0)

    def at(self, hkl: np.ndarray) -> np.ndarray:
        """Intensity at fractional Miller indices.

        Args:
            hkl: Shape (n, 3).

        Returns:
            Shape (n,), e² per cell.

        Raises:
            ValueError: If a point lies outside the grid.
        """
        points = np.where(hkl[:, 2] < 0, -1.0, 1.0) * (hkl.T * np.asarray(self.fine)[:, None])
        points[0] += self.centre[0]
        points[1] += self.centre[1]
        if np.any(points.min(axis=1) < 0) or np.any(points.max(axis=1) > np.array(self.grid.shape) - 1):
            raise ValueError(
                "The detector reaches beyond the diffuse map. Use a smaller stills.cell_jitter or a longer distance."
            )
        return map_coordinates(self.grid, points, order=1, mode="nearest", prefilter=False, output=np.float64)

    def voxel_means(self, ndiv, d_min: float) -> tuple[np.ndarray, np.ndarray]:
        """Exact means over the voxels |h·ndiv - n| ≤ ½ that lie inside the grid, l ≥ 0, centres out to d_min.

        The hats of trilinear interpolation integrate over a box axis by axis, so the means are three products with
        small matrices.

        Args:
            ndiv: Voxels from one lattice point to the next, three integers.
            d_min: Å.

        Returns:
            (index, mean): voxel index n, shape (m, 3), int32; mean intensity, shape (m,), e² per cell.

        Raises:
            ValueError: If the grid ends below d_min.
        """
        reach = max(2, max(ceil(f / (2 * n)) + 1 for f, n in zip(self.fine, ndiv)))
        below = self.grid[::-1, ::-1, reach:0:-1]
        data = np.concatenate([below, self.grid], axis=2)
        origin = (self.centre[0], self.centre[1], reach)
        cell = np.linalg.inv(self.reciprocal)  # rows are the cell axes: |h| ≤ |a|/d_min
        axes = []
        for axis in range(3):
            last = int(np.floor(np.linalg.norm(cell[axis]) / d_min * ndiv[axis]))
            numbers = np.arange(0 if axis == 2 else -last, last + 1)
            if (last + 0.5) / ndiv[axis] > (data.shape[axis] - 1 - origin[axis]) / self.fine[axis]:
                raise ValueError(
                    f"The diffuse map ends before {d_min} Å. Use a larger truth.d_min or a shorter distance."
                )
            axes.append(numbers)
            weights = _box_weights(numbers, ndiv[axis], self.fine[axis], data.shape[axis], origin[axis])
            data = np.moveaxis(np.tensordot(weights, data, axes=(1, axis)), 0, axis)
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)
        s = np.linalg.norm(index / np.asarray(ndiv) @ self.reciprocal.T, axis=1)
        keep = s <= 1 / d_min
        return index[keep], data.reshape(-1)[keep].astype(np.float64)

    def radial_mean(self, width: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean over directions.

        Args:
            width: Of the bins in |s|, 1/Å.

        Returns:
            (s, mean): bin centres, 1/Å; e² per cell. Ends where the grid no longer covers the whole sphere.
        """
        last = [size - centre - 1 for size, centre in zip(self.grid.shape, self.centre)]
        edges = np.linalg.norm(np.linalg.inv(self.reciprocal), axis=1)  # of the cell, Å
        n_bins = int(min(n / f / a for n, f, a in zip(last, self.fine, edges)) / width)
        total, number = np.zeros(n_bins + 1), np.zeros(n_bins + 1)
        k, l = (np.arange(n) - c for n, c in zip(self.grid.shape[1:], self.centre[1:]))
        weight = np.where(l == 0, 1.0, 2.0)  # the half with l < 0
        for i, plane in enumerate(self.grid):
            s = _lengths(np.array([i - self.centre[0]]), k, l, self.fine, self.reciprocal)[0]
            bins = np.minimum((s / width).astype(np.int64), n_bins).ravel()
            weights = np.broadcast_to(weight, s.shape).ravel()
            total += np.bincount(bins, plane.ravel() * weights, n_bins + 1)
            number += np.bincount(bins, weights, n_bins + 1)
        return (np.arange(n_bins) + 0.5) * width, (total / np.maximum(number, 1))[:-1]


def _box_weights(numbers, ndiv, fine, n_grid, origin):
    """Weight of each grid point in the mean over each voxel, shape (n_voxels, n_grid), float32."""

    def integral(t):  # of the hat max(0, 1 - |t|) from -1 to t
        t = np.clip(t, -1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    width = fine / ndiv
    low = (numbers[:, None] - 0.5) * width - (np.arange(n_grid) - origin)
    return ((integral(low + width) - integral(low)) / width).astype(np.float32)


def _lengths(h, k, l, fine, reciprocal):
    """|s| on a block of the grid, shape (h, k, l), float32; h, k, l in grid steps."""
    metric = reciprocal.T @ reciprocal
    h, k, l = h[:, None, None] / fine[0], k[None, :, None] / fine[1], l[None, None, :] / fine[2]
    squared = metric[0, 0] * h * h + metric[1, 1] * k * k + metric[2, 2] * l * l
    squared = squared + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
    return np.sqrt(np.maximum(squared, 0)).astype(np.float32)


def order_weights(x, orders: int):
    """e^{-x} xⁿ/n! for n = 1 … orders, the last with all higher terms: together 1 - e^{-x}.

    Args:
        x: B s²/2, any shape.
        orders: Number of terms.

    Yields:
        Array of the shape of ``x`` for each n.
    """
    left = -np.expm1(-x)
    for n in range(1, orders):
        weight = np.exp(-x) * x**n / factorial(n)
        left = left - weight
        yield weight
    yield np.maximum(left, 0)


def fine_grid(unit_cell, correlation_length: float) -> tuple[int, int, int]:
    """Points per reciprocal-lattice unit that let γ fall to 1e-4 at the edge of the super-cell, at least 4."""
    inverse = np.array(unit_cell.fractionalization_matrix()).reshape(3, 3)
    thickness = 1 / np.linalg.norm(inverse, axis=1)
    radius = correlation_length * -log(_EDGE)
    return tuple(max(4, 2 * ceil(radius / d)) for d in thickness)


def resolution_needed(s_max: float, correlation_length: float) -> float:
    """d_min (Å) of the structure factors so that the diffuse map is complete out to ``s_max`` (1/Å)."""
    return 1 / (s_max + _TAIL / (2 * pi * correlation_length))


def liquid_like_motions(intensities, unit_cell, params, nproc: int = 1) -> DiffuseTruth:
    """Diffuse map of a crystal.

    The Patterson function of one cell, repeated over the super-cell and multiplied by γⁿ, transforms into I_0 * Γ_n.

    Args:
        intensities: (hkl, |F|²): integer indices of all of reciprocal space, shape (n, 3), and e² at B = 0, shape (n,).
        unit_cell: cctbx unit cell.
        params: Extract of ``phil_scope``'s ``disorder``.
        nproc: Threads of the Fourier transforms.

    Returns:
        The map.

    Raises:
        ValueError: If the grid would not fit into memory.
    """
    hkl, squared = intensities
    fine = fine_grid(unit_cell, params.correlation_length) if params.fine in (None, Auto) else tuple(params.fine)
    shape = tuple(_even_fast(2 * int(np.abs(hkl[:, axis]).max()) + 2) for axis in range(3))
    _check_memory(shape, fine)
    reciprocal = np.array(unit_cell.fractionalization_matrix()).reshape(3, 3).T
    half = np.zeros((shape[0], shape[1], shape[2] // 2 + 1), dtype=np.complex64)
    upper = hkl[:, 2] >= 0
    half[tuple(hkl[upper].T)] = squared[upper]
    patterson = scipy.fft.irfftn(half, s=shape, workers=nproc)
    decay = _distances(shape, fine, unit_cell) * np.float32(-1 / params.correlation_length)
    size = tuple(n * f for n, f in zip(shape, fine))
    logger.info("Diffuse map: %d x %d x %d points, %d, %d, %d per reciprocal-lattice unit", *size, *fine)
    keep = tuple(n // 2 - 1 for n in size)
    total = np.zeros((2 * keep[0] + 1, 2 * keep[1] + 1, keep[2] + 1), dtype=np.float32)
    for n in range(1, params.orders + 1):
        correlated = np.exp(n * decay)
        tiled = correlated.reshape(fine[0], shape[0], fine[1], shape[1], fine[2], shape[2])
        tiled *= patterson[None, :, None, :, None, :]
        spread = scipy.fft.rfftn(correlated, workers=nproc, overwrite_x=True)
        _add_order(total, spread, n, keep, fine, reciprocal, params)
    return DiffuseTruth(np.maximum(total, 0, out=total), fine, reciprocal)


def _check_memory(shape, fine):
    needed = 18 * np.prod([float(n * f) for n, f in zip(shape, fine)])  # distances, products, transform, half the sum
    free = available_memory()
    if needed > free:
        raise ValueError(
            f"The diffuse map needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
            f"Use a smaller disorder.fine than {','.join(map(str, fine))} (Auto: a smaller "
            "disorder.correlation_length), or a longer detector.distance."
        )


def _add_order(total, spread, n, keep, fine, reciprocal, params):
    k, l = np.arange(-keep[1], keep[1] + 1), np.arange(keep[2] + 1)
    for i in range(len(total)):
        h = i - keep[0]
        x = np.float32(params.b_factor / 2) * _lengths(np.array([h]), k, l, fine, reciprocal)[0] ** 2
        weight = list(order_weights(x, params.orders))[n - 1]
        plane = spread[h].real
        total[i] += weight * np.concatenate([plane[-keep[1] :, : keep[2] + 1], plane[: keep[1] + 1, : keep[2] + 1]])


def _distances(shape, fine, unit_cell):
    """Length of the shortest vector from the origin to each point of the super-cell's grid, Å, float32."""
    axes = np.array(unit_cell.orthogonalization_matrix()).reshape(3, 3)
    metric = axes.T @ axes
    coordinates = [scipy.fft.fftfreq(n * f, 1 / f) for n, f in zip(shape, fine)]  # in cells, -fine/2 … fine/2
    u, v, w = np.ix_(*(c.astype(np.float32) for c in coordinates))
    distance = metric[0, 0] * u * u + metric[1, 1] * v * v + metric[2, 2] * w * w
    distance = distance + 2 * (metric[0, 1] * u * v + metric[0, 2] * u * w + metric[1, 2] * v * w)
    return np.sqrt(np.maximum(distance, 0), dtype=np.float32)


def _even_fast(minimum: int) -> int:
    size = scipy.fft.next_fast_len(minimum, real=True)
    while size % 2:
        size = scipy.fft.next_fast_len(size + 1, real=True)
    return size
