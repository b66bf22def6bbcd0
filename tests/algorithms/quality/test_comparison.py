from __future__ import annotations

import numpy as np
import pytest
from libtbx.phil import parse

from diffuse_dials.algorithms.quality.comparison import compare_maps, phil_scope
from diffuse_dials.algorithms.scaling.agreement import compare_scales
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors, unique_voxels
from diffuse_dials.io.tables import Table
from diffuse_dials.models.grid import GridRecord

RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 43 21 2", "P 4/m m m", 2.5, None, "own", 0.0, False,
    (), 0.005,
)  # fmt: skip


@pytest.fixture
def pair(rng):
    """A truth and its map: counts of Poisson statistics, 200 photons a voxel, on the truth's scale."""
    index = unique_voxels(RECORD, 2.5)
    s = np.linalg.norm(reciprocal_vectors(index, RECORD), axis=1)
    truth = 1e4 * np.exp(-5 * s**2) * (1 + 0.2 * np.sin(7.0 * np.arange(len(index))))
    response = 200 / 1e4 / np.exp(-5 * s**2)
    counts = rng.poisson(truth * response)
    table = {
        "miller_index": index, "intensity.absolute.value": counts / response,
        "intensity.absolute.variance": np.maximum(counts, 1) / response**2,
        "intensity.scale.value": 3 * counts / response, "intensity.scale.variance": 9 * counts / response**2,
    }  # fmt: skip
    order = rng.permutation(len(index))
    columns = {"miller_index": index[order], "intensity.absolute.value": truth[order]}
    return Table(table, path="map.refl"), Table(columns, path="truth.refl")


def compare(table, truth, options=""):
    return compare_maps(table, truth, RECORD, phil_scope.fetch(parse(options)).extract())


def test_a_map_with_counting_noise_agrees_with_its_truth(pair):
    """Slope 1, χ² 1, and the correlations that signal and noise of the simulation imply."""
    found = compare(*pair)
    assert found.column == ("absolute", "absolute") and found.scale == 1
    assert not np.any(np.all(found.index % 3 == 0, axis=1))
    n = found.overall.n_voxels
    assert n == len(pair[0]) - np.all(pair[0]["miller_index"] % 3 == 0, axis=1).sum()
    for line in (*found.shells, found.overall):
        # the anisotropic part has 0.2²/2 of the mean squared, the noise 1/200
        assert line.cc_anisotropic == pytest.approx(np.sqrt(0.02 / 0.025), abs=0.02)
        assert line.slope == pytest.approx(1, abs=0.005) and line.mean_ratio == pytest.approx(1, abs=0.005)
        assert line.slope_anisotropic == pytest.approx(1, abs=0.03)
        assert line.chi_square == pytest.approx(1, abs=0.08) and line.n_chi_square == line.n_voxels
    assert found.overall.cc > found.overall.cc_anisotropic
    assert sum(line.n_voxels for line in found.shells) == n


def test_a_voxel_that_hardly_any_pixel_saw_weighs_little(pair, rng):
    """Tenfold noise in every tenth voxel, with its uncertainty: the weighted correlation stays, the plain one falls."""
    table, truth = pair
    before = compare(table, truth).overall
    noise = 10 * np.sqrt(table["intensity.absolute.variance"]) * (rng.random(len(table)) < 0.1)
    value = table["intensity.absolute.value"] + noise * rng.standard_normal(len(table))
    variance = table["intensity.absolute.variance"] + noise**2
    table.columns.update({"intensity.absolute.value": value, "intensity.absolute.variance": variance})
    after = compare(table, truth).overall
    assert after.cc_anisotropic < before.cc_anisotropic - 0.3
    assert after.cc_weighted == pytest.approx(before.cc_weighted, abs=0.02)


def test_a_relative_map_is_put_on_the_scale_of_the_truth_first(pair):
    table, truth = pair
    del table.columns["intensity.absolute.value"]
    found = compare(table, truth)
    assert found.column == ("scale", "absolute") and found.scale == pytest.approx(3, rel=0.002)
    assert found.overall.slope == pytest.approx(1, abs=1e-12) and found.overall.chi_square == pytest.approx(1, abs=0.05)
    fixed = compare(table, truth, "compare.free_scale=False")
    assert fixed.scale == 1 and fixed.overall.slope == pytest.approx(3, rel=0.002)


