"""Tables written in blocks: DIALS's own bytes."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys

import numpy as np
import pytest

from diffuse_dials.io import table_stream
from diffuse_dials.io.tables import MAX_ROWS, load_table, save_table


def columns(n, rng):
    return {
        "id": rng.integers(0, 3, n).astype(np.int32), "panel": rng.integers(0, 64, n),
        "miller_index": rng.integers(-900, 900, (n, 3)).astype(np.int32), "bragg": rng.random(n) < 0.2,
        "counts": rng.poisson(3.0, n).astype(float), "xyzobs.px.value": rng.random((n, 3)),
    }  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 15, 40, 300, 70_000])
@pytest.mark.parametrize("n_names", [0, 1, 15, 16, 200, 70_000])
def test_bytes_are_those_that_dials_writes(n, n_names, rng, tmp_path):
    """flex.reflection_table.as_file; lengths on either side of every change of form in MessagePack."""
    if n > 1000 and n_names > 1000:
        pytest.skip("each of the two is tested")
    table = columns(n, rng)
    identifiers = {number: "x" * (number % 300) for number in range(n_names)}
    save_table(table, tmp_path / "whole.refl", identifiers)
    pieces = zip(*(np.array_split(values, 7) for values in table.values()))
    blocks = (dict(zip(table, block)) for block in pieces)
    table_stream.write_table(list(table), blocks, tmp_path / "pieces.refl", identifiers, n)
    assert (tmp_path / "pieces.refl").read_bytes() == (tmp_path / "whole.refl").read_bytes()


def test_values_of_other_types_become_the_columns(rng, tmp_path):
    counts = rng.poisson(3.0, 100).astype(np.int32)
    blocks = [{"counts": counts[rows], "panel": np.ones(len(counts[rows]), np.int16)} for rows in np.s_[:60, 60:]]
    table_stream.write_table(["counts", "panel"], blocks, tmp_path / "a.refl", {0: "a"}, 100)
    found = load_table(tmp_path / "a.refl")
    assert found["counts"].dtype == np.float64 and np.array_equal(found["counts"], counts)
    assert found["panel"].tolist() == [1] * 100


def test_columns_that_a_block_lacks_are_zero_there(rng, tmp_path):
    """The bytes are those of a table with these zeros, at its end too."""
    table = columns(1000, rng)
    for name, rows in (("xyzobs.px.value", np.s_[:]), ("counts", np.s_[:400]), ("panel", np.s_[400:])):
        table[name][rows] = 0
    save_table(table, tmp_path / "whole.refl", {0: "a"})
    blocks = [
        {name: values[rows] for name, values in table.items() if values[rows].any()} for rows in np.s_[:400, 400:]
    ]
    assert [len(block) for block in blocks] == [4, 4]
    table_stream.write_table(list(table), blocks, tmp_path / "pieces.refl", {0: "a"}, 1000)
    assert (tmp_path / "pieces.refl").read_bytes() == (tmp_path / "whole.refl").read_bytes()


def test_too_many_rows_and_columns_of_another_length_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="more than the 150000000"):
        table_stream.write_table([], [], tmp_path / "a.refl", {}, MAX_ROWS + 1)
    with pytest.raises(AssertionError, match="column counts"):
        table_stream.write_table(["counts"], [{"counts": np.zeros(3)}], tmp_path / "a.refl", {}, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it shows when the disk is full")
def test_a_disk_without_room_for_the_table_is_told_before_anything_is_made_for_it(tmp_path):
    """A file may not grow beyond a limit here; the first block is never asked for."""

    def refused():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(ValueError, match="^Cannot write .*a.refl: File too large"):
            table_stream.write_table(["counts"], iter(lambda: 1 / 0, None), tmp_path / "a.refl", {0: "a"}, 100_000)

    process = multiprocessing.get_context("fork").Process(target=refused)
    process.start()
    process.join()
    assert process.exitcode == 0 and not list(tmp_path.iterdir())
