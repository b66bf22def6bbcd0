from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from diffuse_dials.algorithms.merging import merge
from diffuse_dials.algorithms.scaling.residuals import Grouping, Misfits
from diffuse_dials.algorithms.scaling.trends import PanelPlane, TrendAxes
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.scaled import ScaledRows

N_STILLS, N_VOXELS, N_PANELS = 60, 4000, 4
EDGES = np.array([0.0, 10.0, 20.0])
RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 1", "P -1", 3.0, None, "own", 0.0, False, (), 0.005
)
PLANE = PanelPlane(
    np.array([[-10.0, -10], [0, -10], [-10, 0], [0, 0]]), np.tile([0.1, 0], (4, 1)), np.tile([0, 0.1], (4, 1)),
    np.full((4, 2), 100.0),
)  # fmt: skip


@pytest.fixture
def rows(rng):
    """Each voxel on twenty stills, anywhere on four panels of 100 x 100 pixels; detector noise of factor 0.4."""
    multiplicity, factor = 20, 0.4
    voxel = np.repeat(np.arange(N_VOXELS), multiplicity)
    still = (np.tile(np.arange(multiplicity), N_VOXELS) * 3 + 7 * voxel) % N_STILLS
    scale = np.linspace(0.4, 1.6, N_STILLS)[still]
    response = rng.uniform(1, 4, len(voxel))
    index = np.column_stack([voxel + 1, 0 * voxel, 0 * voxel]).astype(np.int32)
    counts = factor * rng.poisson(scale * response / factor)
    panel = rng.integers(0, N_PANELS, len(voxel))
    return ScaledRows(
        still, voxel, index, panel, np.zeros(len(voxel), dtype=bool), counts, counts, factor * counts, response,
        np.ones(len(voxel), dtype=int), scale, np.ones(len(voxel)), scale * response, np.zeros(len(voxel)),
        rng.uniform(0, 100, (len(voxel), 2)),
    )  # fmt: skip


def misfits_of(rows, groupings):
    index = np.unique(rows.index, axis=0)
    merged = merge([rows], index, RECORD, np.zeros((1, N_STILLS), dtype=bool))
    misfits = Misfits(merged, index, groupings)
    for block in range(3):
        misfits.add(rows.select(rows.still % 3 == block))
    return misfits


def test_chi_square_is_one_where_the_variances_are_right(rows):
    """By still and overall, a tenth of the sums without a photon and noise of factor 0.4 among them."""
    groupings = {
        "all": Grouping(lambda rows, s: 0 * rows.still, 1),
        "still": Grouping(lambda rows, s: rows.still, N_STILLS),
    }
    misfits = misfits_of(rows, groupings)
    (overall,) = misfits.of("all").chi_square
    assert overall == pytest.approx(1, abs=4 * np.sqrt(2 / len(rows)) * 2)
    assert misfits.of("still").chi_square == pytest.approx(1, abs=5 * np.sqrt(3 * N_STILLS / len(rows)))


def test_a_variance_that_is_wrong_shows_in_chi_square(rows):
    """Twice the true variance: χ² = ½."""
    groupings = {"all": Grouping(lambda rows, s: 0 * rows.still, 1)}
    misfits = misfits_of(replace(rows, variance=2 * rows.variance), groupings)
    assert misfits.of("all").chi_square == pytest.approx(0.5, abs=0.02)


def counted(rows, rng, photons):
    """The rows with Poisson counts of so many photons times scale and response."""
    expected = photons * rows.factor * rows.response
    counts = rng.poisson(expected).astype(float)
    return replace(rows, counts=counts, signal=counts, variance=counts, model_variance=expected)


def test_the_r_factor_of_counts_is_what_noise_alone_makes_of_it(rows, rng):
    """Some hundred photons a sum: the mean deviation of a Poisson variable is that of a Gaussian to a per cent."""
    groupings = {"all": Grouping(lambda rows, s: 0 * rows.still, 1)}
    (r,), (noise,) = misfits_of(counted(rows, rng, 100.0), groupings).r_factors("all")
    assert r == pytest.approx(noise, rel=0.01)
    assert noise == pytest.approx(np.sqrt(2 / np.pi / (100 * 2.5)), rel=0.15)


def test_an_error_of_the_scales_raises_the_r_factor_above_the_noise(rows, rng):
    """5 % rms on each still: deviations add in quadrature."""
    groupings = {"all": Grouping(lambda rows, s: 0 * rows.still, 1)}
    wrong = counted(rows, rng, 100.0)
    factor = (1 + 0.05 * rng.standard_normal(N_STILLS))[rows.still]
    wrong = replace(wrong, factor=wrong.factor * factor)
    (r,), (noise,) = misfits_of(wrong, groupings).r_factors("all")
    assert r == pytest.approx(np.sqrt(noise**2 + 2 / np.pi * 0.05**2), rel=0.1)


