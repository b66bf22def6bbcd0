"""Our scaling model made known to DIALS where the package is not installed: in a bare checkout on PYTHONPATH."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from diffuse_dials.plugins import installed

_GROUP, _NAME = "dxtbx.scaling_model_ext", "diffuse"
_ROOT = Path(__file__).resolve().parents[2]
_FILES = {
    "METADATA": "Metadata-Version: 2.1\nName: diffuse_dials\nVersion: 0\n",
    "entry_points.txt": f"[{_GROUP}]\n{_NAME} = diffuse_dials.algorithms.scaling.model:DiffuseScalingModel\n",
}


class _Checkout(metadata.Distribution):
    """What importlib.metadata would read from an installation."""

    def read_text(self, filename):
        return _FILES.get(filename)

    def locate_file(self, path):
        return _ROOT / path


class _Finder(metadata.DistributionFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None

    @classmethod
    def find_distributions(cls, context=None):
        return [_Checkout()] if context is None or context.name in (None, "diffuse_dials") else []


def register_scaling_model() -> None:
    """Declare the entry point of the scaling model for this process, unless an installation does.

    dxtbx reads an .expt file whose scaling model is not registered without a word, and leaves the model out.
    """
    if any(entry.name == _NAME for entry in installed().select(group=_GROUP)):
        return
    sys.meta_path.append(_Finder)
    if "pkg_resources" in sys.modules:  # DIALS up to 3.12 asks this module, and has imported it by now
        _register_with_pkg_resources(sys.modules["pkg_resources"])


def _register_with_pkg_resources(pkg_resources) -> None:
    class Metadata(pkg_resources.EmptyProvider):
        def has_metadata(self, name):
            return name in _FILES

        def get_metadata(self, name):
            return _FILES[name]

        def get_metadata_lines(self, name):
            return pkg_resources.yield_lines(_FILES[name])

    checkout = pkg_resources.Distribution(
        location=str(_ROOT), metadata=Metadata(), project_name="diffuse_dials", version="0"
    )
    pkg_resources.working_set.add(checkout)
