"""Find the pixels that no still should use, and write them as a mask.

Reads stills (integrated, or only imported) and their images. Combines, by AND, the masks that the files name, the
trusted range, untrusted regions as in dials.generate_mask, and hot, dead, negative and noisy pixels found in the
images; on request also the edges of modules, and shadows. A pixel is bad if it differs from its neighbours in still
after still: a Bragg spot on one still does not make a pixel bad. The mask serves diffuse.extract and diffuse.grid
(mask=pixels.mask), dials.import (lookup.mask=pixels.mask), dials.apply_mask and dials.image_viewer (masked.expt).
True = use.

Examples:

  diffuse.make_mask integrated.expt

  diffuse.make_mask integrated.expt untrusted.circle=532,495,24 untrusted.rectangle=0,44,0,1024 d_min=1.5

  diffuse.make_mask a.expt b.expt mask=pixels_of_last_week.mask n_images=Auto mp.nproc=2

  diffuse.make_mask integrated.expt integrated.refl bragg.method=predicted output.bragg_masks=bragg_masks.pickle

  diffuse.make_mask integrated.expt shadow.find=True edge=1 output.png=mask.png

diffuse.extract and diffuse.grid mask spots still by still, without a file; bragg_masks.pickle is for looking at these
masks, or for changing and giving them back (input.bragg_masks). If the stills have crystals, the report shows the
intensity around the lattice points and what the radius leaves of it; bragg_profile.json passes that measurement on
(masking.bragg.profile=bragg_profile.json).
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
import numpy as np
from dials.util import show_mail_handle_errors, tabulate
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import load_together, name_stills, save_experiments, still_keys
from diffuse_dials.adapters.generate_mask import attach_mask
from diffuse_dials.adapters.images import read_raw
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.bragg_profile import R_STEP, SHELL, X_STEP, left_over, measure_profile
from diffuse_dials.algorithms.masking.chosen import BraggMasks, log_profile
from diffuse_dials.algorithms.masking.pixels import make_pixel_mask
from diffuse_dials.algorithms.masking.stills import bragg_mask, bragg_masks
from diffuse_dials.algorithms.running.parallel import n_processes
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.masks import save_mask, save_pickle, to_flex
from diffuse_dials.report.html import Section, write_report
from diffuse_dials.report.masks import bragg_figure, mask_figure, profile_figure
from diffuse_dials.report.plots import save_png

logger = logging.getLogger(f"dials.{__name__}")

SINGLE = ("hot", "dead", "negative", "noisy")  # kinds of bad pixels that are worth a line each
_HEADERS = ("Step", "masks (pixels)", "newly (pixels)", "newly (%)")

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1, value_max=10000)
  .help = "High-resolution limit (Angstrom); pixels beyond it are masked. None: the corner of the detector."
d_max = None
  .type = float(value_min=0.1, value_max=1e9)
  .help = "Low-resolution limit (Angstrom). None: no limit."
input {
  mask = None
    .type = path
    .multiple = True
    .help = "Mask of pixels (dials.generate_mask, diffuse.make_mask), True = use. Several are combined by AND."
}
include scope diffuse_dials.algorithms.masking.phil_scope
include scope diffuse_dials.algorithms.running.parallel.phil_scope
output {
  pixel_mask = pixels.mask
    .type = path
    .help = "The mask: pickled tuple of flex.bool, one per panel, True = use."
  experiments = masked.expt
    .type = path
    .help = "The stills as they came in, with the mask, for DIALS and for diffuse.extract. None: none is written."
  bragg_masks = None
    .type = path
    .help = "Bragg mask of each still (True = use): pickled dictionary, experiment identifier to tuple of flex.bool."
            "A byte a pixel and still."
  bragg_profile = bragg_profile.json
    .type = path
    .help = "Where the stills have crystals: mean intensity by |s| and distance from the lattice point, for"
            "masking.bragg.profile= of diffuse.extract and diffuse.grid. None: none is written."
  json = diffuse.make_mask.json
    .type = path
    .help = "Numbers of pixels by step, and the bad pixels. None: none is written."
  html = diffuse.make_mask.html
    .type = path
    .help = "The same as a page, with pictures. None: none is written."
  png = None
    .type = path
    .help = "The picture of the mask alone; that of the Bragg mask goes beside it, as name_bragg.png. None: no"
            "picture."
  log = diffuse.make_mask.log
    .type = path
    .help = "The log. None: none is written."
}
""",
    process_includes=True,
)


