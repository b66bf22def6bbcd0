"""CPU time of diffuse.grid's work on a still, compared with what other programs need for the same images.

    tools/bench.py [--quick] [--case NAME ...] [--json FILE] [--folder FOLDER] [--mdx2 PYTHON]

Makes its own images: a 6M CBF, a 16M NXmx (bitshuffle/lz4) and 64 tilted panels. What is compared takes turns in
one process (mdx2 in one of its own), and the smallest CPU time of several rounds counts: ratios change little with
the machine and its load, seconds do. --quick: fewer rounds and stills.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import bench_data  # first: it prepares the environment of DIALS

# isort: split
import bench_peers
import libtbx.phil
import numpy as np
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from numba import njit

from diffuse_dials.adapters import images
from diffuse_dials.adapters.direct import DirectReader
from diffuse_dials.adapters.heap import keep_heap
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import define_grid
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.cli.grid import phil_scope

REFERENCES = "get_raw_data", "kernel, parallax"
# A radius that needs no Bragg spots in the images, and no measurement of them
PARAMETERS = "masking.bragg.radius_sigmas=3", "masking.bragg.domain_size=1000", "masking.bragg.half_mosaicity=0.1"


def seconds(work, *args) -> float:
    """CPU time of one call, all threads."""
    start = time.process_time()
    work(*args)
    return time.process_time() - start


class Job:
    """Stills that are ready to be summed."""

    def __init__(self, expt: str, *parameters: str):
        params = phil_scope.fetch(libtbx.phil.parse("\n".join((*PARAMETERS, *parameters)))).extract()
        self.stills = load_stills([expt], (), read_reflections=False)
        self.measurement = Measurement(params, self.stills)
        self.grid = define_grid(params.grid, self.stills, 1.3)
        self.set_up = seconds(self.measurement.prepare, self.grid)
        self.raw = images.read_raw(self.stills.experiments[0])

    def opened(self, number: int = 0) -> int:
        """A still whose image dxtbx has open, as it has after reading it: of the last one only."""
        images.header(self.stills.experiments[number])
        return number

    def kernel(self, number: int = 0):
        return self.measurement.sums_of_image(number, self.grid, self.raw)

    def numpy(self):
        return self.measurement.sums(0, replace(self.grid, engine="numpy"))

    def imageset(self):
        """Opened anew: dxtbx keeps the last image and the format instance of an imageset."""
        one = ExperimentList([self.stills.experiments[0]]).to_dict()
        return ExperimentListFactory.from_dict(one, check_format=True)[0].imageset


def best(rounds: int, works: dict) -> dict[str, float]:
    """Smallest CPU time of each work; they take turns. A work may come with a preparation that is not timed.

    Work that is done elsewhere says itself how long it took.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (prepare, work) in works.items():
            arguments = [prepare()] if prepare else []
            elsewhere = isinstance(work, bench_peers.Elsewhere)
            times[name].append(work() if elsewhere else seconds(work, *arguments))
    return {name: min(values) for name, values in times.items()}


def bench_case(case: bench_data.Case, folder: Path, quick: bool, mdx2_python: str) -> dict:
    """Times of one detector, s per still, and what follows from them."""
    names = bench_data.write_images(case, folder, 2)
    general = Job(bench_data.write_stills(names, 4, folder / "stills"))
    planar = Job(bench_data.write_stills(names, 4, folder / "planar", planar=True))
    own = {
        name: Job(bench_data.write_stills(names, 4, folder / f"own_{name}", own=name))
        for name in ("wavelength", "detector")
    }
    radial = Job(folder / "stills" / "stills.expt", "background_method=radial")
    for job in (general, planar, radial, *own.values()):
        job.kernel()  # compiled or loaded before it is timed
    # the next still each time, so that nothing made for the one before is of use
    stills = {name: itertools.cycle((1, 2, 3, 0)) for name in own}
    next_still = {name: lambda name=name: own[name].opened(next(stills[name])) for name in own}
    works = {
        "get_raw_data": (None, bench_peers.reading(folder / "stills" / "stills.expt")),
        "with get_corrected_data and get_mask": (
            general.imageset, lambda i: (i.get_raw_data(0), i.get_corrected_data(0), i.get_mask(0)),
        ),
        "kernel, planar": (planar.opened, planar.kernel),
        "kernel, parallax": (general.opened, general.kernel),
        "kernel, radial background": (radial.opened, radial.kernel),
        "kernel, each still its own wavelength": (next_still["wavelength"], own["wavelength"].kernel),
        "kernel, each still its own detector": (next_still["detector"], own["detector"].kernel),
    }  # fmt: skip
    if not case.cbf:
        reader = DirectReader()
        reader.read(general.stills.experiments[0])
        works["get_raw_data, the commands' filter"] = (general.imageset, lambda i: i.get_raw_data(0))
        works["direct HDF5 reader"] = (None, lambda: reader.read(general.stills.experiments[0]))
    times = best(3 if quick else 7, works)
    slow = {
        **{name: works[name] for name in REFERENCES},  # again: the machine may have another speed by now
        "NumPy engine": (None, general.numpy), **bench_peers.works(general),
        **bench_peers.mdx2(planar, mdx2_python, folder),
    }  # fmt: skip
    slow_times = best(2 if quick else 3, slow)
    for name in [name for name in slow_times if name.endswith(bench_peers.PART)]:
        slow_times[name.removesuffix(bench_peers.PART)] = slow_times.pop(name) * bench_peers.TENTHS
    others = {name: value for name, value in slow_times.items() if name not in REFERENCES}
    return {
        "megapixels": sum(panel.size for panel in general.raw) / 1e6, "voxels": len(planar.kernel().voxels),
        "seconds": times | others, "ratios": ratios(times, times) | ratios(others, slow_times),
        "start": start(folder / "stills" / "stills.expt"),
    }  # fmt: skip


