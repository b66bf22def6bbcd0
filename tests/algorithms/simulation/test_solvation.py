"""Waters in the gaps of a user's model."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_dials.algorithms.simulation.generation import generate
from diffuse_dials.algorithms.simulation.model import prepare_model, read_model
from diffuse_dials.algorithms.simulation.packing import CrystalSymmetry, neighbours

SHORT = "generate.sequence=GAG", "generate.unit_cell=14,15,16,90,90,90"


@pytest.fixture
def dry(tmp_path, parameters):
    """A tripeptide's crystal without solvent."""
    path = tmp_path / "dry.pdb"
    path.write_text(generate(parameters(*SHORT, "generate.water_density=0").generate))
    return path


def test_a_filled_model_has_the_electron_density_of_a_crystal(dry, tmp_path, parameters):
    """Waters by volume: 0.0334 per Å³ of what 1.212 Å³/Da leave; the model's atoms do not move; nothing clashes."""
    (tmp_path / "run").mkdir()
    model = prepare_model(parameters(*SHORT, f"model={dry}", "fill_with_water=True"), tmp_path / "run")
    before = read_model(dry)
    n = before.structure.scatterers().size()
    first = np.array(model.structure.sites_cart())[:n]
    np.testing.assert_allclose(first, np.array(before.structure.sites_cart()), atol=2e-3)
    mass = sum({"C": 12.011, "H": 1.008, "N": 14.007, "O": 15.999}[e] * k for e, k in before.composition.items())
    waters = (model.composition["O"] - before.composition["O"]) / 4
    assert waters == pytest.approx(0.0334 * (14 * 15 * 16 - 1.212 * mass) / 4, abs=0.51)
    electrons = {"C": 6, "H": 1, "N": 7, "O": 8}
    density = sum(electrons[e] * k for e, k in model.composition.items()) / (14 * 15 * 16)
    assert 0.35 < density < 0.46
    elements = np.array([s.element_symbol() for s in model.structure.scatterers()])
    symmetry = CrystalSymmetry.from_cctbx(model.structure.crystal_symmetry())
    heavy = np.array(model.structure.sites_cart())[elements != "H"]
    i, j, operator, shift = neighbours(heavy, symmetry, 2.2)
    inside = (operator == 0) & (np.abs(shift).max(axis=1, initial=0) < 1e-6) & (i < n) & (j < n)
    assert inside.all()


def test_the_users_file_is_never_replaced(dry, tmp_path, parameters):
    source = tmp_path / "model.pdb"
    source.write_text(dry.read_text())
    with pytest.raises(ValueError, match="Use another output.directory"):
        prepare_model(parameters(*SHORT, f"model={source}", "fill_with_water=True"), tmp_path)
    assert source.read_text() == dry.read_text()
