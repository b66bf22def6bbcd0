"""Sections: names of planes, their geometry, and what is drawn."""

from __future__ import annotations

import json

import gemmi
import numpy as np
import pytest

from diffuse_dials.adapters.symmetry import fractionalization
from diffuse_dials.algorithms.export.pictures import Plane
from diffuse_dials.cli.export import run
from diffuse_dials.report import sections

TRICLINIC = (25.0, 28.0, 20.0, 80.0, 95.0, 108.0)


@pytest.mark.parametrize(
    "text, axis, value, name",
    [
        ("hk0", 2, 0, "hk0"), ("h0l", 1, 0, "h0l"), ("0kl", 0, 0, "0kl"), ("hk0.5", 2, 0.5, "hk0.5"),
        ("h-1/3l", 1, -1 / 3, "h-0.3333l"), ("12kl", 0, 12, "12kl"), ("h+1.5l", 1, 1.5, "h1.5l"),
    ],
)  # fmt: skip
def test_a_plane_is_named_as_crystallographers_do(text, axis, value, name):
    plane = Plane.from_text(text)
    assert (plane.axis, plane.value, plane.name) == (axis, pytest.approx(value), name)


@pytest.mark.parametrize("text", ["", "hkl", "h00", "khl", "hk", "hk1/0", "hkx", "h 0 l", "hk1e3"])
def test_what_is_no_plane_is_refused(text):
    with pytest.raises(ValueError, match="is no section"):
        Plane.from_text(text)


@pytest.mark.parametrize("axis, value", [(0, 0.0), (1, 0.5), (2, -2.0)])
def test_lengths_and_angles_in_a_section_of_a_triclinic_crystal_are_those_of_the_vectors(axis, value):
    """|s|² from gemmi's resolution is the distance of the plane squared plus x² + y²."""
    b_matrix = fractionalization(TRICLINIC)
    first, second = np.array([-3.0, 0.0, 1.0, 4.0]), np.array([-2.0, 0.0, 5.0])
    x, y = sections.plane_coordinates(b_matrix, axis, value, first, second)
    cell = gemmi.UnitCell(*TRICLINIC)
    spacing = (cell.a, cell.b, cell.c)[axis]  # planes of constant h are 1/a apart
    for i, u in enumerate(first):
        for j, v in enumerate(second):
            hkl = np.insert([u, v], axis, value)
            squared = np.sum((b_matrix @ hkl) ** 2)
            assert x[i, j] ** 2 + y[i, j] ** 2 + (value / spacing) ** 2 == pytest.approx(squared)
            if value % 1 == 0:
                assert squared == pytest.approx(cell.calculate_1_d2(hkl.astype(int).tolist()))
    # x runs along the first reciprocal axis, whatever the plane
    assert np.ptp(y, axis=0) == pytest.approx(0, abs=1e-12)


def test_limits_are_quantiles_of_what_was_measured():
    image = np.append(np.linspace(0, 100, 101), [np.nan, np.nan])
    assert sections.quantile_limits(image, (0.05, 0.9), signed=False) == pytest.approx((5, 90))
    assert sections.quantile_limits(image - 30, (0.0, 1.0), signed=True) == pytest.approx((-70, 70))
    assert sections.quantile_limits(np.full(3, np.nan), (0.0, 1.0), signed=False) == (-1, 1)


def test_a_section_shows_the_layer_of_voxels_that_holds_the_plane(make_map, monkeypatch):
    """The picture's own array against the map expanded by gemmi; hk1/3 is the layer n_l = 1 of ndiv = 3."""
    written = make_map("triclinic")
    drawn = []
    save = sections.save_figure

    def keep(figure, path, form):
        drawn.append(figure)
        save(figure, path, form)

    monkeypatch.setattr(sections, "save_figure", keep)
    run(["merged.refl", "format=png+svg", "planes=hk1/3,h0l", "exclude_lattice_points=False"])
    files = json.loads(open("diffuse.export.json").read())["files"]
    assert list(files) == ["map_hk0.3333.png", "map_h0l.png", "map_hk0.3333.svg", "map_h0l.svg"]
    assert files["map_hk0.3333.png"]["plane"] == "hk0.3333"
    assert open("map_hk0.3333.png", "rb").read(4) == b"\x89PNG" and "<svg" in open("map_h0l.svg").read(2000)
    mesh = drawn[0].axes[0].collections[0]
    image = mesh.get_array().reshape(mesh.get_coordinates().shape[0] - 1, -1)
    middle = np.array(image.shape) // 2
    expected = np.full(image.shape, np.nan)
    for n, row in written.expanded(written.columns["intensity.scale.variance"] >= 0).items():
        if n[2] == 1:
            expected[tuple(middle + n[:2])] = written.columns["intensity.scale.value"][row]
    np.testing.assert_allclose(image.filled(np.nan), expected, rtol=1e-6)
    corner = mesh.get_coordinates()[0, 0]  # of voxel n = -middle, at n - 1/2
    hkl = np.append((-middle - 0.5) / 3, 1 / 3)
    assert np.hypot(*corner) ** 2 + (1 / 3 / 20) ** 2 == pytest.approx(
        np.sum((fractionalization(written.record.unit_cell) @ hkl) ** 2), rel=1e-6
    )
