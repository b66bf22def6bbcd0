"""Check diffuse.process as a whole: the same map whatever happens on the way.

    .venv/bin/python tools/check_process [CHECK ...] [--work FOLDER] [--demo FOLDER]

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
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
import diffuse_dials  # noqa: F401  (prepares the environment before dxtbx is imported)

# isort: split
from interruptions import disk, kills, signals, terminal
from results import broken, masks, mistakes, more, same, stages
from runs import Data

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
