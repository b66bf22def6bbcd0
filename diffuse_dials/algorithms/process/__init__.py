"""diffuse.process: the steps in order, what each was made from, and which need not be made again.

Each step is a command that runs in its own process, in the current folder, with its own parameter file
(diffuse.grid.phil ...). process.json records what is done, with a hash of everything it was made from.
"""

from __future__ import annotations

import iotbx.phil

from diffuse_dials.algorithms.process.base import STAGES, Run, Step
from diffuse_dials.algorithms.process.integrating import Blanks, Integrate
from diffuse_dials.algorithms.process.mapping import Absolute, Export, Grid, MakeMask, Report, Scale

STEPS: tuple[type[Step], ...] = (Blanks, Integrate, MakeMask, Grid, Scale, Absolute, Export, Report)

_own_scope = f"""
d_min = None
  .type = float(value_min=0.1, value_max=10000)
  .help = "High-resolution limit of the map (Angstrom). None: the corner of the detector."
d_max = None
  .type = float(value_min=0.1)
  .help = "Low-resolution limit of the map (Angstrom). None: the beamstop."
unit_cell = None
  .type = unit_cell
  .help = "Unit cell of the crystals (Angstrom, degrees), for indexing."
space_group = None
  .type = space_group
  .help = "Space group of the crystals, for indexing."
start_from = *{" ".join(STAGES)}
  .type = choice
  .help = "What the files on the command line are. images: images, or .expt files of dials.import. integrated: .expt"
          "and .refl files of dials.stills_process or diffuse.integrate. gridded: of diffuse.grid. scaled: merged.expt,"
          "merged.refl, scaled.expt and radial_totals.refl. merged: a map, to be exported."
resume = False
  .type = bool
  .help = "Continue after an interruption, or with more images or other parameters: what was made from the same files"
          "and parameters as now is kept. False: everything is made anew."
input {{
  reference_geometry = None
    .type = path
    .help = "An .expt file whose detector replaces that of the images (dials.stills_process: input.reference_geometry)."
  background = None
    .type = path
    .multiple = True
    .help = "Blank exposures: their images, also as a pattern in quotation marks, or an .expt file of dials.import."
}}
mp {{
  launcher = None
    .type = str
    .help = "With mp.method=mpi: what starts the ranks of diffuse.integrate, diffuse.grid and diffuse.scale, such as"
            "\\"mpirun -n 8\\" or \\"srun -n 64\\"."
    .expert_level = 1
}}
"""


def make_scope():
    """All parameters of all steps, and those of diffuse.process itself."""
    whole = iotbx.phil.parse(_own_scope)
    for step in STEPS:
        _merge(whole, step().scope)
    return whole


def _merge(into, other) -> None:
    """Add what ``into`` does not have yet (adopt_scope cannot merge what was merged)."""
    for found in other.objects:
        same = [one for one in into.objects if one.name == found.name]
        if not same:
            into.adopt(found)
        elif found.is_scope:
            _merge(same[0], found)


phil_scope = make_scope()

__all__ = ["STEPS", "Run", "Step", "phil_scope"]
