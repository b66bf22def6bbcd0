"""What a unit cell holds: atoms and bonds of the ordered part, and the bulk solvent that fills the rest."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import libtbx.phil

from diffuse_dials.adapters.scattering import atomic_number, atomic_weight
from diffuse_dials.algorithms.absolute.model_file import read_model
from diffuse_dials.algorithms.absolute.residues import (
    Bond,
    add,
    chains_inventory,
    parse_formula,
    parse_sequence,
    residue_bonds,
    typical_bonds,
)

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
absolute {
  model = None
    .type = path
    .help = "Model of the crystal, PDB or mmCIF: its atoms, times occupancy, times the operations of the space group."
            "Hydrogens are added by count where the file has none. A .pdb, .ent or .cif file may also be given without"
            "the parameter's name."
  sequence = None
    .type = str
    .help = "FASTA file (all its chains) or a sequence in one-letter code."
  formula = None
    .type = str
    .help = "Atoms of the ordered part, such as \\"C613 H951 N193 O185 S10\\"."
  copies = 1
    .type = int(value_min=1)
    .help = "How often the model, all chains of the sequence, or the formula occur in the asymmetric unit."
  space_group = None
    .type = str
    .help = "Space group that repeats the asymmetric unit. None: that of the stills' crystals."
    .expert_level = 1
  disulfides = Auto
    .type = int(value_min=0)
    .help = "Disulfide bonds in one copy. Auto: for a model those found in it, for a sequence none."
  selenomethionine = False
    .type = bool
    .help = "Methionine of the sequence is selenomethionine."
  ligands = None
    .type = str
    .help = "Formula of what else is bound to one copy, hydrogens included, such as \\"Zn1 C3H8O3\\"."
  solvent = Auto
    .type = str
    .help = "Bulk solvent. Auto: water (0.0334 molecules per cubic Angstrom) in the volume that macromolecule and"
            "explicit waters leave. none: the cell holds what was given and no more. A number below 1: fraction of "
            "the cell's "
            "volume"
            "that is bulk water. A number from 1 on: bulk water molecules per cell."
}
"""
)

WATER_DENSITY = 0.0334  # molecules per Å³
PROTEIN_VOLUME = 1.212  # Å³/Da: partial specific volume 0.73 cm³/g
WATER_VOLUME = 30.0  # Å³ of an explicit, ordered water
PLAUSIBLE_DENSITY = (0.30, 0.50)  # e/Å³
_MOLECULAR = {"H", "C", "N", "O", "F", "P", "S", "Cl", "Se", "Br", "I"}  # the rest are bare ions without volume


@dataclass(frozen=True)
class Composition:
    """Atoms and bonds in one unit cell.

    Attributes:
        ordered: Atoms of what makes Bragg peaks (macromolecule, ligands, ordered water), ``{element: number}``.
        all_atoms: The same with bulk solvent.
        bonds: Covalent bonds, bulk solvent included, ``{Bond: number}``.
        mass: Of the macromolecules, Da.
        bulk_waters: Water molecules of the bulk solvent.
        volume: Of the cell, Å³.
        notes: How it was made, a sentence each.
        doubts: What the user should check, a sentence each.
    """

    ordered: dict[str, float]
    all_atoms: dict[str, float]
    bonds: dict[Bond, float]
    mass: float
    bulk_waters: float
    volume: float
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def electrons_ordered(self) -> float:
        """Electrons of the ordered part."""
        return sum(number * atomic_number(element) for element, number in self.ordered.items())

    @property
    def electrons(self) -> float:
        """All electrons, F(000)."""
        return sum(number * atomic_number(element) for element, number in self.all_atoms.items())

    @property
    def mean_density(self) -> float:
        """Electrons per Å³."""
        return self.electrons / self.volume

    @property
    def solvent_fraction(self) -> float:
        """Part of the cell that the macromolecules leave free."""
        return 1 - PROTEIN_VOLUME * self.mass / self.volume

    def scaled(self, factor: float) -> Composition:
        """The same with all numbers times ``factor``: what an error of the composition does."""
        parts = ({key: factor * n for key, n in part.items()} for part in (self.ordered, self.all_atoms, self.bonds))
        return Composition(*parts, factor * self.mass, factor * self.bulk_waters, self.volume, self.notes, self.doubts)

    def warnings(self) -> list[str]:
        """What looks wrong, a sentence each."""
        low, high = PLAUSIBLE_DENSITY
        found = list(self.doubts)
        if not low <= self.mean_density <= high:
            found.append(
                f"The mean electron density is {self.mean_density:.3f} e/Å³; protein crystals have {low}-{high}. "
                "Check copies, sequence, occupancies and solvent: the absolute scale is as wrong as the composition."
            )
        if not 0.15 <= self.solvent_fraction <= 0.90:
            found.append(
                f"The macromolecules leave {100 * self.solvent_fraction:.0f} % of the cell to solvent; 25-80 % is "
                "usual. Check absolute.copies."
            )
        return found

    def to_dict(self) -> dict:
        """For the JSON file."""
        return {
            "ordered_atoms": dict(self.ordered),
            "all_atoms": dict(self.all_atoms),
            "bonds": [[*bond, number] for bond, number in self.bonds.items()],
            "electrons_ordered": self.electrons_ordered,
            "electrons_all": self.electrons,
            "macromolecular_mass_Da": self.mass,
            "bulk_waters": self.bulk_waters,
            "volume_A3": self.volume,
            "solvent_fraction": self.solvent_fraction,
            "mean_electron_density": self.mean_density,
            "notes": list(self.notes),
        }


