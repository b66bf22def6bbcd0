"""Check diffuse.process as a whole: the same map whatever happens on the way.

    .venv/bin/python tools/check_process.py [CHECK ...] [--work FOLDER] [--demo FOLDER]

Each check runs the real commands in folders below --work (process_checks) and prints what it saw; the last line is the
verdict, and the exit status is 1 if one failed. Without --demo a small crystal is simulated (12 stills of 0.2 Mpixel,
about a minute a run); with it, the 60 stills of 1 Mpixel that `make demo` left in FOLDER are used. Checks:

    same      one run with two processes, one with two MPI ranks, and the commands one by one: the same files
    kills     kill -9 at ten random moments, in every step, of the whole group, the parent or the child; resume=True
    stages    start_from=integrated, gridded, scaled, merged from another folder; files that do not fit
    broken    corrupt, truncated, empty, blank and foreign images among good ones; and nothing but such images
    more      new images, resume=True: only they are integrated
    masks     several masks, masking.bragg.method=shoebox
    terminal  a progress bar on a terminal, and Ctrl-C
    signals   SIGINT and SIGTERM in every step, to the group or the parent; resume=True
    mistakes  what a user may get wrong: one clear line, exit status 1, and no integration before it
    disk      a full disk again and again (a tmpfs, which takes root); resume=True when there is room
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import filecmp
import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import diffuse_dials  # noqa: F401  (prepares the environment before dxtbx is imported)

BIN = Path(sys.executable).parent
PHIL = Path(__file__).resolve().parent.parent / "phil"
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
SMALL = """
spotfinder {
  filter.min_spot_size = 2
  filter.d_min = 2
  threshold.dispersion.global_threshold = 5
}
indexing.stills { indexer = stills
  refine_all_candidates = False }
profile.gaussian_rs { centroid_definition = com
  parameters.sigma_b_cutoff = None }
prediction.d_min = 2
"""
DEMO = """
spotfinder {
  filter.min_spot_size = 2
  filter.d_min = 1.46
  threshold.dispersion.global_threshold = 5
}
indexing.stills { indexer = stills
  refine_all_candidates = False }
