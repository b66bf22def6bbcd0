"""Contents of unit cells against counts worked out independently of this project."""

from __future__ import annotations

import json
from collections import Counter

import gemmi
import libtbx.phil
import pytest
from cctbx import sgtbx, uctbx

from diffuse_dials.adapters.scattering import atomic_number
from diffuse_dials.algorithms.absolute import residues
from diffuse_dials.algorithms.absolute.composition import composition_from_phil, phil_scope
from diffuse_dials.algorithms.absolute.model_file import read_model

HEWL = "HEWL_P43212"
THREE = {letter: name for name, letter in residues.ONE_LETTER.items() if name != "MSE"}
HEAVY = {letter: residues.parse_formula(formula) for letter, formula in residues.FREE_AMINO_ACIDS.items()}


def parameters(text):
    return phil_scope.fetch(libtbx.phil.parse(text)).extract().absolute


def contents(reference, name=HEWL):
    return json.loads(reference("cell_contents.json").read_text())[name]


def crystal(cell, symbol):
    return uctbx.unit_cell(cell["cell"]), sgtbx.space_group_info(symbol).group()


@pytest.mark.parametrize(
    "name, symbol, copies, more",
    [
        (HEWL, "P43212", 1, "disulfides=4"),
        ("HIVPR_P21_2dimers", "P21", 2, ""),
        ("HIVPR_P21_2dimers_MSE_2Zn", "P21", 2, "selenomethionine=True\nligands=Zn0.5"),
    ],
)
def test_a_sequence_gives_the_contents_of_the_cell(reference, name, symbol, copies, more):
    """cell_contents.json: ordered atoms exact; waters to 5e-4, as its atomic weights differ by 1.5e-4 from cctbx's."""
    cell = contents(reference, name)
    lines = "\n".join(f"absolute.{line}" for line in more.split("\n") if line)
    params = parameters(f"absolute.sequence={cell['sequence']}\nabsolute.copies={copies}\n{lines}")
    found = composition_from_phil(params, *crystal(cell, symbol))
    assert found.ordered == pytest.approx(cell["ordered_atoms"])
    assert found.bulk_waters == pytest.approx(cell["waters_per_cell"], rel=5e-4)
    assert found.electrons_ordered == pytest.approx(cell["electrons_ordered"])
    assert found.electrons == pytest.approx(cell["electrons_all"], rel=2e-4)
    assert found.mean_density == pytest.approx(cell["mean_electron_density"], rel=2e-4)
    kinds = {}
    for bond, number in found.bonds.items():
        kinds["-".join(bond[:2])] = kinds.get("-".join(bond[:2]), 0) + number
    expected = Counter()
    for kind, number in cell["bonds_12_per_cell"].items():
        expected["-".join(sorted(kind.split("-")[:2]))] += number
    assert kinds == pytest.approx(expected, abs=2.1)  # two bonds a water, of which there is one more or less


def test_all_bonds_of_bond_inventory_are_read(reference):
    """bond_inventory.csv holds what data/bonds.csv holds."""
    lines = reference("bond_inventory.csv").read_text().split("\n")[1:]
    expected = sum(int(line.split(",")[5]) for line in lines if line)
    assert sum(sum(bonds.values()) for bonds in residues.residue_bonds().values()) == expected


def test_a_formula_gives_the_same_atoms(reference):
    cell = contents(reference)
    formula = " ".join(f"{e}{n}" for e, n in cell["chain_formula"].items())
    params = parameters(f'absolute.formula="{formula}"\nabsolute.solvent=3148')
    found = composition_from_phil(params, *crystal(cell, "P43212"))
    assert found.ordered == pytest.approx(cell["ordered_atoms"])
    assert found.all_atoms == pytest.approx(cell["all_atoms"])
    assert found.electrons == cell["electrons_all"]
    assert "average protein" in " ".join(found.notes)


@pytest.mark.parametrize("solvent, waters", [("none", 0), ("0.4", 0.4 * 0.0334 * 232985.4), ("1000", 1000)])
def test_bulk_solvent_as_given(reference, solvent, waters):
    cell = contents(reference)
    params = parameters(f"absolute.sequence={cell['sequence']}\nabsolute.solvent={solvent}")
    found = composition_from_phil(params, *crystal(cell, "P43212"))
    assert found.bulk_waters == pytest.approx(waters, rel=1e-5)
    assert found.all_atoms["O"] - found.ordered["O"] == pytest.approx(waters, rel=1e-5)


