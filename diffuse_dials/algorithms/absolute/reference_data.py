"""|F|² on the absolute scale, from a file of data or calculated from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import iotbx.pdb
import numpy as np
from cctbx import crystal, uctbx
from dxtbx import flumpy
from iotbx.reflection_file_reader import any_reflection_file

from diffuse_dials.algorithms.wording import sentence

_EDGE_TOLERANCE = 0.02  # relative, of each cell edge
_ANGLE_TOLERANCE = 2.0  # degrees
MODEL_D_MAX = 4.0  # Å: beyond, bulk solvent, which a model leaves out, changes |F|²
_NAMES = ("FMODEL", "F-MODEL", "FC", "FCALC", "PHIF", "F_CALC")


@dataclass(frozen=True)
class ReferenceData:
    """Squared structure factors of a crystal on the absolute scale.

    Attributes:
        hkl: Miller indices, cctbx's representatives for the point group, shape (n, 3), int.
        squared: |F|², shape (n,), e².
        source: Where they come from, for the log.
        d_max: Largest d for which they hold, Å; None: all.
    """

    hkl: np.ndarray
    squared: np.ndarray
    source: str
    d_max: float | None = None

    def match(self, hkl: np.ndarray) -> np.ndarray:
        """|F|² of each index, shape (n,), NaN where there is none."""
        known = {tuple(h): value for h, value in zip(self.hkl.tolist(), self.squared.tolist())}
        return np.array([known.get(tuple(h), np.nan) for h in hkl.tolist()])


def find_reference(params, unit_cell, space_group, bragg) -> tuple[ReferenceData | None, dict[str, str]]:
    """The |F|² of the user's file, else of the user's model.

    Args:
        params: Extract of the ``absolute`` scope.
        unit_cell, space_group: cctbx, of the crystal.
        bragg: Box-integrated intensities of the map; their resolution is needed of a model.

    Returns:
        (reference or None, {"reference": why not} if a model was given and is none).

    Raises:
        ValueError: If a file was named that is no reference.
    """
    if params.reference.file:
        return read_reference(params.reference.file, params.reference.labels, unit_cell, space_group), {}
    if not params.model or bragg is None:
        return None, {}
    try:
        return calculated_reference(params.model, unit_cell, space_group, 0.99 / float(bragg.s.max())), {}
    except ValueError as error:
        return None, {"reference": f"|F|² on the absolute scale. {sentence(error)} Give absolute.reference.file=."}


def is_reflection_file(path) -> bool:
    """Whether a file holds reflections: an MTZ file, or a CIF with a _refln loop."""
    name = str(path).lower()
    if name.endswith((".mtz", ".sca", ".hkl")):
        return True
    if name.endswith((".cif", ".ent")) and Path(path).is_file():
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        return "_refln.index_h" in text or "_refln_index_h" in text
    return False


def read_reference(path, labels, unit_cell, space_group) -> ReferenceData:
    """Read |F|² from an MTZ or CIF file of amplitudes or intensities.

    Args:
        path: The file.
        labels: Name of the column to take; None takes calculated amplitudes before observed ones, and those before
            intensities.
        unit_cell: cctbx unit cell of the crystal.
        space_group: cctbx space group of the crystal.

    Raises:
        ValueError: If the file cannot be read, holds no such data, or is of another crystal.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check absolute.reference.file.")
    content = any_reflection_file(str(path))
    if content.file_type() is None:
        raise ValueError(f"{path} is no reflection file that cctbx can read. Give MTZ or CIF.")
    symmetry = crystal.symmetry(unit_cell, space_group=space_group)
    arrays = [a for a in content.as_miller_arrays(crystal_symmetry=symmetry, force_symmetry=False) if _holds_data(a)]
    chosen = _choose(arrays, labels, path)
    _check_cell(chosen.unit_cell(), unit_cell, path)
    squared = chosen.as_amplitude_array() if chosen.is_complex_array() else chosen
    if not squared.is_xray_intensity_array():
        squared = (
            squared.f_as_f_sq()
            if squared.is_xray_amplitude_array()
            else squared.customized_copy(data=squared.data() ** 2)
        )
    name = chosen.info().label_string() if chosen.info() else "data"
    return _reference(squared, symmetry, f"{name} of {path}")


