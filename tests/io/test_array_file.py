"""Arrays in a plain file."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.io.array_file import Arrays, is_array_file, writing_arrays


def test_arrays_of_every_kind_and_shape_come_back_bit_by_bit(tmp_path, rng):
    path = tmp_path / "a.part"
    first = {
        "real": rng.random(7), "vectors": rng.random((5, 3)).astype(np.float32), "flags": rng.random(11) < 0.5,
        "none": np.empty((0, 2), np.int32), "every second": np.arange(10)[::2], "odd": np.array([np.nan, -0.0, np.inf]),
    }  # fmt: skip
    with writing_arrays(path) as arrays:
        arrays.description["places"] = [arrays.put(first), arrays.put({"last": np.arange(3, dtype=np.uint16)})]
        assert not path.exists()
    found = Arrays(path)
    one, other = (found.get(places) for places in found.description["places"])
    del found
    assert list(one) == list(first) and other["last"].tolist() == [0, 1, 2]
    for name, values in first.items():
        assert one[name].dtype == values.dtype and one[name].shape == values.shape
        assert one[name].tobytes() == values.tobytes()
    assert not one["real"].flags.writeable and is_array_file(path)


def test_what_is_no_such_file_or_cut_off_is_told(tmp_path, rng):
    path = tmp_path / "a.part"
    with writing_arrays(path) as arrays:
        arrays.description["places"] = arrays.put({"a": rng.random(100)})
    whole = path.read_bytes()
    for n in (len(whole) - 1, len(whole) // 2, 40):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="is cut off"):
            Arrays(path)
    path.write_bytes(whole[:10])
    assert not is_array_file(path) and not is_array_file(tmp_path / "missing")
