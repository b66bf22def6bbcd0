"""What diffuse.scale writes of the scaling itself: rows with their factors, components, agreement of the stills."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from diffuse_dials.algorithms.scaling.refine import ScaledStills
from diffuse_dials.models.scaled import ScaledRows


def scaled_columns(blocks: Iterable[ScaledRows], index: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of scaled.refl; an offset that was refined is part of the background.

    Args:
        blocks: The scaled sums.
        index: Voxels of the asymmetric unit that they number, shape (n_voxels, 3).
        place: ``id`` of each still in the file, shape (n_stills,), int.

    Returns:
        The columns; none if there are no blocks.
    """
    parts = [_columns(rows, index, place) for rows in blocks]
    if not parts:
        return {}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(rows: ScaledRows, index: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
    columns = {
        "id": place[rows.still].astype(np.int32), "miller_index": rows.index, "asu_miller_index": index[rows.voxel],
        "panel": rows.panel, "bragg": rows.bragg, "counts": rows.counts, "background": rows.counts - rows.signal,
        "response": rows.response, "variance": rows.variance, "n_pixels": rows.n_pixels,
        "inverse_scale_factor": rows.factor, "flags": rows.flags.astype(np.uint64),
    }  # fmt: skip
    if rows.position is not None:
        columns["xyzobs.px.value"] = np.column_stack([rows.position, np.zeros(len(rows))])
    return columns


def still_columns(scaled: ScaledStills, chi_square: np.ndarray, still: int) -> dict:
    """What stills.csv says of a still that has a scale."""
    columns = {
        "scale": float(scaled.scales.scale[still]), "scale_esd": float(scaled.scales.esd[still]),
        "chi_square": _number(chi_square[still]),
    }  # fmt: skip
    if scaled.agreement is not None:
        columns["agreement"] = _number(scaled.agreement.slope[still])
    for component in scaled.problem.components:
        if component.kind == "still" and component.name != "scale":
            for number, value in enumerate(component.values[still]):
                columns[component.name if number == 0 else f"{component.name}_{number}"] = float(value)
    return columns


def scaling_record(scaled: ScaledStills) -> dict:
    """The scaling itself, for JSON: convergence, outliers, components and what they are worth."""
    return {
        "cycles": scaled.scales.n_cycles,
        "last_change": scaled.scales.last_change,
        "esd": scaled.scales.esd_method,
        "outliers": {"probability": scaled.outlier_probability, "n_sums_left_out": scaled.n_outliers},
        "components": {
            component.name: {
                "kind": component.kind,
                "parameters": component.values[0].tolist() if component.kind == "detector" else None,
            }
            for component in scaled.problem.components
        },
        "cross_validation": [
            {
                "component": verdict.name, "n_parameters": verdict.n_parameters, "gain": verdict.gain,
                "gain_esd": verdict.gain_esd, "n_observations": verdict.n_observations, "earned": bool(verdict.earned),
            }
            for verdict in scaled.verdicts
        ],
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if value != value else float(value)
