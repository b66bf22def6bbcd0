"""Water in the space that the atoms of a user's model leave, so that its crystal scatters like a complete one."""

from __future__ import annotations

import logging
from pathlib import Path

import gemmi
import iotbx.pdb
import numpy as np
from scipy.spatial import cKDTree

from diffuse_dials.algorithms.absolute.composition import PROTEIN_VOLUME, WATER_VOLUME
from diffuse_dials.algorithms.absolute.model_file import read_model as read_contents
from diffuse_dials.algorithms.simulation.generation import free_sites, water_around
from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, Packing
from diffuse_dials.algorithms.simulation.topology import Topology
from diffuse_dials.io.atomic import replacing

logger = logging.getLogger(f"dials.{__name__}")

_CHAINS = "WXYZVUTSRQPONMLKJIHGFEDCBA"


def with_water(path, density: float, seed: int):
    """A model with waters between its molecules; its own atoms stay where they are.

    As many waters as ``density`` times the volume that macromolecules (1.212 Å³/Da) and the file's own waters (30 Å³)
    leave; they keep clear of all atoms, of symmetry mates and of one another.

    Args:
        path: PDB or mmCIF file with unit cell and space group.
        density: Waters per Å³ of the volume left.
        seed: Of their places.

    Returns:
        gemmi structure: the file's first model and a chain of waters.

    Raises:
        ValueError: If the waters find no room.
    """
    source = iotbx.pdb.input(file_name=str(path))
    symmetry = source.crystal_symmetry()
    cell, group = symmetry.unit_cell(), symmetry.space_group()
    contents = read_contents(path, cell, group)
    volume = cell.volume() / group.order_z()
    free = volume - PROTEIN_VOLUME * contents.mass - WATER_VOLUME * contents.waters
    number = int(round(density * max(free, 0.0)))
    structure = gemmi.read_structure(str(path))
    while len(structure) > 1:
        del structure[1]
    atoms = [(atom, residue) for chain in structure[0] for residue in chain for atom in residue]
    xyz = np.array([atom.pos.tolist() for atom, _ in atoms])
    operators = CrystalSymmetry.from_cctbx(symmetry)
    rng = np.random.default_rng([seed, 2])
    heavy = np.array([not atom.element.is_hydrogen for atom, _ in atoms])
    oxygens = free_sites(xyz[heavy], number, operators, rng)
    placed = _relaxed(atoms, xyz, water_around(oxygens, rng), operators)
    _append(structure, placed)
    logger.info("%d waters per asymmetric unit fill what %s leaves", number, path)
    return structure


def _relaxed(atoms, xyz, waters, operators):
    """Waters (n, 3 atoms, 3) pushed out of each other's and of all other atoms' way, which do not move."""
    if not len(waters):
        return waters
    molecule = Topology()
    for atom, residue in atoms:
        molecule.add_atom(atom.name, atom.element.name, (residue.name, 0))
    for i, j in cKDTree(xyz).query_pairs(2.0):
        molecule.fixed.append((i, j, float(np.linalg.norm(xyz[i] - xyz[j]))))
    for number, water in enumerate(waters):
        first = [molecule.add_atom(name, name[0], ("HOH", number)) for name in ("O", "H1", "H2")][0]
        molecule.add_bond(first, first + 1)
        molecule.add_bond(first, first + 2)
        molecule.fixed.append((first + 1, first + 2, float(np.linalg.norm(water[1] - water[2]))))
    packing = Packing(molecule, operators, frozen=np.arange(len(xyz)))
    everything = packing.relax(np.concatenate([xyz, waters.reshape(-1, 3)]), rounds=8, steps=40)
    return everything[len(xyz) :].reshape(-1, 3, 3)


def _append(structure, waters) -> None:
    used = {chain.name for chain in structure[0]}
    names = [name for name in _CHAINS if name not in used] or ["W2"]
    chain = gemmi.Chain(names[0])
    for number, water in enumerate(waters, start=1):
        residue = gemmi.Residue()
        residue.name, residue.seqid, residue.het_flag = "HOH", gemmi.SeqId(number, " "), "H"
        for name, position in zip(("O", "H1", "H2"), water):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.occ = name, gemmi.Element(name[0]), 1.0
            atom.pos = gemmi.Position(*(float(x) for x in position))
            residue.add_atom(atom)
        chain.add_residue(residue)
    structure[0].add_chain(chain)
    structure.setup_entities()


def write_model(structure, path) -> None:
    """Write a gemmi structure as mmCIF (.cif, .mmcif) or PDB, complete or not at all."""
    with replacing(path) as partial:
        if Path(path).suffix.lower() in (".cif", ".mmcif"):
            structure.make_mmcif_document().write_file(str(partial))
        else:
            structure.write_pdb(str(partial))
