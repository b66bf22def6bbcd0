"""Small stills written as mini CBF files when a test runs."""

from __future__ import annotations

import numpy as np
import pytest
from cctbx.uctbx import unit_cell
from dxtbx import flumpy
from dxtbx.format.FormatCBFMini import FormatCBFMini
from dxtbx.model import (
    BeamFactory,
    DetectorFactory,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    MosaicCrystalSauter2014,
    ScanFactory,
)

SHAPE = (96, 112)  # slow, fast


def small_detector(trusted_range=(-1, 1_000_000), sensor="PAD", shape=SHAPE, distance=60.0, pixel=0.4):
    """One flat panel, hit by the beam in its middle."""
    slow, fast = shape
    centre = (fast * pixel / 2, slow * pixel / 2)
    return DetectorFactory.simple(sensor, distance, centre, "+x", "-y", (pixel, pixel), (fast, slow), trusted_range)


def crystal_at(orientation, cell=(40, 50, 60, 90, 90, 90), group="P 21 21 21", half_mosaicity=0.1, domain_size=1000):
    """A mosaic crystal with U = ``orientation``."""
    b_matrix = np.array(unit_cell(cell).fractionalization_matrix()).reshape(3, 3).T
    a, b, c = np.linalg.inv(orientation @ b_matrix)
    crystal = MosaicCrystalSauter2014(a.tolist(), b.tolist(), c.tolist(), group)
    crystal.set_half_mosaicity_deg(half_mosaicity)
    crystal.set_domain_size_ang(domain_size)
    return crystal


def random_orientation(rng):
    """A rotation matrix, uniform over all orientations."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def write_still(path, data, detector=None, crystal=None):
    """Write ``data`` as a mini CBF and return the experiment that points at it."""
    detector = small_detector(shape=data.shape) if detector is None else detector
    beam = BeamFactory.simple(1.0)
    scan = ScanFactory.make_scan((1, 1), [0.5], (0, 0), {1: 0.0})
    values = flumpy.from_numpy(np.ascontiguousarray(data, dtype=np.int32))
    FormatCBFMini.as_file(detector, beam, GoniometerFactory.single_axis(), scan, values, path)
    imageset = FormatCBFMini.get_imageset([str(path)], as_imageset=True)
    return Experiment(beam=beam, detector=detector, crystal=crystal, imageset=imageset, identifier=path.stem)


@pytest.fixture
def write_stills(tmp_path):
    """write_stills(images, detector=None, crystals=None) -> ExperimentList of stills in files."""

    def write(images, detector=None, crystals=None):
        crystals = [None] * len(images) if crystals is None else crystals
        return ExperimentList([
            write_still(tmp_path / f"still_{i + 1:05d}.cbf", data, detector, crystal)
            for i, (data, crystal) in enumerate(zip(images, crystals))
        ])  # fmt: skip

    return write


@pytest.fixture
def make_still(rng):
    """make_still(cell, space_group, **mosaic model) -> an experiment with a crystal and without an image."""

    def make(cell, space_group, **mosaic):
        crystal = crystal_at(random_orientation(rng), cell, space_group, **mosaic)
        return Experiment(beam=BeamFactory.simple(1.0), detector=small_detector(), crystal=crystal)

    return make


@pytest.fixture
def make_detector():
    """make_detector(trusted_range) -> a flat panel that counts photons."""
    return small_detector
