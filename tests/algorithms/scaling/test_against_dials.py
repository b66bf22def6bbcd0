"""DIALS's own path on the same sums: its least squares, from weights of the observed variances, of an IhTable."""

from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.scaling.Ih_table import IhTable
from dials.array_family import flex
from dials.command_line import scale as dials_scale
from dials.util.options import ArgumentParser
from dxtbx import flumpy
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from diffuse_dials.adapters.symmetry import parse_space_group

N_STILLS, N_VOXELS, COUNTS = 4, 400, 2000.0
# Long along h only: DIALS's statistics list every index to the resolution limit, which a real super-cell has many of.
CRYSTAL = Crystal((540, 0, 0), (0, 10, 0), (0, 0, 10), space_group=parse_space_group("P1"))


@pytest.fixture
def still_tables(simulate):
    """Sums of so many counts that variances from counts do not matter, as simulated and as tables of DIALS."""
    truth = simulate(N_STILLS, N_VOXELS, 4, COUNTS, scale=np.array([0.7, 0.9, 1.1, 1.3]))
    rng = np.random.default_rng(2)
    tables = []
    for i in range(N_STILLS):
        sums = truth.sums.select(truth.sums.still == i)
        n = len(sums)
        index = sums.index + np.array([0, 1, 2], dtype=np.int32)
        table = flex.reflection_table()
        table["miller_index"] = flex.miller_index([tuple(map(int, row)) for row in index])
        intensity, variance = sums.counts / sums.response, sums.counts / sums.response**2
        for name in ("intensity.sum.value", "intensity"):
            table[name] = flumpy.from_numpy(intensity)
        for name in ("intensity.sum.variance", "variance"):
            table[name] = flumpy.from_numpy(variance)
        table["inverse_scale_factor"] = flex.double(n, 1.0)
        table["partiality"] = flex.double(n, 1.0)
        table["d"] = CRYSTAL.get_unit_cell().d(table["miller_index"])
        xy = rng.uniform(0, 1000, (n, 2))
        table["xyzobs.px.value"] = flumpy.vec_from_numpy(np.column_stack([xy, np.full(n, 0.5)]))
        table["s1"] = flex.vec3_double(n, (0.0, 0.1, -1.0))
        table["id"] = flex.int(n, 0)
        table["flags"] = flex.size_t(n, 0)
        table.set_flags(flex.bool(n, True), table.flags.integrated_sum)
        table.experiment_identifiers()[0] = str(i)
        tables.append(table)
    return truth, tables


def test_an_ih_table_finds_the_same_map_at_our_scales(still_tables, fit):
    """Its means, weighted by 1/counts, are low by 1/counts: 0.05 to 0.5 % here."""
    truth, tables = still_tables
    problem = fit(truth.sums, truth.s, N_STILLS)
    for i, table in enumerate(tables):
        table["inverse_scale_factor"] = flex.double(len(table), float(problem.t[i, 0]))
    whole = flex.reflection_table.concat(tables)
    ih = IhTable([whole], parse_space_group("P1"), nblocks=1).blocked_data_list[0]
    ih.calc_Ih()
    first = np.unique(flumpy.to_numpy(whole["miller_index"].as_vec3_double())[:, 0])
    means = {}
    for index, value in zip(ih.asu_miller_index, ih.Ih_values):
        means[index[0]] = value
    found = np.array([means[int(h)] for h in first])
    ratio = found / problem.merged().intensity
    assert ratio == pytest.approx(1, abs=0.006)
    assert 0.998 < ratio.mean() < 1


def test_stock_dials_scale_refines_our_model_to_the_same_scales(still_tables, fit, run_in_tmp_path):
    """dials.scale model=diffuse: the plug-in's model inside DIALS's program, on the super-cell."""
    truth, tables = still_tables
    experiments = ExperimentList()
    detector = DetectorFactory.simple("PAD", 150.0, (85, 85), "+x", "-y", (0.172, 0.172), (1000, 1000), (-1, 1e7))
    for i in range(N_STILLS):
        experiments.append(
            Experiment(
                crystal=CRYSTAL, beam=BeamFactory.simple(1.0), detector=detector, identifier=str(i)
            )
        )  # fmt: skip
    options = (
        "model=diffuse", "reflection_selection.method=use_all", "full_matrix=False", "outlier_rejection=None",
        "rmsd_tolerance=1e-6", "error_model=None", "partiality_cutoff=0",
    )  # fmt: skip
    params, _ = ArgumentParser(phil=dials_scale.phil_scope, check_format=False).parse_args(
        list(options), quick_parse=True
    )
    scaled, _ = dials_scale.run_scaling(params, experiments, tables)
    theirs = np.array([e.scaling_model.scale for e in scaled])
    problem = fit(truth.sums, truth.s, N_STILLS)
    ours = problem.t[:, 0]
    assert theirs / theirs.mean() == pytest.approx(ours, rel=2e-3)
