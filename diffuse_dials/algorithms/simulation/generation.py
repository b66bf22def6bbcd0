"""A lysozyme-like crystal made from a sequence: its chemistry, a compact random fold, and waters in between."""

from __future__ import annotations

import copy
import logging

import iotbx.phil
import numpy as np
from cctbx import crystal, sgtbx, uctbx
from libtbx import Auto
from scipy.spatial import cKDTree

from diffuse_dials.adapters.scattering import atomic_weight
from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, Packing
from diffuse_dials.algorithms.simulation.topology import (
    BOND_LENGTHS,
    WATER_ANGLE,
    Topology,
    disulfides_by_order,
    protein,
)

logger = logging.getLogger(f"dials.{__name__}")

# Hen egg-white lysozyme: UniProt P00698 without its signal peptide, and its disulfides, residues counted from 0.
LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPC"
    "SALLSSDITASVNCAKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL"
)
LYSOZYME_DISULFIDES = ((5, 126), (29, 114), (63, 79), (75, 93))
PROTEIN_VOLUME = 1.212  # Å³ per Da: partial specific volume 0.73 cm³/g

phil_scope = iotbx.phil.parse(
    """
generate {
  sequence = Auto
    .type = str
    .help = "One-letter codes of the one chain in the asymmetric unit. Auto: hen egg-white lysozyme."
  unit_cell = 78.5,78.5,37.8,90,90,90
    .type = unit_cell
    .help = "Unit cell (Å, degrees) of the generated crystal."
  space_group = P43212
    .type = space_group
    .help = "Space group of the generated crystal."
  water_density = 0.0334
    .type = float(value_min=0, value_max=0.034)
    .help = "Ordered waters per Å³ of the volume that protein leaves; 0 leaves the solvent empty."
  seed = 1
    .type = int(value_min=0)
    .help = "Random numbers of the structure; the images have their own seed."
}
"""
)


def generate(params) -> str:
    """A compact chain and ordered waters without clashes, also against symmetry mates, as the text of a PDB file.

    The chain has the chemistry of the sequence (bond lengths, angles, flat groups, all hydrogens) and a random fold:
    right for its scattering, though not for its biology.

    Args:
        params: Extract of ``phil_scope``'s ``generate``.

    Raises:
        ValueError: If the sequence is bad, or the chain has no room in the asymmetric unit.
    """
    automatic = params.sequence in (None, Auto)
    sequence = LYSOZYME if automatic else "".join(str(params.sequence).split()).upper()
    disulfides = LYSOZYME_DISULFIDES if automatic else disulfides_by_order(sequence)
    group = params.space_group.group()
    if not group.is_compatible_unit_cell(params.unit_cell):
        raise ValueError(
            f"The unit cell {params.unit_cell} does not fit the space group {params.space_group}. "
            "Change generate.unit_cell."
        )
    symmetry = CrystalSymmetry.from_cctbx(crystal.symmetry(unit_cell=params.unit_cell, space_group=group))
    rng = np.random.default_rng([params.seed, 1])
    chain = protein(sequence, disulfides)
    room = params.unit_cell.volume() / group.order_z()
    occupied = PROTEIN_VOLUME * sum(atomic_weight(e) for e in chain.elements)
    if occupied > 0.9 * room:
        raise ValueError(
            f"A chain of {len(sequence)} residues takes {occupied:.0f} Å³; the asymmetric unit has {room:.0f} Å³. "
            "Use a shorter generate.sequence or a larger generate.unit_cell."
        )
    xyz = _fold(chain, sequence, disulfides, symmetry, occupied, rng)
    n_waters = int(round(params.water_density * (room - occupied)))
    molecule, xyz = _add_waters(chain, xyz, n_waters, symmetry, rng)
    logger.info("Generated asymmetric unit: %d residues, %d waters, %d atoms", len(sequence), n_waters, len(xyz))
    return _pdb_text(molecule, xyz, params.unit_cell, group)


def _fold(chain, sequence, disulfides, symmetry, occupied, rng):
    """From beads to all atoms, through the fourth dimension, so that nothing gets knotted or threaded."""
    centre = _roomiest_point(symmetry, rng)
    beads = Topology()
    for i in range(len(sequence)):
        beads.add_atom("CA", "C", ("ALA", i + 1))
    beads.bonds = [(i, i + 1, 3.8) for i in range(len(sequence) - 1)] + [(i, j, 5.5) for i, j in disulfides]
    beads.fixed = [(i, i + 2, 5.8) for i in range(len(sequence) - 2)]
    radius = (3 * occupied / (4 * np.pi)) ** (1 / 3)
    start = _fourth(centre + rng.normal(scale=radius / 2, size=(len(sequence), 3)), 5.0, rng)
    trace = Packing(beads, symmetry).relax(start, rounds=30, steps=40, scale=(0.8, 1.85), squeeze=(0.001, 5.0))
    residue = np.array([number - 1 for _, number in chain.residues])
    atoms = _fourth(trace[residue, :3] + rng.normal(scale=1.2, size=(len(residue), 3)), 2.0, rng)
    packing = Packing(chain, symmetry)
    atoms = packing.relax(atoms, rounds=6, steps=60, scale=(0.3, 0.6), squeeze=(0.01, 0.05))
    atoms = packing.relax(atoms, rounds=10, steps=50, scale=(0.6, 1.0), squeeze=(0.05, 10.0))
    return packing.relax(atoms[:, :3].copy(), rounds=8, steps=60)


def _fourth(xyz, scale, rng):
    """Coordinates with a random fourth one."""
    return np.concatenate([xyz, rng.normal(scale=scale, size=(len(xyz), 1))], axis=1)


