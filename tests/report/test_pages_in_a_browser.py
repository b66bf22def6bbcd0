"""The page in Chromium without a network: what it draws, and what slider, button and pointer do. Skips without one."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.report.graphs import Bars, ColourMap, Graph, Series
from diffuse_dials.report.html import Section, write_chapters
from diffuse_dials.report.plots import VoxelFrame
from diffuse_dials.report.slices import Quantity, Slices

# P-1 with an oblique cell: rows of voxels are shifted against one another in every section
B = np.array([[0.050, -0.013, 0.009], [0.0, 0.061, -0.004], [0.0, 0.0, 0.043]])
FRAME = VoxelFrame((2, 2, 3), B, np.array([np.eye(3), -np.eye(3)], dtype=int))
WHOLE = 0.2  # 1/Å, of the map


@pytest.fixture
def drawn(rng):
    """A map with holes, whose intensity holds an isotropic part."""
    n = np.stack(np.meshgrid(*(np.arange(-20, 21),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    half = n[np.array([tuple(v) > (0, 0, 0) for v in n])]
    s = np.linalg.norm(half / np.array(FRAME.ndiv) @ B.T, axis=1)
    inside = (s < WHOLE) & (rng.random(len(s)) < 0.9)
    index, s = half[inside], s[inside]
    isotropic = 100 * np.exp(-20 * s**2)
    stills = rng.integers(0, 30, len(s))
    quantities = (
        Quantity.intensity("intensity", "e²", isotropic + rng.normal(0, 5, len(s)), s, isotropic),
        Quantity("stills per voxel", "stills", stills, (0.0, 30.0)),
    )
    return Slices("Map", index, FRAME, quantities)


@pytest.fixture
def browser(drawn, tmp_path, chromium):
    graph = Graph("Curve", "x", "y", (Series(np.arange(3), np.array([1.0, np.nan, 2.0])),))
    bars = Bars.of("Bars", "x", "n", np.array([1, 1, 2, 5]))
    colours = ColourMap("Colours", "x", "y", "z", np.arange(2), np.arange(2), np.eye(2))
    chapters = {"One": [Section("Graphs", figure=(graph, bars, colours))], "Map": [Section("Cut", figure=drawn)]}
    write_chapters(tmp_path / "page.html", "t", chapters)
    chromium.open(tmp_path / "page.html")
    yield chromium
    assert not chromium.errors
    assert all(request.startswith(("file:", "blob:", "data:")) for request in chromium.requests)


def shown(browser):
    """x, y and values that Plotly draws."""
    trace = browser.value("(({x, y, z}) => ({x, y, z}))(document.querySelector('[data-role=plot]').data[0])")
    values = np.array([[np.nan if v is None else v for v in row] for row in trace["z"]])
    return np.array(trace["x"]), np.array(trace["y"]), values


def choose(browser, role, value, event):
    browser.value(
        f"(() => {{ const e = document.querySelector('[data-role={role}]'); e.value = {value}; "
        f"e.dispatchEvent(new Event('{event}')); }})()"
    )


def assert_section(browser, expected, tolerance):
    for found, wanted in zip(shown(browser)[:2], expected[:2]):
        assert found == pytest.approx(wanted, abs=1e-9)
    found, wanted = shown(browser)[2], expected[2]
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.nanmax(np.abs(found - wanted)) <= tolerance


def test_everything_is_drawn(browser):
    assert browser.value("document.querySelectorAll('div.graph .main-svg').length") >= 3
    assert browser.value("document.querySelectorAll('[data-role=plot] .hm image').length") == 1


def test_slider_and_button_show_the_sections_of_the_map(browser, drawn):
    """Each compared with the section that Python cuts, to the step of a byte; a thousandth at either end is cut off."""
    quantity = drawn.quantities[0]
    low, high = np.quantile(quantity.values, (0.001, 0.999))
    clipped = Quantity(
        "", "", np.clip(quantity.values, low, high), quantity.limits, True, quantity.isotropic, quantity.whole_limits
    )
    exact = Slices("", drawn.index, drawn.frame, (clipped, drawn.quantities[1]))
    step = (high - low) / 254
    for axis, plane in ((2, "hk0"), (1, "h0l"), (0, "0kl")):
        choose(browser, "plane", axis, "change")
        for layer in (0, 5, -3):
            choose(browser, "layer", layer, "input")
            assert browser.value("document.querySelector('[data-role=index]').textContent").startswith("hkl"[axis])
            assert_section(browser, exact.section(plane, layer), step)
    browser.value("document.querySelector('[data-role=isotropic]').click()")
    assert_section(browser, exact.section("0kl", -3, whole=False), step)
    choose(browser, "quantity", 1, "change")
    assert_section(browser, exact.section("0kl", -3, 1), 1e-9)


def test_the_pointer_names_the_voxel(browser, drawn):
    """A place of the picture, its h, k, l by B, and its intensity."""
    choose(browser, "quantity", 1, "change")
    place = browser.value(
        "(() => { const p = document.querySelector('[data-role=plot]'), r = p.getBoundingClientRect(), "
        "l = p._fullLayout; p.scrollIntoView(); const q = p.getBoundingClientRect(); return [q.left + l.margin.l + 0, "
        "q.top, l.xaxis._offset + l.xaxis.l2p(0.1), l.yaxis._offset + l.yaxis.l2p(0.05), q.left]; })()"
    )
    browser.point_at(place[4] + place[2], place[1] + place[3])
    text = browser.value(
        "new Promise(done => setTimeout(() => done(document.querySelector('[data-role=pointed]').textContent), 500))"
    )
    h, k, l = (float(x) for x in text.partition("=")[2].partition(";")[0].split(","))
    x, y = B[:2] @ (h, k, l)
    assert l == 0 and abs(y - 0.05) <= B[1, 1] / 4 + 1e-6 and abs(x - 0.1) <= B[0, 0] / 2
    n = np.rint(np.array([h, k, l]) * FRAME.ndiv).astype(int)
    row = np.flatnonzero((drawn.index == n).all(axis=1) | (drawn.index == -n).all(axis=1))
    value = text.rpartition(";")[2].strip()
    assert value == "not measured" if not len(row) else float(value) == drawn.quantities[1].values[row[0]]
