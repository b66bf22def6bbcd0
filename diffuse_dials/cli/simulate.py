"""Make still images of a crystal whose diffuse scattering is known.

Atoms move like a liquid: isotropically, with a correlation that decays with distance. The images hold Bragg spots of
a mosaic crystal, diffuse and Compton scattering on one absolute scale, a background that follows the exposure and not
the crystal, the response of a Pilatus-like detector (solid angle, polarization, sensor with parallax, air, gaps,
beamstop, hot and dead pixels) and Poisson noise. The same seed gives the same bytes for any number of processes.

Written into output.directory:
  images/still_00001.cbf ...  the stills         blanks/blank_00001.cbf ...  the background alone
  model.pdb             the atoms (composition for diffuse.absolute)
  truth.expt truth.refl mean coherent diffuse intensity of each voxel, columns as in absolute.refl
  truth_bragg.mtz       F of the Bragg peaks on the absolute scale
  truth_stills.csv/.expt  scale, exposure time, crystal of each still; truth_blanks.csv; truth_pixels.mask
  stills_process.phil   for dials.stills_process     make_mask.phil   for diffuse.make_mask

Examples:

  diffuse.simulate

  diffuse.simulate n_stills=20 photons_per_pixel=1 mp.nproc=2 output.directory=weak

  diffuse.simulate my_crystal.pdb fill_with_water=True b_factor=20 correlation_length=12 distance=200
"""

from __future__ import annotations

import logging

import iotbx.phil
from dials.util import show_mail_handle_errors, tabulate
from libtbx import Auto

from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.algorithms.simulation.detector import build_camera
from diffuse_dials.algorithms.simulation.model import prepare_model
from diffuse_dials.algorithms.simulation.output import (
    prepare_folder,
    write_images,
    write_parameters,
    write_true_bragg,
    write_true_map,
    write_true_stills,
)
from diffuse_dials.algorithms.simulation.stills import build_scene, check_ranges
from diffuse_dials.cli.startup import start, user_errors

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = iotbx.phil.parse(
    """
include scope diffuse_dials.algorithms.simulation.model.phil_scope
include scope diffuse_dials.algorithms.simulation.stills.phil_scope
include scope diffuse_dials.algorithms.simulation.llm.phil_scope
include scope diffuse_dials.algorithms.simulation.bragg.phil_scope
include scope diffuse_dials.algorithms.simulation.detector.phil_scope
include scope diffuse_dials.algorithms.simulation.truth.phil_scope
include scope diffuse_dials.algorithms.running.parallel.phil_scope
include scope diffuse_dials.algorithms.simulation.output.phil_scope
seed = 0
  .type = int(value_min=0)
  .help = "Random numbers of orientations, scales, bad pixels and counting noise."
output.log = diffuse.simulate.log
  .type = path
  .help = "Log, in the folder where the command runs. None: none is written."
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.simulate from the command line."""
    invocation = start(
        args, phil, help_message=__doc__, usage="diffuse.simulate [model.pdb] [parameter=value] [file.phil]",
        takes_others=True, needs_files=False,
    )  # fmt: skip
    params = invocation.params
    with user_errors():
        unexpected = (*invocation.experiments, *invocation.reflections, *invocation.others[1:])
        if unexpected:
            raise ValueError(f"{unexpected[0]} is not needed. Give one model file at most; all else is a parameter.")
        if invocation.others:
            if params.model not in (None, Auto):
                raise ValueError(f"{invocation.others[0]} and model={params.model} are both models. Give one.")
            params.model = invocation.others[0]
        check_ranges(params)  # the model alone takes half a minute
        camera = build_camera(params, params.seed)
        folder = prepare_folder(params.output)
        model = prepare_model(params, folder)
        logger.info("Crystal: %s, %s", model.unit_cell, model.space_group.info())
        logger.info("Atoms in the cell: %s", _formula(model))
        scene = build_scene(params, model, camera, n_processes(params.mp))
        logger.info("Seed: %d", params.seed)
        write_true_map(scene, folder)
        write_true_bragg(scene, folder)
        write_parameters(scene, folder)
        stills, blanks = write_images(scene, folder, n_processes(params.mp))
        write_true_stills(scene, stills, blanks, folder)
    logger.info("%s", _summary(stills + blanks, int(scene.camera.good.sum())))
    logger.info("Wrote %d stills and %d blanks into %s", len(stills), len(blanks), folder)


def _formula(model) -> str:
    return " ".join(f"{element}{number:g}" for element, number in sorted(model.composition.items()))


def _summary(rows, n_good) -> str:
    header = ["image", "scale", "exposure (s)", "photons per good pixel"]
    lines = []
    for row in rows:
        numbers = f"{row['scale']:.4f}", f"{row['exposure_time']:g}", f"{row['photons'] / n_good:.3f}"
        lines.append([row["image"], *numbers])
    return tabulate(lines, headers=header)
