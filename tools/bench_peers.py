"""What tools/bench.py compares with: straightforward NumPy and cctbx, and the inner loop of dials.rs_mapper."""

from __future__ import annotations

import json
import math
import subprocess
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


def works(job, quick: bool) -> dict:
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


def mdx2(job, python: str, folder) -> dict[str, float]:
    """CPU time of mdx2 for an image (see bench_mdx2.py), in an environment of its own; empty where it is not there."""
    if len(job.raw) > 1:
        return {}
    found = subprocess.run([python, "-c", "import mdx2.data"], capture_output=True, check=False)
    if found.returncode:
        print(f"mdx2 is not installed in {python}")
        return {}
    experiment = job.stills.experiments[0]
    slow, fast = job.raw[0].shape
    geometry = pixel_geometry(experiment.detector[0], beam_direction(experiment.beam))
    ix, iy = (np.unique(np.r_[0:n:10, n - 1]) for n in (fast, slow))
    pixels = (iy[:, None] * fast + ix).ravel()
    hkl = transform(job.grid.to_hkl(experiment), geometry.s_vectors(experiment.beam.get_wavelength(), pixels))
    file = Path(folder) / "mdx2.npz"
    np.savez(
        file, counts=job.raw[0], ix=ix.astype(float), iy=iy.astype(float), hkl=hkl.reshape(len(iy), len(ix), 3),
        ndiv=job.grid.ndiv,
    )  # fmt: skip
    script = Path(__file__).parent / "bench_mdx2.py"
    done = subprocess.run([python, str(script), str(file)], capture_output=True, check=True, text=True)
    times = json.loads(done.stdout.splitlines()[-1])
    return {"mdx2 index and bin, its chunks": times["chunks"], "mdx2 index and bin, a frame": times["frame"]}


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