def _holds_data(array) -> bool:
    return array.is_xray_intensity_array() or array.is_xray_amplitude_array() or array.is_complex_array()


def _choose(arrays, labels, path):
    names = [array.info().label_string() for array in arrays]
    if labels:
        for name, array in zip(names, arrays):
            if labels == name or labels in name.split(","):
                return array
        raise ValueError(f"{path} has no data {labels}. It has {', '.join(names) or 'none of F and I'}.")
    if not arrays:
        raise ValueError(f"{path} holds neither amplitudes nor intensities. Give F or I, or Fcalc.")

    def rank(pair):
        name, array = pair
        if any(text in name.upper() for text in _NAMES):
            return 0
        return 1 if array.is_xray_amplitude_array() else 2 if array.is_xray_intensity_array() else 3

    return min(zip(names, arrays), key=rank)[1]


def calculated_reference(path, unit_cell, space_group, d_min: float) -> ReferenceData:
    """|F_calc|² of a model, with its displacement parameters, without bulk solvent.

    Args:
        path: PDB or mmCIF file.
        unit_cell: cctbx unit cell of the crystal.
        space_group: cctbx space group of the crystal.
        d_min: Å.

    Raises:
        ValueError: If the file cannot be read, or has no cell, or one of another crystal.
    """
    try:
        source = iotbx.pdb.input(file_name=str(path))
        symmetry = source.crystal_symmetry()
    except Exception as error:  # iotbx raises whatever the broken line leads it to
        raise ValueError(f"{path} cannot be read as a model ({type(error).__name__}: {error}).") from error
    if symmetry is None or symmetry.unit_cell() is None or symmetry.space_group() is None:
        raise ValueError(f"{path} has no unit cell and space group, so that no F can be calculated from it.")
    _check_cell(symmetry.unit_cell(), unit_cell, path)
    structure = source.xray_structure_simple(crystal_symmetry=symmetry)
    if not structure.scatterers().size():
        raise ValueError(f"{path} holds no atoms.")
    structure.scattering_type_registry(table="wk1995")
    amplitudes = structure.structure_factors(d_min=d_min, algorithm="fft").f_calc().as_amplitude_array()
    target = crystal.symmetry(symmetry.unit_cell(), space_group=space_group, assert_is_compatible_unit_cell=False)
    return _reference(amplitudes.f_as_f_sq(), target, f"F calculated from {path}", MODEL_D_MAX)


def _check_cell(found: uctbx.unit_cell, expected: uctbx.unit_cell, path) -> None:
    ours, theirs = np.array(expected.parameters()), np.array(found.parameters())
    edges = np.abs(theirs[:3] / ours[:3] - 1).max()
    if edges > _EDGE_TOLERANCE or np.abs(theirs[3:] - ours[3:]).max() > _ANGLE_TOLERANCE:
        text = [" ".join(f"{value:.2f}" for value in cell) for cell in (theirs, ours)]
        raise ValueError(f"{path} has the cell {text[0]}, the crystal {text[1]}: it is of another crystal.")


def _reference(squared, symmetry, source, d_max=None) -> ReferenceData:
    """Bijvoet mates averaged, indices brought to the representatives that the map's lattice points have."""
    group = symmetry.space_group().build_derived_point_group()
    symmetry = crystal.symmetry(squared.unit_cell(), space_group=group, assert_is_compatible_unit_cell=False)
    plain = squared.expand_to_p1().customized_copy(crystal_symmetry=symmetry, anomalous_flag=False, sigmas=None)
    plain = plain.map_to_asu().merge_equivalents().array()
    values = flumpy.to_numpy(plain.data())
    hkl = np.rint(flumpy.to_numpy(plain.indices().as_vec3_double())).astype(int)
    good = np.isfinite(values) & np.any(hkl != 0, axis=1)
    return ReferenceData(hkl[good], values[good], source, d_max)
