"""The crystal that scatters: a user's model file, or a generated lysozyme-like structure that fills its cell."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import iotbx.pdb
import iotbx.phil
import numpy as np
from cctbx import crystal, sgtbx, uctbx
from libtbx import Auto
from scipy.spatial import cKDTree

from diffuse_dials.adapters.scattering import atomic_weight, element_symbol
from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, Packing
from diffuse_dials.algorithms.simulation.topology import (
    BOND_LENGTHS,
    WATER_ANGLE,
    Topology,
    disulfides_by_order,
    protein,
)
from diffuse_dials.io.atomic import write_text

logger = logging.getLogger(f"dials.{__name__}")

# Hen egg-white lysozyme: UniProt P00698 without its signal peptide, and its disulfides, residues counted from 0.
LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL"
)
LYSOZYME_DISULFIDES = ((5, 126), (29, 114), (63, 79), (75, 93))
PROTEIN_VOLUME = 1.212  # Å³ per Da: partial specific volume 0.73 cm³/g

phil_scope = iotbx.phil.parse(
    """
model = Auto
  .type = path
  .help = "Crystal structure (PDB or mmCIF, with its unit cell). All its atoms scatter, with displacements set by"
          "'disorder' and not by the file. Auto: a lysozyme-like structure with all hydrogens and waters is generated."
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


@dataclass(frozen=True)
class CrystalModel:
    """Atoms at rest in a crystal.

    Attributes:
        structure: cctbx xray structure, B = 0.
        composition: Atoms of each element in the unit cell (occupancies counted).
        path: The file it was read from.
    """

    structure: object
    composition: dict[str, float]
    path: str

    @property
    def unit_cell(self):
        """cctbx unit cell."""
        return self.structure.unit_cell()

    @property
    def space_group(self):
        """cctbx space group."""
        return self.structure.space_group()


def prepare_model(params, directory) -> CrystalModel:
    """Read the user's model, or generate one, and leave a copy in the output folder.

    Args:
        params: Extract of ``phil_scope``.
        directory: Folder in which model.pdb (or model.cif) is written.

    Raises:
        ValueError: If the file cannot be read, has no unit cell or no atoms; or the generated chain does not fit.
    """
    if params.model in (None, Auto):
        path = Path(directory) / "model.pdb"
        write_text(generate(params.generate), path)
        return read_model(path)
    source = Path(params.model)
    model = read_model(source)
    suffix = ".cif" if source.suffix.lower() in (".cif", ".mmcif") else ".pdb"
    copy = Path(directory) / f"model{suffix}"
    if copy.resolve() != source.resolve():
        write_text(source.read_text(encoding="utf-8"), copy)
    return model


