"""Chemistry of the generated chain against ../shared/reference and textbook geometry."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from diffuse_dials.algorithms.simulation.generation import LYSOZYME, LYSOZYME_DISULFIDES
from diffuse_dials.algorithms.simulation.topology import NAMES, protein


@pytest.fixture
def lysozyme(reference):
    return json.loads(reference("cell_contents.json").read_text())["HEWL_P43212"]


def test_the_chain_has_exactly_the_atoms_of_its_sequence(lysozyme):
    assert lysozyme["sequence"] == LYSOZYME
    assert Counter(protein(LYSOZYME, LYSOZYME_DISULFIDES).elements) == lysozyme["chain_formula"]


def test_the_chain_has_exactly_the_bonds_of_the_inventory(lysozyme):
    """Per chain; the reference's O-H bonds include two for each of the cell's waters."""
    kinds = Counter("-".join(kind) for kind in protein(LYSOZYME, LYSOZYME_DISULFIDES).kinds)
    expected = {kind: n // lysozyme["chains_per_cell"] for kind, n in lysozyme["bonds_12_per_cell"].items()}
    expected["H-O-s"] = (lysozyme["bonds_12_per_cell"]["H-O-s"] - 2 * lysozyme["waters_per_cell"]) // 8
    assert kinds == expected


@pytest.mark.parametrize("code", sorted(NAMES))
def test_each_amino_acid_has_names_that_differ_and_no_atom_on_its_own(code):
    molecule = protein(f"G{code}G")
    assert len(set(zip(molecule.names, molecule.residues))) == len(molecule.names)
    assert max(len(name) for name in molecule.names) <= 4
    assert {atom for i, j, _ in molecule.bonds for atom in (i, j)} == set(range(len(molecule.names)))


def test_the_distances_of_a_benzene_ring_are_a_regular_hexagon():
    """Phenylalanine: 1-3 distances √3 · 1.39 Å, 1-4 distances 2 · 1.39 Å."""
    molecule = protein("GFG")
    atom = {name: i for i, (name, (_, n)) in enumerate(zip(molecule.names, molecule.residues)) if n == 2}
    fixed = {frozenset(pair[:2]): pair[2] for pair in molecule.fixed}
    assert fixed[frozenset((atom["CG"], atom["CE1"]))] == pytest.approx(np.sqrt(3) * 1.39)
    assert fixed[frozenset((atom["CG"], atom["CZ"]))] == pytest.approx(2 * 1.39)


def test_a_code_that_is_no_amino_acid_is_named():
    with pytest.raises(ValueError, match="B, X"):
        protein("AXB")
