"""The crystal that scatters: a user's model file, or a generated lysozyme-like structure that fills its cell."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import iotbx.pdb
import iotbx.phil
from libtbx import Auto

from diffuse_dials.adapters.scattering import element_symbol
from diffuse_dials.algorithms.simulation.generation import generate
from diffuse_dials.algorithms.simulation.solvation import with_water, write_model
from diffuse_dials.io.atomic import replacing, write_text

phil_scope = iotbx.phil.parse(
    """
model = Auto
  .type = path
  .help = "Crystal structure (PDB or mmCIF, with its unit cell). All its atoms scatter, with displacements set by"
          "'disorder' and not by the file. Auto: a lysozyme-like structure with all hydrogens and waters is generated."
fill_with_water = False
  .type = bool
  .help = "Put waters (generate.water_density, generate.seed) into the space that the atoms of your model leave: a"
          "model without bulk solvent is no whole crystal, and its total scattering is not one's."
include scope diffuse_dials.algorithms.simulation.generation.phil_scope
""",
    process_includes=True,
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
        directory: Folder in which model.pdb (or model with the suffix of the user's file) is written.

    Raises:
        ValueError: If the file cannot be read, has no unit cell or no atoms; or the generated chain does not fit.
    """
    if params.model in (None, Auto):
        path = Path(directory) / "model.pdb"
        write_text(generate(params.generate), path)
        return read_model(path)
    source = Path(params.model)
    model = read_model(source)
    suffix = "".join(source.suffixes[-2:]) if source.suffix == ".gz" else source.suffix
    if params.fill_with_water:
        plain = suffix[: -len(".gz")] if suffix.endswith(".gz") else suffix
        filled = Path(directory) / f"model{plain}"
        if filled.resolve() == source.resolve():
            raise ValueError(f"fill_with_water=True would replace {source}. Use another output.directory.")
        structure = with_water(source, params.generate.water_density, params.generate.seed)
        write_model(structure, filled)
        return read_model(filled)
    copy = Path(directory) / f"model{suffix}"
    if copy.resolve() != source.resolve():
        with replacing(copy) as partial:
            shutil.copyfile(source, partial)
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
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be read as PDB or mmCIF ({reason}). Check the file.") from error
    if symmetry is None or symmetry.unit_cell() is None or symmetry.space_group() is None:
        raise ValueError(
            f"{path} has no unit cell or space group. Add a CRYST1 record (PDB) or _cell and _symmetry items (mmCIF)."
        )
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
