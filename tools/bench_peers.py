"""What tools/bench.py compares with: straightforward NumPy and cctbx, and the inner loop of dials.rs_mapper."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dials.algorithms import rs_mapper
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.adapters import symmetry
from diffuse_dials.adapters.panels import beam_direction, pixel_geometry
from diffuse_dials.kernels.sums import pack, transform
from diffuse_dials.models.grid import voxel_index

PART = " (a tenth)"  # of the pixels, whose time counts ten times: it is proportional to their number
TENTHS = 10


def works(job) -> dict:
    """(None, function) by name, for bench.best."""
    found = {f"naive NumPy and cctbx{PART}": (None, Naive(job))}
    if len(job.raw) == 1:  # rs_mapper takes one panel
        found["dials.rs_mapper's loop"] = (None, Mapper(job))
    return found


class Naive:
    """Every pixel through cctbx's map_to_asu and numpy.unique, as one would first write it; geometry is given."""

    def __init__(self, job):
        experiment, grid = job.stills.experiments[0], job.grid
        wavelength, s0 = experiment.beam.get_wavelength(), beam_direction(experiment.beam)
        s = [pixel_geometry(panel, s0).s_vectors(wavelength) for panel in experiment.detector]
        self._s = np.concatenate(s)[::TENTHS]
        self._counts = np.concatenate([panel.ravel() for panel in job.raw])[::TENTHS].astype(float)
        self._to_hkl, self._grid = grid.to_hkl(experiment), grid

    def __call__(self):
        index = voxel_index(transform(self._to_hkl, self._s), self._grid.ndiv)
        asu = symmetry.map_to_asu(index, self._grid.symmetry_group)
        voxels, inverse = np.unique(pack(asu), return_inverse=True)
        counts = np.bincount(inverse, self._counts, len(voxels))
        return voxels, counts, np.bincount(inverse, minlength=len(voxels)), np.bincount(inverse, self._counts**0)


def reading(expt) -> Elsewhere:
    """dxtbx's get_raw_data as it is installed, in a process that has not looked for a faster HDF5 filter."""
    script = Path(__file__).parent / "bench_read.py"
    command = [sys.executable, str(script), str(expt), "--wait"]
    return Elsewhere(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True), "again")


def mdx2(job, python: str, folder) -> dict:
    """(None, Elsewhere) by name: mdx2 on an image (bench_mdx2.py); empty where ``python`` has no mdx2, with a word why.

    Its coarse grid of Miller indices is what mdx2 makes of a rotation about x: each degree, and each tenth pixel.
    """
    if len(job.raw) > 1:
        print("mdx2 takes one panel")
        return {}
    found = subprocess.run([python, "-c", "import mdx2.data"], capture_output=True, check=False, text=True)
    if found.returncode:
        print(f"no mdx2 in {python}, see docs/performance.md ({found.stderr.strip().splitlines()[-1]})")
        return {}
    experiment = job.stills.experiments[0]
    slow, fast = job.raw[0].shape
    phi, iy, ix = np.arange(3.0), np.arange(0.0, slow + 10, 10), np.arange(0.0, fast + 10, 10)
    nodes = np.stack(np.meshgrid(ix, iy), axis=-1).reshape(-1, 2) + 0.5  # beyond the panel's edge, too
    (panel,), beam = experiment.detector, experiment.beam
    s1 = flumpy.to_numpy(panel.get_lab_coord(flumpy.vec_from_numpy(nodes * panel.get_pixel_size())))
    s = s1 / np.linalg.norm(s1, axis=1)[:, None] / beam.get_wavelength() - beam.get_s0()
    hkl = [transform(job.grid.to_hkl(experiment), transform(_about_x(-degrees), s)) for degrees in phi]
    file = Path(folder) / "mdx2.npz"
    np.savez(
        file, counts=job.raw[0], phi=phi, iy=iy, ix=ix, hkl=np.reshape(hkl, (len(phi), len(iy), len(ix), 3)),
        ndiv=job.grid.ndiv,
    )  # fmt: skip
    script = Path(__file__).parent / "bench_mdx2.py"
    process = subprocess.Popen(
        [python, str(script), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return {
        "mdx2 index and bin, its chunks": (None, Elsewhere(process, "chunks")),
        "mdx2 index and bin, a frame": (None, Elsewhere(process, "frame")),
    }


def _about_x(degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


@dataclass(frozen=True)
class Elsewhere:
    """Work in a process that waits for its name on a line, and answers with its CPU time."""

    process: subprocess.Popen
    name: str

    def __call__(self) -> float:
        print(self.name, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(self.process.args)} ended: see above")
        return float(answer)


class Mapper:
    """rotate_around_origin and fill_voxels of one image, as dials.rs_mapper's process_block calls them."""

    def __init__(self, job):
        experiment = job.stills.experiments[0]
        (panel,), beam = experiment.detector, experiment.beam
        resolution = 1.3
        slow, fast = job.raw[0].shape
        self._xy = rs_mapper.get_target_pixels(panel, beam.get_s0(), slow, fast, resolution)
        s1 = panel.get_lab_coord(self._xy * panel.get_pixel_size()[0])
        self._s = s1 / s1.norms() * (1 / beam.get_wavelength()) - beam.get_s0()
        self._data, self._range = flumpy.from_numpy(job.raw[0]), 1 / resolution
        self._grid = flex.double(flex.grid(192, 192, 192), 0)
        self._counts = flex.int(flex.grid(192, 192, 192), 0)

    def __call__(self):
        rotated = self._s.rotate_around_origin((1.0, 0.0, 0.0), math.radians(-10))
        rs_mapper.fill_voxels(self._data, self._grid, self._counts, rotated, self._xy, self._range)