profile.gaussian_rs.centroid_definition = com
prediction.d_min = 1.46
"""
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


# -- the checks, each True if all was right


def same(data: Data) -> bool:
    one = reference(data)
    mpi = fresh(data, "mpi")
    launcher = "mpirun --allow-run-as-root --oversubscribe -n 2"
    process(data, mpi, "mp.method=mpi", f"mp.launcher={launcher}")
    single = fresh(data, "single")
    blanks = sorted((data.folder / "blanks").glob("*.cbf"))
    must(["dials.import", *blanks, "convert_sequences_to_stills=True", "output.experiments=blank.expt"], single)
    symmetry = "stills_process.indexing.known_symmetry"
    must(["diffuse.integrate", *data.images, data.integrate_phil, f"{symmetry}.unit_cell={data.cell}",
          f"{symmetry}.space_group=P43212"], single)  # fmt: skip
    expts, refls = (sorted((single / "integrated").glob(f"*_integrated.{kind}")) for kind in ("expt", "refl"))
    must(["diffuse.make_mask", *expts, *data.mask], single)
    must(["diffuse.grid", *expts, *refls, "mask=pixels.mask", "background=blank.expt", *data.limits], single)
    must(["diffuse.scale", "gridded.expt", "gridded.refl"], single)
    must(["diffuse.absolute", "merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl",
          f"absolute.model={data.model}"], single)  # fmt: skip
    must(["diffuse.export", "absolute.expt", "absolute.refl"], single)
    return same_maps(one, mpi) & same_maps(one, single)


# Step, what is killed, and the CPU time (s) of the step within which it is
KILLS = (("blanks", "parent", 1), ("integrate", "group", 6), ("integrate", "parent", 9), ("make_mask", "child", 3),
         ("grid", "group", 5), ("grid", "parent", 5), ("scale", "group", 4), ("absolute", "parent", 3),
         ("export", "child", 2), ("report", "group", 3))  # fmt: skip


# Step, signal, who gets it, and the CPU time (s) of the step within which it comes
STOPS = (("integrate", "INT", "group", 6), ("integrate", "TERM", "parent", 9), ("make_mask", "TERM", "group", 3),
         ("grid", "INT", "parent", 5), ("scale", "TERM", "parent", 4), ("absolute", "INT", "group", 3),
         ("export", "TERM", "group", 2), ("report", "INT", "parent", 3))  # fmt: skip


def signals(data: Data) -> bool:
    expected = reference(data)
    folder, fine = fresh(data, "signals"), True
    arguments = resumed(data)
    seed = time.time_ns() % 1000
    moments = random.Random(seed)
    print(f"  seed {seed}")
    for name, which, victim, seconds in STOPS:
        run = started_until(arguments, folder, name, moments.uniform(0, seconds))
        if run.poll() is not None:
            fine = bad(f"the run ended before {name} was stopped: {run.stdout.read()[-300:]}")
            continue
        (os.killpg if victim == "group" else os.kill)(run.pid, getattr(signal, f"SIG{which}"))
        began = time.monotonic()
        said, _ = run.communicate()
        last = said.strip().splitlines()[-1]
        took = time.monotonic() - began
        print(f"  {name:9} SIG{which:4} to {victim:6}: status {run.returncode} after {took:.1f} s: {last}")
        fine &= good(run.returncode == 130 and last.startswith("Interrupted"), said[-500:])
        fine &= good("Traceback" not in said, said[-1500:])
        fine &= none_left(2) & no_leftovers(folder)
    must(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"], folder)
    return same_maps(expected, folder) & fine


def resumed(data: Data) -> list[str]:
    return command(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"])


def started_until(arguments, folder: Path, name: str, moment: float) -> subprocess.Popen:
    """A run that has come to some CPU time (s) of a step, or has ended."""
    started = time.time()
    run = subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_heed_interrupts)  # fmt: skip
    while run.poll() is None and not (has_begun(folder, name, started) and cpu_time(run.pid) >= moment):
        time.sleep(0.02)
    return run


def _heed_interrupts() -> None:
    """A shell starts what it runs in the background, this check too, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def no_leftovers(folder: Path) -> bool:
    """Whether no file is left half written; a block that is being made is a folder, and the next run removes it."""
    left = [
        p for p in folder.rglob(".*") if p.is_file() and p.name != ".process.lock" and p.parent.name != "integrated"
    ]
    return good(not left, f"left behind: {[p.name for p in left]}")


