from __future__ import annotations

import base64
import gzip
import json
import re
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from diffuse_dials.report.graphs import Bars, ColourMap, Graph, Series, plotly_library
from diffuse_dials.report.html import Section, write_report
from diffuse_dials.report.plots import VoxelFrame
from diffuse_dials.report.slices import Quantity, Slices, fitting, quantised

GRAPH = Graph(
    "Scales", "still", "b",
    (Series(np.arange(3), np.array([1.0, np.nan, 2.5]), "all", np.full(3, 0.1), ("a.cbf", "b.cbf", "</script>")),),
    guide=1.0,
)  # fmt: skip
MAP = ColourMap("Residuals", "x (mm)", "y (mm)", "excess", np.arange(3), np.arange(2), np.zeros((2, 3)), 0.1, True)


def test_a_graph_is_drawn_by_both(run_in_tmp_path):
    """The same points in plotly's dictionary and on matplotlib's axes."""
    data = GRAPH.plotly()["data"][0]
    assert data["y"] == [1.0, None, 2.5] and data["text"][0] == "a.cbf"
    assert GRAPH.plotly()["layout"]["shapes"][0]["y0"] == 1.0
    (axes,) = GRAPH.figure().axes
    assert axes.get_xlabel() == "still" and np.array_equal(axes.lines[0].get_xdata(), np.arange(3))
    assert MAP.plotly()["data"][0]["zmax"] == 0.1 and MAP.plotly()["layout"]["yaxis"]["scaleanchor"] == "x"
    assert MAP.figure().axes[0].get_aspect() == 1


@pytest.mark.parametrize(
    "label, values, expected",
    [
        ("sr", (2.0e-6, 5.8e-6), "10⁻⁶ sr"),
        ("<I> (relative)", (7e6, 1.4e7), "<I> (10⁶ relative)"),
        ("pixels", (103_700, 104_100), "pixels"),  # no "+1.037e5" either
        ("excess", (-0.03, 0.002), "excess"),
        ("stills", (0, 0), "stills"),
    ],
)
def test_powers_of_ten_stand_in_the_label_and_not_at_the_title(label, values, expected):
    """On the axis of a graph and on a colour bar: ticks times the power are the values they stand at."""
    y = np.linspace(*values, 6)
    graph = Graph("t", "x", label, (Series(np.arange(6), y),)).figure()
    colours = ColourMap("t", "x", "y", label, np.arange(3), np.arange(2), y.reshape(2, 3)).figure()
    power = float(f"1e{3 * int(np.log10(np.abs(y).max()) // 3)}") if expected != label else 1.0
    for figure in (graph, colours):
        figure.canvas.draw()
        axis = figure.axes[-1].yaxis
        assert axis.get_label_text() == expected and not axis.get_offset_text().get_visible()
        shown = [float(tick.get_text().replace("\N{MINUS SIGN}", "-")) for tick in axis.get_ticklabels()]
        assert power * np.array(shown) == pytest.approx(axis.get_ticklocs(), rel=1e-6, abs=1e-9 * np.ptp(y))


def test_histograms_of_whole_numbers_have_whole_ticks():
    figure = Bars("t", "x", "stills", np.arange(5.0), {"": np.array([1, 2, 1, 0])}).figure()
    assert figure.axes[0].get_yticks().tolist()[:3] == [0, 1, 2]


def test_errors_that_are_not_known_have_no_bars():
    series = Series(np.arange(3), np.arange(3.0), "", np.full(3, np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Graph("t", "x", "y", (series,)).figure()
        figure.canvas.draw()
    assert Graph("t", "x", "y", (series,)).plotly()["data"][0]["error_y"]["array"] == [None] * 3


def test_an_intensity_in_angle_brackets_is_no_tag_to_plotly():
    assert Graph("t", "s", "ln <I>", ()).plotly()["layout"]["yaxis"]["title"]["text"] == "ln &lt;I&gt;"


def test_a_page_carries_all_it_needs(run_in_tmp_path):
    """No address of a network, the library once, and each graph as JSON that parses; names cannot end a script."""
    write_report("page.html", "t", [Section("one", figure=GRAPH), Section("two", figure=(MAP, Figure()))])
    page = (run_in_tmp_path / "page.html").read_text()
    outside = re.sub(r'id="plotly">[^<]*<', "", page)
    assert 'src="http' not in outside and page.count('id="plotly"') == 1
    graphs = re.findall(r'class="graph">(\{.*?\})</script>', outside)
    assert [json.loads(graph)["data"][0]["type"] for graph in graphs] == ["scatter", "heatmap"]
    assert json.loads(graphs[0])["data"][0]["text"][2] == "&lt;/script&gt;"
    assert outside.count("<svg") == 1


def test_a_page_without_graphs_is_small(run_in_tmp_path):
    write_report("page.html", "t", [Section("one", "text", ("a",), ((1.5,),))])
    assert (run_in_tmp_path / "page.html").stat().st_size < 5000


def test_the_library_is_plotly_and_the_same_bytes_each_time():
    text = gzip.decompress(base64.b64decode(plotly_library())).decode()
    assert "Plotly" in text
    plotly_library.cache_clear()
    again = plotly_library()
    assert gzip.decompress(base64.b64decode(again)).decode() == text
    assert base64.b64decode(again)[4:8] == bytes(4)  # no time stamp


def test_without_plotly_the_message_says_what_to_do(monkeypatch):
    import sys

    plotly_library.cache_clear()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ValueError, match="output.html=None"):
        plotly_library()


def test_of_very_many_points_a_page_draws_a_part_and_says_so():
    """A hundred thousand stills; names and errors stay with their points."""
    n = 100_000
    x, names = np.arange(n), tuple(map(str, range(n)))
    content = Graph("Scales", "still", "b", (Series(x, x / n, "", x / 1e6, names),)).plotly()
    (trace,) = content["data"]
    assert len(trace["x"]) <= 8000 and "one point in 13" in content["layout"]["title"]["text"]
    assert trace["text"] == [f"{value:.0f}" for value in trace["x"]]
    assert trace["error_y"]["array"] == pytest.approx(np.array(trace["x"]) / 1e6, rel=1e-3)


def test_a_map_too_large_for_a_page_is_cut_to_a_resolution(rng):
    """3 million voxels of P-1: what is left is whole to a lower |s|, below 10 MB with three quantities of noise."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (145, 145, 145)), indexing="ij"), axis=-1).reshape(-1, 3)
    frame = VoxelFrame((1, 1, 1), 0.004 * np.eye(3), np.array([np.eye(3), -np.eye(3)], dtype=int))
    s = 0.004 * np.linalg.norm(index, axis=1)
    shown = fitting(index, s, frame)
    assert s[shown].max() < s[~shown].min() and 0.5e6 < shown.sum() <= 1.8e6
    noise = (Quantity(str(i), "", rng.random(shown.sum()), (0.0, 1.0)) for i in range(3))
    assert len(Slices("", index[shown], frame, tuple(noise)).html()) < 7.3e6


def test_a_byte_keeps_whole_numbers_and_the_rest_to_a_step(rng):
    stills = np.array([0, 1, 7, 254])
    low, high, codes = quantised(stills)
    assert np.array_equal(low + (codes.astype(float) - 1) * (high - low) / 254, stills)
    values = rng.normal(size=10_000)
    low, high, codes = quantised(values)
    inside = (values > low) & (values < high)
    back = low + (codes.astype(float) - 1) * (high - low) / 254
    assert np.abs(back - values)[inside].max() <= 0.5001 * (high - low) / 254 and codes.min() == 1
