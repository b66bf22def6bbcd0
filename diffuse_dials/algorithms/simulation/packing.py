"""Atoms placed at given distances from one another, and without clashes, in a crystal with its symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree

# Closest approach (Å) of atoms that are not bonded, sums of these radii; hydrogen bonds come closer (below).
CONTACT_RADII = {"C": 1.62, "N": 1.50, "O": 1.45, "S": 1.70, "H": 1.02}
_HYDROGEN_BOND = 1.75  # H to N or O: some of them are hydrogen bonds, and the rest may be as close
_STIFFNESS = 1.0  # of repulsion, against the springs of bonds
_BOND, _FIXED = 30.0, 10.0


@dataclass(frozen=True)
class CrystalSymmetry:
    """Symmetry operators in Cartesian coordinates.

    Attributes:
        orthogonalization: Columns are the cell axes a, b, c, shape (3, 3), Å.
        rotations: Shape (n, 3, 3).
        translations: Shape (n, 3), Å.
    """

    orthogonalization: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray

    @classmethod
    def from_cctbx(cls, symmetry) -> CrystalSymmetry:
        """From cctbx's crystal symmetry."""
        cell = symmetry.unit_cell()
        axes = np.array(cell.orthogonalization_matrix()).reshape(3, 3)
        inverse = np.linalg.inv(axes)
        rotations, translations = [], []
        for operator in symmetry.space_group():
            rotations.append(axes @ np.array(operator.r().as_double()).reshape(3, 3) @ inverse)
            translations.append(axes @ np.array(operator.t().as_double()))
        return cls(axes, np.array(rotations), np.array(translations))

    def images(self, xyz: np.ndarray) -> np.ndarray:
        """All symmetry copies, not brought into one cell, shape (n_operators, n, 3)."""
        return np.einsum("oij,nj->oni", self.rotations, xyz) + self.translations[:, None]

    def wrap(self, xyz: np.ndarray) -> np.ndarray:
        """Lattice translation that brings each point into the cell, Å, shape of ``xyz``."""
        return -np.floor(xyz @ np.linalg.inv(self.orthogonalization).T) @ self.orthogonalization.T


def neighbours(xyz: np.ndarray, symmetry: CrystalSymmetry, cutoff: float):
    """Pairs (i, image of j) closer than ``cutoff``: each contact from both sides, an atom with itself left out.

    Args:
        xyz: Shape (n, 3), Å.
        symmetry: Of the crystal.
        cutoff: Å.

    Returns:
        (i, j, operator, shift): int arrays, and the lattice translation of the image, shape (n_pairs, 3), Å:
        the image is rotation·x_j + translation + shift.
    """
    images = symmetry.images(xyz)
    into_cell = symmetry.wrap(images.reshape(-1, 3))
    copies = images.reshape(-1, 3) + into_cell
    axes = symmetry.orthogonalization
    lengths = 1 / np.linalg.norm(np.linalg.inv(axes), axis=1)  # distances between opposite faces
    reach = [range(-int(np.ceil(cutoff / d)), int(np.ceil(cutoff / d)) + 1) for d in lengths]
    home = symmetry.wrap(xyz)
    tree = cKDTree(xyz + home)
    fractional = copies @ np.linalg.inv(axes).T
    margin = cutoff / lengths
    parts = []
    for cell in np.stack(np.meshgrid(*reach, indexing="ij"), axis=-1).reshape(-1, 3):
        near = np.flatnonzero(np.all((fractional + cell > -margin) & (fractional + cell < 1 + margin), axis=1))
        if not len(near):
            continue
        translation = axes @ cell
        found = tree.sparse_distance_matrix(cKDTree(copies[near] + translation), cutoff, output_type="ndarray")
        image = near[found["j"]]
        i, j, operator = found["i"], image % len(xyz), image // len(xyz)
        shift = into_cell[image] + translation - home[i]
        parts.append((i, j, operator, shift))
    i, j, operator = (np.concatenate([part[n] for part in parts]) for n in range(3))
    shift = np.concatenate([part[3] for part in parts])
    own = (i == j) & (operator == 0) & (np.abs(shift).max(axis=1, initial=0) < 1e-6)
    return i[~own], j[~own], operator[~own], shift[~own]


def contact_distances(elements, i, j, scale: float = 1.0) -> np.ndarray:
    """Closest approach of pairs of atoms that are not bonded, Å."""
    radii = np.array([CONTACT_RADII.get(e, 1.7) for e in elements])
    hydrogen = np.array([e == "H" for e in elements])
    acceptor = np.array([e in ("N", "O") for e in elements])
    distances = radii[i] + radii[j]
    bonded = (hydrogen[i] & acceptor[j]) | (hydrogen[j] & acceptor[i])
    return scale * np.where(bonded, _HYDROGEN_BOND, distances)


def excluded_pairs(bonds, fixed, n_atoms: int) -> np.ndarray:
    """Codes i·n + j, both ways round, sorted, of pairs whose distance chemistry fixes."""
    pairs = np.array([(i, j) for i, j, _ in (*bonds, *fixed)], dtype=np.int64).reshape(-1, 2)
    return np.unique(np.concatenate([pairs[:, 0] * n_atoms + pairs[:, 1], pairs[:, 1] * n_atoms + pairs[:, 0]]))


