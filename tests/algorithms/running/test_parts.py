"""The parts of a run: what is left when one of them fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from diffuse_dials.algorithms.running.mpi import Communicator
from diffuse_dials.algorithms.running.parts import Job, make_parts
from diffuse_dials.algorithms.running.run_folder import RunFolder
from diffuse_dials.io.atomic import replacing


def test_a_part_that_fails_leaves_nothing_of_those_that_were_being_written(monkeypatch, tmp_path):
    """The other process is in the middle of its file then, and is killed."""
    monkeypatch.chdir(tmp_path)
    job = Job(Communicator.of(""), 2, False, "key")
    folder = RunFolder.open("gridded.refl", job.key, job.resume)
    folder.begin({"key": job.key, "blocks": [[0, 1], [1, 2], [2, 3]]})
    begun = Path("begun")

    def make(number, path):
        if number == 0:
            path.write_bytes(b"whole")
            return
        if number == 1:
            while not begun.exists():
                time.sleep(0.01)
            raise ValueError("No space left on device.")
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            begun.touch()
            time.sleep(60)

    with pytest.raises(ValueError, match="No space left on device. 1 of 3 parts are finished"):
        make_parts(job, folder, make, str, "grid", str)
    assert sorted(path.name for path in folder.path.glob("[0-9]*")) == [folder.part(0).name]