def write_peptide(path, sequence="GASCMW", waters=3, cell=(20, 20, 20, 90, 90, 90), symbol="P 21 21 21", occupancy=1.0):
    """A chain with all heavy atoms (at arbitrary places) and some waters."""
    structure = gemmi.Structure()
    structure.cell = gemmi.UnitCell(*cell)
    structure.spacegroup_hm = symbol
    model, chain = gemmi.Model("1"), gemmi.Chain("A")
    number = 0
    for i, letter in enumerate(sequence):
        residue = gemmi.Residue()
        residue.name, residue.seqid = THREE[letter], gemmi.SeqId(i + 1, " ")
        wanted = dict(HEAVY[letter])
        if i < len(sequence) - 1:
            wanted["O"] -= 1
        for element, n in wanted.items():
            for k in range(int(n) if element != "H" else 0):
                atom = gemmi.Atom()
                last = i == len(sequence) - 1 and (element, k) == ("O", 1)
                atom.name = "OXT" if last else f"{element}{k}"
                atom.element, atom.occ = gemmi.Element(element), occupancy
                number += 1
                atom.pos = gemmi.Position(10.0 * number, 0, 0)
                residue.add_atom(atom)
        chain.add_residue(residue)
    for i in range(waters):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "HOH", gemmi.SeqId(101 + i, " ")
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = "O", gemmi.Element("O"), gemmi.Position(0, 10.0 * (i + 1), 0)
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path


def test_a_model_without_hydrogens_has_those_of_its_sequence(tmp_path):
    """Expected: the atoms and bonds of the same sequence, which the tests above hold against the reference."""
    path = write_peptide(tmp_path / "model.cif", "GASCMW", waters=3)
    group = sgtbx.space_group_info("P212121").group()
    found = read_model(path, uctbx.unit_cell((20, 20, 20, 90, 90, 90)), group)
    atoms, bonds = residues.chains_inventory(["GASCMW"])
    residues.add(atoms, {"H": 6, "O": 3})
    residues.add(bonds, residues.residue_bonds()["HOH"], 3)
    assert found.order == 4
    assert found.waters == 3
    assert found.atoms == pytest.approx(atoms)
    assert found.bonds == pytest.approx(bonds)


def test_occupancies_count(tmp_path):
    path = write_peptide(tmp_path / "model.cif", "GG", waters=0, occupancy=0.5)
    found = read_model(path, uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group_info("P212121").group())
    assert found.atoms["N"] == pytest.approx(1.0)
    assert found.atoms["C"] == pytest.approx(2.0)


def test_explicit_water_takes_volume_from_the_bulk(tmp_path):
    """Volume left: V - 1.212 Å³/Da x mass - 30 Å³ per explicit water."""
    unit_cell, group = uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group_info("P212121").group()

    def with_waters(number):
        path = write_peptide(tmp_path / f"{number}.cif", waters=number)
        return composition_from_phil(parameters(f"absolute.model={path}"), unit_cell, group)

    some, more = with_waters(3), with_waters(13)
    assert some.bulk_waters - more.bulk_waters == pytest.approx(0.0334 * 30 * 40)
    assert with_waters(90).bulk_waters == 0


def test_a_model_that_fills_the_cell_is_not_repeated(tmp_path):
    """A P1 model with the crystal's cell in a crystal of four operations occurs once; without a cell, four times."""
    unit_cell, group = uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group_info("P212121").group()
    assert read_model(write_peptide(tmp_path / "a.cif", symbol="P 1"), unit_cell, group).order == 1
    bare = write_peptide(tmp_path / "b.cif", cell=(1, 1, 1, 90, 90, 90), symbol="P 1")
    assert read_model(bare, unit_cell, group).order == 4
    other = read_model(write_peptide(tmp_path / "c.cif", cell=(40, 20, 20, 90, 90, 90), symbol="P 1"), unit_cell, group)
    assert other.order == 4
    assert "check that the model belongs" in " ".join(other.doubts)


