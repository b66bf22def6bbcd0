"""Atoms and covalent bonds of polypeptide chains, from the residues they are made of."""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from diffuse_dials.adapters.scattering import element_symbol

# Free amino acids, neutral form.
FREE_AMINO_ACIDS = {
    "A": "C3H7NO2", "R": "C6H14N4O2", "N": "C4H8N2O3", "D": "C4H7NO4", "C": "C3H7NO2S",
    "Q": "C5H10N2O3", "E": "C5H9NO4", "G": "C2H5NO2", "H": "C6H9N3O2", "I": "C6H13NO2",
    "L": "C6H13NO2", "K": "C6H14N2O2", "M": "C5H11NO2S", "F": "C9H11NO2", "P": "C5H9NO2",
    "S": "C3H7NO3", "T": "C4H9NO3", "W": "C11H12N2O2", "Y": "C9H11NO3", "V": "C5H11NO2",
}  # fmt: skip
ONE_LETTER = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H",
    "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "MSE": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T",
    "TRP": "W", "TYR": "Y", "VAL": "V",
}  # fmt: skip
_BOND_TABLE = Path(__file__).resolve().parents[2] / "data" / "bonds.csv"
_SELENIUM_CARBON = 1.95  # Å


class Bond(NamedTuple):
    """A kind of covalent bond; elements in alphabetical order."""

    element1: str
    element2: str
    length: float  # Å


# What one peptide link changes in two free amino acids (H2O goes), and one disulfide in two cysteines (H2 goes).
PEPTIDE_LINK = {Bond("C", "O", 1.25): -1, Bond("H", "O", 0.97): -1, Bond("H", "N", 1.01): -1, Bond("C", "N", 1.33): 1}
DISULFIDE = {Bond("H", "S", 1.34): -2, Bond("S", "S", 2.03): 1}


def add(total: Counter, part, factor: float = 1) -> Counter:
    """Add ``factor`` times the numbers of ``part`` to ``total``, in place; negative numbers stay."""
    for key, number in part.items():
        total[key] += factor * number
    return total


def parse_formula(text: str) -> Counter:
    """Atoms of a formula such as "C613 H951 N193 O185 S10" or "C3H8O3".

    Raises:
        ValueError: If it is empty, is no formula or names an unknown element.
    """
    compact = "".join(str(text).split())
    if not compact or not re.fullmatch(r"([A-Z][a-z]?(\d+(\.\d*)?)?)+", compact):
        raise ValueError(f"{text!r} is no formula. Write element symbols and numbers, such as C613 H951 N193 O185 S10.")
    atoms: Counter = Counter()
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d+(?:\.\d*)?)?", compact):
        atoms[element_symbol(symbol)] += float(number) if number else 1
    if not sum(atoms.values()) > 0:
        raise ValueError(f"{text!r} has no atoms. Write element symbols and numbers, such as C613 H951 N193 O185 S10.")
    return atoms


@cache
def residue_bonds() -> dict[str, dict[Bond, float]]:
    """Bonds of each free amino acid (one-letter code) and of water ("HOH"), from data/bonds.csv."""
    with open(_BOND_TABLE, newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    table: dict[str, Counter] = {}
    for line in lines:
        bond = Bond(*sorted((line["element1"], line["element2"])), float(line["length"]))
        table.setdefault(line["residue"], Counter())[bond] += int(line["count"])
    return table


def with_selenium(bonds: Counter) -> Counter:
    """The bonds of methionine as those of selenomethionine."""
    return Counter({Bond("C", "Se", _SELENIUM_CARBON) if "S" in bond[:2] else bond: n for bond, n in bonds.items()})


def parse_sequence(text: str) -> list[str]:
    """Chains of a FASTA text, or of one bare sequence in one-letter code.

    Raises:
        ValueError: If there is no residue, or one of unknown kind.
    """
    chains, current = [], []
    for line in [*text.splitlines(), ">"]:
        line = line.strip()
        if line.startswith(">"):
            chains.append("".join(current))
            current = []
        elif not line.startswith(";"):
            current.append("".join(line.split()).upper().rstrip("*"))
    chains = [chain for chain in chains if chain]
    if not chains:
        raise ValueError("absolute.sequence holds no residue. Give a FASTA file or the sequence in one-letter code.")
    unknown = sorted(set("".join(chains)) - set(FREE_AMINO_ACIDS))
    if unknown:
        raise ValueError(
            f"absolute.sequence has residue {', '.join(unknown)}, which is none of the 20 amino acids. Correct it "
            "(is it a file that does not exist?), or give the composition as absolute.formula."
        )
    nucleic = [chain for chain in chains if len(chain) >= 8 and set(chain) <= set("ACGTUN")]
    if nucleic:
        raise ValueError(
            f"absolute.sequence has a chain {nucleic[0][:20]} that reads as DNA or RNA; only polypeptides are counted. "
            "Give the composition as absolute.model or absolute.formula."
        )
    return chains


def chains_inventory(chains, disulfides: int = 0, selenomethionine: bool = False) -> tuple[Counter, Counter]:
    """Atoms and bonds of polypeptide chains.

    Args:
        chains: Sequences in one-letter code.
        disulfides: Disulfide bonds among all these chains.
        selenomethionine: Whether methionine is selenomethionine.

    Returns:
        ``{element: number}`` and ``{Bond: number}``.

    Raises:
        ValueError: If there are not enough cysteines for the disulfides.
    """
    atoms, bonds = Counter(), Counter()
    for chain in chains:
        for residue, number in Counter(chain).items():
            seleno = selenomethionine and residue == "M"
            formula = FREE_AMINO_ACIDS[residue].replace("S", "Se") if seleno else FREE_AMINO_ACIDS[residue]
            add(atoms, parse_formula(formula), number)
            add(bonds, with_selenium(residue_bonds()[residue]) if seleno else residue_bonds()[residue], number)
        add(atoms, {"H": -2, "O": -1}, len(chain) - 1)
        add(bonds, PEPTIDE_LINK, len(chain) - 1)
    cysteines = "".join(chains).count("C")
    if 2 * disulfides > cysteines:
        raise ValueError(
            f"absolute.disulfides={disulfides} needs {2 * disulfides} cysteines; the sequence has {cysteines}."
        )
    add(atoms, {"H": -2}, disulfides)
    add(bonds, DISULFIDE, disulfides)
    return +atoms, +bonds


def typical_bonds(atoms) -> Counter:
    """Bonds of a protein of which only the formula is known.

    They are those of a chain with equal numbers of all amino acids, scaled to the number of carbon atoms:
    for lysozyme the bond term comes out within 5 %.

    Args:
        atoms: ``{element: number}``.
    """
    chain_atoms, bonds = chains_inventory(["".join(sorted(FREE_AMINO_ACIDS)) * 10])
    return add(Counter(), bonds, atoms.get("C", 0) / chain_atoms["C"])
