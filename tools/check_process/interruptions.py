"""Checks of runs that are interrupted and go on; each is True if all was right."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from runs import (
    Data,
    bad,
    call,
    command,
    environment,
    fresh,
    good,
    must,
    no_leftovers,
    none_left,
    process,
    reference,
    same_maps,
)


def resumed(data: Data) -> list[str]:
    return command(["diffuse.process", *data.images, *data.common, "mp.nproc=2", "resume=True"])


# Step, what is killed, and the CPU time (s) of the step within which it is
KILLS = (("blanks", "parent", 1), ("integrate", "group", 6), ("integrate", "parent", 9), ("make_mask", "child", 3),
         ("grid", "group", 2), ("grid", "parent", 2), ("scale", "group", 2), ("absolute", "parent", 2),
         ("export", "child", 1), ("report", "group", 2))  # fmt: skip


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
        n_parts = len(list(folder.glob("gridded_parts/*/0*.part")))
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
    """Files of blocks may have other numbers in interrupted runs."""
    return path.parent.name == "integrated"


# Step, signal, who gets it, and the CPU time (s) of the step within which it comes
STOPS = (("integrate", "INT", "group", 6), ("integrate", "TERM", "parent", 9), ("make_mask", "TERM", "group", 3),
         ("grid", "INT", "parent", 2), ("scale", "TERM", "parent", 2), ("absolute", "INT", "group", 2),
         ("export", "TERM", "group", 1), ("report", "INT", "parent", 2))  # fmt: skip


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


def started_until(arguments, folder: Path, name: str, moment: float) -> subprocess.Popen:
    """A run that has come to some CPU time (s) of a step, or has ended."""
    started = time.time()
    run = subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=heed_interrupts)  # fmt: skip
    while run.poll() is None and not (has_begun(folder, name, started) and cpu_time(run.pid) >= moment):
        time.sleep(0.02)
    return run


def heed_interrupts() -> None:
    """A shell starts what it runs in the background, this check too, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


def terminal(data: Data) -> bool:
    folder, fine = fresh(data, "terminal"), True
    arguments = command(["diffuse.process", *data.images, *data.common, "resume=True"])
    pid, end = pty.fork()
    if pid == 0:
        os.chdir(folder)
        heed_interrupts()
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