def ratios(times: dict[str, float], beside: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of times over each of the references, which took turns with them."""
    return {name: {other: value / beside[other] for other in REFERENCES} for name, value in times.items()}


def start(expt: Path) -> dict[str, dict]:
    """bench_start.py with nothing compiled before, and with compiled code from the cache."""
    script, found = Path(__file__).parent / "bench_start.py", {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "from cache"):
            done = subprocess.run(
                [sys.executable, str(script), str(expt), *PARAMETERS], check=True, capture_output=True, text=True,
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
            )  # fmt: skip
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def two_at_once(works: dict, rounds: int) -> dict[str, dict[str, float]]:
    """What two processes lose to each other, the median of rounds in which all works take turns.

    Returns:
        {work: {"cpu": CPU time of a call in one process over that in two at once, 1 is perfect,
        "wall": calls a second of two over those of one, 2 is perfect if nobody else uses the machine}}.
    """
    context = multiprocessing.get_context("fork")
    together = {n: context.Barrier(n) for n in (1, 2)}

    def call(name, n_processes):
        together[n_processes].wait()
        start = time.perf_counter()
        cpu = seconds(works[name])
        return cpu, time.perf_counter() - start

    def warm_up():  # memory of its own for the sums, once a process
        for work in works.values():
            work()

    global _many
    _many = call
    found: dict[str, list] = {name: [] for name in works}
    with context.Pool(2, initializer=warm_up) as pool:
        for _ in range(rounds):
            for name in works:
                one, two = (np.mean(pool.starmap(_call, [(name, n)] * n, chunksize=1), axis=0) for n in (1, 2))
                found[name].append(one / two * (1, 2))
    return {name: dict(zip(("cpu", "wall"), np.median(values, axis=0).tolist())) for name, values in found.items()}


@njit(error_model="numpy")
def _arithmetic(n: int) -> int:
    """Work in registers alone: two processes at once can only lose by sharing a core, or its clock."""
    a, b, c = 1, 2, 3
    for i in range(n):
        a, b, c = a * 6364136223846793005 + i, b * 6364136223846793005 + a, c * 6364136223846793005 + b
    return a + b + c


def efficiency(job: Job, quick: bool) -> dict[str, dict[str, float]]:
    """Of two processes: the kernel's, and what this machine allows for copying memory and for arithmetic."""
    _arithmetic(10)
    source = np.ones(1 << 23)  # beyond the cache of a core
    target = np.empty_like(source)
    works = {
        "kernel": lambda: [job.kernel() for _ in range(4)],
        "copying memory": lambda: [np.copyto(target, source) for _ in range(32)],
        "arithmetic": lambda: _arithmetic(200_000_000),
    }
    return two_at_once(works, 5 if quick else 15)


_many = None


def _call(*arguments):
    return _many(*arguments)


def memory(folder: Path, names: list[str]) -> float:
    """MB that a worker needs beyond images and what is shared: 180 Å cell, ndiv 2, after the parent has set up."""
    job = Job(bench_data.write_stills(names, 4, folder / "big", cell=(180.0,) * 3, group="P213"), "grid.ndiv=2,2,2")
    job.kernel(0).voxels  # compiled before it is measured
    job.measurement._kernel()._accumulator.__init__()
    global _many
    _many = lambda: _growth(job)  # noqa: E731
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_call)