def test_bonds_of_an_unknown_residue_come_from_distances(tmp_path):
    """Formaldehyde-like C=O at 1.22 Å with a C-H at 1.09 Å, and an ion far away."""
    text = (
        "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1\n"
        "HETATM    1  C1  QQQ A   1       0.000   0.000   0.000  1.00 10.00           C\n"
        "HETATM    2  O1  QQQ A   1       1.220   0.000   0.000  1.00 10.00           O\n"
        "HETATM    3  H1  QQQ A   1       0.000   1.090   0.000  1.00 10.00           H\n"
        "HETATM    4 ZN    ZN A   2      10.000   0.000   0.000  1.00 10.00          ZN\n"
        "END\n"
    )
    (tmp_path / "model.pdb").write_text(text)
    found = read_model(tmp_path / "model.pdb", uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group("P 1"))
    assert found.bonds == {residues.Bond("C", "O", 1.22): 1, residues.Bond("C", "H", 1.09): 1}
    assert found.atoms == {"C": 1, "O": 1, "H": 1, "Zn": 1}
    assert sum(n * atomic_number(e) for e, n in found.atoms.items()) == 45


def test_typical_bonds_of_a_formula_are_close_to_the_true_ones(reference):
    """Numbers of bonds of lysozyme without its water within 6 %."""
    cell = contents(reference)
    _, true = residues.chains_inventory([cell["sequence"]], 4)
    typical = residues.typical_bonds(cell["chain_formula"])
    assert sum(typical.values()) == pytest.approx(sum(true.values()), rel=0.06)


def test_implausible_contents_are_called_so(reference):
    cell = contents(reference)
    given = f"absolute.sequence={cell['sequence']}\n"
    found = composition_from_phil(parameters(given + "absolute.copies=4"), *crystal(cell, "P43212"))
    assert any("Check absolute.copies" in warning for warning in found.warnings())
    empty = composition_from_phil(parameters(given + "absolute.solvent=none"), *crystal(cell, "P43212"))
    assert any("mean electron density is 0.26" in warning for warning in empty.warnings())


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "No composition is given. Give one of absolute.model"),
        ("absolute.sequence=GAS\nabsolute.formula=C2", "sequence and formula are given together"),
        ("absolute.formula=C2Xx3", "'Xx' is no chemical element"),
        ('absolute.formula="12 of those"', "is no formula"),
        ("absolute.formula=C0", "has no atoms"),
        ("absolute.sequence=GAZ", "residue Z, which is none of the 20"),
        ("absolute.sequence=missing.fasta", "There is no file missing.fasta"),
        ("absolute.sequence=GAC\nabsolute.disulfides=1", "needs 2 cysteines; the sequence has 1"),
        ("absolute.model=missing.pdb", "There is no file missing.pdb"),
        ("absolute.sequence=GAS\nabsolute.solvent=wet", "is none of Auto, none"),
    ],
)
def test_a_wrong_composition_is_one_clear_line(text, message, run_in_tmp_path):
    with pytest.raises(ValueError, match=message):
        composition_from_phil(parameters(text), uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group("P 1"))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty.pdb").write_text("END\n")
    with pytest.raises(ValueError, match="holds no atoms"):
        read_model(tmp_path / "empty.pdb", uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group("P 1"))
    line = "ATOM      1  X   QQQ A   1       0.000   0.000   0.000  1.00 10.00           \n"
    (tmp_path / "unknown.pdb").write_text(line + "END\n")
    with pytest.raises(ValueError, match="no known element"):
        read_model(tmp_path / "unknown.pdb", uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group("P 1"))


def test_fasta_files_hold_several_chains(tmp_path):
    assert residues.parse_sequence(">one\nGAS\nGAS*\n; remark\n>two\ngg\n") == ["GASGAS", "GG"]


def test_a_pdb_file_of_before_1996_is_read(tmp_path):
    """Columns 73-80 hold the entry's code and a line number, which is no element and charge."""
    text = (
        "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1  1ABC  67\n"
        "ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00 10.00      1ABC  68\n"
        "ATOM      2  CA  GLY A   1       5.000   0.000   0.000  1.00 10.00      1ABC  69\n"
    )
    (tmp_path / "old.pdb").write_text(text)
    found = read_model(tmp_path / "old.pdb", uctbx.unit_cell((20, 20, 20, 90, 90, 90)), sgtbx.space_group("P 1"))
    assert {element: n for element, n in found.atoms.items() if element != "H"} == {"N": 1, "C": 1}
    assert "before 1996" in " ".join(found.notes)


def test_a_sequence_of_bases_is_not_taken_for_amino_acids():
    """A, C, G and T are alanine, cysteine, glycine and threonine too; a chain of them alone is nucleic acid."""
    with pytest.raises(ValueError, match="reads as DNA or RNA"):
        residues.parse_sequence(">dna\nGATTACAGATTACA\n")
    assert residues.parse_sequence("GATT") == ["GATT"]
