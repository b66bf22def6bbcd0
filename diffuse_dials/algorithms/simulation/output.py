"""The folder that a run leaves: images, blanks, the truth, and parameter files to process them with."""

from __future__ import annotations

import csv
import io
import logging
from math import ceil
from pathlib import Path

import iotbx.phil
import numpy as np
from cctbx import crystal, miller
from dials.array_family import flex
from dxtbx.model import Crystal, Detector, Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.adapters.experiments import name_stills, save_experiments, still_keys
from diffuse_dials.adapters.symmetry import supercell_crystal, symbol
from diffuse_dials.algorithms.running.parallel import each
from diffuse_dials.algorithms.simulation.images import encode
from diffuse_dials.algorithms.simulation.stills import Scene
from diffuse_dials.algorithms.simulation.truth import true_map
from diffuse_dials.io.atomic import remove_leftovers, replacing, write_text
from diffuse_dials.io.masks import save_mask
from diffuse_dials.io.tables import save_table

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = iotbx.phil.parse(
    """
output {
  directory = .
    .type = path
    .help = "Folder of images/, blanks/ and all other files; made if it is not there."
  overwrite = False
    .type = bool
    .help = "Replace the images of an earlier run; without it a folder that holds images is refused."
}
"""
)

_STILLS_PROCESS = """# Parameters of dials.stills_process for these images:
#   dials.stills_process images/*.cbf stills_process.phil mp.nproc=2
output.integration_pickle = None
spotfinder {{
  filter {{
    min_spot_size = 2
    d_min = {d_min:.2f}
  }}
  threshold {{
    algorithm = dispersion
    dispersion {{
      gain = 1
      global_threshold = 5
    }}
  }}
}}
indexing {{
  known_symmetry {{
    space_group = {group}
    unit_cell = {cell}
  }}
  stills {{
    indexer = stills
    # one candidate orientation is enough where the cell is known: three times as fast
    refine_all_candidates = False
  }}
}}
profile.gaussian_rs.centroid_definition = com
prediction.d_min = {d_min:.2f}
"""
_MAKE_MASK = """# Parameters of diffuse.make_mask for these images: the beamstop's shadow.
masking {{
  untrusted {{
    circle = {fast:.0f} {slow:.0f} {radius:d}
  }}
}}
"""
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")