def test_an_error_of_scale_shows_in_the_slope(pair):
    table, truth = pair
    table.columns["intensity.absolute.value"] = 1.1 * table["intensity.absolute.value"]
    found = compare(table, truth)
    assert found.overall.slope == pytest.approx(1.1, abs=0.005) and found.overall.chi_square > 2


def test_noise_about_the_right_fall_off_has_no_anisotropic_correlation(pair, rng):
    table, truth = pair
    s = np.linalg.norm(reciprocal_vectors(table["miller_index"], RECORD), axis=1)
    table.columns["intensity.absolute.value"] = 1e4 * np.exp(-5 * s**2) * (1 + 0.2 * rng.standard_normal(len(s)))
    found = compare(table, truth)
    assert found.overall.cc > 0.5
    assert abs(found.overall.cc_anisotropic) < 4 / np.sqrt(found.overall.n_voxels) + 0.01


def test_voxels_without_a_measurement_do_not_count(pair):
    table, truth = pair
    value, variance = (table[f"intensity.absolute.{name}"].copy() for name in ("value", "variance"))
    value[::2], variance[::2] = 0, -1
    table.columns.update({"intensity.absolute.value": value, "intensity.absolute.variance": variance})
    found = compare(table, truth)
    assert found.overall.n_voxels < 0.51 * len(table) and found.overall.slope == pytest.approx(1, abs=0.005)


def test_limits_of_resolution_are_kept(pair):
    found = compare(*pair, "d_min=3\nd_max=8")
    s = np.linalg.norm(reciprocal_vectors(found.index, RECORD), axis=1)
    assert s.max() <= 1 / 3 and s.min() >= 1 / 8


def test_maps_that_do_not_belong_together_are_refused(pair):
    table, truth = pair
    elsewhere = Table({**truth.columns, "miller_index": truth["miller_index"] + 500}, path="truth.refl")
    with pytest.raises(ValueError, match="map.refl and truth.refl have no voxel in common"):
        compare(table, elsewhere)
    with pytest.raises(ValueError, match="truth.refl has no column intensity.absolute.value"):
        compare(table, Table({"miller_index": truth["miller_index"]}, path="truth.refl"))
    double = {name: np.concatenate([values, values[:1]]) for name, values in truth.columns.items()}
    with pytest.raises(ValueError, match="more than once"):
        compare(table, Table(double, path="truth.refl"))
    with pytest.raises(ValueError, match="No voxel of map.refl is left"):
        compare(table, truth, "d_max=2")


def write(path, text):
    path.write_text(text)
    return path


def test_scales_are_compared_by_image_up_to_a_common_factor(tmp_path):
    truth = write(tmp_path / "truth.csv", "image,scale\n/x/a.cbf,1\n/x/b.cbf,2\n/x/c.cbf,3\n/x/d.cbf,4\n")
    lines = ("identifier,image,index,scale", "1,/y/c.cbf,0,6.6", "2,/y/a.cbf,0,2", "3,/y/b.cbf,0,4", "4,/y/d.cbf,0,")
    scaled = write(tmp_path / "stills.csv", "\n".join(lines))
    found = compare_scales(scaled, truth)
    ratio = np.array([2, 2, 2.2])
    assert (found.n_stills, found.n_missing, found.worst_still) == (3, 1, "c.cbf")
    assert found.factor == pytest.approx(ratio.mean())
    assert found.rms_relative_error == pytest.approx(ratio.std() / ratio.mean())


@pytest.mark.parametrize(
    "text, words",
    [
        ("image,b\na.cbf,1\n", "no column scale"),
        ("image,scale\nz.cbf,1\n", "no image with a scale in common"),
        ("image,scale\na.cbf,1\na.cbf,2\n", "more than once"),
        ("image,scale\na.cbf,big\n", "no number"),
    ],
)
def test_tables_of_scales_that_cannot_be_compared_are_refused(tmp_path, text, words):
    scaled = write(tmp_path / "stills.csv", "image,scale\na.cbf,1\n")
    with pytest.raises(ValueError, match=words):
        compare_scales(scaled, write(tmp_path / "truth.csv", text))