def read_model(path) -> CrystalModel:
    """Read a PDB or mmCIF file; all displacement parameters become 0.

    Raises:
        ValueError: If the file is missing, cannot be read, has no unit cell or no atoms.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no model file {path}. Check the name and the folder, or use model=Auto.")
    try:
        source = iotbx.pdb.input(file_name=str(path))
        symmetry = source.crystal_symmetry()
    except Exception as error:  # iotbx raises whatever the broken line leads it to
        raise ValueError(f"{path} cannot be read as PDB or mmCIF ({type(error).__name__}: {error}). Check the file.") from error
    if symmetry is None or symmetry.unit_cell() is None or symmetry.space_group() is None:
        raise ValueError(f"{path} has no unit cell or space group. Add a CRYST1 record (PDB) or _cell and _symmetry items (mmCIF).")
    structure = source.xray_structure_simple(crystal_symmetry=symmetry)
    if not structure.scatterers().size():
        raise ValueError(f"{path} holds no atoms. Give the model of a crystal.")
    structure.convert_to_isotropic()
    structure.set_b_iso(value=0.0)
    composition: dict[str, float] = {}
    for scatterer in structure.scatterers():
        element = element_symbol(scatterer.element_symbol())
        composition[element] = composition.get(element, 0.0) + scatterer.multiplicity() * scatterer.occupancy
    return CrystalModel(structure, composition, str(path))


def generate(params) -> str:
    """A compact chain and ordered waters without clashes, also against symmetry mates, as the text of a PDB file.

    The chain has the chemistry of the sequence (bond lengths, angles, flat groups, all hydrogens) and the fold that
    chance gives it: good for its scattering, not for its biology.

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
        raise ValueError(f"The unit cell {params.unit_cell} does not fit the space group {params.space_group}. Change generate.unit_cell.")
    crystal_symmetry = crystal.symmetry(unit_cell=params.unit_cell, space_group=group, assert_is_compatible_unit_cell=False)
    symmetry = CrystalSymmetry.from_cctbx(crystal_symmetry)
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
    logger.info("Generated %d residues and %d waters in the asymmetric unit (%d atoms)", len(sequence), n_waters, len(xyz))
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
    start = np.concatenate([centre + rng.normal(scale=radius / 2, size=(len(sequence), 3)), rng.normal(scale=5, size=(len(sequence), 1))], axis=1)
    trace = Packing(beads, symmetry).relax(start, rounds=30, steps=40, scale=(0.8, 1.85), squeeze=(0.001, 5.0))
    residue = np.array([number - 1 for _, number in chain.residues])
    atoms = np.concatenate([trace[residue, :3] + rng.normal(scale=1.2, size=(len(residue), 3)), rng.normal(scale=2, size=(len(residue), 1))], axis=1)
    packing = Packing(chain, symmetry)
    atoms = packing.relax(atoms, rounds=6, steps=60, scale=(0.3, 0.6), squeeze=(0.01, 0.05))
    atoms = packing.relax(atoms, rounds=10, steps=50, scale=(0.6, 1.0), squeeze=(0.05, 10.0))
    return packing.relax(atoms[:, :3].copy(), rounds=8, steps=60)


def _roomiest_point(symmetry, rng, trials: int = 2000):
    """The one of many random points whose symmetry mates are furthest away."""
    points = rng.random((trials, 3)) @ symmetry.orthogonalization.T
    images = symmetry.images(points)
    cells = (np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)) @ symmetry.orthogonalization.T
    delta = images + symmetry.wrap(images.reshape(-1, 3)).reshape(images.shape) - points
    distance = np.linalg.norm(delta[:, None] + cells[None, :, None], axis=-1)
    distance[distance < 1e-6] = np.inf
    return points[distance.min(axis=(0, 1)).argmax()]


def _add_waters(chain, xyz, n_waters, symmetry, rng):
    """Fill the space between the chains; all atoms make room for one another."""
    oxygens = _free_sites(xyz[[e != "H" for e in chain.elements]], n_waters, symmetry, rng)
    molecule = Topology(*(list(part) for part in (chain.names, chain.elements, chain.residues, chain.bonds, chain.fixed, chain.kinds)))
    length = BOND_LENGTHS["H", "O", "s"]
    apart = 2 * length * np.sin(np.radians(WATER_ANGLE / 2))
    positions = [xyz]
    for number, oxygen in enumerate(oxygens, start=1):
        atoms = [molecule.add_atom(name, name[0], ("HOH", number)) for name in ("O", "H1", "H2")]
        molecule.add_bond(atoms[0], atoms[1])
        molecule.add_bond(atoms[0], atoms[2])
        molecule.fixed.append((atoms[1], atoms[2], apart))
        first, second = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
        along, across = length * np.cos(np.radians(WATER_ANGLE / 2)), apart / 2
        positions.append(oxygen + np.array([0 * first, along * first + across * second, along * first - across * second]))
    return molecule, Packing(molecule, symmetry).relax(np.concatenate(positions), rounds=8, steps=40)


def _free_sites(atoms, n_sites, symmetry, rng):
    """Random points away from ``atoms`` (their images too) and from one another, shape (n_sites, 3)."""
    if not n_sites:
        return np.zeros((0, 3))
    axes = symmetry.orthogonalization
    copies = symmetry.images(atoms).reshape(-1, 3)
    copies = copies + symmetry.wrap(copies)
    cells = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ axes.T
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
    around = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
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
    lines = [
        "REMARK   3 GENERATED BY DIFFUSE.SIMULATE: CHEMISTRY OF THE SEQUENCE, FOLD OF NO REAL MOLECULE",
        "CRYST1{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f} {:<11s}{:4d}".format(*unit_cell.parameters(), symbol, group.order_z()),
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