@show_mail_handle_errors()
def run(args=None, phil=phil_scope):
    """Run diffuse.make_mask from the command line."""
    usage = "diffuse.make_mask [options] integrated.expt [integrated.refl] [param=value] [file.phil]"
    call = start(args, phil, __doc__, usage)
    params, output = call.params, call.params.output
    with user_errors():
        if output.pixel_mask is None:
            raise ValueError("output.pixel_mask=None leaves nothing to do. Give the name of the mask.")
        mask_files = [name for name in params.input.mask if name]
        experiments = _load(call.experiments)
        nproc = n_processes(params.mp)
        pixels = make_pixel_mask(experiments, params.masking, mask_files, params.d_min, params.d_max, nproc)
        _log(pixels)
        bragg = _bragg(call, experiments, pixels.mask, nproc)
        masks = None if output.bragg_masks is None else bragg_masks(bragg, experiments, pixels.mask, nproc)
        _write(params, experiments, pixels, bragg, masks)


def _bragg(call, experiments, mask, nproc: int) -> BraggMasks | None:
    """The Bragg masks and the profile behind them, where the stills have crystals."""
    options, output = call.params.masking.bragg, call.params.output
    if any(experiment.crystal is None for experiment in experiments):
        if output.bragg_masks is not None:
            raise ValueError(
                f"output.bragg_masks={output.bragg_masks} needs the crystals of the stills, and one is without a "
                "crystal. Give the integrated.expt of dials.stills_process."
            )
        return None
    stills = load_stills(call.experiments, call.reflections, options.method != LatticeMask.name)
    keys = still_keys(experiments)
    profile = measure_profile(experiments, keys, call.params.masking, lambda _: mask, nproc)
    log_profile(profile, options.tolerance)
    masks = BraggMasks(call.params.masking, experiments, stills.reflections, profile)
    masks.of(0)  # what the method lacks is said before a file is written
    return masks


def _log(pixels) -> None:
    logger.info("\n%s\n", tabulate(_rows(pixels), _HEADERS))
    share = 100 * pixels.n_used / pixels.n_pixels
    logger.info("%d of %d pixels (%.2f %%) are left.", pixels.n_used, pixels.n_pixels, share)
    noise = [value for value in pixels.noise if value is not None]
    if noise:
        logger.info("Variance/mean of single pixels: %.2f to %.2f (1: counts of photons)", min(noise), max(noise))
    for kind in SINGLE:
        for panel, slow, fast in pixels.bad.get(kind, ()):
            logger.debug("%s: panel %d, fast %d, slow %d", kind, panel, fast, slow)


def _rows(pixels) -> tuple:
    return tuple((s.name, s.masked, s.newly, round(100 * s.newly / pixels.n_pixels, 3)) for s in pixels.steps)


