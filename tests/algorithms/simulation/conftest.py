"""A small crystal on a small detector: 20 residues and their waters, one Pilatus module."""

from __future__ import annotations

import pytest

from diffuse_dials.algorithms.simulation.detector import build_camera
from diffuse_dials.algorithms.simulation.model import prepare_model
from diffuse_dials.algorithms.simulation.stills import build_scene
from diffuse_dials.cli.simulate import phil_scope

SMALL = (
    "generate.sequence=ACDEFGHIKLMNPQRSTVWY generate.unit_cell=26,27,28,90,90,90 generate.space_group=P212121 "
    "detector.modules=1,1 detector.distance=60 detector.n_hot=3 detector.n_dead=2 disorder.correlation_length=4 "
    "bragg.domain_size=400 truth.d_min=2"
)


def small_parameters(*changes):
    """Parameters of diffuse.simulate for the small crystal."""
    interpreter = phil_scope.command_line_argument_interpreter()
    return phil_scope.fetch(sources=[interpreter.process(text) for text in (*SMALL.split(), *changes)]).extract()


@pytest.fixture(scope="session")
def parameters():
    """Makes parameters of the small crystal; takes ``name=value`` texts."""
    return small_parameters


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """The small crystal's atoms."""
    return prepare_model(small_parameters(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def scene(small_model):
    """What its stills share."""
    params = small_parameters()
    return build_scene(params, small_model, build_camera(params, params.seed))
