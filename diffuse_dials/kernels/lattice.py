"""A reciprocal lattice's mask by distance: its parameters, and the radius around a lattice point."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_dials.kernels.options import BORROW
from diffuse_dials.kernels.pieces import CHORD_HIGH, CHORD_LOW, INVERSE_HIGH, INVERSE_LOW

# Metric (6; those off the diagonal twice); square of the radius (5): constant, by |ŝ1 - ŝ0|², by 1/distance², least of
# the latter term, upper limit; half the distance of lattice planes; lengths of the axes of the reciprocal lattice (3);
# the sum of the metric's sizes; whether the lattice is oblique
METRIC, RADIUS, HALF_SPACING, AXES, METRIC_SIZE, OBLIQUE, N_LATTICE = 0, 6, 11, 12, 15, 16, 17


@njit(**BORROW)
def radius_squared(lattices, which, sigmas_squared, chord, inverse, wavelength, s_step):
    """Square of the Bragg radius at one pixel: k²(|s|) σ² up to the largest, LatticeMask.radius_squared."""
    k = sigmas_squared[min(np.int64(chord / wavelength / s_step), len(sigmas_squared) - 1)]
    spread = max(lattices[which, RADIUS + 2] * inverse * inverse, lattices[which, RADIUS + 3])
    squared = k * (lattices[which, RADIUS] + lattices[which, RADIUS + 1] * chord * chord + spread)
    return min(squared, lattices[which, RADIUS + 4])


@njit(**BORROW)
def find_radii(group, lattices, which, sigmas_squared, patches, wavelength, s_step, radii):
    """Least and largest radius on each piece in TOGETHER rows.

    Args:
        group: Number of these rows' group.
        lattices, which: Parameters of the masks, and which of them.
        sigmas_squared, wavelength, s_step: Of the crystal.
        patches: As in pieces.Pieces.
        radii: Result, of ``which``, shape (l, 2, pieces), 1/Å.
    """
    n_pieces, last = radii.shape[2], len(sigmas_squared) - 1
    factor, limit = lattices[which, RADIUS + 1], lattices[which, RADIUS + 4]
    for part in range(n_pieces):
        patch = group * n_pieces + part
        near, far = patches[CHORD_LOW, patch], patches[CHORD_HIGH, patch]
        least_inverse, most_inverse = patches[INVERSE_LOW, patch], patches[INVERSE_HIGH, patch]
        begin = end = 0
        if last > 0:
            per_bin = 1 / (wavelength * s_step)
            begin = min(np.int64(near * per_bin * (1 - 1e-12)), last)
            end = min(np.int64(far * per_bin * (1 + 1e-12)), last)
        low = high = sigmas_squared[begin]
        for i in range(begin + 1, end + 1):
            low, high = min(low, sigmas_squared[i]), max(high, sigmas_squared[i])
        least = lattices[which, RADIUS] + factor * near**2
        least += max(lattices[which, RADIUS + 2] * least_inverse**2, lattices[which, RADIUS + 3])
        most = lattices[which, RADIUS] + factor * far**2
        most += max(lattices[which, RADIUS + 2] * most_inverse**2, lattices[which, RADIUS + 3])
        radii[which, 0, part] = np.sqrt(min(low * least, limit)) * (1 - 1e-9)
        radii[which, 1, part] = np.sqrt(min(high * most, limit)) * (1 + 1e-9)


@njit(**BORROW)
def on_lattice(h, k, l, centring):
    """Whether no centring extinguishes the lattice point."""
    for j in range(len(centring)):
        phase = h * centring[j, 0] + k * centring[j, 1] + l * centring[j, 2]
        if np.abs(phase - np.rint(phase)) >= 0.01:
            return False
    return True


@njit(**BORROW)
def miller_step(matrices, which, x, y, z):
    """What the Miller index changes by where the unit vector does by (x, y, z)."""
    m = which + 1
    return (
        matrices[m, 0, 0] * x + matrices[m, 0, 1] * y + matrices[m, 0, 2] * z,
        matrices[m, 1, 0] * x + matrices[m, 1, 1] * y + matrices[m, 1, 2] * z,
        matrices[m, 2, 0] * x + matrices[m, 2, 1] * y + matrices[m, 2, 2] * z,
    )


@njit(**BORROW)
def by_metric(lattices, which, h, k, l):
    """The metric times a vector; its product with another vector is their inner product, Å⁻²."""
    d, e, f = 0.5 * lattices[which, METRIC + 3], 0.5 * lattices[which, METRIC + 4], 0.5 * lattices[which, METRIC + 5]
    return (
        lattices[which, METRIC] * h + d * k + e * l,
        d * h + lattices[which, METRIC + 1] * k + f * l,
        e * h + f * k + lattices[which, METRIC + 2] * l,
    )


@njit(**BORROW)
def reciprocal_volume(lattices, which):
    """Volume of the cell of the reciprocal lattice, Å⁻³."""
    a0, a1, a2 = by_metric(lattices, which, 1.0, 0.0, 0.0)
    _, b1, b2 = by_metric(lattices, which, 0.0, 1.0, 0.0)
    _, _, c2 = by_metric(lattices, which, 0.0, 0.0, 1.0)
    return np.sqrt(a0 * (b1 * c2 - b2 * b2) - a1 * (a1 * c2 - b2 * a2) + a2 * (a1 * b2 - b1 * a2))
