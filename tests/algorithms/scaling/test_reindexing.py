"""Sums of simulated stills of a P41 crystal, Laue group 4/m: a third of them indexed with k,h,-l."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from dxtbx.model import Crystal, Experiment, ExperimentList

from diffuse_dials.adapters import symmetry
from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.algorithms.merging import phil_scope as merging_scope
from diffuse_dials.algorithms.scaling import streaming
from diffuse_dials.algorithms.scaling.indexing import agree_on_indexing, reindexed
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.options import phil_scope
from diffuse_dials.algorithms.scaling.refine import scale_stills
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.kernels.sums import pack
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.sums import VoxelSums

N_STILLS = 40
CELL = (60.0, 60.0, 60.0, 90.0, 90.0, 90.0)
GROUP = symmetry.parse_space_group("P41")


def orientation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def gridded_stills(rng, wrong=0.0, random_orientation=0.0, counts=3.0, contrast=0.2):
    """Stills that cut the map by their Ewald spheres; some indexed wrongly, some with an orientation not theirs."""
    record = GridRecord(CELL, "given", (3, 3, 3), "P 41", "P 4/m", 5.0, None, "own", 0.0, True, ("k,h,-l",), 0.005)
    b = symmetry.fractionalization(CELL)
    n = np.arange(-36, 37)
    grid = np.stack(np.meshgrid(n, n, n, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)
    s = np.linalg.norm(grid / 3 @ b.T, axis=1)
    grid = grid[(s < 0.2) & (s > 0.03)]
    rlp = grid / 3 @ b.T
    asu = symmetry.map_to_asu(grid, GROUP)
    code, inverse = np.unique(pack(asu), return_inverse=True)
    pattern = np.maximum(1 + contrast * rng.standard_normal(len(code)), 0)[inverse]
    intensity = np.exp(-8 * np.linalg.norm(rlp, axis=1)) * pattern
    intensity *= counts / intensity.mean()
    matrix = symmetry.index_matrix("k,h,-l")
    operator = np.zeros(N_STILLS, dtype=int)
    operator[: int(wrong * N_STILLS)] = 1
    astray = np.zeros(N_STILLS, dtype=bool)
    astray[N_STILLS - int(round(random_orientation * N_STILLS)) :] = random_orientation > 0
    parts, experiments = [], ExperimentList()
    for i in range(N_STILLS):
        u = orientation(rng)
        lab = rlp @ u.T
        # Ewald sphere of 1 Å: |s0 + s| = 1/λ, as thick as a voxel
        on = np.flatnonzero(np.abs(np.linalg.norm(lab + [0, 0, 1.0], axis=1) - 1.0) < 0.004)
        true = on
        if astray[i]:
            other = rlp @ orientation(rng).T
            true = np.flatnonzero(np.abs(np.linalg.norm(other + [0, 0, 1.0], axis=1) - 1.0) < 0.004)
            size = min(len(on), len(true))
            # the counts of another cut, at the same |s|
            on = on[np.argsort(s_of(rlp[on]))][:size]
            true = true[np.argsort(s_of(rlp[true]))][:size]
        response = rng.uniform(0.5, 1.5, len(on))
        photons = rng.poisson(response * intensity[true] * rng.uniform(0.5, 2)).astype(float)
        index = grid[on]
        crystal = Crystal(*(tuple(row) for row in np.linalg.inv(u @ b)), space_group=GROUP)
        if operator[i]:
            index = (index @ matrix).astype(np.int32)
            crystal = symmetry.change_basis(crystal, "k,h,-l")
        zero = np.zeros(len(on), dtype=np.int32)
        parts.append(VoxelSums(
            zero + i, index, symmetry.map_to_asu(index, GROUP), zero, zero.astype(bool), photons, photons * 0, response,
            photons, zero + 1,
        ))  # fmt: skip
        experiments.append(Experiment(crystal=crystal, identifier=str(i)))
    keys = tuple(StillKey(f"image_{i:03d}.cbf", 0, 0) for i in range(N_STILLS))
    gridded = Gridded(experiments, keys, VoxelSums.concatenate(parts), record, StillsTable())
    return gridded, operator, astray


def s_of(vectors):
    return np.linalg.norm(vectors, axis=1)


def parameters(**options):
    scale = phil_scope.extract().scale
    for name, value in options.items():
        setattr(scale, name, value)
    return SimpleNamespace(scale=scale, merging=merging_scope.extract().merging)


def test_a_third_of_the_stills_in_the_wrong_setting_are_all_resolved(rng):
    gridded, operator, _ = gridded_stills(rng, wrong=1 / 3)
    before = copy.deepcopy(gridded.sums.index)
    found = agree_on_indexing(gridded, parameters(reindex=True).scale)
    changed = np.array([
        not np.allclose(a.crystal.get_A(), b.crystal.get_A())
        for a, b in zip(gridded.experiments, found.experiments)
    ])  # fmt: skip
    assert changed.tolist() == operator.astype(bool).tolist()
    assert np.array_equal(gridded.sums.index, before), "the input is not changed"
    moved = np.unique(gridded.sums.still[np.any(found.sums.index != gridded.sums.index, axis=1)])
    assert moved.tolist() == np.flatnonzero(changed).tolist()
    for i in (0, N_STILLS - 1):  # the same place in the laboratory, whatever it is called
        row = np.flatnonzero(gridded.sums.still == i)[5]
        places = [
            np.array(g.experiments[i].crystal.get_A()).reshape(3, 3) @ (g.sums.index[row] / 3) for g in (gridded, found)
        ]
        assert places[0] == pytest.approx(places[1], abs=1e-9)


def contaminated(gridded, rng, share=0.002, photons=2000):
    """Some sums with photons that are not the crystal's."""
    sums = gridded.sums
    added = np.where(rng.random(len(sums)) < share, rng.poisson(photons, len(sums)), 0)
    return replace(gridded, sums=replace(sums, counts=sums.counts + added, variance=sums.variance + added))


