"""Scales of stills compared with true ones, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffuse_dials.io.stills import read_csv


@dataclass(frozen=True)
class ScaleAgreement:
    """Scales of stills compared with true ones.

    Attributes:
        n_stills: Stills in both tables that have a scale.
        n_missing: Stills of the truth that have none.
        factor: Mean of scale over truth, by which the scales were divided.
        rms_relative_error: rms of scale/(factor x truth) - 1.
        worst: Largest of these, absolute.
        worst_still: The image of that still.
    """

    n_stills: int
    n_missing: int
    factor: float
    rms_relative_error: float
    worst: float
    worst_still: str


def compare_scales(scaled_file, truth_file) -> ScaleAgreement:
    """Compare per-still scales; stills are found by the image's file name, and by index where both tables have one.

    Raises:
        ValueError: If a file is missing or lacks columns, an image stands twice, or none is in both.
    """
    scaled, truth = _read_scales(scaled_file), _read_scales(truth_file)
    if not all(len(key) == 2 for key in [*scaled, *truth]):
        scaled, truth = _without_index(scaled, scaled_file), _without_index(truth, truth_file)
    common = [key for key in truth if scaled.get(key) and truth[key]]
    if not common:
        raise ValueError(
            f"{scaled_file} and {truth_file} have no image with a scale in common. Give the stills.csv of the same "
            "images."
        )
    ratio = np.array([scaled[key] / truth[key] for key in common])
    factor = float(ratio.mean())
    error = ratio / factor - 1
    worst = int(np.argmax(np.abs(error)))
    return ScaleAgreement(
        n_stills=len(common),
        n_missing=len(truth) - len(common),
        factor=factor,
        rms_relative_error=float(np.sqrt(np.mean(error**2))),
        worst=float(abs(error[worst])),
        worst_still=common[worst][0],
    )


def _read_scales(path) -> dict[tuple, float | None]:
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check the name and the folder.")
    names, lines = read_csv(path)
    missing = {"image", "scale"} - set(names)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}. It needs image and scale.")
    scales = {}
    for line in lines:
        index = (int(line["index"]),) if (line.get("index") or "").strip().isdigit() else ()
        key = (Path(line["image"]).name, *index)
        if key in scales:
            raise ValueError(f"{path} has the image {key[0]} more than once. Keep one line per image.")
        try:
            scales[key] = float(line["scale"]) if (line["scale"] or "").strip() else None
        except ValueError:
            raise ValueError(f"{path}: the scale {line['scale']!r} of {key[0]} is no number.") from None
    return scales


def _without_index(scales: dict, path) -> dict:
    bare = {key[:1]: value for key, value in scales.items()}
    if len(bare) < len(scales):
        raise ValueError(
            f"{path} has several stills of one file, which the other table does not number. Give both a column index."
        )
    return bare