def axes(positions=True):
    scale = np.linspace(0.4, 1.6, N_STILLS)
    return TrendAxes(scale, np.arange(N_STILLS, dtype=float), "order", PLANE, positions)


def trends_of(rows):
    misfits = misfits_of(rows, axes().groupings(EDGES))
    return {trend.name: trend for trend in axes().trends(misfits, EDGES)}


def test_trends_are_flat_where_nothing_is_missing(rows):
    """No group stands out by more than 5 of its standard uncertainties."""
    trends = trends_of(rows)
    assert set(trends) == {"panel", "detector", "s", "order", "scale", "noise"}
    for trend in trends.values():
        if trend.name != "noise":
            assert abs(trend.worst[1]) < 5, trend.name
        assert trend.rms < 0.01


def test_a_panel_that_counts_five_percent_more_is_found(rows, rng):
    """The excess of each panel is its factor over their mean, to its standard uncertainty."""
    extra = rng.poisson(0.05 * rows.counts * (rows.panel == 2))
    more = replace(rows, counts=rows.counts + extra, signal=rows.signal + extra)
    trend = trends_of(more)["panel"]
    expected = np.array([1, 1, 1.05, 1]) / 1.0125 - 1
    assert trend.misfit.excess[0] == pytest.approx(expected, abs=4 * trend.misfit.esd.max())
    assert trend.worst[1] > 5 and trend.to_dict()["rms_excess"] == pytest.approx(0.0214, abs=0.006)


def test_sums_with_a_voxel_to_themselves_say_nothing(rows):
    """The map follows them. With 4000 such, in places of their own, all is as without them."""
    groupings = {**axes().groupings(EDGES), "all": Grouping(lambda rows, s: 0 * rows.still, 1)}
    lonely = rows.select(np.arange(0, len(rows), 20))
    lonely = replace(lonely, voxel=lonely.voxel + N_VOXELS, index=lonely.index + np.int32([N_VOXELS, 0, 0]))
    for still in range(N_STILLS):  # places of the detector that nothing else fell on
        lonely.position[lonely.still == still] = -50 if still % 2 else 150
    joined = ScaledRows(*(np.concatenate([getattr(part, f.name) for part in (rows, lonely)]) for f in fields(rows)))
    plane = replace(PLANE, origin=np.array([[-20.0, -20], [20, -20], [-20, 20], [20, 20]]))  # room beside the panels
    found = {}
    for name, some in (("without", rows), ("with", joined)):
        place = replace(axes(), plane=plane).groupings(EDGES)["trend detector"]
        groups = {**groupings, "trend detector": Grouping(place.number, place.n_groups)}
        misfits = misfits_of(some, groups)
        trends = replace(axes(), plane=plane).trends(misfits, EDGES)
        found[name] = misfits.of("all"), *misfits.r_factors("all"), *[trend.rms for trend in trends]
    (one, *others), (two, *same) = found["without"], found["with"]
    assert one.n_rows == two.n_rows and one.chi_square == pytest.approx(two.chi_square, rel=1e-9)
    assert np.hstack(others) == pytest.approx(np.hstack(same), rel=1e-9)


def test_a_shadow_on_the_detector_is_found_where_it_is(rows, rng):
    """A tenth of the light lost below x = -5, y = -5 mm."""
    x_y = PLANE.x_y(rows.panel, rows.position)
    keep = np.where(np.all(x_y < -5, axis=1), 0.9, 1.0)
    lost = rng.binomial(np.rint(rows.counts / 0.4).astype(int), keep) * 0.4
    trend = trends_of(replace(rows, counts=lost, signal=lost, variance=0.4 * lost))["detector"]
    shadow = (trend.x[None, :] < -5) & (trend.y[:, None] < -5)
    assert trend.misfit.excess[shadow].mean() == pytest.approx(-0.1, abs=0.015)
    assert trend.misfit.excess[~shadow].mean() == pytest.approx(0, abs=0.01)


def test_the_detector_is_left_out_where_positions_are_unknown(rows):
    groupings = axes(positions=False).groupings(EDGES)
    misfits = misfits_of(replace(rows, position=None), groupings)
    assert "detector" not in {trend.name for trend in axes(positions=False).trends(misfits, EDGES)}


def test_pixels_lie_where_dxtbx_has_them(rng):
    """Laboratory x and y of dxtbx for a tilted panel without parallax, 1e-9 mm."""
    from dxtbx.model import DetectorFactory

    detector = DetectorFactory.simple("PAD", 80.0, (12.0, 10.0), "+x", "-y", (0.1, 0.2), (100, 90))
    pixels = rng.uniform(0, 90, (20, 2))
    expected = [detector[0].get_pixel_lab_coord(tuple(pixel))[:2] for pixel in pixels]
    plane = PanelPlane.of(detector)
    assert plane.x_y(np.zeros(20, dtype=int), pixels) == pytest.approx(np.array(expected), abs=1e-9)
    low, high = plane.limits()
    assert high - low == pytest.approx([10.0, 18.0])
