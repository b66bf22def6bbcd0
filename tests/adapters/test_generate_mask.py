"""Untrusted regions are those of dials.generate_mask, pixel by pixel."""

from __future__ import annotations

import pickle

import dials.util.masking
import numpy as np
import pytest
from dxtbx import flumpy
from dxtbx.imageset import ImageSet, ImageSetData
from dxtbx.model import BeamFactory, DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.phil import parse

from diffuse_dials.adapters.generate_mask import phil_scope, regions_mask

REGIONS = """
untrusted { circle = 60 40 12 }
untrusted { rectangle = 100 120 5 30 }
untrusted { polygon = 10 60 30 60 28 84 15 80 }
untrusted { pixel = 3 4 }
border = 2
resolution_range = 3 4
resolution_range = 6 6.5
ice_rings.filter = True
"""


class Reader:
    """What an ImageSet of one image needs and no mask reads."""

    def paths(self):
        return ["still"]

    def identifiers(self):
        return ["still"]

    def __len__(self):
        return 1


@pytest.fixture
def beam():
    return BeamFactory.simple(1.0)


@pytest.fixture
def detector():
    return DetectorFactory.simple("PAD", 60.0, (22.0, 18.0), "+x", "-y", (0.4, 0.4), (120, 96), (-1, 1e6))


def ours(text):
    return phil_scope.fetch(parse(text)).extract()


def test_regions_are_those_of_dials(detector, beam):
    """DIALS's own mask for its own parameters, from an ImageSet with the same models."""
    text = REGIONS + "d_min = 1.2\nd_max = 20\n"
    params = dials.util.masking.phil_scope.fetch(parse(text)).extract()
    imageset = ImageSet(ImageSetData(Reader(), None))
    imageset.set_detector(detector)
    imageset.set_beam(beam)
    expected = dials.util.masking.generate_mask(imageset, params)
    found = regions_mask(detector, beam, ours(REGIONS), d_min=1.2, d_max=20)
    assert 0 < np.count_nonzero(found[0]) < found[0].size
    np.testing.assert_array_equal(found[0], flumpy.to_numpy(expected[0]))


def test_without_regions_nothing_is_masked(detector, beam):
    assert regions_mask(detector, beam, phil_scope.extract())[0].all()


def test_the_parameters_are_not_changed(detector, beam):
    params = ours("untrusted { circle = 60 40 12 }")
    regions_mask(detector, beam, params)
    assert params.untrusted[0].panel is None


def test_a_pixel_of_the_corner_is_masked_beyond_d_min(detector, beam):
    """1/d at the corner is 2 sin(θ)/λ of a ray to it."""
    x, y = 22.0, 18.0
    theta = 0.5 * np.arctan(np.hypot(x, y) / 60.0)
    d_corner = 1 / (2 * np.sin(theta))
    assert not regions_mask(detector, beam, phil_scope.extract(), d_min=d_corner * 1.05)[0][0, 0]
    assert regions_mask(detector, beam, phil_scope.extract(), d_min=d_corner * 0.95)[0][0, 0]


@pytest.mark.parametrize("text, message", [
    ("untrusted { panel = 7 }", "has 1 panel"),
    ("untrusted { pixel = 200 3 }", "outside panel 0"),
    ("untrusted { polygon = 1 2 3 4 5 6 7 8 9 }", "pairs"),
    ("untrusted { polygon = 1 1 5 1 3 9 }", "four or more"),
    ("untrusted { circle = 60 40 -5 }", "radius must be above 0"),
    ("untrusted { circle = 500 40 12 }", "holds no pixel of panel 0"),
    ("untrusted { rectangle = 0 500 0 20 }", "does not fit panel 0"),
    ("untrusted { rectangle = -3 10 0 20 }", "does not fit panel 0"),
    ("untrusted { rectangle = 10 10 0 20 }", "does not fit panel 0"),
    ("border = 60", "border=60 leaves nothing"),
    ("border = -1", "is negative"),
    ("resolution_range = 3 3", "is no range"),
])  # fmt: skip
def test_regions_that_do_not_fit_are_refused(detector, beam, text, message):
    with pytest.raises(ValueError, match=message):
        regions_mask(detector, beam, ours(text))


def test_limits_in_the_wrong_order_are_refused(detector, beam):
    with pytest.raises(ValueError, match="not below"):
        regions_mask(detector, beam, phil_scope.extract(), d_min=5, d_max=2)


def test_snase_mask_of_its_pack_is_reproduced(shared_data):
    """pixels.mask that dials.generate_mask wrote from mask.phil."""
    folder = shared_data("snase")
    experiment = ExperimentListFactory.from_json_file(str(folder / "integrated.expt"), check_format=False)[0]
    text = (folder / "mask.phil").read_text()
    params = phil_scope.fetch(parse(text[: text.index("output")])).extract()
    with open(folder / "pixels.mask", "rb") as handle:
        expected = flumpy.to_numpy(pickle.load(handle, encoding="bytes")[0])
    np.testing.assert_array_equal(regions_mask(experiment.detector, experiment.beam, params)[0], expected)