def without_isotropic_part(gridded):
    """As background_method=radial leaves it: the mean of each ring of |s| is subtracted."""
    sums = gridded.sums
    s = s_of(sums.index / 3 @ symmetry.fractionalization(CELL).T)
    ring = sums.still * 64 + (s / 0.2 * 63).astype(int)
    mean = np.bincount(ring, sums.counts) / np.maximum(np.bincount(ring, sums.response), 1e-9)
    record = replace(gridded.record, isotropic_removed=True)
    return replace(gridded, sums=replace(sums, background=sums.response * mean[ring]), record=record)


def turned(gridded):
    """Stills that were re-indexed."""
    return np.array([gridded.stills.rows[str(i)]["reindexed_by"] != "h,k,l" for i in range(N_STILLS)])


@pytest.mark.parametrize(
    "change, share, photons",
    [
        (lambda gridded: gridded, 0.002, 2000),
        (lambda gridded: gridded, 0.01, 30),
        (without_isotropic_part, 0.002, 2000),
    ],
    ids=["strong", "weak", "signed"],
)
def test_sums_with_other_photons_turn_no_still(rng, caplog, change, share, photons):
    """Three in a thousand turned half of the stills the wrong way, when nothing was left out."""
    gridded, operator, _ = gridded_stills(rng, wrong=1 / 3)
    with caplog.at_level("INFO"):
        found = reindexed(contaminated(change(gridded), rng, share, photons))
    assert turned(found).tolist() == operator.astype(bool).tolist()
    assert "not decided" not in caplog.text
    left_out = int(re.search(r"(\d+) sums are improbable", caplog.text)[1])
    assert left_out == pytest.approx(share * len(gridded.sums), rel=0.25)


def test_nothing_is_decided_where_there_is_nothing_to_decide_by(rng, caplog):
    """Isotropic stills: whatever agreement their noise is brought into, none is called decided."""
    gridded, _, _ = gridded_stills(rng, wrong=1 / 3, counts=30.0, contrast=0.0)
    reindexed(gridded)
    assert f"The indexing of {N_STILLS} stills is not decided" in caplog.text


