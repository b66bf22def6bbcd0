"""Bragg spots of a mosaic crystal on a still: which lattice points are excited, how much, and in which pixels.

A still spot sums to Σ N/(PεT) = K b t (λ²/V) |F|² e^{-x} g(δ) photons, g the lattice-point profile integrated over the
sheet of the Ewald sphere at distance δ from the point [Kirian et al. (2010) Opt. Express 18, 5713; physics: the same
K as for diffuse pixels, with dΩ = λ² dA].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import radians

import iotbx.phil
import numpy as np
from dials.array_family import flex
from dxtbx import flumpy
from scipy.special import erf

phil_scope = iotbx.phil.parse(
    """
bragg {
  mosaic_rms = 0.05
    .type = float(value_min=0, value_max=10)
    .help = "Rms misorientation of mosaic blocks (degrees)."
  domain_size = 1500
    .type = float(value_min=10, value_max=1000000000)
    .help = "Of mosaic blocks (Å): lattice points have an rms width of 0.4/domain_size."
}
"""
)
_REACH = 5.0  # standard deviations to which profiles are followed
_STEP = 2e-3  # radians, of the derivative of pixel coordinates; dxtbx's parallax is good to 1e-4 pixels
_CHUNK = 4_000_000  # elements of the pixel boxes worked on at once


@dataclass(frozen=True)
class Mosaicity:
    """Gaussian lattice-point profile: ``radial`` along h, sqrt(radial² + (rms·|s|)²) across.

    Attributes:
        radial: Rms width along h, 1/Å.
        rms: Misorientation, radians.
    """

    radial: float
    rms: float

    @classmethod
    def from_phil(cls, params) -> Mosaicity:
        """From ``bragg``."""
        return cls(0.4 / params.domain_size, radians(params.mosaic_rms))


@dataclass(frozen=True)
class Spots:
    """Bragg spots before they meet pixels.

    Attributes:
        number: Row of the reflection list, shape (n,).
        delta: Distance of the lattice point from the Ewald sphere, |s0 + A h| - 1/λ, shape (n,), 1/Å.
        g: Profile integrated over the sheet, shape (n,), Å.
        s1: Where the centre of the cut profile goes, shape (n, 3), 1/Å.
        basis: Two unit vectors across ŝ1, shape (n, 2, 3).
        covariance: Of the cut profile in that basis, shape (n, 2, 2), 1/Å².
    """

    number: np.ndarray
    delta: np.ndarray
    g: np.ndarray
    s1: np.ndarray
    basis: np.ndarray
    covariance: np.ndarray


def excite(hkl: np.ndarray, setting: np.ndarray, s0: np.ndarray, mosaicity: Mosaicity) -> Spots:
    """Lattice points whose profile the Ewald sphere cuts.

    Args:
        hkl: Miller indices, shape (n, 3).
        setting: A = U B of the still, shape (3, 3), 1/Å.
        s0: Incident wave vector, shape (3,), 1/Å.
        mosaicity: Of the crystal.

    Returns:
        Spots within 5 standard deviations of the sphere.
    """
    points = hkl @ setting.T
    scattered = points + s0
    length = np.sqrt(np.einsum("ij,ij->i", scattered, scattered))
    delta = length - np.linalg.norm(s0)
    size = np.sqrt(np.einsum("ij,ij->i", points, points))
    widest = np.hypot(mosaicity.radial, mosaicity.rms * size)
    number = np.flatnonzero((np.abs(delta) < _REACH * widest) & (size > 0))
    delta, across = delta[number], widest[number] ** 2
    normal, radial = scattered[number] / length[number, None], points[number] / size[number, None]
    along = np.einsum("ij,ij->i", normal, radial)
    variance = across + (mosaicity.radial**2 - across) * along**2
    keep = np.abs(delta) < _REACH * np.sqrt(variance)
    number, delta, normal, across, radial, along, variance = (
        x[keep] for x in (number, delta, normal, across, radial, along, variance)
    )
    basis = _across(normal)
    flattening = mosaicity.radial**2 - across
    in_basis = np.einsum("nij,nj->ni", basis, radial)
    coupling = (flattening * along)[:, None] * in_basis  # covariance of the two directions with the normal
    covariance = flattening[:, None, None] * in_basis[:, :, None] * in_basis[:, None, :]
    covariance[:, [0, 1], [0, 1]] += across[:, None]
    covariance -= coupling[:, :, None] * coupling[:, None, :] / variance[:, None, None]
    # the sheet lies at -delta along the normal; the profile's mean there is shifted within the sheet
    shift = np.einsum("ni,nij->nj", -(delta / variance)[:, None] * coupling, basis)
    s1 = scattered[number] - delta[:, None] * normal + shift
    g = np.exp(-(delta**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return Spots(number, delta, g, s1, basis, covariance)


def _across(normal):
    """Two unit vectors orthogonal to each normal and to one another, shape (n, 2, 3)."""
    helper = np.where(np.abs(normal[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normal, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(normal, first)], axis=1)


def project(panel, s1: np.ndarray) -> np.ndarray:
    """Where wave vectors s1, shape (n, 3), meet a panel: pixels (fast, slow), shape (n, 2), NaN behind it."""
    v = s1 @ np.array(panel.get_D_matrix()).reshape(3, 3).T
    hits = v[:, 2] > 0
    mm = np.where(hits[:, None], v[:, :2] / np.where(hits, v[:, 2], 1.0)[:, None], 0.0)
    px = flumpy.to_numpy(panel.millimeter_to_pixel(flex.vec2_double(flumpy.vec_from_numpy(np.ascontiguousarray(mm)))))
    return np.where(hits[:, None], px, np.nan)


def deposit(image: np.ndarray, panel, spots: Spots, photons: np.ndarray, point_spread: float) -> None:
    """Add spots to an image, each as a Gaussian integrated over pixels.

    Args:
        image: Changed in place, shape (slow, fast).
        panel: dxtbx panel.
        spots: From :func:`excite`.
        photons: Of each spot before P·ε·T, shape (n,).
        point_spread: Rms width along fast and slow, pixels.
    """
    centre = project(panel, spots.s1)
    front = np.isfinite(centre[:, 0])
    centre, photons, s1, basis = centre[front], photons[front], spots.s1[front], spots.basis[front]
    step = _STEP * np.linalg.norm(s1, axis=1)[:, None]
    slopes = [(project(panel, s1 + step * basis[:, i]) - centre) / step for i in (0, 1)]
    jacobian = np.stack(slopes, axis=2)  # pixels per 1/Å
    covariance = jacobian @ spots.covariance[front] @ jacobian.transpose(0, 2, 1)
    covariance[:, [0, 1], [0, 1]] += point_spread**2
    reach = _REACH * np.sqrt(covariance[:, [0, 1], [0, 1]].max(axis=1, initial=0))
    edge = np.array(image.shape[::-1]) + reach[:, None]
    inside = np.all((centre > -reach[:, None]) & (centre < edge), axis=1)
    half = np.ceil(reach).astype(int)
    for size in np.unique(half[inside]):
        chosen = np.flatnonzero(inside & (half == size))
        n_chunks = max(1, len(chosen) * (2 * size + 1) ** 2 // _CHUNK)
        for part in np.array_split(chosen, n_chunks):
            _deposit_boxes(image, centre[part], covariance[part], photons[part], size)


def _deposit_boxes(image, centre, covariance, photons, half):
    """Boxes of one size: the marginal along fast, times the profile along slow given the column."""
    first = np.floor(centre).astype(int) - half
    offsets = np.arange(2 * half + 2)
    fast_edges = first[:, :1] + offsets - centre[:, :1]
    variance = covariance[:, 0, 0, None]
    columns = np.diff(0.5 * erf(fast_edges / np.sqrt(2 * variance)), axis=1)
    middle = _centroids(fast_edges, variance, columns)
    slope = covariance[:, 0, 1, None] / variance
    given = np.sqrt(2 * (covariance[:, 1, 1] - covariance[:, 0, 1] ** 2 / covariance[:, 0, 0]))
    slow_edges = first[:, 1:] + offsets - centre[:, 1:]
    edges = slow_edges[:, :, None] - (slope * middle)[:, None, :]
    rows = np.diff(0.5 * erf(edges / given[:, None, None]), axis=1)
    values = photons[:, None, None] * rows * columns[:, None, :]
    fast = np.broadcast_to((first[:, :1] + offsets[:-1])[:, None, :], values.shape)
    slow = np.broadcast_to((first[:, 1:] + offsets[:-1])[:, :, None], values.shape)
    on = (fast >= 0) & (fast < image.shape[1]) & (slow >= 0) & (slow < image.shape[0])
    image += np.bincount(slow[on] * image.shape[1] + fast[on], values[on], image.size).reshape(image.shape)


def _centroids(edges, variance, weight):
    """Mean of a centred Gaussian within each interval."""
    density = np.exp(-(edges**2) / (2 * variance)) * np.sqrt(variance / (2 * np.pi))
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    return np.where(weight > 1e-12, -np.diff(density, axis=1) / np.maximum(weight, 1e-12), middle)
