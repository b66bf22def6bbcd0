from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList
from scipy.spatial.transform import Rotation

from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.adapters.panels import lab_coordinates
from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.merging import half_sets, merge
from diffuse_dials.algorithms.quality.random_orientations import RandomOrientations, random_rotation
from diffuse_dials.algorithms.scaling.quality import null_correlations, quality, shell_edges
from diffuse_dials.algorithms.scaling.trends import PanelPlane, TrendAxes
from diffuse_dials.kernels.sums import group_sums, pack, transform, unpack
from diffuse_dials.models.grid import GridRecord, voxel_index
from diffuse_dials.models.scaled import ScaledRows

N_STILLS, D_MIN = 30, 4.0
RECORD = GridRecord(
    (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (1, 1, 1), "P 43 21 2", "P 4/m m m", D_MIN, None, "own", 0.0, False,
    (), 0.005,
)  # fmt: skip


@pytest.fixture(scope="module")
def stills():
    """Sums of thirty stills in random orientations: 60 x 60 pixels of a strongly anisotropic crystal."""
    rng = np.random.default_rng(1)
    detector = DetectorFactory.simple("PAD", 60.0, (30.0, 30.0), "+x", "-y", (1.0, 1.0), (60, 60), (-1, 1e6))
    beam = BeamFactory.simple(1.0)
    slow, fast = np.divmod(np.arange(3600), 60)
    position = np.column_stack([fast, slow]) + 0.5
    lab = lab_coordinates(detector[0], position)
    s0 = np.array(beam.get_s0())
    s = lab / np.linalg.norm(lab, axis=1)[:, None] - s0
    group = parse_space_group(RECORD.space_group)
    experiments, parts = ExperimentList(), []
    a = np.diag(RECORD.unit_cell[:3])
    for still in range(N_STILLS):
        real = a @ Rotation.random(random_state=rng).as_matrix()
        crystal = Crystal(*(tuple(row) for row in real), space_group_symbol="P 43 21 2")
        experiments.append(Experiment(beam=beam, detector=detector, crystal=crystal))
        index = voxel_index(transform(np.linalg.inv(np.array(crystal.get_A()).reshape(3, 3)), s), RECORD.ndiv)
        asu = map_to_asu(index, group)
        h = asu.astype(float)
        wave = 1 + 0.5 * np.sin(3.1 * h[:, 0] + 5.3 * h[:, 1] + h[:, 2])
        counts = rng.poisson(300 * np.exp(-3 * np.linalg.norm(s, axis=1)) * wave).astype(float)
        code, n_pixels, (c, x, y) = group_sums(pack(index), counts, *position.T)
        keep = code != pack(np.zeros((1, 3), dtype=int))[0]
        mean = np.column_stack([x, y]) / n_pixels[:, None]
        parts.append((still + 0 * n_pixels, unpack(code), c, n_pixels, mean, keep))
    still, index, counts, n_pixels, position = (np.concatenate([p[i][p[5]] for p in parts]) for i in range(5))
    asu = pack(map_to_asu(index, group))
    voxels = np.unique(asu)
    n, response, zero = len(index), n_pixels.astype(float), np.zeros(len(index), dtype=int)
    rows = ScaledRows(
        still, np.searchsorted(voxels, asu), index, zero, zero.astype(bool), counts, counts, counts,
        response, n_pixels, np.ones(n), np.ones(n), response, zero, position,
    )  # fmt: skip
    return experiments, unpack(voxels), rows


LABELS = [f"still_{i}.cbf:0:0" for i in range(N_STILLS)]
SPLITS = half_sets([StillKey(f"still_{i}.cbf", 0, 0) for i in range(N_STILLS)], 0, 5)


def test_random_orientations_leave_no_correlation_between_halves(stills):
    """CC½ of the anisotropic part: high as indexed, within 4/sqrt(N) of 0 in every shell when turned."""
    experiments, index, rows = stills
    merged = merge([rows], index, RECORD, SPLITS)
    edges = shell_edges(merged, 3)
    plane = PanelPlane.of(experiments[0].detector)
    axes = TrendAxes(np.ones(N_STILLS), np.arange(N_STILLS, dtype=float), "order", plane, True)
    found = quality(merged, [rows], index, RECORD, False, 3, axes)
    null = RandomOrientations(experiments, LABELS, RECORD, 1 / merged.s.max(), seed=0)
    blocks = [rows.select(rows.still % 2 == block) for block in range(2)]
    correlations = null_correlations(null.turn(blocks), null.index, RECORD, SPLITS, edges, False)
    assert found.statistics.overall.cc_half > 0.8
    n = [line.n_voxels for line in (*found.statistics.shells, found.statistics.overall)]
    assert np.all(np.abs(correlations) < 4 / np.sqrt(n))
    judged = replace(found, null=np.array([correlations, correlations + 0.02]))
    listed = judged.to_dict()["random_orientations"]
    assert listed["cc_half"] == pytest.approx(correlations[-1] + 0.01) and len(listed["cc_half_shells"]) == 3
    assert listed["spread"] == pytest.approx(0.02 / np.sqrt(2)) and len(judged.null_rows()) == 4


def test_without_a_rotation_the_sums_fall_back_where_they_were(stills, monkeypatch):
    """The mean position of a sum's pixels lies in its own voxel, but where the voxel is cut by the detector's edge."""
    experiments, _, rows = stills
    null = RandomOrientations(experiments, LABELS, RECORD, D_MIN, seed=0)
    monkeypatch.setattr(null, "_rotations", [np.eye(3)] * N_STILLS)
    inside = np.linalg.norm(rows.index / RECORD.unit_cell[:3], axis=1) < 0.9 / D_MIN
    (found,) = null.turn([rows.select(inside)])
    assert len(found) == inside.sum()
    assert np.mean(np.all(found.index == rows.index[inside], axis=1)) > 0.97


def test_rotations_follow_label_and_seed(stills):
    assert np.array_equal(random_rotation("a", 1), random_rotation("a", 1))
    assert not np.allclose(random_rotation("a", 1), random_rotation("b", 1))
    assert not np.allclose(random_rotation("a", 1), random_rotation("a", 2))
    assert random_rotation("a", 1) @ random_rotation("a", 1).T == pytest.approx(np.eye(3), abs=1e-12)


def test_sums_without_positions_are_refused(stills):
    experiments, _, rows = stills
    null = RandomOrientations(experiments, LABELS, RECORD, D_MIN, seed=0)
    with pytest.raises(ValueError, match="grid.positions=True"):
        list(null.turn([replace(rows, position=None)]))
