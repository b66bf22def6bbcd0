"""The generated crystal: its geometry, its contacts and its file; and files of users."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.algorithms.simulation.generation import generate
from diffuse_dials.algorithms.simulation.model import prepare_model, read_model
from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, neighbours
from diffuse_dials.algorithms.simulation.topology import protein

SEQUENCE = "ACDEFGHIKLMNPQRSTVWY"
CRYST1 = "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1\n"
ATOM = "ATOM      1  CA  ALA A   1       1.000   2.000   3.000  1.00  9.00           C\n"


def coordinates(model):
    return np.array(model.structure.sites_cart())


def test_bonds_and_angles_have_their_lengths(small_model):
    """Against the dictionary's distances: 0.02 Å rms for bonds, 0.05 Å for 1-3 pairs; refined proteins do so too."""
    molecule, xyz = protein(SEQUENCE, ()), coordinates(small_model)
    for pairs, tolerance in ((molecule.bonds, 0.02), (molecule.fixed, 0.05)):
        i, j = np.array([pair[:2] for pair in pairs]).T
        error = np.linalg.norm(xyz[i] - xyz[j], axis=1) - [pair[2] for pair in pairs]
        assert np.sqrt(np.mean(error**2)) < tolerance
        assert np.abs(error).max() < 5 * tolerance


def test_no_heavy_atoms_of_different_molecules_clash(small_model):
    """Symmetry mates and waters: none closer than 2.3 Å (a short hydrogen bond has 2.5 Å)."""
    elements = np.array([s.element_symbol() for s in small_model.structure.scatterers()])
    symmetry = CrystalSymmetry.from_cctbx(small_model.structure.crystal_symmetry())
    heavy = coordinates(small_model)[elements != "H"]
    i, j, operator, shift = neighbours(heavy, symmetry, 2.3)
    n_chain = sum(element != "H" for element in protein(SEQUENCE).elements)
    inside = (operator == 0) & (np.abs(shift).max(axis=1, initial=0) < 1e-6) & (i < n_chain) & (j < n_chain)
    assert inside.all()


def test_the_cell_holds_the_chains_and_the_waters_asked_for(small_model):
    """Waters: 0.0334/Å³ of what 1.212 Å³/Da leave, in whole ones per asymmetric unit."""
    chain = protein(SEQUENCE)
    composition = small_model.composition
    assert composition["C"] == 4 * chain.elements.count("C")
    waters = composition["O"] / 4 - chain.elements.count("O")
    mass = sum({"C": 12.011, "H": 1.008, "N": 14.007, "O": 15.999, "S": 32.06}[e] for e in chain.elements)
    assert waters == pytest.approx(0.0334 * (26 * 27 * 28 / 4 - 1.212 * mass), abs=0.51)
    assert composition["H"] / 4 == chain.elements.count("H") + 2 * waters
    assert np.all(np.array(small_model.structure.extract_u_iso_or_u_equiv()) == 0)


def test_a_seed_gives_one_structure_and_another_seed_another(parameters):
    short = "generate.sequence=GAG", "generate.unit_cell=14,15,16,90,90,90"
    texts = [generate(parameters(*short, f"generate.seed={seed}").generate) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "changes, message",
    [
        (("generate.unit_cell=20,20,20,90,90,90",), "Å³"),
        (("generate.space_group=P43212",), "does not fit the space group"),
        (("generate.sequence=AXA",), "X"),
    ],
)
def test_a_crystal_that_cannot_be_made_is_refused(parameters, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(parameters(*changes).generate)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no model file"),
        (ATOM, "no unit cell"),
        (CRYST1, "no atoms|cannot be read"),
        ("garbage", "no unit cell|cannot be read"),
    ],
)
def test_a_bad_model_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.pdb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_model(path)


def test_a_users_model_is_copied_beside_the_images_and_left_alone(tmp_path, parameters):
    source = tmp_path / "mine.pdb"
    source.write_text(CRYST1 + ATOM)
    (tmp_path / "run").mkdir()
    model = prepare_model(parameters(f"model={source}"), tmp_path / "run")
    assert model.composition == {"C": 1}
    assert (tmp_path / "run" / "model.pdb").read_text() == source.read_text() == CRYST1 + ATOM
