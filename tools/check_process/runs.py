"""Runs of the real commands on simulated images, and whether two of them made the same files."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent

MARK = f"DIFFUSE_CHECK={os.getpid()}"  # in the environment of all processes of a check

MODEL = """\
CRYST1   30.000   30.000   25.000  90.00  90.00  90.00 P 43 21 2
ATOM      1  C   ALA A   1       5.000   6.000   7.000  1.00  0.00           C
ATOM      2  N   ALA A   1       6.400   6.300   7.200  1.00  0.00           N
ATOM      3  O   ALA A   1       8.000   9.000   4.000  1.00  0.00           O
ATOM      4  S   CYS A   2      11.000   3.000   9.000  1.00  0.00           S
END
"""

SIMULATE = ("modules=1,2", "distance=60", "truth.d_min=2", "photons_per_pixel=5", "exposure_time=0.1,0.2",
            "mosaic_rms=0.1", "output.directory=.", "n_blanks=3")  # fmt: skip

_STILLS = """
spotfinder {{
  filter.min_spot_size = 2
  filter.d_min = {d_min}
  threshold.dispersion.global_threshold = 5
}}
indexing.stills {{ indexer = stills
  refine_all_candidates = False }}
profile.gaussian_rs.centroid_definition = com
prediction.d_min = {d_min}
"""

SMALL = _STILLS.format(d_min=2) + "profile.gaussian_rs.parameters.sigma_b_cutoff = None\n"
DEMO = _STILLS.format(d_min=1.46)

TABLES = ("gridded.refl", "radial_totals.refl", "scaled.refl", "merged.refl", "absolute.refl")

FILES = ("pixels.mask", "map.mtz", "map.ccp4", "stills.csv", *TABLES)


class Data:
    """Images, and what the commands are told of them."""

    def __init__(self, work: Path, demo: str | None):
        self.work = work
        self.folder = Path(demo).resolve() if demo else work / "data"
        if demo:
            self.cell, self.limits, self.stills_process = "78.5,78.5,37.8,90,90,90", ["d_min=1.8", "d_max=10"], DEMO
            self.mask = ["untrusted.circle=490,522,20"]
        else:
            self.cell, self.limits, self.stills_process = "30,30,25,90,90,90", ["d_min=2"], SMALL
            self.mask = []
            if not (self.folder / "images").is_dir():
                self._simulate()
        self.images = sorted(str(path) for path in (self.folder / "images").glob("*.cbf"))
        self.model = self.folder / "model.pdb"
        self.integrate_phil = work / "of_stills_process.phil"
        self.integrate_phil.write_text(f"stills_process {{ {self.stills_process} }}\n")
        self.common = [
            str(self.integrate_phil), f"unit_cell={self.cell}", "space_group=P43212", *self.limits, *self.mask,
            f'background="{self.folder}/blanks/*.cbf"', f"composition={self.model}",
        ]  # fmt: skip

    def _simulate(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "small.pdb").write_text(MODEL)
        must(["diffuse.simulate", "small.pdb", "n_stills=12", *SIMULATE], self.folder)


def command(arguments) -> list[str]:
    name = str(arguments[0])
    return [str(BIN / name) if (BIN / name).exists() else shutil.which(name) or name, *map(str, arguments[1:])]


def environment() -> dict:
    name, _, value = MARK.partition("=")
    return {**os.environ, name: value, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def call(arguments, folder: Path) -> subprocess.CompletedProcess:
    """Run a command in a folder, with what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command(arguments), cwd=folder, env=environment(), capture_output=True, text=True)


def must(arguments, folder: Path) -> str:
    done = call(arguments, folder)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed in {folder}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def process(data: Data, folder: Path, *more, images=None) -> str:
    started = time.monotonic()
    said = must(["diffuse.process", *(images or data.images), *data.common, *more], folder)
    print(f"  {folder.name}: {time.monotonic() - started:.0f} s; {said.strip().splitlines()[-1]}")
    return said


def reference(data: Data) -> Path:
    """A run without any trouble, made once."""
    folder = data.work / "reference"
    if not (folder / "diffuse.report.html").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        process(data, folder, "mp.nproc=2")
    return folder


def fresh(data: Data, name: str) -> Path:
    folder = data.work / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def same_maps(one: Path, other: Path, names=FILES) -> bool:
    """Whether files of two runs agree: in every byte, or (said then) in every value to rounding."""
    import numpy as np

    from diffuse_dials.io.tables import load_table

    fine = True
    for name in names:
        if not (other / name).is_file():
            fine = bad(f"{other / name} is missing")
        elif not filecmp.cmp(one / name, other / name, shallow=False):
            if name not in TABLES:
                fine = bad(f"{name} of {one.name} and {other.name} differ")
                continue
            a, b = load_table(one / name), load_table(other / name)
            if len(a) != len(b):
                fine = bad(f"{name}: {len(a)} and {len(b)} rows")
                continue
            columns = [c for c in set(a.columns) & set(b.columns) if len(a) and a[c].dtype.kind in "fiub"]
            whole = [c for c in columns if a[c].dtype.kind != "f"]
            # sums of the ranks are added in another order
            worst = max(float(np.abs(a[c] - b[c]).max() / np.abs(a[c]).max()) for c in set(columns) - set(whole))
            print(f"  {name} of {one.name} and {other.name}: other bytes, by {worst:.1e} of a column's largest value")
            fine &= worst < 1e-12 and all(np.array_equal(a[c], b[c]) for c in whole)
    return fine


def bad(text: str) -> bool:
    print(f"  WRONG: {text}")
    return False


def good(condition: bool, text: str) -> bool:
    return True if condition else bad(text)


def no_leftovers(folder: Path) -> bool:
    """Whether no file is left half written; a block that is being made is a folder, and the next run removes it."""
    left = [
        p for p in folder.rglob(".*") if p.is_file() and p.name != ".process.lock" and p.parent.name != "integrated"
    ]
    return good(not left, f"left behind: {[p.name for p in left]}")


def none_left(seconds: float) -> bool:
    """Whether all processes of the check end within some time."""
    end = time.monotonic() + seconds
    while True:
        left = [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if is_ours(path)]
        if not left or time.monotonic() > end:
            return good(not left, f"processes {left} are left behind")
        time.sleep(0.1)


def is_ours(path: Path) -> bool:
    try:
        alive = (path.parent / "stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        return alive and MARK.encode() in path.read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False
