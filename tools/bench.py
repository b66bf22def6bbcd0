"""CPU time of diffuse.grid's work on a still, held against what DIALS needs to read it.

    tools/bench.py [integrated.expt ...]

Without a file: 1-megapixel CBF stills of a tetragonal crystal, 3 photons per pixel. The programs take turns, image by
image in one process, and ratios of CPU times are printed: they do not change much with the machine and its load.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
from dxtbx import flumpy
from dxtbx.format.FormatCBFMini import FormatCBFMini
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import (
    BeamFactory,
    Crystal,
    DetectorFactory,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ScanFactory,
)
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import define_grid, voxel_sums, without_origin
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.cli.grid import phil_scope

N_STILLS, SHAPE = 8, (1043, 981)  # (slow, fast) pixels


def write_stills(folder: Path) -> str:
    """Images of Poisson noise and an .expt file in which each has a crystal in a random orientation."""
    rng = np.random.default_rng(0)
    beam = BeamFactory.simple(0.98)
    pixel = 0.172
    centre = (SHAPE[1] * pixel / 2, SHAPE[0] * pixel / 2)
    detector = DetectorFactory.simple("PAD", 150.0, centre, "+x", "-y", (pixel, pixel), SHAPE[::-1], (-1, 1_000_000))
    names = [str(folder / f"still_{i + 1:05d}.cbf") for i in range(N_STILLS)]
    for name in names:
        counts = flumpy.from_numpy(rng.poisson(3.0, SHAPE).astype(np.int32))
        scan = ScanFactory.make_scan((1, 1), [1.0], [0.0, 0.0], {1: 0})
        FormatCBFMini.as_file(detector, beam, GoniometerFactory.single_axis(), scan, counts, name)
    experiments = ExperimentList()
    for name in names:
        (sequence,) = ExperimentListFactory.from_filenames([name])
        still = ImageSetFactory.imageset_from_anyset(sequence.imageset)
        axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        real_space = np.array([78.5, 78.5, 37.8])[:, None] * axes * np.sign(np.linalg.det(axes))
        crystal = Crystal(*real_space.tolist(), space_group_symbol="P43212")
        models = {"imageset": still, "beam": sequence.beam, "detector": sequence.detector, "crystal": crystal}
        experiments.append(Experiment(**models))
    experiments.as_file(str(folder / "stills.expt"))
    return str(folder / "stills.expt")


def seconds(work, *args) -> float:
    """CPU time of one call, all threads."""
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def main(files: list[str], folder: Path) -> None:
    files = files or [write_stills(folder)]
    params = phil_scope.extract()
    stills = load_stills(files, (), read_reflections=False)
    if len(stills) < 2:
        raise SystemExit("bench: give at least two stills, since the first one is not timed")
    measurement = Measurement(params, stills)
    grid = define_grid(params.grid, stills, 1.8)

    def sums(number: int):
        pixels = measurement.measure(number).pixels
        experiment = stills.experiments[number]
        return without_origin(voxel_sums(number, pixels, grid.to_hkl(experiment), grid.ndiv, grid.positions))

    def imageset(number: int):
        """Opened anew: dxtbx keeps the last image and the format instance of an imageset."""
        one = ExperimentList([stills.experiments[number]]).to_dict()
        return ExperimentListFactory.from_dict(one, check_format=True)[0].imageset

    def read(images):
        images.get_raw_data(0)

    def read_as_dials_does(images):
        images.get_raw_data(0), images.get_corrected_data(0), images.get_mask(0)

    first = seconds(sums, 0)  # compiles, and works out the geometry that stills share
    numbers = range(1, len(stills))
    times = np.array(
        [[seconds(sums, n), seconds(read, imageset(n)), seconds(read_as_dials_does, imageset(n))] for n in numbers]
    )
    own, raw, corrected = np.median(times, axis=0)
    n_pixels = sum(np.prod(panel.get_image_size()) for panel in stills.experiments[0].detector)
    print(f"{len(stills)} stills of {n_pixels / 1e6:.2f} megapixel; CPU time per still, medians of {len(numbers)}")
    print(f"diffuse.grid's sums, reading included   {own:7.3f} s   (first still {first:.3f} s)")
    print(f"dxtbx get_raw_data                      {raw:7.3f} s   ratio {own / raw:6.2f}")
    print(f"  with get_corrected_data and get_mask  {corrected:7.3f} s   ratio {own / corrected:6.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1:], Path(scratch))