def _growth(job) -> float:
    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

    touched = sum(int(panel.sum()) for panel in job.raw)  # shared pages that are read become resident
    for panel in job.measurement._kernel()._panels.values():
        shift = () if panel.plane.shift is None else (panel.plane.shift,)
        touched += sum(float(array.sum()) for array in (*panel.shared, *panel.pieces, *shift))
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # what the parent freed is no memory for the worker
        ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    job.kernel(1)
    job.kernel(2)
    return status("VmHWM") - before


def _script(name: str, *arguments: str) -> tuple[float, dict]:
    """CPU time of a script in a process of its own, and the JSON that it prints last."""
    with tempfile.TemporaryDirectory() as scratch:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent.absolute() / name), *arguments], cwd=scratch, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(
                f"{name} {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, json.loads(done.stdout.splitlines()[-1])


def table(name: str, result: dict) -> None:
    """Print the times of a case as ratios."""
    print(f"\n{name}: {result['megapixels']:.1f} megapixels, {result['voxels']} sums a still")
    print(f"{'':42}{'s':>9}{'Mpx/s':>9}{'/ get_raw_data':>16}{'/ kernel':>10}")
    for label, over in result["ratios"].items():
        value = result["seconds"][label]
        read, kernel = (over[reference] for reference in REFERENCES)
        print(f"{label:42}{value:9.3f}{result['megapixels'] / value:9.1f}{read:16.2f}{kernel:10.2f}")
    for label, parts in result["start"].items():
        print(f"{label}: {', '.join(f'{part} {value:.2f} s' for part, value in parts.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", action="append", choices=list(bench_data.CASES))
    parser.add_argument("--json", default="bench.json")
    parser.add_argument("--mdx2", default=sys.executable, metavar="PYTHON", help="interpreter that has mdx2")
    parser.add_argument("--folder", help="where to leave the images; default: a temporary folder")
    options = parser.parse_args()
    result = {"heap_kept": False}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.folder or scratch)
        for name in options.case or bench_data.CASES:
            own = folder / name.replace(" ", "_")
            own.mkdir(parents=True, exist_ok=True)
            result[name] = bench_case(bench_data.CASES[name], own, options.quick, options.mdx2)
            table(name, result[name])
            if name == "16M NXmx":
                _commands(own, result, options.quick)
    Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {options.json}")


def _commands(folder: Path, result: dict, quick: bool) -> None:
    """The command from end to end, and its memory; last, because the heap is kept from here on."""
    names = sorted(str(path) for path in folder.glob("image_*"))
    # in a process of its own, as what this one has freed counts for or against its workers
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other:
        result["worker_megabytes"] = other.submit(memory, folder, names).result()
    print(f"a worker needs {result['worker_megabytes']:.0f} MB beyond images and shared arrays (180 Å, ndiv 2)")
    job = Job(bench_data.write_stills(names, 4, folder / "planar", planar=True))
    result["two_processes"] = efficiency(job, quick)
    print(f"efficiency of two processes at once: {result['two_processes']}")
    n_stills = 20 if quick else 200
    expt = bench_data.write_stills(names, n_stills, folder / "many")
    forms = {
        "one image a file": expt,
        "one file of all images": bench_data.write_stills(names, n_stills, folder / "master", master=True),
    }
    few = bench_data.write_stills(names, 4, folder / "stills")
    _script("bench_command.py", few, *PARAMETERS, "grid.reader=hdf5")  # compiled before it is timed, for its raw values
    for form, stills in forms.items():
        reads = [_script("bench_read.py", stills)[1]]
        for reader in ("dxtbx", "hdf5"):
            used, split = _script("bench_command.py", stills, *PARAMETERS, f"grid.reader={reader}")
            reads.append(_script("bench_read.py", stills)[1])
            read = (reads[-2]["loop"] + reads[-1]["loop"]) / 2  # before and after: the machine's speed changes
            result[f"command, {reader}, {form}"] = {
                "cpu_s": used, "get_raw_data_s": read, "over_get_raw_data": used / read, "split": split,
            }  # fmt: skip
            print(f"diffuse.grid, {n_stills} stills, {form}, {reader}: {used:.1f} s, {used / read:.2f} x get_raw_data "
                  f"({read:.1f} s, after loading {reads[-1]['load']:.1f} s); {split}")  # fmt: skip
    result["heap_kept"] = keep_heap()
    job = Job(expt)
    kept = best(3, {"get_raw_data": (job.imageset, lambda i: i.get_raw_data(0)), "kernel": (job.opened, job.kernel)})
    result["kept_heap"] = kept
    print(f"with kept heap: get_raw_data {kept['get_raw_data']:.3f} s, kernel {kept['kernel']:.3f} s")


if __name__ == "__main__":
    main()
