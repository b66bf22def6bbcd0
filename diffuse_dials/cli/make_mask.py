"""Find the pixels that no still should use, and write them as a mask.

Reads stills (integrated, or only imported) and their images. Combines, by AND, the masks that the files name, the
trusted range, untrusted regions as in dials.generate_mask, and the hot, dead and negative pixels that the images
show. A pixel is bad if it differs from its neighbours in still after still: a Bragg spot on one still is no bad
pixel. The mask serves diffuse.extract and diffuse.grid (mask=pixels.mask), dials.import (lookup.mask=pixels.mask),
dials.apply_mask and dials.image_viewer (masked.expt). True = use.

Examples:

  diffuse.make_mask integrated.expt

  diffuse.make_mask integrated.expt untrusted.circle=532,495,24 untrusted.rectangle=0,44,0,1024 d_min=1.5

  diffuse.make_mask a.expt b.expt mask=pixels_of_last_week.mask n_images=Auto mp.nproc=2

  diffuse.make_mask integrated.expt integrated.refl bragg.method=predicted output.bragg_masks=bragg_masks.pickle

Spots are masked still by still in diffuse.extract and diffuse.grid; bragg_masks.pickle is for looking at them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import libtbx.phil
from dials.util import show_mail_handle_errors, tabulate
from dxtbx.model import ExperimentList

from diffuse_dials.adapters.experiments import load_experiments, name_stills, save_experiments, still_keys
from diffuse_dials.adapters.generate_mask import attach_mask
from diffuse_dials.algorithms.inputs import load_stills
from diffuse_dials.algorithms.masking.pixels import make_pixel_mask
from diffuse_dials.algorithms.masking.stills import bragg_masks
from diffuse_dials.algorithms.parallel import n_processes
from diffuse_dials.cli.startup import start, user_errors
from diffuse_dials.io.atomic import write_json
from diffuse_dials.io.masks import save_mask, save_pickle, to_flex
from diffuse_dials.report.html import Section, write_report
from diffuse_dials.report.masks import mask_figure, save_figure

logger = logging.getLogger(f"dials.{__name__}")

SINGLE = ("hot", "dead", "negative")  # kinds of bad pixels that are worth a line each
_HEADERS = ("Step", "masks (pixels)", "newly (pixels)", "newly (%)")

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1)
  .help = "High-resolution limit (Angstrom); pixels beyond it are masked. None: the corner of the detector."
d_max = None
  .type = float(value_min=0.1)
  .help = "Low-resolution limit (Angstrom). None: no limit."
input {
  mask = None
    .type = path
    .multiple = True
    .help = "Mask of pixels (dials.generate_mask, diffuse.make_mask), True = use. Several are combined by AND."
}
include scope diffuse_dials.algorithms.masking.phil_scope
include scope diffuse_dials.algorithms.parallel.phil_scope
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
  json = diffuse.make_mask.json
    .type = path
    .help = "Numbers of pixels by step, and the bad pixels. None: none is written."
  html = diffuse.make_mask.html
    .type = path
    .help = "The same as a page, with a picture. None: none is written."
  png = None
    .type = path
    .help = "The picture alone."
  log = diffuse.make_mask.log
    .type = path
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
        _refuse_to_overwrite([*call.experiments, *call.reflections, *mask_files], output)
        experiments = _load(call.experiments)
        nproc = n_processes(params.mp)
        bragg = None
        if output.bragg_masks is not None:
            stills = load_stills(call.experiments, call.reflections, params.masking.bragg.method != "lattice")
            bragg = bragg_masks(stills, params.masking.bragg, nproc)
        pixels = make_pixel_mask(experiments, params.masking, mask_files, params.d_min, params.d_max, nproc)
        _log(pixels)
        _write(output, experiments, pixels, bragg)


def _log(pixels) -> None:
    logger.info("\n%s\n", tabulate(_rows(pixels), _HEADERS))
    share = 100 * pixels.n_used / pixels.n_pixels
    logger.info("%d of %d pixels (%.2f %%) are left.", pixels.n_used, pixels.n_pixels, share)
    for kind in SINGLE:
        for panel, slow, fast in pixels.bad.get(kind, ()):
            logger.debug("%s: panel %d, fast %d, slow %d", kind, panel, fast, slow)


def _rows(pixels) -> tuple:
    return tuple((s.name, s.masked, s.newly, round(100 * s.newly / pixels.n_pixels, 3)) for s in pixels.steps)


def _write(output, experiments, pixels, bragg) -> None:
    """All files that are wanted; what cannot be made has failed before."""
    positions = {kind: found.tolist() for kind, found in pixels.bad.items() if kind in SINGLE}
    record = {**pixels.to_dict(), "bad_pixel_positions": positions}
    text = f"{pixels.n_used} of {pixels.n_pixels} pixels are left; 'newly' counts those that no step above left out."
    sections = [Section("Pixels left out", text, _HEADERS, _rows(pixels))]
    save_mask(pixels.mask, output.pixel_mask)
    written = [output.pixel_mask]
    if bragg is not None:
        masks, kept, described = bragg
        save_pickle({name: to_flex(mask) for name, mask in masks.items()}, output.bragg_masks)
        written.append(output.bragg_masks)
        least, most = 100 * min(kept), 100 * max(kept)
        logger.info("Bragg masks (%s) keep %.1f to %.1f %% of the pixels of a still.", described["method"], least, most)
        record["bragg"] = {**described, "fraction_kept": dict(zip(masks, kept))}
        rows = tuple((name, 100 * part) for name, part in zip(masks, kept))
        sections.append(Section("Bragg masks", "", ("Still", "kept (%)"), rows))
    if output.json is not None:
        write_json(record, output.json)
        written.append(output.json)
    if output.html is not None or output.png is not None:
        figure = mask_figure(experiments[0], pixels)
        text = "Masked pixels in colour over the first image; rings: single bad pixels."
        sections.append(Section("Picture", text, figure=figure))
        if output.html is not None:
            write_report(output.html, "diffuse.make_mask", sections)
            written.append(output.html)
        if output.png is not None:
            save_figure(figure, output.png)
            written.append(output.png)
    if output.experiments is not None:
        attach_mask(experiments, pixels.mask, output.pixel_mask)
        save_experiments(experiments, output.experiments)
        written.append(output.experiments)
    logger.info("Wrote %s", ", ".join(written))


def _load(names) -> ExperimentList:
    """All experiments of the files, with identifiers; a crystal is not needed."""
    if not names:
        raise ValueError("No .expt file was given. Give that of dials.stills_process or of dials.import.")
    experiments = ExperimentList()
    for name in names:
        experiments.extend(load_experiments(name))
    name_stills(experiments, still_keys(experiments))
    return experiments


def _refuse_to_overwrite(inputs, output) -> None:
    """An input is never changed: its name may not be an output's."""
    taken = {Path(name).resolve(): name for name in inputs}
    for parameter in ("pixel_mask", "experiments", "bragg_masks", "json", "html", "png"):
        name = getattr(output, parameter)
        if name is not None and Path(name).resolve() in taken:
            raise ValueError(f"output.{parameter}={name} would replace an input of this run. Give it another name.")