def _neighbour_cells():
    """Indices of a cell and of the 26 around it, shape (27, 3)."""
    return np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def _roomiest_point(symmetry, rng, trials: int = 2000):
    """The one of many random points whose symmetry mates are furthest away."""
    points = rng.random((trials, 3)) @ symmetry.orthogonalization.T
    images = symmetry.images(points)
    cells = _neighbour_cells() @ symmetry.orthogonalization.T
    delta = images + symmetry.wrap(images.reshape(-1, 3)).reshape(images.shape) - points
    distance = np.linalg.norm(delta[:, None] + cells[None, :, None], axis=-1)
    distance[distance < 1e-6] = np.inf
    return points[distance.min(axis=(0, 1)).argmax()]


def _add_waters(chain, xyz, n_waters, symmetry, rng):
    """Fill the space between the chains; all atoms make room for one another."""
    oxygens = free_sites(xyz[[e != "H" for e in chain.elements]], n_waters, symmetry, rng)
    molecule = copy.deepcopy(chain)
    waters = water_around(oxygens, rng)
    for number, water in enumerate(waters, start=1):
        atoms = [molecule.add_atom(name, name[0], ("HOH", number)) for name in ("O", "H1", "H2")]
        molecule.add_bond(atoms[0], atoms[1])
        molecule.add_bond(atoms[0], atoms[2])
        molecule.fixed.append((atoms[1], atoms[2], float(np.linalg.norm(water[1] - water[2]))))
    everything = np.concatenate([xyz, waters.reshape(-1, 3)])
    return molecule, Packing(molecule, symmetry).relax(everything, rounds=8, steps=40)


def water_around(oxygens, rng) -> np.ndarray:
    """Water molecules of random orientation at places (n, 3): O, H, H, shape (n, 3, 3), Å."""
    length, half = BOND_LENGTHS["H", "O", "s"], np.radians(WATER_ANGLE / 2)
    waters = np.empty((len(oxygens), 3, 3))
    for water, oxygen in zip(waters, oxygens):
        first, second = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
        along, across = length * np.cos(half) * first, length * np.sin(half) * second
        water[:] = oxygen, oxygen + along + across, oxygen + along - across
    return waters


def free_sites(atoms, n_sites, symmetry, rng):
    """Random points away from ``atoms`` (their images too) and from one another, shape (n_sites, 3)."""
    if not n_sites:
        return np.zeros((0, 3))
    axes = symmetry.orthogonalization
    copies = symmetry.images(atoms).reshape(-1, 3)
    copies = copies + symmetry.wrap(copies)
    cells = _neighbour_cells() @ axes.T
    tree = cKDTree((copies[None] + cells[:, None]).reshape(-1, 3))
    candidates = rng.random((60 * n_sites * len(symmetry.rotations), 3)) @ axes.T
    clearance = tree.query(candidates, distance_upper_bound=3.0)[0]
    images = symmetry.images(candidates)
    images = images + symmetry.wrap(images.reshape(-1, 3)).reshape(images.shape)
    size = np.linalg.norm(axes, axis=0)
    n_cells = np.maximum((size / 3.0).astype(int), 1)
    inverse = np.linalg.inv(axes).T
    for closest in (2.8, 2.65, 2.5, 2.35, 2.2, 2.0):
        taken = _spread(candidates, images, clearance > closest, closest, n_sites, axes, inverse, n_cells)
        if len(taken) == n_sites:
            return candidates[taken]
    raise ValueError(f"Only {len(taken)} of {n_sites} waters found room. Use a smaller generate.water_density.")


def _spread(candidates, images, free, closest, n_sites, axes, inverse, n_cells):
    """Take candidates one by one; each keeps others, and the images of others, at a distance."""
    boxes: dict[tuple[int, int, int], list[np.ndarray]] = {}
    around = _neighbour_cells()
    taken: list[int] = []

    def near(points, place):
        delta = (points - place) @ inverse
        return (((delta - np.round(delta)) @ axes.T) ** 2).sum(axis=-1) < closest**2

    for number in np.flatnonzero(free):
        place = candidates[number]
        if near(images[1:, number], place).any():
            continue
        box = np.floor(place @ inverse * n_cells).astype(int)
        found = [p for cell in {tuple(c) for c in (box + around) % n_cells} for p in boxes.get(cell, ())]
        if found and near(np.array(found), place).any():
            continue
        for image in images[:, number]:
            boxes.setdefault(tuple(np.floor(image @ inverse * n_cells).astype(int) % n_cells), []).append(image)
        taken.append(number)
        if len(taken) == n_sites:
            break
    return taken


def _pdb_text(molecule, xyz, unit_cell: uctbx.unit_cell, group: sgtbx.space_group) -> str:
    """PDB format, chain A the protein, chain W its waters."""
    symbol = group.type().lookup_symbol()
    cell = "{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f}".format(*unit_cell.parameters())
    lines = [
        "REMARK   3 GENERATED BY DIFFUSE.SIMULATE: CHEMISTRY OF THE SEQUENCE, FOLD OF NO REAL MOLECULE",
        f"CRYST1{cell} {symbol:<11s}{group.order_z():4d}",
    ]
    for serial, (name, element, (residue, number), position) in enumerate(
        zip(molecule.names, molecule.elements, molecule.residues, xyz), start=1
    ):
        record, chain = ("HETATM", "W") if residue == "HOH" else ("ATOM  ", "A")
        label = name if len(name) == 4 else f" {name:<3s}"
        lines.append(
            f"{record}{serial % 100000:5d} {label} {residue} {chain}{number:4d}    "
            f"{position[0]:8.3f}{position[1]:8.3f}{position[2]:8.3f}  1.00  0.00          {element:>2s}"
        )
    return "\n".join([*lines, "END", ""])
