"""Box-integrated Bragg intensities of maps whose peaks are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.adapters.symmetry import fractionalization, map_to_asu, parse_space_group
from diffuse_dials.algorithms.absolute.bragg import box_integrated, box_offsets
from diffuse_dials.models.grid import GridRecord, holds_lattice_point

CELL = (30.0, 30.0, 20.0, 90.0, 90.0, 90.0)


def record(ndiv=(3, 3, 3), symbol="P 43 21 2"):
    return GridRecord(CELL, "given", ndiv, symbol, "", None, None, "own", 0.0, False, (), 0.005)


def columns_of(index, ndiv, squared, diffuse, group):
    """Columns of merged.refl: the peaks lie within their voxels, all pixels of which the Bragg mask removed."""
    index = np.unique(map_to_asu(index[np.any(index != 0, axis=1)], group), axis=0)
    point = holds_lattice_point(index, ndiv)
    level = diffuse(index / np.asarray(ndiv))
    everything = level + np.where(point, np.prod(ndiv) * squared(index / np.asarray(ndiv)), 0)
    return {
        "miller_index": index, "lattice_point": point, "intensity.all.value": everything,
        "intensity.all.variance": np.where(point, 4.0, 1.0), "multiplicity.all": np.full(len(index), 7),
        "intensity.scale.value": np.where(point, 0.0, level), "intensity.scale.variance": np.where(point, -1.0, 1.0),
    }  # fmt: skip


def lattice(ndiv, reach=4):
    return np.stack(np.meshgrid(*[np.arange(-reach * n, reach * n + 1) for n in ndiv], indexing="ij"), -1).reshape(
        -1, 3
    )


def squared(hkl):
    """Any function with the symmetry of 4/mmm."""
    h, k, l = np.sort(np.abs(hkl[:, :2]), axis=1).T.tolist() + [np.abs(hkl[:, 2])]
    return 100.0 + 10 * np.asarray(h) + np.asarray(k) ** 2 + 3 * np.asarray(l)


@pytest.mark.parametrize("ndiv", [(1, 1, 1), (3, 3, 3), (2, 2, 2), (4, 4, 3), (5, 5, 1)])
def test_a_box_is_one_cell_of_reciprocal_space(ndiv):
    """Its voxels' weights add up to 1, the lattice point's own comes first, boxes of neighbours do not overlap."""
    offsets, weights = box_offsets(ndiv)
    assert weights.sum() == pytest.approx(1)
    assert offsets[0].tolist() == [0, 0, 0]
    residues = {}
    for offset, weight in zip(offsets, weights):
        key = tuple(offset % np.asarray(ndiv))
        residues[key] = residues.get(key, 0) + weight
    assert len(residues) == np.prod(ndiv)
    assert list(residues.values()) == pytest.approx([1 / np.prod(ndiv)] * len(residues))


@pytest.mark.parametrize("ndiv", [(3, 3, 3), (2, 2, 2), (3, 3, 1)])
@pytest.mark.parametrize("background", [0.0, 1e4])
def test_peaks_come_out_whatever_lies_under_them(ndiv, background):
    """Constant diffuse scattering and any isotropic background cancel: exact."""
    group = parse_space_group("P43212")
    columns = columns_of(lattice(ndiv), ndiv, squared, lambda hkl: np.full(len(hkl), 50.0 + background), group)
    found = box_integrated(columns, record(ndiv), group)
    assert len(found) > 30
    assert found.intensity == pytest.approx(squared(found.hkl))
    assert found.s == pytest.approx(np.linalg.norm(found.hkl @ fractionalization(CELL).T, axis=1))
    weight = 1 / np.prod(ndiv)
    assert found.variance == pytest.approx(4 * weight**2)
    assert set(found.multiplicity) == {7}


def test_a_peak_under_partly_masked_voxels_is_found_with_them():
    """A mask wider than the voxel leaves part of the peak in the next one: I_all - I_D there counts too."""
    ndiv, group = (3, 3, 3), parse_space_group("P43212")
    columns = columns_of(lattice(ndiv), ndiv, squared, lambda hkl: np.full(len(hkl), 50.0), group)
    beside = np.all(columns["miller_index"] % 3 == [1, 0, 0], axis=1)
    columns["intensity.all.value"][beside] += 27.0
    found = box_integrated(columns, record(ndiv), group)
    more = found.intensity - squared(found.hkl)
    # (±1, 0, 0) and by symmetry (0, ±1, 0) of the asymmetric unit's voxels: none to four of them per box
    assert np.all(np.isclose(more, np.round(more)))
    assert 0 < more.max() <= 4


def test_slopes_of_the_diffuse_scattering_cancel():
    """A plane through the box has the mean of its middle."""
    ndiv, group = (3, 3, 3), parse_space_group("P1")
    columns = columns_of(lattice(ndiv, 3), ndiv, squared, lambda hkl: 1000.0 + hkl @ [3.0, 5.0, 7.0], group)
    # Friedel's law takes (h, k, l) to (-h, -k, -l): boxes near the origin see a fold, others a plane
    found = box_integrated(columns, record(ndiv, "P 1"), group)
    far = np.all(np.abs(found.hkl[:, 2:]) >= 1, axis=1)
    assert found.intensity[far] == pytest.approx(squared(found.hkl[far]))


def test_boxes_that_lack_too_much_and_absences_are_left_out():
    """P43212: (h00) only for even h, (00l) only for l = 4n; a box with fewer than 80 % of its voxels is none."""
    ndiv, group = (3, 3, 3), parse_space_group("P43212")
    columns = columns_of(lattice(ndiv), ndiv, squared, lambda hkl: np.full(len(hkl), 50.0), group)
    found = {tuple(h) for h in box_integrated(columns, record(), group).hkl.tolist()}
    assert (2, 0, 0) in found and (3, 0, 0) not in found
    assert not any(h == k == 0 and l % 4 for h, k, l in found)
    near = np.abs(columns["miller_index"] - [6, 3, 3]).max(axis=1)
    keep = (near == 0) | (near > 1) | (np.arange(len(near)) % 2 == 0)
    less = {name: values[keep] for name, values in columns.items()}
    assert (2, 1, 1) in found
    assert (2, 1, 1) not in {tuple(h) for h in box_integrated(less, record(), group).hkl.tolist()}


def test_without_bragg_pixels_or_boxes_there_is_nothing():
    ndiv, group = (3, 3, 3), parse_space_group("P43212")
    columns = columns_of(lattice(ndiv), ndiv, squared, lambda hkl: np.full(len(hkl), 50.0), group)
    assert box_integrated({n: v for n, v in columns.items() if n != "intensity.all.value"}, record(), group) is None
    only = columns["lattice_point"]
    assert box_integrated({name: values[only] for name, values in columns.items()}, record(), group) is None
