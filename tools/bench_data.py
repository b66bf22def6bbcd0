"""Images and stills for tools/bench.py: a 6M CBF, a 16M NXmx and 64 tilted panels, noise on a smooth fall-off."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import diffuse_dials.cli  # noqa: F401  (first: it prepares the environment, as in a command)

# isort: split
import h5py
import numpy as np
from dxtbx import flumpy
from dxtbx.format.FormatCBFMini import FormatCBFMini
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import (
    BeamFactory,
    Crystal,
    DetectorFactory,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ScanFactory,
)
from dxtbx.model.experiment_list import ExperimentListFactory

BITSHUFFLE = 32008  # the HDF5 filter's number
CELL, SPACE_GROUP = (78.0, 78.0, 37.0), "P43212"


@dataclass(frozen=True)
class Case:
    """A detector; sizes in pixels (slow, fast), lengths in mm.

    Attributes:
        name: In the table.
        shape: Of the whole image.
        pixel, distance: mm.
        modules: Number of panels along slow and fast, each tilted towards the sample; (1, 1) is flat.
        sensor: Thickness, mm: with it DIALS corrects for parallax.
    """

    name: str
    shape: tuple[int, int]
    pixel: float
    distance: float
    modules: tuple[int, int] = (1, 1)
    sensor: float = 0.45
    cbf: bool = False


CASES = {
    "6M CBF": Case("6M CBF", (2527, 2463), 0.172, 250.0, sensor=0.0, cbf=True),
    "16M NXmx": Case("16M NXmx", (4362, 4148), 0.075, 200.0),
    "64 panels": Case("64 panels", (4096, 4096), 0.075, 200.0, (8, 8)),
}


def write_images(case: Case, folder: Path, n_images: int) -> list[str]:
    """Image files of one image each, the first ``n_images`` written and different."""
    rng = np.random.default_rng(0)
    slow, fast = np.mgrid[0 : case.shape[0], 0 : case.shape[1]]
    radius = np.hypot(slow - case.shape[0] / 2, fast - case.shape[1] / 2) * case.pixel
    expected = 0.2 + 2.0 * np.exp(-((radius / case.distance) ** 2) * 4)
    names = []
    for number in range(n_images):
        counts = rng.poisson(expected)
        names.append(str(folder / f"image_{number + 1:05d}{'.cbf' if case.cbf else '.nxs'}"))
        (_write_cbf if case.cbf else _write_nexus)(case, names[-1], counts)
    return names


def _write_cbf(case, name, counts) -> None:
    centre = (case.shape[1] * case.pixel / 2, case.shape[0] * case.pixel / 2)
    size = (case.pixel, case.pixel)
    detector = DetectorFactory.simple("PAD", case.distance, centre, "+x", "-y", size, case.shape[::-1], (-1, 1_000_000))
    scan = ScanFactory.make_scan((1, 1), [1.0], [0.0, 0.0], {1: 0})
    values = flumpy.from_numpy(counts.astype(np.int32))
    FormatCBFMini.as_file(detector, BeamFactory.simple(1.0), GoniometerFactory.single_axis(), scan, values, name)


def write_master(names: list[str], n_images: int, name: Path) -> str:
    """One NXmx file of many images, a virtual dataset onto files of one image that take turns; returns its name."""
    shutil.copy(names[0], name)
    with h5py.File(name, "r+") as file:
        image = file["entry/data/data"]
        layout = h5py.VirtualLayout((n_images, *image.shape[1:]), dtype=image.dtype)
        for number in range(n_images):
            source = h5py.VirtualSource(names[number % len(names)], image.name, image.shape)
            layout[number] = source[0]
        del file["entry/data/data"]
        file["entry/data"].create_virtual_dataset("data", layout)
    return str(name)


def _write_nexus(case, name, counts) -> None:
    """The least of NXmx that dxtbx needs, uint16, one chunk: bitshuffle and lz4, gzip where the filter is missing."""
    with h5py.File(name, "w", libver="latest") as file:
        entry = _group(file, "entry", "NXentry")
        entry["definition"] = np.string_("NXmx")
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = np.string_("data")
        options = {"compression": "gzip", "compression_opts": 1}
        if h5py.h5z.filter_avail(BITSHUFFLE):
            options = {"compression": BITSHUFFLE, "compression_opts": (0, 2)}
        data.create_dataset("data", data=counts[None].astype(np.uint16), chunks=(1, *case.shape), **options)
        instrument = _group(entry, "instrument", "NXinstrument")
        instrument["name"] = np.string_("bench")
        _length(_group(instrument, "beam", "NXbeam"), "incident_wavelength", 1.0, "angstrom")
        sample = _group(entry, "sample", "NXsample")
        sample["name"], sample["depends_on"] = np.string_("bench"), np.string_(".")
        detector = _group(instrument, "detector", "NXdetector")
        detector["description"], detector["type"] = np.string_("bench"), np.string_("Pixel")
        detector["saturation_value"], detector["underload_value"] = np.int32(60000), np.int32(0)
        detector["count_time"], detector["sensor_material"] = 1.0, np.string_("Si")
        _length(detector, "sensor_thickness", case.sensor * 1e-3, "m")
        moves = _group(detector, "transformations", "NXtransformations")
        _axis(moves, "distance", case.distance * 1e-3, [0, 0, 1], ".")
        detector["depends_on"] = np.string_(f"{moves.name}/distance")
        _modules(case, detector, f"{moves.name}/distance")


def _modules(case, detector, depends_on) -> None:
    n_slow, n_fast = case.modules
    size = np.array(case.shape) // np.array(case.modules)
    for i in range(n_slow):
        for j in range(n_fast):
            module = _group(detector, f"module_{i * n_fast + j}", "NXdetector_module")
            first = np.array([i, j]) * size
            module["data_origin"], module["data_size"] = first, size
            x, y = (first[::-1] - np.array(case.shape[::-1]) / 2) * case.pixel * 1e-3
            # The plane of a module is turned by up to some degrees, so that each is met from another side
            turn = np.radians(3.0) * (np.array([i, j]) - (np.array(case.modules) - 1) / 2) / max(n_slow, 2)
            fast = np.array([-np.cos(turn[1]), 0, -np.sin(turn[1])])
            slow = np.array([0, -np.cos(turn[0]), -np.sin(turn[0])])
            slow -= fast * (fast @ slow)
            offset = _axis(module, "module_offset", 0.0, [1, 0, 0], depends_on)
            offset.attrs.update(offset=[-x, -y, 0.0], offset_units=np.string_("m"))
            for name, vector in (("fast", fast), ("slow", slow / np.linalg.norm(slow))):
                _axis(module, f"{name}_pixel_direction", case.pixel * 1e-3, vector, f"{module.name}/module_offset")


def _group(parent, name, nexus_class):
    group = parent.create_group(name)
    group.attrs["NX_class"] = np.string_(nexus_class)
    return group


def _length(group, name, value, units) -> None:
    group[name] = value
    group[name].attrs["units"] = np.string_(units)


def _axis(group, name, value, vector, depends_on):
    axis = group.create_dataset(name, data=np.array([value]))
    axis.attrs.update(
        transformation_type=np.string_("translation"), vector=np.asarray(vector, dtype=float), units=np.string_("m"),
        depends_on=np.string_(depends_on), offset=[0.0, 0.0, 0.0],
    )  # fmt: skip
    return axis


def write_stills(
    names: list[str], n_stills: int, folder: Path, planar: bool = False, cell=CELL, group=SPACE_GROUP, own: str = "",
    master: bool = False,
) -> str:  # fmt: skip
    """An .expt of stills in random orientations on links to the images, and its name.

    Args:
        names: Image files.
        n_stills: Stills; each has a link of its own to one of the files.
        folder: For the links and the .expt.
        planar: Give the detector no thickness, so that DIALS corrects for no parallax.
        cell: a, b, c, Å.
        group: Space group.
        own: What each still has of its own, "wavelength" or "detector" (its distance).
        master: Take the images from one file that holds them all, in place of links (NXmx only).
    """
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    first = ExperimentListFactory.from_filenames(names[:1])[0]
    detector = first.detector
    for panel in detector:
        panel.set_type("SENSOR_PAD")  # a photon counter, which the CBF's header does not say
    if planar:
        for panel in detector:
            panel.set_px_mm_strategy(type(DetectorFactory.simple(
                "PAD", 1.0, (0, 0), "+x", "-y", (1, 1), (1, 1), (0, 1))[0].get_px_mm_strategy())())  # fmt: skip
    imageset = ImageSetFactory.imageset_from_anyset(first.imageset)  # a CBF comes as a sequence of one image
    experiments = ExperimentList()
    for number in range(n_stills):
        link = folder / f"still_{number + 1:05d}{Path(names[0]).suffix}"
        if not (master or link.exists()):
            os.symlink(names[number % len(names)], link)
        axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        real_space = np.array(cell)[:, None] * axes * np.sign(np.linalg.det(axes))
        crystal = Crystal(*real_space.tolist(), space_group_symbol=group)
        models = {"imageset": imageset, "beam": first.beam, "detector": detector, "crystal": crystal}
        if own == "wavelength":
            models["beam"] = copy.deepcopy(first.beam)
            models["beam"].set_wavelength(first.beam.get_wavelength() * (1 + 1e-3 * number))
        elif own == "detector":
            models["detector"] = copy.deepcopy(detector)
            for panel in models["detector"]:
                origin = np.array(panel.get_origin()) + (0, 0, 0.05 * number)
                panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), origin)
        experiments.append(Experiment(**models, identifier=f"s{number}"))
    suffix = Path(names[0]).suffix
    places = [(str(folder / f"still_{number + 1:05d}{suffix}"), 0) for number in range(n_stills)]
    if master:
        many = write_master(names, n_stills, folder / f"master{suffix}")
        places = [(many, number) for number in range(n_stills)]
    return _with_own_images(experiments, folder, places)


def _with_own_images(experiments, folder, places) -> str:
    """Write the .expt with one imageset a still, at (file, number in it): dxtbx would open every file to make them."""
    content = experiments.to_dict()
    (template,) = content["imageset"][:1]
    content["imageset"] = []
    for number, (experiment, (name, index)) in enumerate(zip(content["experiment"], places)):
        own = {**template, "images": [name]} if "images" in template else {**template, "template": name}
        if "single_file_indices" in template:
            own["single_file_indices"] = [index]
        content["imageset"].append(own)
        experiment["imageset"] = number
    loaded = ExperimentListFactory.from_dict(content, check_format=False)
    name = str(folder / "stills.expt")
    loaded.as_file(name)
    return name
