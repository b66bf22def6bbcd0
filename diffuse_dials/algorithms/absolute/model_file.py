"""Atoms and bonds of a PDB or mmCIF model, hydrogens included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from diffuse_dials.adapters.scattering import atomic_weight, element_symbol
from diffuse_dials.adapters.symmetry import parse_space_group
from diffuse_dials.algorithms.absolute.residues import (
    DISULFIDE,
    FREE_AMINO_ACIDS,
    ONE_LETTER,
    PEPTIDE_LINK,
    Bond,
    add,
    parse_formula,
    residue_bonds,
    with_selenium,
)

_BOND_TOLERANCE = 0.4  # Å beyond the sum of the covalent radii
_DISULFIDE_LENGTH = 2.5  # Å
_CELL_TOLERANCE = 0.05  # of the volume


@dataclass(frozen=True)
class ModelContents:
    """What one copy of a model holds.

    Attributes:
        atoms: ``{element: sum of occupancies}``, hydrogens included.
        bonds: ``{Bond: number}``.
        mass: Of all but water, Da.
        waters: Explicit water molecules.
        order: Copies that the space group makes in the cell.
        notes: How it was made, a sentence each.
        doubts: What the user should check, a sentence each.
    """

    atoms: Counter
    bonds: Counter
    mass: float
    waters: float
    order: int
    notes: tuple[str, ...]
    doubts: tuple[str, ...]


def read_model(path, unit_cell, space_group, disulfides=None) -> ModelContents:
    """Count what a model holds.

    Standard residues have the bonds of data/bonds.csv, in proportion to the atoms that are there; other residues
    have those of their interatomic distances. Where the file has no hydrogens (fewer than half of those expected)
    they are added by count: amino acids by formula, others by gemmi's table of residues.

    The file's own cell and space group say how the model repeats, if they fit the crystal's cell: a model in P1
    that fills the cell occurs once. Without a cell the crystal's space group is taken.

    Args:
        path: PDB or mmCIF file.
        unit_cell: cctbx unit cell of the crystal.
        space_group: cctbx space group of the crystal.
        disulfides: Number of disulfides; None or Auto counts sulphur pairs within 2.5 Å.

    Returns:
        The contents of one copy, and how many copies symmetry makes.

    Raises:
        ValueError: If the file cannot be read, holds no atoms, or an unknown element.
    """
    structure, notes = _read(path)
    order, symmetry_notes, doubts = _symmetry(structure, unit_cell, space_group, path)
    notes += symmetry_notes
    model = structure[0]
    if len(structure) > 1:
        notes.append(f"{path} holds {len(structure)} models; the first is taken.")
    counted = _Counter(path)
    for chain in model:
        counted.chain(chain)
    counted.finish(disulfides)
    mass = sum(n * atomic_weight(e) for e, n in counted.heavy_and_hydrogen().items())
    return ModelContents(
        counted.atoms,
        counted.bonds,
        mass,
        counted.waters,
        order,
        (*notes, *counted.notes),
        (*doubts, *counted.doubts),
    )


def _read(path):
    """The structure, and notes on how it was read."""
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check absolute.model.")
    notes = []
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        structure = _read_old_format(path)
        if structure is None:
            raise ValueError(f"{path} cannot be read as a PDB or mmCIF model ({error}).") from None
        notes.append(f"{path} has the PDB format of before 1996: elements are taken from the atoms' names.")
    if not len(structure) or not any(len(residue) for chain in structure[0] for residue in chain):
        raise ValueError(f"{path} holds no atoms. Give a PDB or mmCIF coordinate file.")
    return structure, notes


def _read_old_format(path):
    """A PDB file with its code and line numbers in columns 73-80, where element and charge now are; else None."""
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
        return gemmi.read_pdb_string("\n".join(line[:72] for line in lines))
    except (RuntimeError, ValueError, OSError):
        return None


def _symmetry(structure, unit_cell, space_group, path):
    """How many copies of the model the cell holds."""
    cell = structure.cell
    order = space_group.order_z()
    if not cell.is_crystal() or not structure.spacegroup_hm.strip():
        return order, [f"{path} has no cell and space group: the crystal's are taken."], []
    if abs(cell.volume / unit_cell.volume() - 1) > _CELL_TOLERANCE:
        return (
            order,
            [],
            [
                f"The cell of {path} has {cell.volume:.0f} Å³, the crystal's {unit_cell.volume():.0f} Å³: "
                "the crystal's space group is taken; check that the model belongs to this crystal."
            ],
        )
    try:
        own = parse_space_group(structure.spacegroup_hm).order_z()
    except ValueError:
        return order, [], [f"{path} has the unknown space group {structure.spacegroup_hm!r}: the crystal's is taken."]
    if own != order:
        name = structure.spacegroup_hm
        return own, [f"{path} is in {name} ({own} operations), which is taken; the crystal's group has {order}."], []
    return own, [], []


class _Counter:
    """Adds up residue by residue; hydrogens of the file and those expected are kept apart until the end."""

    def __init__(self, path):
        self.path = path
        self.atoms: Counter = Counter()
        self.bonds: Counter = Counter()
        self.waters = 0.0
        self.notes: list[str] = []
        self.doubts: list[str] = []
        self._explicit = 0.0  # hydrogens in the file, waters left out
        self._expected = 0.0
        self._unknown: Counter = Counter()
        self._expected_bonds: Counter = Counter()  # to hydrogens that are added to other than amino acids
        self._placed: list = []  # (atom, is in a residue without table), for distances
        self._sulphurs: list = []

    def chain(self, chain) -> None:
        peptide = 0.0
        nucleotides = 0
        for residue in chain:
            info = gemmi.find_tabulated_residue(residue.name)
            if info.is_water():
                self._water(residue)
            elif residue.name in ONE_LETTER:
                peptide += self._amino_acid(residue)
            else:
                nucleotides += info.is_nucleic_acid()
                self._other(residue, info)
        if peptide > 0:
            links = max(peptide - 1, 0.0)
            self._expected -= 2 * links
            add(self.bonds, PEPTIDE_LINK, links)
        self._expected -= 2 * max(nucleotides - 1, 0)

    def _water(self, residue) -> None:
        heavy = [atom for atom in residue if not atom.element.is_hydrogen]
        oxygens = sum(atom.occ for atom in heavy)
        self._count(heavy)
        self.atoms["H"] += 2 * oxygens
        self.waters += oxygens
        add(self.bonds, residue_bonds()["HOH"], oxygens)

    def _amino_acid(self, residue) -> float:
        """Returns the part of the residue that is there (occupancy, missing side chains)."""
        heavy = [atom for atom in residue if not atom.element.is_hydrogen]
        letter = ONE_LETTER[residue.name]
        formula = parse_formula(FREE_AMINO_ACIDS[letter])
        expected = sum(number for element, number in formula.items() if element != "H") - 1  # water leaves with one O
        part = min(sum(atom.occ for atom in heavy if atom.name != "OXT") / expected, 1.0)
        self._count(heavy)
        self._expected += part * formula["H"]
        self._explicit += sum(atom.occ for atom in residue if atom.element.is_hydrogen)
        bonds = residue_bonds()[letter]
        add(self.bonds, with_selenium(bonds) if residue.name == "MSE" else bonds, part)
        self._remember(heavy, other=False)
        self._sulphurs += [atom for atom in heavy if atom.name == "SG"]
        return part

    def _other(self, residue, info) -> None:
        heavy = [atom for atom in residue if not atom.element.is_hydrogen]
        hydrogens = [atom for atom in residue if atom.element.is_hydrogen]
        self._count(heavy)
        self._remember(heavy, other=True)
        if hydrogens:
            self.atoms["H"] += sum(atom.occ for atom in hydrogens)
            self._remember(hydrogens, other=True)
            return
        if not info.found() and any(atom.element.name == "C" for atom in heavy):
            self._unknown[residue.name] += 1
            return
        occupancy = max((atom.occ for atom in heavy), default=0.0)
        number = occupancy * info.hydrogen_count
        self.atoms["H"] += number
        carrier = Bond("C", "H", 1.09) if any(atom.element.name == "C" for atom in heavy) else Bond("H", "O", 0.97)
        self.bonds[carrier] += number

    def _count(self, atoms) -> None:
        for atom in atoms:
            self.atoms[_element(atom, self.path)] += atom.occ

    def _remember(self, atoms, other) -> None:
        self._placed += [(atom, other) for atom in atoms]

    def finish(self, disulfides) -> None:
        """Close disulfides, add hydrogens that the file lacks, and bonds by distance."""
        found = self._disulfides()
        if isinstance(disulfides, int):
            found = disulfides
        if found:
            self._expected -= 2 * found
            add(self.bonds, DISULFIDE, found)
            self.notes.append(f"{found:g} disulfide(s) in the model.")
        if self._explicit >= 0.5 * self._expected:
            self.atoms["H"] += self._explicit
        else:
            self.atoms["H"] += max(self._expected, 0.0)
            self.notes.append(
                f"{max(self._expected, 0.0):.0f} hydrogens were added to the amino acids of {self.path} by count."
            )
        if self._unknown:
            names = ", ".join(sorted(self._unknown))
            self.doubts.append(
                f"No hydrogens could be added to {names}, which are in no table; give them with absolute.ligands=H..."
            )
        self._bonds_by_distance()
        self.atoms, self.bonds = +self.atoms, +self.bonds

    def heavy_and_hydrogen(self) -> Counter:
        """All atoms but those of waters and bare ions."""
        rest = Counter(self.atoms)
        add(rest, {"H": 2, "O": 1}, -self.waters)
        return Counter({e: n for e, n in rest.items() if n > 0 and not gemmi.Element(e).is_metal})

    def _disulfides(self) -> float:
        if len(self._sulphurs) < 2:
            return 0
        positions = np.array([atom.pos.tolist() for atom in self._sulphurs])
        total = 0.0
        for i, j in cKDTree(positions).query_pairs(_DISULFIDE_LENGTH):
            if _together(self._sulphurs[i], self._sulphurs[j]):
                total += min(self._sulphurs[i].occ, self._sulphurs[j].occ)
        return total

    def _bonds_by_distance(self) -> None:
        if not any(other for _, other in self._placed):
            return
        atoms = [atom for atom, _ in self._placed]
        others = np.array([other for _, other in self._placed])
        positions = np.array([atom.pos.tolist() for atom in atoms])
        radii = np.array([atom.element.covalent_r for atom in atoms])
        pairs = cKDTree(positions).query_pairs(2 * radii.max() + _BOND_TOLERANCE, output_type="ndarray")
        pairs = pairs[others[pairs].any(axis=1)]
        lengths = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
        bonded = (lengths < radii[pairs].sum(axis=1) + _BOND_TOLERANCE) & (lengths > 0.4)
        for (i, j), length in zip(pairs[bonded], lengths[bonded]):
            if _together(atoms[i], atoms[j]):
                elements = sorted(_element(atom, self.path) for atom in (atoms[i], atoms[j]))
                self.bonds[Bond(*elements, round(float(length), 2))] += min(atoms[i].occ, atoms[j].occ)


def _together(one, other) -> bool:
    """Whether two atoms exist at the same time (not alternatives of one another)."""
    return one.altloc == "\0" or other.altloc == "\0" or one.altloc == other.altloc


def _element(atom, path) -> str:
    if atom.element.atomic_number == 0:
        raise ValueError(
            f"Atom {atom.name} in {path} has no known element. Fill the element column (77-78) of the PDB file."
        )
    return element_symbol(atom.element.name)
