"""What a process needs before its stills: CPU times of start-up, set-up, first and later stills, printed as JSON.

Argument: an .expt. NUMBA_CACHE_DIR says where compiled code is kept.
"""

from __future__ import annotations

import json
import sys
import time

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
import libtbx.phil

from diffuse_dials.adapters import images
from diffuse_dials.algorithms.extraction import Measurement
from diffuse_dials.algorithms.gridding import define_grid
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.cli.grid import phil_scope

spent = {"start-up": time.process_time()}


def timed(part: str, work, *args):
    """The result of a call, whose CPU time counts for a part."""
    start = time.process_time()
    result = work(*args)
    spent[part] = time.process_time() - start
    return result


def main() -> None:
    expt, *parameters = sys.argv[1:]
    params = phil_scope.fetch(libtbx.phil.parse("\n".join(parameters))).extract()

    def set_up():
        stills = load_stills([expt], (), read_reflections=False)
        measurement, grid = Measurement(params, stills), define_grid(params.grid, stills, 1.3)
        measurement.prepare(grid)
        return stills, measurement, grid

    stills, measurement, grid = timed("set-up", set_up)
    raw = images.read_raw(stills.experiments[0])
    for part in ("first still", "later still"):
        timed(part, measurement.sums_of_image, 0, grid, raw)
    print(json.dumps({name: round(seconds, 3) for name, seconds in spent.items()}))


if __name__ == "__main__":
    main()
