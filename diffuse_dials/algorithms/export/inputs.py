"""The files given to diffuse.export, read, and checked against each other."""

from __future__ import annotations

import logging
from pathlib import Path

from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import load_experiments
from diffuse_dials.algorithms.belonging import check_experiments, check_map_experiment, check_map_record
from diffuse_dials.algorithms.export.content import MapContent, SumsContent, is_map, is_sums, map_content
from diffuse_dials.algorithms.export.volume import check_memory
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table

logger = logging.getLogger(f"dials.{__name__}")

_MEMORY_PER_BYTE = 2.2  # of a .refl file: its bytes and DIALS's columns while they are read (measured: 2.1)


def load_content(experiment_files, reflection_files, params) -> MapContent | SumsContent:
    """Read one .refl file, and the .expt file that belongs to it.

    Args:
        experiment_files: Names; none is allowed, then the files say nothing of wavelength and stills.
        reflection_files: Names.
        params: Extract of diffuse.export.

    Raises:
        ValueError: If it is not one file of each, or they do not belong together, or the table is of another kind.
    """
    if len(reflection_files) != 1 or len(experiment_files) > 1:
        raise ValueError(
            f"{len(experiment_files)} .expt and {len(reflection_files)} .refl files were given. Give one pair, such as "
            "absolute.expt absolute.refl."
        )
    (name,) = reflection_files
    if name.endswith(".h5"):
        raise ValueError(f"{name} is HDF5 already, which h5py and h5dump open as it is. Give a .refl, or the map.")
    size = _MEMORY_PER_BYTE * Path(name).stat().st_size
    check_memory(size, f"Reading {name}", "Use a machine with more memory.")
    table = load_table(name)
    experiments = load_experiments(experiment_files[0]) if experiment_files else None
    if is_map(table):
        table.require(("miller_index",), "diffuse.scale")
        record = load_grid_record(name)
        check_map_record(table, record)
        if experiments is not None:
            check_map_experiment(table, record, experiments, experiment_files[0])
        content = map_content(table, record, params, _map_wavelength(experiments))
        _describe(content, name)
        return content
    if is_sums(table):
        table.require(("id",), "diffuse.grid")
        names = ", ".join(table.columns)
        if experiments is not None:
            check_experiments(name, table.identifiers.values(), set(experiments.identifiers()), experiment_files[0])
        logger.info("%s: %d rows of %d stills, columns %s", name, len(table), len(table.identifiers), names)
        return SumsContent(table, load_grid_record(name) if "miller_index" in table else None, experiments)
    raise ValueError(
        f"{name} holds neither a map nor sums of diffuse scattering. Give a .refl that diffuse.scale, "
        "diffuse.absolute, diffuse.grid or diffuse.extract wrote; dials.export writes Bragg intensities."
    )


def _map_wavelength(experiments: ExperimentList | None) -> float | None:
    """Wavelength of the map's experiment, Å."""
    beam = None if experiments is None else experiments[0].beam
    return None if beam is None else float(beam.get_wavelength())


def _describe(content: MapContent, name: str) -> None:
    """Log what is written."""
    record = content.record
    logger.info("%s: %s, %d voxels of the asymmetric unit", name, content.title(), len(content.index))
    logger.info(
        "Cell %s, %s voxels per lattice point, Laue group %s; lattice points %s",
        " ".join(f"{value:.2f}" for value in record.unit_cell), " x ".join(map(str, record.ndiv)), record.laue_group,
        "left out" if content.without_lattice_points else "kept where measured",
    )  # fmt: skip
