from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import BeamFactory, Crystal, Experiment, ExperimentList

from diffuse_dials.adapters.symmetry import count_unique, fractionalization, parse_space_group
from diffuse_dials.algorithms.quality.bragg_statistics import bragg_statistics, load_spots
from diffuse_dials.models.grid import GridRecord

N_STILLS = 20
RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), "P 43 21 2", "P 4/m m m", 3.0, None, "own", 0.0, False,
    (), 0.005, corrections={"polarization": {"applied": True, "fraction": 0.5, "normal": [0.0, 1.0, 0.0]}},
)  # fmt: skip
B = 20.0


@pytest.fixture
def spots(run_in_tmp_path, rng):
    """Spots of twenty stills with known scales and intensities exp(-B s²/2) at two theta of 60°: P = 0.625."""
    hkl = rng.integers(-18, 19, (9000, 3))
    s = np.linalg.norm(hkl @ fractionalization(RECORD.unit_cell).T, axis=1)
    hkl, s = hkl[(s > 0) & (s < 1 / 3.4)], s[(s > 0) & (s < 1 / 3.4)]
    n = len(hkl)
    scale = np.exp(rng.uniform(np.log(0.4), np.log(2.5), N_STILLS))
    still = rng.integers(0, N_STILLS, n)
    expected = 1e5 * np.exp(-B * s**2 / 2) * scale[still] * 0.625
    table = flex.reflection_table()
    table["id"] = flumpy.from_numpy(still.astype(np.int32))
    table["miller_index"] = flex.miller_index([tuple(int(i) for i in h) for h in hkl])
    table["intensity.sum.value"] = flumpy.from_numpy(rng.poisson(expected).astype(float))
    table["intensity.sum.variance"] = flumpy.from_numpy(expected)
    direction = np.array([np.sin(np.pi / 3), 0, -np.cos(np.pi / 3)])
    table["s1"] = flumpy.vec_from_numpy(np.tile(direction, (n, 1)))
    table["partiality"] = flumpy.from_numpy(np.where(np.arange(n) < 100, 0.05, 0.6))
    experiments = ExperimentList()
    for i in range(N_STILLS):
        table.experiment_identifiers()[i] = f"still-{i}"
        experiments.append(Experiment(beam=BeamFactory.simple(1.0), identifier=f"still-{i}"))
    table.as_file("integrated.refl")
    return table, experiments, scale, np.unique(hkl, axis=0)


def statistics_of(experiments, scale, record=RECORD, names=("integrated.refl",), n_shells=4):
    found = load_spots(names, experiments, scale, record)
    splits = np.arange(N_STILLS)[None, :] % 2 == 0
    return bragg_statistics(found, scale, splits, record, n_shells, 0.1)


def test_merged_intensities_scales_and_polarization_are_those_simulated(spots):
    """Mean intensity over P = 0.625 and the scales, to counting noise; the slope of the Wilson plot is -B/2 in s²."""
    table, experiments, scale, _ = spots
    found = statistics_of(experiments, scale, n_shells=10)
    assert found.overall.n_observed == len(table) and found.n_stills == N_STILLS
    assert found.overall.multiplicity == pytest.approx(found.overall.n_observed / found.overall.n_unique)
    s_squared = np.array([(shell.d_min**-2 + shell.d_max**-2) / 2 for shell in found.shells])
    means = np.array([shell.mean for shell in found.shells])
    slope = np.polyfit(s_squared, np.log(means), 1)[0]
    assert slope == pytest.approx(-B / 2, rel=0.05)
    assert found.overall.r_merge < 0.02 and found.overall.cc_half > 0.99
    assert all(a.wilson > b.wilson for a, b in zip(found.shells, found.shells[1:]))


def test_completeness_counts_what_the_space_group_allows(spots):
    """Absences of P43212 are not possible reflections: cctbx's own list, shell by shell, adds up to the whole."""
    _, experiments, scale, _ = spots
    found = statistics_of(experiments, scale)
    assert 0.85 < found.overall.completeness < 1.2  # the simulation has no absences
    group = parse_space_group("P 43 21 2")
    whole = count_unique(RECORD.unit_cell, group, np.inf, 3.0)
    parts = count_unique(RECORD.unit_cell, group, np.inf, 5.0) + count_unique(RECORD.unit_cell, group, 4.999, 3.0)
    assert whole == pytest.approx(parts, abs=30)


def test_spots_follow_a_still_that_was_re_indexed(spots):
    """Half the stills integrated as k,h,-l: with the crystals before and after, the numbers are those without."""
    table, experiments, scale, _ = spots
    expected = statistics_of(experiments, scale)
    after, before = copy.deepcopy(experiments), copy.deepcopy(experiments)
    hkl = flumpy.to_numpy(table["miller_index"].as_vec3_double()).astype(int)
    odd = flumpy.to_numpy(table["id"]) % 2 == 1
    hkl[odd] = hkl[odd][:, [1, 0, 2]] * [1, 1, -1]
    table["miller_index"] = flex.miller_index([tuple(int(i) for i in h) for h in hkl])
    table.as_file("other.refl")
    for i, (old, new) in enumerate(zip(before, after)):
        new.crystal = Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), space_group_symbol="P43")
        turned = sgtbx.change_of_basis_op("k,h,-l" if i % 2 else "h,k,l")
        old.crystal = new.crystal.change_basis(turned)
    record = replace(RECORD, space_group="P 43")
    names = ["other.refl"]
    scales = np.ones(N_STILLS)
    followed = load_spots(names, after, scales, record, before)
    assert np.array_equal(followed.asu, load_spots(["integrated.refl"], after, scales, record).asu)
    assert not np.array_equal(followed.asu, load_spots(names, after, scales, record).asu)
    assert expected.overall.n_observed == len(followed.asu)


def test_intensities_are_never_divided_by_the_partiality(spots):
    """Another partiality changes how many are counted as low, and nothing else."""
    table, experiments, scale, _ = spots
    found = statistics_of(experiments, scale)
    assert found.n_low_partiality == 100 and found.has_partiality
    table["partiality"] = flex.double(len(table), 1.0)
    table.as_file("other.refl")
    other = statistics_of(experiments, scale, names=("other.refl",))
    assert replace(other, n_low_partiality=100) == found and other.n_low_partiality == 0
    del table["partiality"]
    table.as_file("without.refl")
    without = statistics_of(experiments, scale, names=("without.refl",))
    assert without.overall == found.overall and not without.has_partiality
    assert without.to_dict()["divided_by_partiality"] is False


def test_without_the_correction_of_the_map_spots_are_not_corrected_either(spots):
    _, experiments, scale, _ = spots
    found = statistics_of(experiments, scale)
    bare = statistics_of(experiments, scale, record=replace(RECORD, corrections={}))
    assert bare.overall.mean == pytest.approx(0.625 * found.overall.mean)


def test_spots_of_stills_without_a_scale_are_left_out(spots):
    table, experiments, scale, _ = spots
    scale = scale.copy()
    scale[3] = np.nan
    found = statistics_of(experiments, scale)
    assert found.n_stills == N_STILLS - 1
    assert found.overall.n_observed == np.sum(flumpy.to_numpy(table["id"]) != 3)


def test_reflections_of_other_stills_are_refused(spots):
    _, experiments, scale, _ = spots
    for experiment in experiments:
        experiment.identifier = "x" + experiment.identifier
    with pytest.raises(ValueError, match="belongs to a still that was scaled"):
        statistics_of(experiments, scale)
