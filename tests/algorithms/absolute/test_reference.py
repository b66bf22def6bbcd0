"""The scale against known |F|², and files of them."""

from __future__ import annotations

import random
from dataclasses import replace

import libtbx.phil
import numpy as np
import pytest
from cctbx import crystal, miller
from cctbx.development import random_structure
from cctbx.sgtbx import space_group_info
from dials.array_family import flex

from diffuse_dials.algorithms.absolute import scale
from diffuse_dials.algorithms.absolute.bragg import BraggIntensities
from diffuse_dials.algorithms.absolute.methods.base import Evidence
from diffuse_dials.algorithms.absolute.methods.reference import Reference, fit_scale
from diffuse_dials.algorithms.absolute.reference_data import (
    ReferenceData,
    calculated_reference,
    find_reference,
    is_reflection_file,
    read_reference,
)

K = 3.7e-3


def parameters(text=""):
    return scale.phil_scope.fetch(libtbx.phil.parse(text)).extract().absolute


@pytest.fixture(scope="module")
def structure():
    """A random structure in P43212 with B of 10 Å², the same in every run."""
    random.seed(0)
    flex.set_random_seed(0)
    return random_structure.xray_structure(
        space_group_info("P43212"), elements=["C"] * 20 + ["S"], volume_per_atom=60, u_iso=10 / (8 * np.pi**2)
    )


@pytest.fixture(scope="module")
def squared(structure):
    """Its |F|², unique reflections to 1.2 Å."""
    structure.scattering_type_registry(table="wk1995")
    return structure.structure_factors(d_min=1.2, algorithm="direct").f_calc().as_amplitude_array().f_as_f_sq()


def bragg_of(squared, rng, n_stills=100, relative=1.5, k=K, delta_b=0.0):
    """Intensities K |F|² e^{-ΔB s²/2} averaged over stills with a scatter proportional to them, gamma distributed."""
    hkl = np.array(squared.indices(), dtype=int)
    s = 1 / np.array(squared.d_spacings().data())
    expected = k * np.array(squared.data()) * np.exp(-delta_b * s**2 / 2)
    shape = n_stills / relative**2
    values = expected * rng.gamma(shape, 1 / shape, len(s))
    return BraggIntensities(hkl, s, values, expected**2 / shape, np.full(len(s), n_stills), np.ones(len(s)))


def reference_of(array, **changes):
    data = ReferenceData(np.array(array.indices(), dtype=int), np.array(array.data()), "the truth")
    return replace(data, **changes)


def test_scale_and_b_are_recovered_with_the_error_that_they_claim(squared, rng):
    """60 sets of gamma-distributed intensities: mean within 4 standard errors, pulls of width 1 ± 4/√120."""
    truth = np.array(squared.data())
    results = [fit_scale(bragg_of(squared, rng, delta_b=6.0), truth, True) for _ in range(60)]
    k, b, error = np.array(results).T
    pulls = np.log(k / K) / error
    assert abs(pulls.mean()) < 4 / np.sqrt(60) + 0.15
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(120))
    assert b.mean() == pytest.approx(6.0, abs=4 * b.std() / np.sqrt(60))


def test_without_a_b_the_scale_is_the_ratio_of_sums(squared, rng):
    found, truth = bragg_of(squared, rng), np.array(squared.data())
    k, delta_b, _ = fit_scale(found, truth, False)
    assert (k, delta_b) == (pytest.approx(found.intensity.sum() / truth.sum()), 0.0)


def test_the_correlation_is_the_one_that_the_scatter_lets_expect(squared, rng):
    """1/√(1 + <σ²>/var): 4.5-fold relative scatter of 100 stills; the strongest reflections set the tolerance."""
    found = bragg_of(squared, rng, relative=4.5)
    estimate = Reference().estimate(Evidence(None, None, bragg=found, reference=reference_of(squared)), parameters())
    assert estimate.details["correlation"] == pytest.approx(estimate.details["expected_correlation"], abs=0.06)
    assert estimate.details["expected_correlation"] < 0.95
    assert estimate.k == pytest.approx(K, rel=4 * estimate.errors["reflections"])
    assert not estimate.notes


def test_it_runs_where_a_radial_background_was_subtracted(squared, rng):
    evidence = Evidence(None, None, True, bragg=bragg_of(squared, rng), reference=reference_of(squared))
    chosen, _, refusals = scale.find_scale(evidence, parameters("absolute.method=reference"))
    assert chosen.k == pytest.approx(K, rel=4 * chosen.errors["reflections"])
    assert "krogh_moe" in refusals
    assert not scale.absolute_map(np.ones(2), np.ones(2), np.full(2, 0.3), chosen, evidence).incoherent.any()


def test_a_reference_of_something_else_is_called_out(squared, rng):
    mixed = reference_of(squared, squared=rng.permutation(np.array(squared.data())))
    evidence = Evidence(None, None, bragg=bragg_of(squared, rng), reference=mixed)
    assert "is it this crystal" in " ".join(Reference().estimate(evidence, parameters()).notes)