def test_margins_are_as_certain_as_they_say(rng, caplog):
    """Weak stills, ln likelihoods of 0 to 30: of those called decided none is wrong (1 in 1000 may be)."""
    gridded, operator, _ = gridded_stills(rng, wrong=1 / 3, counts=0.3)
    with caplog.at_level("INFO"):
        found = reindexed(gridded)
    undecided = int(re.search(r"The indexing of (\d+) stills is not decided", caplog.text)[1])
    assert 0 < undecided < N_STILLS / 2
    assert (turned(found) != operator.astype(bool)).sum() <= undecided


def test_the_indexing_of_another_program_is_taken_over(rng, tmp_path):
    gridded, operator, _ = gridded_stills(rng, wrong=1 / 3)
    cosym = copy.deepcopy(gridded.experiments)
    for i in map(int, np.flatnonzero(operator)):
        cosym[i].crystal = symmetry.change_basis(cosym[i].crystal, "k,h,-l")
    cosym[3].crystal = symmetry.change_basis(cosym[3].crystal, "-k,h,l")  # the same by the symmetry of the crystal
    cosym.as_file(str(tmp_path / "symmetrized.expt"))
    found = reindexed(gridded, tmp_path / "symmetrized.expt")
    expected = reindexed(gridded)
    assert np.array_equal(found.sums.asu_index, expected.sums.asu_index)


def test_stills_of_other_crystals_are_refused(rng, tmp_path):
    gridded, _, _ = gridded_stills(rng)
    cosym = copy.deepcopy(gridded.experiments)
    cosym[2].crystal = cosym[5].crystal
    cosym.as_file(str(tmp_path / "symmetrized.expt"))
    with pytest.raises(ValueError, match="image_002.cbf.*is no re-indexing"):
        reindexed(gridded, tmp_path / "symmetrized.expt")


def test_an_operator_that_does_not_map_the_grid_onto_itself_is_refused(rng):
    gridded, _, _ = gridded_stills(rng)
    record = GridRecord(**{**gridded.record.to_dict(), "ndiv": (3, 5, 3), "reindexing_operators": ("k,h,-l",)})
    with pytest.raises(ValueError, match="mixes axes of different grid.ndiv"):
        reindexed(Gridded(gridded.experiments, gridded.keys, gridded.sums, record, gridded.stills))


def test_stills_with_an_orientation_that_is_not_theirs_are_found_and_removed(rng):
    """5 % of 40 stills: those and no others; without them the map is the better for it."""
    gridded, _, astray = gridded_stills(rng, random_orientation=0.05)
    options = parameters(assume_consistent_indexing=True)
    reported = scale_stills(gridded, options)
    assert reported.agreement.disagrees.tolist() == astray.tolist()
    assert reported.agreement.judged.all() and not reported.failed
    options.scale.outlier.stills = "remove"
    removed = scale_stills(gridded, options)
    assert sorted(removed.failed) == np.flatnonzero(astray).tolist()
    assert all("does not agree" in reason for reason in removed.failed.values())


def test_stills_in_the_wrong_setting_show_as_disagreeing(rng):
    gridded, operator, _ = gridded_stills(rng, wrong=0.1)
    found = scale_stills(gridded, parameters(assume_consistent_indexing=True))
    assert found.agreement.disagrees.tolist() == operator.astype(bool).tolist()


def test_a_part_of_the_voxels_and_one_sweep_over_all_give_the_scales_of_all(rng, monkeypatch):
    """Half of the observations at a time: the scales agree to a fraction of their counting errors."""
    gridded, _, _ = gridded_stills(rng)
    options = parameters(assume_consistent_indexing=True)
    whole = scale_stills(gridded, options)
    monkeypatch.setattr(streaming, "MAX_OBSERVATIONS", len(gridded.sums) // 2)
    swept = scale_stills(gridded, options)
    assert len(swept.problem.blocks) < 0.6 * len(whole.problem.blocks)
    pull = (swept.scales.scale - whole.scales.scale) / whole.scales.esd
    assert np.sqrt(np.mean(pull**2)) < 0.5
    assert swept.scales.esd == pytest.approx(whole.scales.esd, rel=0.1)
    assert swept.merged.denominator.sum() == pytest.approx(whole.merged.denominator.sum(), rel=0.01)