class Packing:
    """Springs for the distances of chemistry, repulsion between all other atoms and their symmetry mates.

    Coordinates may have a fourth dimension (the same for an atom and its images), in which chains and rings pass
    through one another; a growing weight squeezes it away (Havel (1991) Prog. Biophys. Mol. Biol. 56, 43).
    """

    def __init__(self, topology, symmetry: CrystalSymmetry, frozen=()):
        """
        Args:
            topology: Atoms, bonds and fixed distances.
            symmetry: Of the crystal.
            frozen: Numbers of atoms that stay where they are.
        """
        self.symmetry = symmetry
        self._frozen = np.asarray(frozen, dtype=int)
        self.elements = topology.elements
        n = len(topology.elements)
        springs = [(i, j, d, _BOND) for i, j, d in topology.bonds] + [(i, j, d, _FIXED) for i, j, d in topology.fixed]
        self._i, self._j = (np.array([spring[k] for spring in springs], dtype=np.int64) for k in (0, 1))
        self._length, self._force = (np.array([spring[k] for spring in springs]) for k in (2, 3))
        self._excluded = excluded_pairs(topology.bonds, topology.fixed, n)
        self._pairs = None

    def contacts(self, xyz: np.ndarray, scale: float, margin: float):
        """Pairs that repulsion may reach while atoms move by ``margin``/2."""
        i, j, operator, shift = neighbours(xyz[:, :3], self.symmetry, scale * 2 * 1.7 + margin)
        identity = (operator == 0) & (np.abs(shift).max(axis=1, initial=0) < 1e-6)
        code = i.astype(np.int64) * len(xyz) + j
        place = np.minimum(np.searchsorted(self._excluded, code), max(len(self._excluded) - 1, 0))
        known = identity & (self._excluded[place] == code) if len(self._excluded) else np.zeros(len(i), dtype=bool)
        keep = ~known & (~identity | (i < j))
        weight = np.where(identity, 1.0, 0.5)[keep]  # a contact with an image is found from both of its ends
        i, j, operator, shift = i[keep], j[keep], operator[keep], shift[keep]
        return i, j, operator, shift, contact_distances(self.elements, i, j, scale), weight, identity[keep]

    def _energy(self, flat, dimensions, squeeze):
        xyz = flat.reshape(-1, dimensions)
        gradient = np.zeros_like(xyz)
        delta = xyz[self._i] - xyz[self._j]
        length = np.sqrt((delta**2).sum(axis=1)) + 1e-9
        stretch = length - self._length
        energy = (self._force * stretch**2).sum()
        _scatter(gradient, self._i, self._j, (2 * self._force * stretch / length)[:, None] * delta)
        i, j, operator, shift, closest, weight, identity = self._pairs
        image = xyz[j].copy()
        other = ~identity
        rotation = self.symmetry.rotations[operator[other]]
        image[other, :3] = np.einsum("nij,nj->ni", rotation, xyz[j[other], :3])
        image[other, :3] += self.symmetry.translations[operator[other]] + shift[other]
        delta = xyz[i] - image
        length = np.sqrt((delta**2).sum(axis=1)) + 1e-9
        overlap = np.maximum(closest - length, 0)
        energy += _STIFFNESS * (weight * overlap**2).sum()
        push = (-2 * _STIFFNESS * weight * overlap / length)[:, None] * delta
        back = push.copy()
        back[other, :3] = np.einsum("nij,ni->nj", rotation, push[other, :3])
        for axis in range(dimensions):
            gradient[:, axis] += np.bincount(i, push[:, axis], len(xyz)) - np.bincount(j, back[:, axis], len(xyz))
        if dimensions == 4:
            energy += squeeze * (xyz[:, 3] ** 2).sum()
            gradient[:, 3] += 2 * squeeze * xyz[:, 3]
        gradient[self._frozen] = 0
        return energy, gradient.ravel()

    def relax(self, xyz: np.ndarray, *, rounds: int, steps: int, scale=(1.0, 1.0), squeeze=(0.0, 0.0)) -> np.ndarray:
        """Minimise, finding contacts anew in each round.

        Args:
            xyz: Shape (n, 3) or (n, 4), Å.
            rounds: How often contacts are found.
            steps: Iterations of L-BFGS per round.
            scale: Contact distances as a fraction of the full ones, in the first and the last round.
            squeeze: Weight of the fourth dimension in the first and the last round.

        Returns:
            New coordinates, same shape.
        """
        for part in np.linspace(0, 1, rounds):
            now = scale[0] + part * (scale[1] - scale[0])
            weight = squeeze[0] + part * (squeeze[1] - squeeze[0])
            self._pairs = self.contacts(xyz, now, margin=0.6)
            solution = minimize(
                self._energy, xyz.ravel(), args=(xyz.shape[1], weight), jac=True, method="L-BFGS-B",
                options={"maxiter": steps, "maxfun": 2 * steps, "maxcor": 8},
            )  # fmt: skip
            xyz = solution.x.reshape(xyz.shape)
        return xyz


def _scatter(gradient, i, j, force):
    for axis in range(gradient.shape[1]):
        gradient[:, axis] += np.bincount(i, force[:, axis], len(gradient))
        gradient[:, axis] -= np.bincount(j, force[:, axis], len(gradient))