def prepare_folder(params) -> Path:
    """The output folder with images/ and blanks/.

    Args:
        params: Extract of ``phil_scope``'s ``output``.

    Raises:
        ValueError: If there are images already and overwrite is not set, or the folder cannot be made.
    """
    folder = Path(params.directory)
    try:
        for name in ("images", "blanks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            earlier = sorted((folder / name).glob("*.cbf"))
            if earlier and not params.overwrite:
                raise ValueError(
                    f"{folder / name} holds {len(earlier)} images. Use another output.directory, or "
                    "output.overwrite=True to replace them."
                )
    except OSError as error:
        raise ValueError(f"Cannot make {folder}: {error.strerror}. Choose another output.directory.") from error
    return folder


def write_images(scene: Scene, folder: Path, nproc: int) -> tuple[list[dict], list[dict]]:
    """Simulate and write all images.

    Args:
        scene: What they share.
        folder: From :func:`prepare_folder`; images of an earlier run go.
        nproc: Processes.

    Returns:
        (stills, blanks): one row of truth_stills.csv each.
    """
    for name in ("images", "blanks"):
        for image in (folder / name).glob("*.cbf"):
            image.unlink()
    n_stills, n_blanks = scene.params.n_stills, scene.params.n_blanks
    tasks = [(number, False) for number in range(n_stills)] + [(number, True) for number in range(n_blanks)]

    def work(task):
        shot = scene.shot(*task)
        name = f"blanks/blank_{shot.number + 1:05d}.cbf" if shot.blank else f"images/still_{shot.number + 1:05d}.cbf"
        counts = scene.counts(shot)
        serial = shot.number + n_stills * shot.blank
        with replacing(folder / name) as partial:
            partial.write_bytes(encode(counts, scene.camera.header, serial, shot.exposure_time, Path(name).stem))
        return _row(scene, shot, name, counts)

    try:
        rows = list(each(work, tasks, nproc, "Simulating"))
    except ValueError:
        for name in ("images", "blanks"):
            remove_leftovers(folder / name)  # of processes that were killed because another failed
        raise
    return rows[:n_stills], rows[n_stills:]


def _row(scene, shot, name, counts) -> dict:
    row = {
        "image": name,
        "scale": shot.scale,
        "exposure_time": shot.exposure_time,
        "wavelength": scene.camera.header.wavelength,
        "absolute_constant": scene.constant,
        "background": shot.background,
        "photons": int(counts.ravel()[scene.camera.good].sum()),
    }
    if not shot.blank:
        cell = Crystal(*_real_axes(shot.setting), space_group_symbol="P1").get_unit_cell()
        row.update(zip(_CELL, cell.parameters()))
        row.update((f"A{i + 1}{j + 1}", shot.setting[i, j]) for i in range(3) for j in range(3))
    return row


def _real_axes(setting):
    return (tuple(row) for row in np.linalg.inv(setting))


def write_true_map(scene: Scene, folder: Path) -> None:
    """Write truth.refl and truth.expt."""
    params, camera, model = scene.params, scene.camera, scene.model
    columns = true_map(scene.truth, model, params.truth, camera.header.wavelength, float(camera.s.max()))
    save_table(columns, folder / "truth.refl")
    crystal = supercell_crystal(model.unit_cell.parameters(), params.truth.ndiv, model.space_group)
    experiment = Experiment(crystal=crystal, beam=camera.beam, detector=_detector(scene), identifier="truth")
    save_experiments(ExperimentList([experiment]), folder / "truth.expt")
    logger.info("Truth: %d voxels to %.2f Å", len(columns["d"]), columns["d"].min())


def write_true_stills(scene: Scene, stills: list[dict], blanks: list[dict], folder: Path) -> None:
    """Write truth_stills.csv, truth_stills.expt, truth_blanks.csv and truth_pixels.mask."""
    for name, rows in (("truth_stills.csv", stills), ("truth_blanks.csv", blanks)):
        if rows:
            _write_csv(rows, folder / name)
    if stills:
        save_experiments(_true_stills(scene, stills, folder), folder / "truth_stills.expt")
    save_mask([scene.camera.good.reshape(scene.camera.header.shape)], folder / "truth_pixels.mask")


def write_true_bragg(scene: Scene, folder: Path) -> None:
    """Write truth_bragg.mtz: true F of the Bragg peaks (electrons), displacements included, unique reflections."""
    model = scene.model
    symmetry = crystal.symmetry(model.unit_cell, space_group=model.space_group)
    upper = scene.hkl[:, 2] >= 0
    indices = flex.miller_index([tuple(int(i) for i in h) for h in scene.hkl[upper]])
    amplitudes = flex.double(np.sqrt(scene.bragg[upper]))
    everything = miller.array(miller.set(symmetry, indices, anomalous_flag=False), amplitudes)
    unique = everything.map_to_asu().merge_equivalents().array().set_observation_type_xray_amplitude()
    with replacing(folder / "truth_bragg.mtz") as partial:
        unique.as_mtz_dataset(column_root_label="F").mtz_object().write(str(partial))


def _detector(scene):
    detector = Detector()
    detector.add_panel(scene.camera.panel)
    return detector


def _true_stills(scene, stills, folder):
    experiments, detector = ExperimentList(), _detector(scene)
    for row in stills:
        images = ExperimentListFactory.from_filenames([str(folder / row["image"])])[0].imageset.as_imageset()
        setting = np.array([[row[f"A{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)])
        crystal = Crystal(*_real_axes(setting), space_group=scene.model.space_group)
        experiments.append(Experiment(imageset=images, beam=scene.camera.beam, detector=detector, crystal=crystal))
    name_stills(experiments, still_keys(experiments))
    return experiments


def _write_csv(rows, path):
    handle = io.StringIO()
    writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.10g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text(handle.getvalue(), path)


def write_parameters(scene: Scene, folder: Path) -> None:
    """Write stills_process.phil and make_mask.phil."""
    model, header = scene.model, scene.camera.header
    cell = " ".join(f"{x:g}" for x in model.unit_cell.parameters())
    group = symbol(model.space_group).replace(" ", "")
    text = _STILLS_PROCESS.format(group=group, cell=cell, d_min=1 / scene.camera.s.max())
    write_text(text, folder / "stills_process.phil")
    radius = scene.params.detector.beamstop_radius / header.pixel_size
    if radius:
        fast, slow = header.beam_centre
        write_text(_MAKE_MASK.format(fast=fast, slow=slow, radius=ceil(radius) + 2), folder / "make_mask.phil")
