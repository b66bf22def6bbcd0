"""Experiment lists as files."""

from __future__ import annotations

from cctbx import sgtbx
from dxtbx.model import Crystal, Experiment, ExperimentList

from diffuse_dials.adapters.experiments import save_experiments


def test_experiments_of_several_groups_are_written_as_dxtbx_writes_them(tmp_path):
    """DIALS's own file; and cctbx is left as it was."""
    of_cctbx = sgtbx.space_group.info
    axes = (50, 0, 0), (0, 60, 0), (0, 0, 70)
    groups = "P212121", "P1", "P21212", "P212121", "C2221"
    experiments = ExperimentList([Experiment(crystal=Crystal(*axes, space_group_symbol=group)) for group in groups])
    save_experiments(experiments, tmp_path / "ours.expt")
    experiments.as_file(str(tmp_path / "theirs.expt"))
    assert (tmp_path / "ours.expt").read_bytes() == (tmp_path / "theirs.expt").read_bytes()
    assert sgtbx.space_group.info is of_cctbx
