"""gridded.h5: what goes in comes out, as a stream; broken files get one line."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import signal

import h5py
import numpy as np
import pytest

from diffuse_dials.algorithms.absolute.inputs import _joined
from diffuse_dials.algorithms.running import parts
from diffuse_dials.algorithms.running.parts import PartedSums
from diffuse_dials.io.gridded_store import GriddedStore, write_index
from diffuse_dials.io.store_parts import Part, writing_part
from diffuse_dials.io.tables import load_table
from diffuse_dials.models.asu import AsuBox
from diffuse_dials.models.sums import RadialTotals, VoxelSums

BOX = AsuBox((0, 0, -12), (13, 13, 25))
NAMES = [f"still{i}" for i in range(6)]


def sums_of(number, rng, n=500, counts=None, background=0.0):
    asu = np.stack([rng.integers(0, 13, n), rng.integers(0, 13, n), rng.integers(-12, 13, n)], axis=1).astype(np.int32)
    counts = rng.poisson(3, n).astype(float) if counts is None else counts
    full = np.full(n, 1, dtype=np.int32)
    return VoxelSums(
        full * number, -asu, asu, full, rng.random(n) < 0.3, counts, full * background, rng.random(n) + 0.1,
        counts + 2 * background, rng.integers(1, 9, n).astype(np.int32), rng.random((n, 2)) * 100,
    )  # fmt: skip


def totals_of(number):
    one = np.array([1.0])
    return RadialTotals(np.array([number], np.int32), np.zeros(1, np.int32), one, one, one, one, one, one, one)


def write(folder, parts, exact=False):
    """Write a store of {part: [sums of each still]} and return its index."""
    folder.mkdir(exist_ok=True)
    made = []
    for name, stills in parts.items():
        with writing_part(folder / name, "key", BOX, exact) as part:
            for sums in stills:
                part.append(int(sums.still[0]), sums, totals_of(int(sums.still[0])))
            part.finish([{"number": int(sums.still[0])} for sums in stills])
        made.append(Part.open(folder / name))
    if not exact:
        write_index(folder.parent / "gridded.h5", made, NAMES, "key")
    return made


def all_rows(part):
    """The rows of an exact part, joined; columns that a still lacks are 0."""
    stills = [rows for _, rows in part.rows_by_still()]
    for rows in stills:
        rows.setdefault("panel", np.zeros(len(rows["counts"]), dtype=np.int32))
        rows.setdefault("background", np.zeros(len(rows["counts"])))
    return {name: np.concatenate([rows[name] for rows in stills]) for name in stills[0]}


@pytest.fixture
def stills(rng):
    return [sums_of(number, rng) for number in (0, 1, 3, 4)]


def test_rows_come_back_in_the_order_of_the_stills_to_the_precision_of_float32(stills, tmp_path):
    write(tmp_path / "parts", {"a.h5": stills[:2], "b.h5": stills[2:]})
    store = GriddedStore(tmp_path / "gridded.h5")
    expected, found = VoxelSums.concatenate(stills), store.read_sums()
    for name in ("still", "index", "asu_index", "panel", "bragg", "counts", "background", "variance", "n_pixels"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.response == pytest.approx(expected.response, rel=6e-8)
    assert found.position == pytest.approx(expected.position, rel=6e-8)
    assert store.identifiers == tuple(NAMES)
    assert store.still_rows.tolist() == [500, 500, 0, 500, 500, 0]
    assert np.array_equal(store.asu_index, np.unique(expected.asu_index, axis=0))
    assert "background" not in store.columns  # absent where it is 0


def test_an_exact_part_gives_back_every_bit(stills, tmp_path):
    (part,) = write(tmp_path / "parts", {"a.h5": stills}, exact=True)
    expected = VoxelSums.concatenate(stills)
    rows = all_rows(part)
    assert np.array_equal(rows["asu_miller_index"], expected.asu_index)
    assert np.array_equal(rows["miller_index"], expected.index)
    for name in ("counts", "response", "position", "n_pixels", "panel", "bragg"):
        assert np.array_equal(rows[name], getattr(expected, name)), name
    assert not {"background", "variance"} & set(part.columns)  # 0, and equal to the counts
    assert np.array_equal(rows["variance"], expected.counts) and not rows["background"].any()
    assert [number for number, _ in part.rows_by_still()] == part.totals()["still"].tolist() == [0, 1, 3, 4]
    assert [outcome["number"] for outcome in part.outcomes] == [0, 1, 3, 4]


def test_a_full_disk_is_an_error_wherever_in_an_exact_part_it_shows(stills, tmp_path):
    """Files may not grow beyond a limit: before, within and right at the end."""
    (part,) = write(tmp_path / "whole", {"a.h5": stills}, exact=True)
    size = part.path.stat().st_size

    def refused(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(ValueError, match="^Cannot write .*a.h5: File too large"):
            write(tmp_path / "full", {"a.h5": stills}, exact=True)

    for limit in (0, 100, 2000, size // 2, size - 3000, size - 200):
        process = multiprocessing.get_context("fork").Process(target=refused, args=(limit,))
        process.start()
        process.join()
        assert process.exitcode == 0, limit
        assert list((tmp_path / "full").iterdir()) == []


def test_radial_totals_beyond_the_rows_of_a_table_go_to_further_files(stills, tmp_path, monkeypatch):
    """With a limit of two rows; a row for each still here. A file that an earlier run left is removed."""
    made = write(tmp_path / "parts", {f"{number}.h5": [sums] for number, sums in enumerate(stills)}, exact=True)
    (tmp_path / "totals_00002.refl").write_bytes(b"")
    sums = PartedSums(None, made, [])
    monkeypatch.setattr(parts, "MAX_ROWS", 2)
    names = sums.save_totals(tmp_path / "totals.refl", dict(enumerate(NAMES)))
    assert names == [str(tmp_path / "totals.refl"), str(tmp_path / "totals_00001.refl")]
    assert [load_table(name)["id"].tolist() for name in names] == [[0, 1], [3, 4]]
    assert not (tmp_path / "totals_00002.refl").exists()
    joined = _joined(*(load_table(name) for name in names))
    assert joined["id"].tolist() == sums.totals().still.tolist() == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="not the blocks of one run"):
        _joined(load_table(names[0]), load_table(names[0]))


def test_an_exact_part_keeps_background_variance_and_fractions_of_photons(stills, tmp_path, rng):
    stills.append(sums_of(5, rng, counts=rng.random(500), background=0.5))
    (part,) = write(tmp_path / "parts", {"a.h5": stills}, exact=True)
    expected = VoxelSums.concatenate(stills)
    for name in ("counts", "background", "variance"):
        assert np.array_equal(all_rows(part)[name], getattr(expected, name)), name


def test_blocks_hold_whole_stills_and_no_more_rows_than_asked_for(stills, tmp_path):
    write(tmp_path / "parts", {"a.h5": stills[:3], "b.h5": stills[3:]})
    store = GriddedStore(tmp_path / "gridded.h5")
    blocks = list(store.blocks(("counts",), max_rows=1200))
    assert [sorted(set(block.still.tolist())) for block in blocks] == [[0, 1], [3], [4]]
    assert all(block.counts.dtype == np.float64 and block.response is None for block in blocks)
    assert [len(block) for block in store.blocks(max_rows=10)] == [500] * 4
    keep = np.array([False, True, True, True, False, False])
    assert np.concatenate([block.still for block in store.blocks(keep=keep)]).tolist() == [1] * 500 + [3] * 500


def test_plain_h5py_reads_all_parts_through_the_index(stills, tmp_path, monkeypatch):
    write(tmp_path / "parts", {"a.h5": stills[:1], "b.h5": stills[1:]})
    (tmp_path / "elsewhere").mkdir()
    for name in ("gridded.h5", "parts"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)  # the two may be moved together
    monkeypatch.chdir("/")
    with h5py.File(tmp_path / "elsewhere" / "gridded.h5") as file:
        first, n = file["stills/first_row"][3], file["stills/n_rows"][3]
        assert np.array_equal(file["rows/counts"][first : first + n], stills[2].counts)
        ids = file["rows/asu_id"][first : first + n]
        asu = file["asu/index"][:][np.searchsorted(file["asu/id"][:], ids)]
        assert np.array_equal(asu, stills[2].asu_index)
        assert file["rows/counts"].dtype == np.int32 and file["rows/response"].dtype == np.float32


def test_columns_that_only_some_stills_need_are_filled_in_for_the_others(rng, tmp_path):
    """Counts of an integrating detector and a background that begin in the middle of a part, or in another part."""
    plain, later = sums_of(0, rng), sums_of(1, rng, counts=rng.normal(3, 1, 500), background=0.5)
    write(tmp_path / "parts", {"a.h5": [plain, later], "b.h5": [sums_of(3, rng)]})
    store = GriddedStore(tmp_path / "gridded.h5")
    first, last = store.read_sums(), store.read_sums(np.arange(6) == 3)
    assert np.array_equal(first.counts[:500], plain.counts)
    assert first.counts[500:1000] == pytest.approx(later.counts, rel=1e-6)
    assert first.background[:1000].tolist() == [0] * 500 + [0.5] * 500
    assert np.array_equal(first.variance[:500], plain.counts)
    assert first.variance[500:1000] == pytest.approx(later.counts + 1, rel=1e-6)
    assert np.array_equal(last.variance, last.counts) and not last.background.any()
    with h5py.File(tmp_path / "gridded.h5") as file:
        assert np.array_equal(file["rows/variance"][1000:], last.variance)
        assert not file["rows/background"][1000:].any()


def test_broken_foreign_and_missing_files_get_one_line(stills, tmp_path):
    folder = tmp_path / "parts"
    write(folder, {"a.h5": stills[:2], "b.h5": stills[2:]})
    index = tmp_path / "gridded.h5"

    def refuses(path):
        with pytest.raises(ValueError) as stop:
            list(GriddedStore(path).blocks())
        assert "\n" not in str(stop.value)
        return str(stop.value)

    assert "no gridded file" in refuses(folder / "a.h5")
    (tmp_path / "text.h5").write_text("text")
    assert "cannot be read as HDF5" in refuses(tmp_path / "text.h5")
    assert "There is no file" in refuses(tmp_path / "nowhere.h5")
    whole = (folder / "b.h5").read_bytes()
    (folder / "b.h5").write_bytes(whole[: len(whole) // 2])
    assert "b.h5" in refuses(index)
    (folder / "b.h5").unlink()
    assert "missing" in refuses(index) and "parts" in refuses(index)
    write(folder.parent / "other", {"b.h5": stills[3:]})
    write_index(index, [Part.open(folder / "a.h5")], NAMES, "another key")
    assert "not the part" in refuses(index)


def test_a_part_that_was_not_finished_does_not_appear(stills, tmp_path):
    with pytest.raises(KeyError):
        with writing_part(tmp_path / "a.h5", "key", BOX) as part:
            part.append(0, stills[0])
            raise KeyError
    assert not list(tmp_path.iterdir())


def test_voxels_outside_the_limits_of_the_grid_are_refused(stills, tmp_path):
    outside = dataclasses.replace(stills[0], asu_index=stills[0].asu_index + 13)
    with pytest.raises(ValueError, match="outside"):
        with writing_part(tmp_path / "a.h5", "key", BOX) as part:
            part.append(0, outside)


def test_numbers_of_voxels_sort_as_their_indices():
    index = BOX.index(np.arange(BOX.size))
    assert np.array_equal(BOX.number(index), np.arange(BOX.size))
    assert np.array_equal(np.lexsort(index.T[::-1]), np.arange(BOX.size))
    with pytest.raises(ValueError, match="2147483647"):
        AsuBox((0, 0, 0), (2048, 1024, 1024)).check()
