"""Which filter decodes Eiger's images."""

from __future__ import annotations

import pytest

from diffuse_dials.adapters import hdf5_filters


def test_hdf5plugins_filter_is_taken_wherever_it_has_one():
    """Also where HDF5 found Debian's, which is slower; Debian's package of hdf5plugin has none."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    assert hdf5_filters.use_fastest()
    config = hdf5plugin.get_config()
    own = "hdf5plugin" in config.registered_filters["bshuf"]
    assert own == ("bshuf" in config.build_config.embedded_filters)
