"""CPU time of reading the images of an .expt as a program of DIALS does; what it prints last is JSON.

    tools/bench_read.py STILLS.expt [--wait]

One process, memory as the C library manages it: it loads the list with its format checked and asks each imageset for
its raw data once. ``load`` is the former (dxtbx opens each file of one image there), ``loop`` the latter: dxtbx opens
a file again where the one before was another. With --wait, it reads the first image, opened anew, whenever it gets a
line, and answers with the CPU time, without that of opening.
"""

from __future__ import annotations

import json
import sys
import time

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
from dxtbx.format.FormatNXmx import FormatNXmx  # noqa: F401  (its imports are no part of reading)
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory


def wait(expt: str) -> None:
    first = ExperimentList([ExperimentListFactory.from_json_file(expt, check_format=False)[0]]).to_dict()
    for _ in sys.stdin:
        imageset = ExperimentListFactory.from_dict(first, check_format=True)[0].imageset
        start = time.process_time()
        imageset.get_raw_data(0)
        print(time.process_time() - start, flush=True)


def main() -> None:
    if "--wait" in sys.argv:
        wait(sys.argv[1])
        return
    start = time.process_time()
    experiments = ExperimentListFactory.from_json_file(sys.argv[1], check_format=True)
    loaded = time.process_time()
    for experiment in experiments:
        experiment.imageset.get_raw_data(0)
        experiment.imageset.clear_cache()
    print(json.dumps({"load": loaded - start, "loop": time.process_time() - loaded}))


if __name__ == "__main__":
    main()