def _write(params, experiments, pixels, bragg, masks) -> None:
    """All files that are wanted; what cannot be made has failed before."""
    output = params.output
    positions = {kind: found.tolist() for kind, found in pixels.bad.items() if kind in SINGLE}
    record = {**pixels.to_dict(), "bad_pixel_positions": positions}
    text = f"{pixels.n_used} of {pixels.n_pixels} pixels are left; 'newly' counts those that no step above left out."
    sections = [Section("Pixels left out", text, _HEADERS, _rows(pixels))]
    save_mask(pixels.mask, output.pixel_mask)
    written = [output.pixel_mask]
    pictures = output.html is not None or output.png is not None
    if pictures:
        figure = mask_figure(experiments[0], pixels)
        text = "Pixels left out, in colour over the first image; rings: single bad pixels."
        sections.append(Section("The mask", text, figure=figure))
        if output.png is not None:
            save_png(figure, output.png)
            written.append(output.png)
    if bragg is not None:
        record["bragg"] = bragg.describe()
        if masks is not None:
            save_pickle({name: to_flex(mask) for name, mask in masks.items()}, output.bragg_masks)
            written.append(output.bragg_masks)
            record["bragg"]["fraction_kept"] = {name: _kept(mask) for name, mask in masks.items()}
        if output.bragg_profile is not None:
            write_json(bragg.profile.to_dict(), output.bragg_profile)
            written.append(output.bragg_profile)
        if pictures:
            written += _bragg_pictures(output, experiments[0], pixels, bragg, params.masking.bragg.tolerance, sections)
    if output.json is not None:
        write_json(record, output.json)
        written.append(output.json)
    if output.html is not None:
        write_report(output.html, "diffuse.make_mask", sections)
        written.append(output.html)
    if output.experiments is not None:
        attach_mask(experiments, pixels.mask, output.pixel_mask)
        save_experiments(experiments, output.experiments)
        written.append(output.experiments)
    logger.info("Wrote %s", ", ".join(written))


def _kept(mask) -> float:
    return float(np.mean(np.concatenate([panel.ravel() for panel in mask])))


def _bragg_pictures(output, experiment, pixels, bragg, tolerance: float, sections) -> list[str]:
    """Sections on the Bragg mask; returns names of files written."""
    profile = bragg.profile
    rows = left_over(profile, tolerance)
    figure = profile_figure(profile.excess_r(), R_STEP, profile.excess_x(), X_STEP, rows, SHELL, tolerance)
    text = (
        f"Mean over {profile.n_stills} stills. radius=Auto ends (dots) where the excess has dropped to the tolerance "
        f"{tolerance:g} of the local level, or where its fall becomes as slow as that of diffuse scattering. 'Left' is "
        "the mean excess beyond it, the crystal's own haloes included. From the left curves masking.bragg.radius can "
        "be read off, from the right ones masking.bragg.radius_sigmas."
    )
    headers = ("|s| (1/Å)", "radius (σ)", "masked (%)", "Bragg (% of level)", "left (% of level)")
    table = tuple(
        (f"{r['s_min']:.2f} - {r['s_max']:.2f}", r["radius_sigmas"], 100 * r["masked"], 100 * r["bragg"],
         100 * r["left"])
        for r in rows
    )  # fmt: skip
    sections.append(Section("Intensity about the lattice points", text, headers, table, figure))
    masks = bragg.of_image([0], read_raw(experiment), pixels.mask)
    figure = bragg_figure(experiment, pixels.mask, bragg_mask(experiment, masks))
    n_used = max(1, pixels.n_used)
    shares = []
    for mask in masks:
        removed = sum(
            int(np.count_nonzero(used & ~kept)) for used, kept in zip(pixels.mask, bragg_mask(experiment, [mask]))
        )
        shares.append(f"{mask[0].name} masks {100 * removed / n_used:.2f} % of the pixels in use")
    text = "; ".join(shares) + "."
    logger.info("Bragg mask of the first still: %s", text)
    sections.append(Section("The Bragg mask of the first still", text, figure=figure))
    if output.png is None:
        return []
    name = str(Path(output.png).with_name(f"{Path(output.png).stem}_bragg.png"))
    save_png(figure, name)
    return [name]


def _load(names) -> ExperimentList:
    """All experiments of the files, with identifiers; a crystal is not needed."""
    if not names:
        raise ValueError("No .expt file was given. Give that of dials.stills_process or of dials.import.")
    experiments = load_together(names)
    name_stills(experiments, still_keys(experiments))
    return experiments