def composition_from_phil(params, unit_cell, space_group) -> Composition:
    """Contents of the cell from the ``absolute`` scope.

    Args:
        params: Extract of ``absolute``.
        unit_cell: cctbx unit cell of the crystal (not the super-cell).
        space_group: cctbx space group of the crystal, translations included.

    Returns:
        The composition.

    Raises:
        ValueError: If there is not exactly one of model, sequence and formula, or it cannot be understood.
    """
    given = [name for name in ("model", "sequence", "formula") if getattr(params, name)]
    if len(given) != 1:
        what = "No composition is given" if not given else f"{' and '.join(given)} are given together"
        raise ValueError(
            f"{what}. Give one of absolute.model=model.pdb, absolute.sequence=protein.fasta and "
            'absolute.formula="C613 H951 ...".'
        )
    order = space_group.order_z()
    waters, doubts = 0.0, ()
    if params.model:
        contents = read_model(params.model, unit_cell, space_group, params.disulfides)
        ordered, bonds, mass = contents.atoms, contents.bonds, contents.mass
        waters, order = contents.waters, contents.order
        notes, doubts = list(contents.notes), contents.doubts
    elif params.sequence:
        chains = parse_sequence(_file_or_text(params.sequence))
        n_disulfides = params.disulfides if isinstance(params.disulfides, int) else 0
        ordered, bonds = chains_inventory(chains, n_disulfides, params.selenomethionine)
        mass = _mass(ordered)
        lengths = ", ".join(str(len(chain)) for chain in chains)
        notes = [f"{len(chains)} chain(s) of {lengths} residues, {n_disulfides} disulfide(s)."]
    else:
        ordered = parse_formula(params.formula)
        bonds, mass = typical_bonds(ordered), _mass(ordered)
        notes = ["A formula says nothing of bonds: those of an average protein with as many carbon atoms are taken."]
    if params.ligands:
        ligand = parse_formula(params.ligands)
        add(ordered, ligand)
        mass += _mass(ligand)
        notes.append(f"Ligands {params.ligands} per copy, without their bonds.")
    copies = params.copies * order
    notes.append(f"{params.copies} per asymmetric unit x {order} operations = {copies} copies in the cell.")
    ordered = add(Counter(), ordered, copies)
    bonds = add(Counter(), bonds, copies)
    volume = unit_cell.volume()
    return _with_solvent(params.solvent, ordered, bonds, copies * mass, copies * waters, volume, notes, doubts)


def _with_solvent(solvent, ordered, bonds, mass, waters, volume, notes, doubts) -> Composition:
    free = volume - PROTEIN_VOLUME * mass - WATER_VOLUME * waters
    text = str(solvent).strip().lower()
    if text == "auto":
        bulk = WATER_DENSITY * max(free, 0.0)
        if free < 0:
            notes.append("The atoms given fill the cell: no bulk solvent is added.")
    elif text == "none":
        bulk = 0.0
    else:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(
                f"absolute.solvent={solvent} is none of Auto, none, a volume fraction and a number of waters."
            ) from None
        if not value >= 0:
            raise ValueError(f"absolute.solvent={solvent} must not be negative.")
        bulk = WATER_DENSITY * volume * value if value < 1 else value
    everything = add(Counter(ordered), {"H": 2, "O": 1}, bulk)
    all_bonds = add(Counter(bonds), residue_bonds()["HOH"], bulk)
    inventories = (dict(+part) for part in (ordered, everything, all_bonds))
    return Composition(*inventories, mass, bulk, volume, tuple(notes), tuple(doubts))


def _mass(atoms) -> float:
    return sum(number * atomic_weight(element) for element, number in atoms.items() if element in _MOLECULAR)


def _file_or_text(sequence) -> str:
    path = Path(sequence)
    looks_like_file = len(sequence) < 250 and path.is_file()
    if not looks_like_file and path.suffix.lower() in (".fasta", ".fa", ".seq", ".pir", ".txt"):
        raise ValueError(f"There is no file {sequence}. Check absolute.sequence.")
    return path.read_text(encoding="utf-8") if looks_like_file else sequence


def log_composition(composition: Composition) -> None:
    """Print what the cell holds."""
    for note in composition.notes:
        logger.info("  %s", note)
    elements = sorted(composition.all_atoms)
    logger.info("  Atoms per cell, ordered: %s", " ".join(f"{e}{composition.ordered.get(e, 0):.5g}" for e in elements))
    logger.info("  Atoms per cell, all:     %s", " ".join(f"{e}{composition.all_atoms[e]:.5g}" for e in elements))
    logger.info(
        "  Electrons %.0f ordered, %.0f in all; macromolecules %.0f Da; %.0f bulk waters; solvent %.1f %% of %.0f Å³; "
        "mean density %.3f e/Å³",
        composition.electrons_ordered,
        composition.electrons,
        composition.mass,
        composition.bulk_waters,
        100 * composition.solvent_fraction,
        composition.volume,
        composition.mean_density,
    )
