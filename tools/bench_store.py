"""Write a store of many synthetic sums: what shows that the memory of scaling and merging does not grow with them.

    python tools/bench_store.py folder --rows 2e8 --stills 3000
    cd folder && diffuse.scale gridded.expt gridded.h5

Each still has a random choice of the voxels of the asymmetric unit (78 78 37 Å, P43212, ndiv 3), with Poisson counts
about scale x response x intensity. truth.npz holds scales and intensities. No image is simulated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from diffuse_dials.adapters import symmetry
from diffuse_dials.io.gridded_store import write_index
from diffuse_dials.io.records import save_grid_record
from diffuse_dials.io.store_parts import Part, writing_part
from diffuse_dials.models.asu import AsuBox
from diffuse_dials.models.grid import GridRecord, holds_lattice_point
from diffuse_dials.models.sums import VoxelSums

CELL, NDIV, SPACE_GROUP = (78.0, 78.0, 37.0, 90.0, 90.0, 90.0), (3, 3, 3), "P43212"
ROWS_PER_PART = 4_000_000
COUNTS_PER_ROW = 10.0


def asymmetric_unit(d_min: float) -> tuple[np.ndarray, np.ndarray, AsuBox]:
    """Voxels of the asymmetric unit to ``d_min`` but the origin: index (n, 3), |s| (n,), and their numbering."""
    group = symmetry.parse_space_group(SPACE_GROUP)
    shape = tuple(int(length * n / d_min) + 2 for length, n in zip(CELL[:3], NDIV))
    box = AsuBox((0, 0, 0), shape)
    index = box.index(np.arange(1, box.size))
    s = np.linalg.norm(index / np.asarray(NDIV) / np.asarray(CELL[:3]), axis=1)
    index, s = index[s <= 1 / d_min], s[s <= 1 / d_min]
    representative = np.all(symmetry.map_to_asu(index, group) == index, axis=1)
    return index[representative], s[representative], box


def sums_of(number: int, index, bragg, expected, share: float, rng) -> VoxelSums:
    """A still that measured ``share`` of the voxels; ``expected`` are its counts for unit response."""
    chosen = np.flatnonzero(rng.random(len(index)) < share)
    n = len(chosen)
    response = rng.uniform(0.5, 1.5, n)
    counts = rng.poisson(expected[chosen] * response).astype(float)
    full = np.ones(n, dtype=np.int32)
    return VoxelSums(
        full * number, index[chosen], index[chosen], full * 0, bragg[chosen], counts, np.zeros(n), response, counts,
        rng.integers(1, 200, n).astype(np.int32),
    )  # fmt: skip


def write_experiments(path: Path, identifiers) -> None:
    """An .expt of stills whose images do not exist: no command after diffuse.grid opens them."""
    beam = BeamFactory.simple(1.0)
    detector = DetectorFactory.simple("PAD", 200, (211, 217), "+x", "-y", (0.172, 0.172), (2463, 2527), (0, 1e6))
    a, b, c = np.diag(CELL[:3])
    experiments = ExperimentList()
    for identifier in identifiers:
        crystal = Crystal(a, b, c, space_group_symbol=SPACE_GROUP)
        experiments.append(Experiment(beam=beam, detector=detector, crystal=crystal, identifier=identifier))
    content = experiments.to_dict()
    content["imageset"] = [
        {"__id__": "ImageSet", "images": [f"synthetic_{n:06d}.cbf"], "mask": None, "gain": None, "pedestal": None,
         "dx": None, "dy": None, "params": {}}
        for n in range(len(identifiers))
    ]  # fmt: skip
    for n, entry in enumerate(content["experiment"]):
        entry["imageset"] = n
    path.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=float, default=2e8)
    parser.add_argument("--stills", type=int, default=3000)
    parser.add_argument("--d_min", type=float, default=1.4, help="Å; how many voxels there are")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    index, s, box = asymmetric_unit(options.d_min)
    share = options.rows / options.stills / len(index)
    if share > 1:
        parser.error(f"{options.stills} stills of {len(index)} voxels have fewer than {options.rows:.3g} rows")
    intensity = np.exp(-3 * s**2) * rng.gamma(4, 0.25, len(index))
    intensity *= COUNTS_PER_ROW / intensity.mean()
    scale = np.exp(rng.uniform(np.log(0.3), np.log(3), options.stills))
    bragg = holds_lattice_point(index, NDIV)
    identifiers = [f"synthetic-{n:06d}" for n in range(options.stills)]
    (options.folder / "gridded_parts" / "synthetic").mkdir(parents=True, exist_ok=True)
    start, parts = time.process_time(), []
    size = max(1, int(ROWS_PER_PART * options.stills / options.rows))
    for first in range(0, options.stills, size):
        path = options.folder / "gridded_parts" / "synthetic" / f"{first // size:05d}.h5"
        with writing_part(path, "synthetic", box) as part:
            for number in range(first, min(first + size, options.stills)):
                part.append(number, sums_of(number, index, bragg, scale[number] * intensity, share, rng))
            part.finish([])
        parts.append(Part.open(path))
    write_index(options.folder / "gridded.h5", parts, identifiers, "synthetic")
    write_experiments(options.folder / "gridded.expt", identifiers)
    save_grid_record(
        GridRecord(
            CELL, "given", NDIV, "P 43 21 2", "P 4/m m m", options.d_min, None, "own", 0.0, False, (), 0.005,
            background={"method": "none"},
        ),
        options.folder / "grid.json",
    )  # fmt: skip
    np.savez(options.folder / "truth.npz", scale=scale, index=index, intensity=intensity)
    n_rows = sum(part.n_rows for part in parts)
    n_bytes = sum(part.path.stat().st_size for part in parts)
    print(
        f"{n_rows} rows of {len(index)} voxels in {options.stills} stills, {n_bytes / n_rows:.1f} bytes a row on disk"
    )
    print(f"{(time.process_time() - start) / n_rows * 1e9:.0f} ns of CPU a row to make and write")


if __name__ == "__main__":
    main()
