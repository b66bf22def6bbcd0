"""Atoms, covalent bonds and 1-3 distances of a protein chain with all its hydrogens, from the sequence alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, radians, sqrt

# Lengths (Å) by the two elements and the kind of the bond: s single, d double, a aromatic, acid and amide
# (standard dictionary values; Engh & Huber (1991) Acta Cryst. A47, 392, X-H at the nuclear positions).
BOND_LENGTHS = {
    ("C", "C", "a"): 1.39, ("C", "C", "s"): 1.525, ("C", "H", "s"): 1.09, ("C", "N", "a"): 1.36,
    ("C", "N", "amide"): 1.33, ("C", "N", "d"): 1.33, ("C", "N", "s"): 1.46, ("C", "O", "acid"): 1.25,
    ("C", "O", "d"): 1.23, ("C", "O", "s"): 1.42, ("C", "S", "s"): 1.81, ("H", "N", "s"): 1.01,
    ("H", "O", "s"): 0.97, ("H", "S", "s"): 1.34, ("S", "S", "s"): 2.05,
}  # fmt: skip
WATER_ANGLE = 104.5  # H-O-H, degrees

NAMES = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY", "H": "HIS",
    "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER", "T": "THR", "W": "TRP",
    "Y": "TYR", "V": "VAL",
}  # fmt: skip

# Side chains beyond CA, neutral: bonds "atom atom kind" (single where none is given), and hydrogens per atom.
_SIDE_CHAINS = {
    "A": ("CA CB", "CB3"),
    "R": ("CA CB, CB CG, CG CD, CD NE, NE CZ amide, CZ NH1 d, CZ NH2 amide", "CB2 CG2 CD2 NE1 NH11 NH22"),
    "N": ("CA CB, CB CG, CG OD1 d, CG ND2 amide", "CB2 ND22"),
    "D": ("CA CB, CB CG, CG OD1 d, CG OD2 acid", "CB2 OD21"),
    "C": ("CA CB, CB SG", "CB2 SG1"),
    "Q": ("CA CB, CB CG, CG CD, CD OE1 d, CD NE2 amide", "CB2 CG2 NE22"),
    "E": ("CA CB, CB CG, CG CD, CD OE1 d, CD OE2 acid", "CB2 CG2 OE21"),
    "G": ("", ""),
    "H": ("CA CB, CB CG, CG ND1 a, ND1 CE1 a, CE1 NE2 a, NE2 CD2 a, CD2 CG a", "CB2 CE11 NE21 CD21"),
    "I": ("CA CB, CB CG1, CB CG2, CG1 CD1", "CB1 CG12 CG23 CD13"),
    "L": ("CA CB, CB CG, CG CD1, CG CD2", "CB2 CG1 CD13 CD23"),
    "K": ("CA CB, CB CG, CG CD, CD CE, CE NZ", "CB2 CG2 CD2 CE2 NZ2"),
    "M": ("CA CB, CB CG, CG SD, SD CE", "CB2 CG2 CE3"),
    "F": ("CA CB, CB CG, CG CD1 a, CG CD2 a, CD1 CE1 a, CD2 CE2 a, CE1 CZ a, CE2 CZ a",
          "CB2 CD11 CD21 CE11 CE21 CZ1"),
    "P": ("CA CB, CB CG, CG CD, CD N", "CB2 CG2 CD2"),
    "S": ("CA CB, CB OG", "CB2 OG1"),
    "T": ("CA CB, CB OG1, CB CG2", "CB1 OG11 CG23"),
    "W": ("CA CB, CB CG, CG CD1 a, CD1 NE1 a, NE1 CE2 a, CE2 CD2 a, CD2 CG a, CD2 CE3 a, CE3 CZ3 a, CZ3 CH2 a,"
          "CH2 CZ2 a, CZ2 CE2 a", "CB2 CD11 NE11 CE31 CZ31 CH21 CZ21"),
    "Y": ("CA CB, CB CG, CG CD1 a, CG CD2 a, CD1 CE1 a, CD2 CE2 a, CE1 CZ a, CE2 CZ a, CZ OH",
          "CB2 CD11 CD21 CE11 CE21 OH1"),
    "V": ("CA CB, CB CG1, CB CG2", "CB1 CG13 CG23"),
}  # fmt: skip
_RINGS = {
    "F": (("CG", "CD1", "CE1", "CZ", "CE2", "CD2"),),
    "Y": (("CG", "CD1", "CE1", "CZ", "CE2", "CD2"),),
    "H": (("CG", "ND1", "CE1", "NE2", "CD2"),),
    "P": (("N", "CA", "CB", "CG", "CD"),),
    "W": (("CG", "CD1", "NE1", "CE2", "CD2"), ("CD2", "CE3", "CZ3", "CH2", "CZ2", "CE2")),
}


@dataclass
class Topology:
    """A molecule as atoms and the distances that its chemistry fixes.

    Attributes:
        names, elements, residues: Of each atom: PDB name, element, (residue name, residue number).
        bonds: (i, j, length) of each covalent bond, Å.
        fixed: (i, j, distance) of each 1-3 pair and of the 1-4 pairs that planarity fixes, Å.
        kinds: Kind of each bond, (element, element, kind).
    """

    names: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    residues: list[tuple[str, int]] = field(default_factory=list)
    bonds: list[tuple[int, int, float]] = field(default_factory=list)
    fixed: list[tuple[int, int, float]] = field(default_factory=list)
    kinds: list[tuple[str, str, str]] = field(default_factory=list)

    def add_atom(self, name: str, element: str, residue: tuple[str, int]) -> int:
        """Append an atom; returns its number."""
        self.names.append(name)
        self.elements.append(element)
        self.residues.append(residue)
        return len(self.names) - 1

    def add_bond(self, i: int, j: int, kind: str = "s") -> None:
        """Append a bond with the length of its kind."""
        key = (*sorted((self.elements[i], self.elements[j])), kind)
        self.kinds.append(key)
        self.bonds.append((i, j, BOND_LENGTHS[key]))


def disulfides_by_order(sequence: str) -> tuple[tuple[int, int], ...]:
    """Pairs of neighbouring cysteines along the chain, residue numbers from 0; an odd last one stays free."""
    cysteines = [i for i, code in enumerate(sequence) if code == "C"]
    return tuple(zip(cysteines[0::2], cysteines[1::2]))


def protein(sequence: str, disulfides: tuple[tuple[int, int], ...] = ()) -> Topology:
    """Atoms and distances of one neutral chain.

    Args:
        sequence: One-letter codes.
        disulfides: Pairs of residue numbers (from 0) whose sulfur atoms are bonded.

    Returns:
        The topology, residue by residue.

    Raises:
        ValueError: For a code that is none of the twenty amino acids.
    """
    unknown = sorted(set(sequence) - set(NAMES))
    if unknown or not sequence:
        raise ValueError(
            f"The sequence holds {', '.join(unknown) or 'nothing'}; give the twenty amino acids' one-letter codes."
        )
    molecule = Topology()
    bridged = {i for pair in disulfides for i in pair}
    index = [_residue(molecule, sequence, i, i in bridged) for i in range(len(sequence))]
    for previous, this in zip(index, index[1:]):
        molecule.add_bond(previous["C"], this["N"], "amide")
    for i, j in disulfides:
        molecule.add_bond(index[i]["SG"], index[j]["SG"])
    rings = [[atoms[name] for name in ring] for code, atoms in zip(sequence, index) for ring in _RINGS.get(code, ())]
    _add_angles(molecule, rings)
    for previous, this in zip(index, index[1:]):
        molecule.fixed.append((previous["CA"], this["CA"], 3.80))  # trans peptide
    return molecule


def _residue(molecule, sequence, number, bridged):
    code, last = sequence[number], number == len(sequence) - 1
    residue = (NAMES[code], number + 1)
    bonds, hydrogens = _SIDE_CHAINS[code]
    bonds = "N CA, CA C, C O d, " + ("C OXT acid, " if last else "") + bonds
    counts = {"CA": 2 if code == "G" else 1, "N": (2 if number == 0 else 1) - (code == "P")}
    counts.update({text[:-1]: int(text[-1]) for text in hydrogens.split()})
    if last:
        counts["OXT"] = 1
    if bridged:
        counts["SG"] = 0
    atoms: dict[str, int] = {}
    for bond in filter(None, (text.strip() for text in bonds.split(","))):
        first, second, *kind = bond.split()
        for name in (first, second):
            if name not in atoms:
                atoms[name] = molecule.add_atom(name, name[0], residue)
        molecule.add_bond(atoms[first], atoms[second], *kind)
    for name, count in counts.items():
        for i in range(count):
            hydrogen = molecule.add_atom("H" + name[1:] + (str(i + 1) if count > 1 else ""), "H", residue)
            molecule.add_bond(atoms[name], hydrogen)
    return atoms


def _add_angles(molecule, rings):
    neighbours: dict[int, dict[int, float]] = {}
    for i, j, length in molecule.bonds:
        neighbours.setdefault(i, {})[j] = length
        neighbours.setdefault(j, {})[i] = length
    planar = _planar_atoms(molecule)
    for centre, bonded in neighbours.items():
        members = sorted(bonded)
        for n, i in enumerate(members):
            for j in members[n + 1 :]:
                angle = radians(_angle(molecule, centre, i, j, rings, centre in planar))
                a, b = bonded[i], bonded[j]
                molecule.fixed.append((i, j, sqrt(a * a + b * b - 2 * a * b * cos(angle))))
    for ring in rings:
        if len(ring) == 6:
            molecule.fixed.extend((ring[i], ring[i + 3], 2 * BOND_LENGTHS["C", "C", "a"]) for i in range(3))


def _planar_atoms(molecule):
    """Atoms with a bond that is not single: their neighbours lie in a plane."""
    return {
        atom
        for (i, j, _), (*_, kind) in zip(molecule.bonds, molecule.kinds)
        if kind != "s"
        for atom in (i, j)
        if molecule.elements[atom] != "O"
    }


def _angle(molecule, centre, i, j, rings, planar):
    """Degrees; outside its rings, an atom of a ring shares what the rings leave of the plane."""
    holding = [ring for ring in rings if centre in ring]
    inner = {5: 108.0 if planar else 104.0, 6: 120.0}
    for ring in holding:
        if i in ring and j in ring:
            return inner[len(ring)]
    if planar and len(holding) == 2:
        return 360 - sum(inner[len(ring)] for ring in holding)
    if planar and holding and len(holding[0]) == 5:
        return (360 - inner[5]) / 2
    if planar:
        return 120.0
    return {"S": 103.0, "O": 109.0}.get(molecule.elements[centre], 109.5)
