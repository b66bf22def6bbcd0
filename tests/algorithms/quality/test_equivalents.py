from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.adapters.symmetry import map_to_asu, parse_space_group
from diffuse_dials.algorithms.merging import merge
from diffuse_dials.algorithms.quality.equivalents import Equivalents
from diffuse_dials.algorithms.quality.statistics import equal_volume_edges
from diffuse_dials.algorithms.scaling import symmetry
from diffuse_dials.kernels.sums import pack, unpack
from diffuse_dials.models.grid import GridRecord
from diffuse_dials.models.scaled import ScaledRows

N_STILLS = 40


def record_of(space_group, laue_group):
    return GridRecord(
        (40.0, 40.0, 60.0, 90.0, 90.0, 90.0), "given", (3, 3, 3), space_group, laue_group, 3.0, None, "own", 0.0, False,
        (), 0.005,
    )  # fmt: skip


def rows_of(rng, record, true_group, mean=40.0, contrast=0.2):
    """Poisson sums of a crystal whose diffuse scattering has the symmetry of ``true_group``: the expected CC is known.

    Returns:
        (voxels of the asymmetric unit of the record's group, rows).
    """
    group, truth = parse_space_group(record.space_group), parse_space_group(true_group)
    asu = symmetry.unique_voxels(record, 4.0)
    every = unpack(np.unique(np.concatenate([pack(asu @ op) for op in symmetry.laue_operators(record)])))
    index = every[rng.random(len(every)) < 0.6]
    intrinsic = pack(map_to_asu(index, truth))
    _, number = np.unique(intrinsic, return_inverse=True)
    s = np.linalg.norm(symmetry.reciprocal_vectors(index, record), axis=1)
    intensity = np.exp(-4 * s) * (1 + contrast * rng.standard_normal(number.max() + 1)[number])
    response = mean * rng.uniform(0.7, 1.3, len(index))
    counts = rng.poisson(response * intensity).astype(float)
    voxels = np.unique(pack(map_to_asu(index, group)))
    n, zero = len(index), np.zeros(len(index), dtype=np.int32)
    still = rng.integers(0, N_STILLS, n)
    return unpack(voxels), ScaledRows(
        still, np.searchsorted(voxels, pack(map_to_asu(index, group))), index, zero, zero.astype(bool), counts, counts,
        counts, response, zero + 1, np.ones(n), np.ones(n), response, zero,
    )  # fmt: skip


def agreement(rng, record, true_group, keep=None, **options):
    index, rows = rows_of(rng, record, true_group)
    rows = rows if keep is None else rows.select(keep(rows.index))
    merged = merge([rows], index, record, np.zeros((1, N_STILLS), dtype=bool))
    equivalents = Equivalents(index, symmetry.laue_operators(record), **options)
    for block in range(2):
        equivalents.add(rows.select(rows.still % 2 == block))
    return equivalents.statistics(merged, equal_volume_edges(merged.s.min(), merged.s.max(), 4)), merged


@pytest.fixture
def tetragonal():
    return record_of("P 43 21 2", "P 4/m m m")


def test_equivalents_agree_as_far_as_noise_lets_them(rng, tetragonal):
    """The truth has the symmetry: each correlation is what the variances predict, within 0.05."""
    found, _ = agreement(rng, tetragonal, "P 43 21 2")
    assert {o.kind for o in found.operators} == {"-1", "2", "4", "m", "-4"}
    assert len(found.operators) == 13 and found.operators[0].name == "-h,-k,-l"
    for operator in found.operators:
        assert operator.cc == pytest.approx(operator.expected, abs=0.05), operator.name
        assert 0.2 < operator.expected < 0.9
    assert found.cc_sym > max(o.cc for o in found.operators)
    assert found.fraction == 1


def test_symmetry_that_is_not_there_shows_operator_by_operator(rng, tetragonal):
    """A crystal of class 4/m gridded as 4/mmm: 4, 2 along c, m and Friedel agree, twofold axes in the plane do not."""
    found, _ = agreement(rng, tetragonal, "P 43")
    real = {"-h,-k,-l", "-h,-k,l", "k,-h,l", "-k,h,l", "h,k,-l", "k,-h,-l", "-k,h,-l"}
    for operator in found.operators:
        if operator.name in real:
            assert operator.cc == pytest.approx(operator.expected, abs=0.05), operator.name
        else:
            assert operator.cc == pytest.approx(0, abs=0.06), operator.name


def test_correlations_are_those_of_pairs_found_one_by_one(rng):
    """Against a plain loop over all voxels and their Friedel mates, to rounding; the isotropic part is the same."""
    record = record_of("P 1", "P -1")
    index, rows = rows_of(rng, record, "P 1")
    merged = merge([rows], index, record, np.zeros((1, N_STILLS), dtype=bool))
    equivalents = Equivalents(index, symmetry.laue_operators(record))
    equivalents.add(rows)
    found = equivalents.statistics(merged, equal_volume_edges(merged.s.min(), merged.s.max(), 1))
    (friedel,) = found.operators
    from diffuse_dials.algorithms.quality.statistics import isotropic_part

    s = np.linalg.norm(symmetry.reciprocal_vectors(rows.index, record), axis=1)
    order = np.argsort(pack(rows.index))
    value = (rows.signal / rows.expected)[order]
    value = value - isotropic_part(s[order], value, np.ones(len(value)))
    of = {tuple(n): v for n, v in zip(rows.index[order].tolist(), value)}
    pairs = [(of[n], of[m]) for n in of for m in [tuple(-x for x in n)] if n < m and m in of]
    x, y = np.array(pairs).T
    assert friedel.n_pairs == len(pairs)
    # either member may stand first: compare what does not depend on it
    assert friedel.cc == pytest.approx(np.corrcoef(x, y)[0, 1], abs=0.01)


def test_a_sample_of_the_voxels_serves_where_there_are_many(rng, tetragonal):
    whole, merged = agreement(np.random.default_rng(5), tetragonal, "P 43 21 2")
    part, _ = agreement(np.random.default_rng(5), tetragonal, "P 43 21 2", max_voxels=16 * len(merged) // 3)
    assert part.fraction == pytest.approx(1 / 3, abs=0.1)
    assert part.cc_sym == pytest.approx(whole.cc_sym, abs=0.05)
    assert part.to_dict()["operators"][0]["kind"] == "-1" and len(part.rows()) == 14


@pytest.mark.parametrize("n_pairs, said", [(0, "no pairs"), (1, "too few pairs")])
def test_where_nothing_can_be_correlated_the_table_says_so(rng, n_pairs, said):
    """One half of reciprocal space, and of the other so many voxels, mates of some in the first."""
    record = record_of("P 1", "P -1")

    def keep(index):
        asu = pack(map_to_asu(index, parse_space_group("P -1")))
        first = pack(index) == asu
        return first | np.isin(asu, np.intersect1d(asu[first], asu[~first])[:n_pairs])

    found, _ = agreement(rng, record, "P 1", keep=keep)
    friedel, others = found.rows()
    assert (friedel[2], friedel[3]) == (n_pairs, said) and others[3] == said
    assert "nan" not in (*friedel, *others)
