"""On published XFEL stills, which dials_data downloads: run with --regression."""

from __future__ import annotations

import numpy as np
import pytest
from dials.array_family import flex

from diffuse_dials.adapters.experiments import load_experiments

pytest.importorskip("dials_data")


@pytest.mark.regression
def test_sums_from_images_and_from_extracted_pixels_agree_on_serial_stills(dials_data, run_in_tmp_path):
    """Copper nitrite reductase, five stills that the set brings integrated: the same counts in the same voxels."""
    from diffuse_dials.cli import extract, grid

    dials_data("cunir_serial", pathlib=True)  # the images that the processed files point at
    processed = dials_data("cunir_serial_processed", pathlib=True)
    stills = [str(processed / "integrated.expt"), str(processed / "integrated.refl")]
    grid.run([*stills, "d_min=3", "ndiv=1,1,1", "output.reflections=direct.refl"])
    extract.run([*stills, "d_min=3"])
    grid.run(["extracted.expt", *sorted(map(str, run_in_tmp_path.glob("extracted_*.refl"))), "ndiv=1,1,1"])
    direct, extracted = (flex.reflection_table.from_file(name) for name in ("direct.refl", "gridded.refl"))
    assert len(direct) == len(extracted) > 1000
    assert set(direct["id"]) == set(range(len(load_experiments(stills[0]))))
    for column in ("counts", "n_pixels", "response"):
        assert np.allclose(direct[column], extracted[column], rtol=1e-12)