def kills(data: Data) -> bool:
    expected = reference(data)
    folder, fine = fresh(data, "kills"), True
    arguments = resumed(data)
    kept: dict[Path, int] = {}
    seed = time.time_ns() % 1000
    moments = random.Random(seed)
    print(f"  seed {seed}")
    for name, victim, seconds in KILLS:
        run = started_until(arguments, folder, name, moments.uniform(0, seconds))
        step = [f"{n} running" for n, s in steps_of(folder).items() if s["status"] == "running"]
        if run.poll() is not None:
            fine = bad(f"the run ended before {name} was killed: {run.stdout.read()[-300:]}")
            continue
        if victim == "group":
            os.killpg(run.pid, signal.SIGKILL)
        else:
            os.kill(run.pid if victim == "parent" else (children_of(run.pid) or [run.pid])[0], signal.SIGKILL)
        said, _ = run.communicate()
        fine &= none_left(10)
        blocks = {path: path.stat().st_mtime_ns for path in sorted((folder / "integrated").glob("idx-*"))}
        fine &= good(all(blocks.get(path) == when for path, when in kept.items()), "a finished block was made again")
        kept = {path: when for path, when in blocks.items() if (path.parent / f"{path.name[4:9]}.json").is_file()}
        n_images = sum(len(json.loads(p.read_text())["images"]) for p in (folder / "integrated").glob("[0-9]*.json"))
        n_parts = len(list(folder.glob("gridded_parts/*/0*.h5")))
        before = re.findall(r"(\w+) +done before", said)
        print(f"  {name:9} {victim:6} killed ({' '.join(step) or 'between steps'}); {n_images} images integrated"
              f", {n_parts} parts gridded; this run found done: {' '.join(before) or 'nothing'}")  # fmt: skip
        done = {n: s for n, s in steps_of(folder).items() if s["status"] == "done"}
        fine &= good(set(before) <= set(done), f"{set(before) - set(done)} were done and are not now")
        fine &= good(victim != "child" or "It was killed (SIGKILL)" in said, f"what was said: {said[-300:]}")
    said = must(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"], folder)
    print("  finally found done:", *re.findall(r"(\w+) +done before", said))
    blocks = {path: path.stat().st_mtime_ns for path in (folder / "integrated").glob("idx-*")}
    fine &= good(all(blocks.get(path) == when for path, when in kept.items()), "a finished block was made again")
    ours, theirs = ({str(p.relative_to(f)) for p in f.rglob("*") if not is_block(p)} for f in (folder, expected))
    fine &= good(ours == theirs, f"stray {ours - theirs or 'none'}, missing {theirs - ours or 'none'}")
    said = must(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"], folder)
    fine &= good(len(re.findall("done before", said)) == len(steps_of(folder)), "a complete run was not left as it is")
    return same_maps(expected, folder) & fine


def is_block(path: Path) -> bool:
    """Files of blocks have other numbers in interrupted runs."""
    return path.parent.name == "integrated"


def has_begun(folder: Path, name: str, since: float) -> bool:
    """Whether a run says in its log that it has begun a step."""
    log = folder / "diffuse.process.log"
    asked = "dials.import" if name == "blanks" else f"diffuse.{name}"
    return log.is_file() and log.stat().st_mtime > since and f"$ {asked} " in log.read_text()


def steps_of(folder: Path) -> dict:
    try:
        return json.loads((folder / "process.json").read_text())["steps"]
    except (OSError, ValueError):
        return {}


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def cpu_time(pid: int) -> float:
    """Of the step that a run is at, s: its process and those that it has waited for or is waiting for."""
    total = 0.0
    for child in children_of(pid):
        for one in (child, *children_of(child)):
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


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


def stages(data: Data) -> bool:
    made, fine = reference(data), True
    blocks = sorted((made / "integrated").glob("idx-*_integrated.*"))
    given = {
        "integrated": blocks,
        "gridded": [made / "gridded.expt", made / "gridded.refl"],
        "scaled": [made / n for n in ("merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl")],
        "merged": [made / "absolute.expt", made / "absolute.refl"],
    }
    names = {"integrated": FILES, "gridded": ("scaled.refl", "merged.refl", "absolute.refl", "map.mtz"),
             "scaled": ("absolute.refl", "map.mtz"), "merged": ("map.mtz", "map.ccp4")}  # fmt: skip
    for stage, files in given.items():
        folder = fresh(data, f"from_{stage}")
        relative = [os.path.relpath(path, folder) for path in files]
        process(data, folder, f"start_from={stage}", images=relative)
        fine &= same_maps(made, folder, names[stage])
    here = fresh(data, "in_place")
    shutil.copytree(made, here, dirs_exist_ok=True)
    process(data, here, "start_from=gridded", images=["gridded.expt", "gridded.refl"])
    fine &= same_maps(made, here, names["gridded"])
    wrong = {
        "integrated": [[made / "gridded.expt", made / "gridded.refl"], [*blocks[:1], blocks[3]]],
        "gridded": [[made / "merged.expt", made / "merged.refl"], [made / "scaled.expt", made / "radial_totals.refl"]],
        "scaled": [[made / "merged.expt", made / "merged.refl"], [made / "gridded.expt", made / "gridded.refl"]],
        "merged": [[made / "gridded.expt", made / "gridded.refl"], [made / "scaled.expt", made / "merged.refl"]],
    }
    for stage, pairs in wrong.items():
        for files in pairs:
            folder = fresh(data, "wrong")
            done = call(["diffuse.process", *files, *data.common, f"start_from={stage}"], folder)
            lines = done.stderr.strip().splitlines()
            print(f"  start_from={stage} with {' '.join(Path(f).name for f in files)}:\n    {' / '.join(lines)}")
            clear = done.returncode == 1 and len(lines) == 1 and "exit status" not in lines[0]
            fine &= good(clear and not list(folder.glob("map*")), f"status {done.returncode}, {len(lines)} lines")
    return fine


def broken(data: Data) -> bool:
    folder = fresh(data, "broken")
    images = folder / "images"
    images.mkdir()
    for number in range(6):
        shutil.copy(data.images[number], images / f"good_{number}.cbf")
    content = Path(data.images[0]).read_bytes()
    (images / "truncated_1.cbf").write_bytes(content[: len(content) // 2])
    (images / "corrupt_1.cbf").write_bytes(content[:6000] + random.Random(0).randbytes(len(content) - 6000))
    (images / "garbage_1.cbf").write_bytes(random.Random(1).randbytes(20000))
    (images / "empty_1.cbf").write_bytes(b"")
    (images / "text_1.cbf").write_text("not an image\n")
    shutil.copy(data.images[0], images / "unnumbered.cbf")
    shutil.copy(next((data.folder / "blanks").glob("*.cbf")), images / "blank_1.cbf")
    for path in foreign_images(data):
        shutil.copy(path, images / f"foreign_{path.name}")
    said = process(data, folder, "mp.nproc=2", images=[str(p) for p in sorted(images.glob("*.cbf"))])
    rows = list(csv.DictReader((folder / "stills.csv").open()))
    fine = True
    for row in rows:
        name = Path(row["image"]).name
        print(f"    {name:26} {row['status']:10} {row['reason']}")
        ok = row["status"] == "ok" if name.startswith("good") else row["status"] == "failed" and bool(row["reason"])
        fine &= good(ok, name)
    named = [p.name for p in images.glob("*.cbf") if not p.name.startswith("good")]
    log = (folder / "diffuse.process.log").read_text()
    fine &= good(all(name in log and name in said for name in named), "an image is not named in log and on screen")
    fine &= good(len(rows) == len(list(images.glob("*.cbf"))), f"{len(rows)} lines in stills.csv")
    for title, names in (("foreign", "foreign_*"), ("blank", "blank*"), ("unreadable", "[tceg]*[ty]_1.cbf")):
        files = sorted(str(p) for p in images.glob(names) if not p.name.startswith("good"))
        done = call(["diffuse.process", *files, *data.common], fresh(data, "none"))
        print(f"  only {title} images: exit status {done.returncode}\n    {done.stderr.strip()}")
        fine &= good(done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, "not one line")
    return fine


def foreign_images(data: Data) -> list[Path]:
    """Stills of a crystal of another cell: many spots, none of which fits."""
    folder = data.work / "foreign"
    if not (folder / "images").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        other = MODEL.replace("30.000   30.000   25.000", "41.000   47.000   53.000").replace("P 43 21 2", "P 21 21 21")
        (folder / "other.pdb").write_text(other)
        must(["diffuse.simulate", "other.pdb", "n_stills=2", *SIMULATE], folder)
    return sorted((folder / "images").glob("*.cbf"))


def more(data: Data) -> bool:
    made, folder = reference(data), fresh(data, "more")
    first = data.images[: 2 * len(data.images) // 3]
    process(data, folder, "mp.nproc=2", images=first)
    before = {path: path.stat().st_mtime_ns for path in (folder / "integrated").glob("idx-*")}
    said = process(data, folder, "mp.nproc=2", "resume=True")
    log = (folder / "diffuse.integrate.log").read_text()
    found = re.search(r"(\d+) images were processed before, (\d+) are new", log)
    print(f"  {found[0] if found else 'nothing said'}; {' / '.join(x for x in said.splitlines() if 'again' in x)}")
    fine = good(bool(found) and int(found[2]) == len(data.images) - len(first), "not only the new ones were integrated")
    fine &= good(all(path.stat().st_mtime_ns == when for path, when in before.items()), "blocks were made again")
    return same_maps(made, folder) & fine


def masks(data: Data) -> bool:
    from diffuse_dials.io.masks import load_mask, load_pickle, save_mask

    made = reference(data)
    folder = fresh(data, "masks")
    shapes = [panel.all() for panel in load_pickle(made / "pixels.mask")]
    mask = [panel.copy() for panel in load_mask(made / "pixels.mask", shapes)]
    mask[0][:, :60] = False
    save_mask(mask, folder / "one.mask")
    mask[0][:], mask[0][:40] = True, False
    save_mask(mask, folder / "two.mask")
    process(data, folder, "mask=one.mask", "input.mask=two.mask", "masking.bragg.method=shoebox", "mp.nproc=2")
    record = json.loads((folder / "grid.json").read_text())["masks"]
    print(f"  grid.json: {json.dumps({k: v for k, v in record['bragg'].items() if not isinstance(v, list)})}")
    used = load_mask(folder / "pixels.mask", shapes)[0]
    fine = good(record["bragg"]["method"] == "shoebox", "method")
    fine &= good(not used[:40].any() and not used[:, :60].any(), "a mask was not used")
    fine &= good("given.mask" in (folder / "diffuse.integrate.phil").read_text(), "masks were not combined")
    return fine


def terminal(data: Data) -> bool:
    folder, fine = fresh(data, "terminal"), True
    arguments = command(["diffuse.process", *data.images, *data.common, "resume=True"])
    pid, end = pty.fork()
    if pid == 0:
        os.chdir(folder)
        _heed_interrupts()
        os.execve(arguments[0], arguments, environment())
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = read_until(end, lambda text: re.search(r"integrate: +\d+%.*<.*still", text) and text.count("%|") > 4)
    bar = re.findall(r"integrate: [^\r\n]*", shown)
    print(f"  bar: {bar[-1] if bar else 'none'}")
    fine &= good(bool(bar), "no progress bar")
    os.write(end, b"\x03")
    shown = read_until(end, lambda text: False)
    _, status = os.waitpid(pid, 0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
    lines = [line for line in plain.splitlines() if line.strip()]
    print(f"  after Ctrl-C: exit status {os.waitstatus_to_exitcode(status)}: {' / '.join(lines[-2:])}")
    fine &= good(os.waitstatus_to_exitcode(status) == 130 and "Traceback" not in shown, shown[-500:])
    last = lines[-1].removeprefix("^C")  # as the terminal shows the key
    fine &= good(last.startswith("Interrupted"), "the last line is another")
    fine &= none_left(2)
    said = process(data, folder, "resume=True")
    fine &= good("%|" not in said, "a progress bar without a terminal")
    left = {path.name for path in folder.rglob(".*")} - {".process.lock"}
    fine &= good(not left, f"left behind: {left}")
    return same_maps(reference(data), folder) & fine


def read_until(end: int, enough) -> str:
    text = ""
    while not enough(text):
        try:
            data = os.read(end, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        text += data.decode("utf-8", "replace")
    return text


def mistakes(data: Data) -> bool:
    made = reference(data)
    here = fresh(data, "given")
    (here / "text.mask").write_text("not a mask\n")
    (here / "text.pdb").write_text("not a model\n")
    (here / "broken.phil").write_text("grid ndiv = 1,1,1 }\n")
    (here / "unknown.phil").write_text("grid.no_such_parameter = 1\n")
    (here / "empty.expt").write_text("")
    whole, few = data.images, data.images[:3]
    sums = [made / "gridded.expt", made / "gridded.refl"]
    at_once = (
        [*few, "no_such_parameter=1"], [*few, "d_min=-1"], [*few, "d_min=two"], [*few, "d_min=3", "d_max=2"],
        [*few, "grid.ndiv=0,1,1"], [*few, "grid.ndiv=3,3"], [*few, "unit_cell=30,30"], [*few, "space_group=P999"],
        [*few, "unit_cell=30,40,25,90,90,90"], [*few, "mp.nproc=0"], [*few, "start_from=pictures"],
        [*few, "mp.method=mpi"], [*few, "input.mask=nothing.mask"], [*few, "composition=nothing.pdb"],
        [*few, "input.reference_geometry=nothing.expt"], [*few, "background=nothing/*.cbf"],
        [*few, here / "broken.phil"], [*few, here / "unknown.phil"], ["nothing.cbf"], ["nothing/*.cbf"],
        [here / "empty.expt"],
    )  # fmt: skip
    later = (
        [*few, f"input.mask={here / 'text.mask'}"], [*few, "mp.method=mpi", "mp.launcher=no_such_launcher -n 2"],
        [*few, f"background={here / 'text.pdb'}"],
        [*few, "stills_process.dispatch.hit_finder.minimum_number_of_reflections=100000"],
        [*whole, "stills_process.indexing.known_symmetry.unit_cell=50,60,70,90,90,90"],
        [*sums, "start_from=gridded", f"absolute.model={here / 'text.pdb'}"],
        [*sums, "start_from=gridded", "scale.d_min=50"], [*sums, "start_from=gridded", "export.format=jpeg"],
    )  # fmt: skip
    fine = True
    for number, given in enumerate((*at_once, *later)):
        folder = fresh(data, "mistake")
        names = [str(one).partition("=")[0] for one in given]
        common = [one for one in data.common if one.partition("=")[0] not in names]
        done = call(["diffuse.process", *given, *common], folder)
        lines = done.stderr.strip().splitlines()
        shown = [os.path.basename(str(one)) for one in given if one not in whole]
        print(f"  {' '.join(shown)}: status {done.returncode}\n    {' / '.join(lines)}")
        fine &= good(done.returncode in (1, 2) and len(lines) == 1, f"{len(lines)} lines")
        fine &= good("Traceback" not in done.stdout + done.stderr, done.stdout[-500:])
        fine &= good(number >= len(at_once) or not (folder / "integrated").exists(), "images were integrated before")
        fine &= good(not list(folder.glob("map*")), "a map was written") & no_leftovers(folder)
    return fine


def disk(data: Data) -> bool:
    expected, fine = reference(data), True
    folder = fresh(data, "disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        print("  left out: a small disk can be mounted by root only")
        return True
    size = sum(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    try:
        for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 3):
            room = max(65536, int(share * size))
            subprocess.run(["mount", "-o", f"remount,size={room}", str(folder)], check=True)
            done = call(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"], folder)
            lines = done.stderr.strip().splitlines()
            last = (lines or done.stdout.strip().splitlines() or [""])[-1]
            print(f"  {room / 2**20:.2f} MB: status {done.returncode}: {last}")
            if done.returncode:
                fine &= good(done.returncode == 1 and len(lines) == 1 and share < 1, f"{len(lines)} lines: {lines}")
                fine &= good("Traceback" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-1500:])
            fine &= none_left(2) & no_leftovers(folder)
        return same_maps(expected, folder) & fine
    finally:
        subprocess.run(["umount", str(folder)], check=False)


CHECKS = {f.__name__: f for f in (same, kills, stages, broken, more, masks, terminal, signals, mistakes, disk)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--work", default="process_checks", help="folder for all files")
    parser.add_argument("--demo", help="folder that make demo wrote")
    options = parser.parse_args()
    unknown = [name for name in options.checks if name not in CHECKS]
    if unknown:
        parser.error(f"there is no check {unknown[0]}; choose among {', '.join(CHECKS)}")
    work = Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    data, verdicts = Data(work, options.demo), {}
    for name in options.checks or CHECKS:
        print(f"{name}:", flush=True)
        verdicts[name] = CHECKS[name](data)
    print(", ".join(f"{name} {'right' if verdict else 'WRONG'}" for name, verdict in verdicts.items()))
    sys.exit(0 if all(verdicts.values()) else 1)


if __name__ == "__main__":
    main()
