from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

# No install_requires. DIALS, dxtbx and cctbx come from conda or Debian, and PyPI's dials is another program. For the
# rest see environment.yml: DIALS 3.12 loads the scaling model through pkg_resources, which first looks for the metadata
# of every requirement, and each DIALS program would stop where one has none (Debian's gemmi).
here = Path(__file__).resolve().parent
version = re.search(r'^__version__ = "(.+)"$', (here / "diffuse_dials/__init__.py").read_text("utf-8"), re.M)[1]
commands = (
    "make_mask", "extract", "grid", "scale", "absolute", "simulate", "compare", "export", "integrate", "process",
    "report",
)  # fmt: skip

setup(
    name="diffuse_dials",
    version=version,
    description="Quantitative three-dimensional diffuse scattering from still images, as a plug-in of DIALS",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The diffuse_dials developers",
    license="BSD-3-Clause",
    classifiers=[
        "License :: OSI Approved :: BSD License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering",
    ],
    python_requires=">=3.10",
    # libtbx makes dispatchers also from a command_line folder inside a package: our commands are in cli
    packages=[*find_packages(include=["diffuse_dials", "diffuse_dials.*"]), "diffuse_dials.phil"],
    package_dir={"diffuse_dials": "diffuse_dials", "diffuse_dials.phil": "phil"},
    package_data={"diffuse_dials": ["data/*", "report/templates/*"], "diffuse_dials.phil": ["*/*.phil"]},
    entry_points={
        "console_scripts": [f"diffuse.{command} = diffuse_dials.cli.{command}:run" for command in commands],
        "dxtbx.scaling_model_ext": ["diffuse = diffuse_dials.algorithms.scaling.model:DiffuseScalingModel"],
    },
)
