"""How much light each still got: from headers, parameters and a table of monitor readings."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from dials.util import Sorry

from diffuse_dials.cli import grid
from diffuse_dials.io.tables import load_table

MODEL = """\
CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 21 21 21
ATOM      1  C   ALA A   1       5.000   6.000   7.000  1.00  0.00           C
ATOM      2  S   CYS A   2      11.000   3.000   9.000  1.00  0.00           S
END
"""


@pytest.fixture(scope="module")
def simulated(simulate_stills):
    """Three stills and two blanks of one module, 0.1 and 0.2 s."""
    return simulate_stills(
        "exposure", MODEL, "n_stills=3", "n_blanks=2", "modules=1,1", "truth.d_min=4", "photons_per_pixel=2"
    )


def run_grid(work, *parameters):
    """Response and background of each still's radial totals."""
    grid.run([str(work / "truth_stills.expt"), "d_min=3", "radius=0.005", *parameters])
    totals = load_table("radial_totals.refl")
    return tuple(np.bincount(totals["id"], totals[name]) for name in ("response", "background"))


def write_table(name, rows):
    with open(name, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


READINGS = (2.0, 5.0, 3.0)


def stills(readings=READINGS, start=0):
    return [{"image": f"still_{i + start + 1:05d}.cbf", "monitor": m} for i, m in enumerate(readings)]


def blanks(readings):
    return [{"image": f"blank_{i + 1:05d}.cbf", "monitor": m} for i, m in enumerate(readings)]


def test_a_reading_for_the_whole_exposure_takes_the_place_of_its_time(work):
    by_time, _ = run_grid(work)
    assert by_time / by_time[0] == pytest.approx([1, 2, 1])
    write_table("flux.csv", stills())
    by_monitor, _ = run_grid(work, "input.monitor=flux.csv")
    assert by_monitor / by_monitor[0] == pytest.approx(np.array(READINGS) / 2)
    with open("stills.csv") as handle:
        assert [float(row["monitor"]) for row in csv.DictReader(handle)] == list(READINGS)


def test_a_transmission_multiplies_the_exposure_time(work):
    write_table("transmission.csv", stills((1.0, 0.5, 0.25)))
    response, _ = run_grid(work, "input.monitor=transmission.csv", "measures=rate")
    assert response / response[0] == pytest.approx([1, 1, 0.25])


def test_a_column_that_a_user_added_to_stills_csv_serves_as_monitor(work):
    run_grid(work)
    with open("stills.csv") as handle:
        rows = list(csv.DictReader(handle))
    write_table("stills.csv", [{**row, "ion_chamber": m} for row, m in zip(rows, READINGS)])
    response, _ = run_grid(work, "input.monitor=ion_chamber")
    assert response / response[0] == pytest.approx(np.array(READINGS) / 2)
    with open("stills.csv") as handle:
        assert [row["ion_chamber"] for row in csv.DictReader(handle)] == ["2.0", "5.0", "3.0"]


def test_blanks_follow_the_monitor_where_it_was_read_for_them_and_else_the_exposure_time(work):
    background = f"background={work / 'blank.expt'}"
    write_table("flux.csv", stills())
    _, by_time = run_grid(work, background, "input.monitor=flux.csv")
    assert by_time / by_time[0] == pytest.approx([1, 2, 1])
    write_table("flux.csv", [*stills(), *blanks((4.0, 7.0))])
    _, by_monitor = run_grid(work, background, "input.monitor=flux.csv")
    assert by_monitor / by_monitor[0] == pytest.approx(np.array(READINGS) / 2)
    # 0.3 s of blanks and 11 units of them: a still of 0.1 s and 2 units gets a third or two elevenths of their counts
    assert by_monitor[0] / by_time[0] == pytest.approx((2 / 11) / (0.1 / 0.3))


@pytest.mark.parametrize("rows, message", [
    (stills(READINGS[:2]), "no reading for image 0 of .*still_00003.cbf"),
    (stills((1, -1, 1)), "line 3: the reading '-1' is no positive number"),
    ([{"name": "still_00001.cbf", "monitor": 1}], "has the columns name, monitor"),
    ([*stills(), *stills((9.0,))], "has two readings"),
])  # fmt: skip
def test_a_table_with_mistakes_gets_one_line(work, tmp_path, rows, message):
    write_table("flux.csv", rows)
    with pytest.raises(Sorry, match=message):
        run_grid(work, "input.monitor=flux.csv")
    assert not (tmp_path / "gridded.refl").exists()


def test_a_monitor_that_is_neither_file_nor_column_is_refused(work):
    with pytest.raises(Sorry, match="neither a file nor a column"):
        run_grid(work, "input.monitor=nowhere.csv")


def test_a_given_exposure_time_is_that_of_every_still(work):
    response, _ = run_grid(work, "exposure_time=0.5")
    assert response / response[0] == pytest.approx([1, 1, 1])
