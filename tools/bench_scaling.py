"""CPU time of the scaling, and of dials.scale's KB model on equal data.

    tools/bench_scaling.py [--quick] [--json FILE]

Photon sums are simulated directly: random voxels, known scales and fall-offs. Ten million observations of 1000 stills
for our models alone (--quick: one million); 200 000 of 40 stills for the comparison, where DIALS's program already
takes minutes. Both refine one scale and one fall-off per still. Esds of all parameters are part of our time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
from dials.array_family import flex
from dials.command_line import scale as dials_scale
from dials.util.options import ArgumentParser
from dxtbx import flumpy
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from diffuse_dials.adapters.symmetry import parse_space_group
from diffuse_dials.algorithms.scaling.blocks import VoxelNumbers, compact, make_shells
from diffuse_dials.algorithms.scaling.errors import parameter_esds
from diffuse_dials.algorithms.scaling.fit import Fitter
from diffuse_dials.algorithms.scaling.options import phil_scope
from diffuse_dials.models.sums import VoxelSums

CELL, D_MIN = 240.0, 2.0  # of a cubic super-cell, Å
MODELS = {"still": ["scale"], "still_b": ["scale", "falloff"]}


def simulate(n_stills: int, n_rows: int, n_voxels: int, mean: float, fall_off: float = 0.0):
    """Poisson sums of ``n_rows`` observations, spread evenly over the stills.

    Returns:
        (VoxelSums ordered by still, |s| of the voxels in the order of their indices, true scales).
    """
    rng = np.random.default_rng(5)
    highest = int(CELL / D_MIN)
    index = np.unique(rng.integers(0, highest, (2 * n_voxels, 3)), axis=0)
    s = np.linalg.norm(index, axis=1) / CELL
    inside = np.flatnonzero((s < 1 / D_MIN) & (s > 0.05))
    index = index[np.sort(rng.permutation(inside)[:n_voxels])].astype(np.int32)
    s = np.linalg.norm(index, axis=1) / CELL
    intensity = mean * np.exp(-3 * (s - 0.3)) * (1 + 0.15 * rng.standard_normal(len(s)))
    scale = np.exp(rng.uniform(np.log(0.3), np.log(3), n_stills))
    scale /= scale.mean()
    b = fall_off * rng.standard_normal(n_stills)
    still = np.repeat(np.arange(n_stills, dtype=np.int32), n_rows // n_stills)
    voxel = rng.integers(0, len(s), len(still))
    response = rng.uniform(0.5, 1.5, len(still))
    expected = scale[still] * np.exp(-(b - b.mean())[still] * s[voxel] ** 2 / 2) * response * intensity[voxel]
    counts = rng.poisson(expected).astype(float)
    none, ones = np.zeros(len(still)), np.ones(len(still), dtype=np.int32)
    sums = VoxelSums(
        still, index[voxel], index[voxel], 0 * ones, none.astype(bool), counts, none, response, counts, ones
    )
    return sums, s, scale


def ours(sums: VoxelSums, s: np.ndarray, scale: np.ndarray, model: str) -> dict:
    """CPU seconds of refinement and esds, bytes per observation, and the error of the scales."""
    options = phil_scope.extract().scale
    numbers = VoxelNumbers.of([sums])
    use = np.ones(len(numbers), dtype=bool)
    blocks, _ = compact([sums], len(scale), numbers, use, make_shells(s, use))
    size = sum(getattr(blocks, name).nbytes for name in ("voxel", "signal", "response", "cell"))
    fitter = Fitter(None, options, s.max())
    start = time.process_time()
    problem = fitter(blocks, MODELS[model])
    refined = time.process_time()
    parameter_esds(problem)
    end = time.process_time()
    error = np.std(problem.t[:, 0] / scale) if model == "still" else float("nan")
    return {
        "refinement_s": refined - start, "esds_s": end - refined, "total_s": end - start,
        "cycles": fitter.convergence.n_cycles, "bytes_per_observation": size / len(blocks), "rms_error": float(error),
    }  # fmt: skip


def dials_kb(sums: VoxelSums, n_stills: int) -> float:
    """CPU seconds of dials.scale's program with model=KB, without error model and outlier rejection."""
    crystal = Crystal((CELL, 0, 0), (0, CELL, 0), (0, 0, CELL), space_group=parse_space_group("P1"))
    detector = DetectorFactory.simple("PAD", 150.0, (85, 85), "+x", "-y", (0.172, 0.172), (1000, 1000), (-1, 1e7))
    experiments, tables = ExperimentList(), []
    for i in range(n_stills):
        rows = sums.select((sums.still == i) & (sums.counts > 0))  # its weights are 1/counts
        experiments.append(
            Experiment(crystal=crystal, beam=BeamFactory.simple(1.0), detector=detector, identifier=str(i))
        )
        table, n = flex.reflection_table(), len(rows)
        h, k, l = (flumpy.from_numpy(np.ascontiguousarray(rows.index[:, j])) for j in range(3))
        table["miller_index"] = flex.miller_index(h, k, l)
        table["intensity.sum.value"] = flumpy.from_numpy(rows.counts / rows.response)
        table["intensity.sum.variance"] = flumpy.from_numpy(rows.counts / rows.response**2)
        table["partiality"] = flex.double(n, 1.0)
        table["d"] = crystal.get_unit_cell().d(table["miller_index"])
        table["xyzobs.px.value"] = flex.vec3_double(n, (500.0, 500.0, 0.5))
        table["s1"] = flex.vec3_double(n, (0.0, 0.1, -1.0))
        table["id"] = flex.int(n, 0)
        table["flags"] = flex.size_t(n, 0)
        table.set_flags(flex.bool(n, True), table.flags.integrated_sum)
        table.experiment_identifiers()[0] = str(i)
        tables.append(table)
    options = (
        "model=KB", "reflection_selection.method=use_all", "full_matrix=False", "outlier_rejection=None",
        "error_model=None", "partiality_cutoff=0",
    )  # fmt: skip
    parser = ArgumentParser(phil=dials_scale.phil_scope, check_format=False)
    params, _ = parser.parse_args(list(options), quick_parse=True)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes a report where it runs
        dials_scale.run_scaling(params, experiments, tables)
    return time.process_time() - start


def run(quick: bool) -> dict:
    """All of it, printed and returned."""
    logging.disable(logging.CRITICAL)
    ours(*simulate(20, 20_000, 1000, 20.0), "still_b")  # compiled before anything is timed
    n_rows = 1_000_000 if quick else 10_000_000
    result = {"n_observations": n_rows, "n_stills": 1000}
    data = simulate(1000, n_rows, n_rows // 130, 33.0)
    for model in MODELS:
        result[model] = ours(*data, model)
        print(f"{model}: {n_rows} observations of 1000 stills: {json.dumps(result[model])}")
    equal = simulate(40, 200_000, 15_000, 33.0, 3.0)
    used = ours(*equal, "still_b")["total_s"]
    theirs = dials_kb(equal[0], 40)
    result["equal_data"] = {"n_observations": 200_000, "n_stills": 40, "ours_s": used, "dials_scale_s": theirs}
    print(f"equal data, 200000 observations of 40 stills, scale and fall-off: {used:.3f} s, dials.scale model=KB "
          f"{theirs:.1f} s, {theirs / used:.0f} times")  # fmt: skip
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", default="bench_scaling.json")
    given = parser.parse_args()
    Path(given.json).write_text(json.dumps(run(given.quick), indent=2) + "\n", encoding="utf-8")