def test_too_little_is_refused(squared, rng):
    found = bragg_of(squared, rng)
    with pytest.raises(ValueError, match="reference needs .F.² on the absolute scale. Give absolute.reference.file"):
        Reference().estimate(Evidence(None, None, bragg=found), parameters())
    with pytest.raises(ValueError, match="needs Bragg intensities in the map"):
        Reference().estimate(Evidence(None, None, reference=reference_of(squared)), parameters())
    few = reference_of(squared, hkl=np.array(squared.indices(), dtype=int)[:5], squared=np.ones(5))
    with pytest.raises(ValueError, match="5 of .* 20 are needed"):
        Reference().estimate(Evidence(None, None, bragg=found, reference=few), parameters())
    with pytest.raises(ValueError, match="not positive in the mean"):
        fit_scale(replace(found, intensity=-found.intensity), np.array(squared.data()), True)


@pytest.mark.parametrize("suffix", ["mtz", "cif"])
@pytest.mark.parametrize("kind", ["amplitudes", "intensities", "bijvoet"])
def test_files_of_amplitudes_and_intensities_give_the_same(tmp_path, structure, squared, kind, suffix):
    """Expected: the |F|² that were written; Bijvoet mates are equal here, so that their mean is either."""
    array = squared if kind == "intensities" else squared.f_sq_as_f()
    if kind == "bijvoet":
        array = array.generate_bijvoet_mates()
    path = tmp_path / f"data.{suffix}"
    if suffix == "mtz":
        array.as_mtz_dataset(column_root_label="I" if kind == "intensities" else "F").mtz_object().write(str(path))
    else:
        array = array.customized_copy(sigmas=0.01 * array.data())
        with open(path, "w") as handle:
            label = "I" if kind == "intensities" else "F"
            array.as_cif_simple(array_type="meas", out=handle) if label == "F" else array.as_cif_simple("meas", handle)
    assert is_reflection_file(path)
    found = read_reference(path, None, structure.unit_cell(), structure.space_group())
    ours = miller.set(
        crystal.symmetry(structure.unit_cell(), space_group=structure.space_group().build_derived_point_group()),
        squared.indices(), anomalous_flag=False,
    ).map_to_asu()  # fmt: skip
    matched = found.match(np.array(ours.indices(), dtype=int))
    np.testing.assert_allclose(matched, np.array(squared.data()), rtol=2e-4, atol=1e-3)


def test_f_of_a_model_is_that_of_its_atoms(tmp_path, structure, squared):
    """Expected: direct summation; the FFT and the PDB file's digits are good to 1 %."""
    path = tmp_path / "model.pdb"
    path.write_text(structure.as_pdb_file())
    found = calculated_reference(path, structure.unit_cell(), structure.space_group(), 1.2)
    matched = found.match(np.array(squared.indices(), dtype=int))
    seen = np.isfinite(matched)
    assert seen.sum() > 0.95 * len(seen)
    truth = np.array(squared.data())[seen]
    assert matched[seen].sum() == pytest.approx(truth.sum(), rel=0.02)
    assert np.corrcoef(matched[seen], truth)[0, 1] > 0.995


def test_wrong_files_are_named(tmp_path, structure, squared):
    cell, group = structure.unit_cell(), structure.space_group()
    with pytest.raises(ValueError, match="There is no file nothing.mtz"):
        read_reference("nothing.mtz", None, cell, group)
    (tmp_path / "junk.mtz").write_bytes(b"no reflections")
    with pytest.raises(ValueError, match="no reflection file"):
        read_reference(tmp_path / "junk.mtz", None, cell, group)
    path = tmp_path / "data.mtz"
    squared.f_sq_as_f().as_mtz_dataset(column_root_label="F").mtz_object().write(str(path))
    with pytest.raises(ValueError, match="has no data FP. It has F"):
        read_reference(path, "FP", cell, group)
    with pytest.raises(ValueError, match="it is of another crystal"):
        read_reference(path, None, type(cell)((50, 50, 70, 90, 90, 90)), group)
    (tmp_path / "bare.pdb").write_text(
        "ATOM      1  CA  ALA A   1       1.000   2.000   3.000  1.00  9.00           C\n"
    )
    params = parameters()
    params.__inject__("model", str(tmp_path / "bare.pdb"))
    found, missing = find_reference(params, cell, group, bragg_of(squared, np.random.default_rng(0)))
    assert found is None
    assert "has no unit cell" in missing["reference"]


def test_measured_references_with_negative_intensities_do_not_bias_the_scale(squared, rng):
    """Noise as large as the mean on |F_ref|²: without B the scale stays the ratio of sums, within four errors."""
    truth = np.array(squared.data())
    noisy = truth + truth.mean() * rng.standard_normal(len(truth))
    evidence = Evidence(None, None, bragg=bragg_of(squared, rng), reference=reference_of(squared, squared=noisy))
    found = Reference().estimate(evidence, parameters("absolute.reference.fit_b=False"))
    assert (noisy < 0).any()
    assert found.details["n_reflections"] == len(truth)
    noise = truth.mean() / truth.sum() * np.sqrt(len(truth))
    assert found.k == pytest.approx(K, rel=4 * np.hypot(found.errors["reflections"], noise))
