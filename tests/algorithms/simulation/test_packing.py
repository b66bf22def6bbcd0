"""Contacts in a crystal against brute force, and forces against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cctbx import crystal

from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, Packing, neighbours
from diffuse_dials.algorithms.simulation.topology import protein


@pytest.fixture(
    params=[("P1", (9, 10, 11, 80, 95, 105)), ("P21", (12, 9, 14, 90, 107, 90)), ("P43212", (14, 14, 12, 90, 90, 90))]
)
def symmetry(request):
    group, cell = request.param
    return CrystalSymmetry.from_cctbx(crystal.symmetry(unit_cell=cell, space_group_symbol=group))


def test_contacts_are_those_of_a_search_through_all_cells_around(symmetry, rng):
    xyz = rng.uniform(-10, 20, (12, 3))
    i, j, operator, shift = neighbours(xyz, symmetry, 4.0)
    image = np.einsum("nij,nj->ni", symmetry.rotations[operator], xyz[j]) + symmetry.translations[operator] + shift
    found = np.sort(np.linalg.norm(image - xyz[i], axis=1))
    shifts = [symmetry.orthogonalization @ cell for cell in itertools.product(range(-5, 6), repeat=3)]
    copies = (symmetry.images(xyz)[None] + np.array(shifts)[:, None, None]).reshape(-1, 3)
    distances = np.linalg.norm(copies[None] - xyz[:, None], axis=-1).ravel()
    expected = np.sort(distances[(distances < 4.0) & (distances > 1e-9)])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("dimensions", [3, 4])
def test_the_gradient_is_that_of_the_energy(symmetry, rng, dimensions):
    molecule = protein("GA")
    packing = Packing(molecule, symmetry)
    xyz = rng.normal(scale=1.5, size=(len(molecule.elements), dimensions))
    packing._pairs = packing.contacts(xyz, 1.0, 0.5)
    _, gradient = packing._energy(xyz.ravel(), dimensions, 0.3)
    step = 1e-6
    for place in rng.choice(xyz.size, 12, replace=False):
        moved = [xyz.ravel().copy() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (packing._energy(flat, dimensions, 0.3)[0] for flat in moved)
        assert gradient[place] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-4)
