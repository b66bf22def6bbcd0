"""The absolute scale of simulated stills whose constant is known.

    tools/check_absolute.py folder [name ...] [n_stills=300]

Makes stills of a small cubic crystal (20 residues, water throughout, 0.98 Å, to 1.4 Å) in each of several conditions,
grids them with their true orientations, scales them, and prints K found / K true by each method, and the |F|² out of
the map against the true ones. A condition takes two to three minutes of CPU time with 300 stills.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import diffuse_dials  # noqa: F401  (first: it prepares the environment of DIALS)

# isort: split
from iotbx import mtz

from diffuse_dials.adapters.symmetry import parse_space_group
from diffuse_dials.algorithms.absolute.bragg import box_integrated
from diffuse_dials.algorithms.absolute.methods.reference import correlations
from diffuse_dials.algorithms.absolute.reference_data import read_reference
from diffuse_dials.io.records import load_grid_record
from diffuse_dials.io.tables import load_table

BASE = (
    "generate.sequence=ACDEFGHIKLMNPQRSTVWY generate.unit_cell=49,49,49,90,90,90 generate.space_group=P4232 "
    "modules=1,3 distance=80 n_hot=0 n_dead=0 b_factor=12 correlation_length=5 n_blanks=4 photons_per_pixel=5 "
    "stills.exposure_time=0.08,0.1,0.12 blank_exposure_time=1 truth.d_min=1.7 seed=3"
).split()
# name: (parameters of diffuse.simulate, of diffuse.grid, of diffuse.absolute)
CONDITIONS = {
    "usual": ([], [], []),
    "mosaic_0.02": (["mosaic_rms=0.02"], [], []),
    # true crystals bring no mosaicity, which the radius of the Bragg mask would follow: 3 sigma at 1.7 Å
    "mosaic_0.15": (["mosaic_rms=0.15"], ["masking.bragg.radius=0.006"], []),
    "exposures_and_scales": (["stills.exposure_time=0.05,0.1,0.3", "scale_range=0.1,3", "seed=8"], [], []),
    "background_left_in": (None, ["background=None"], ["method=reference"]),
    "radial_background": (None, ["background_method=radial"], ["method=reference"]),
    "protein_only": (["water_density=0"], [], ["solvent=none"]),
}
GRID = ["mask=truth_pixels.mask", "d_min=1.7", "d_max=15", "ndiv=3,3,3"]


def run(folder: Path, command: str, *arguments) -> None:
    """Run a command of this package in a folder."""
    with open(folder / f"{command}.out", "w", encoding="utf-8") as handle:
        code = [sys.executable, "-c", f"from diffuse_dials.cli.{command} import run; run()", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        if subprocess.run(code, cwd=folder, stdout=handle, stderr=handle, env=environment).returncode:
            sys.exit(f"diffuse.{command} failed: see {folder / command}.out")


def condition(name: str, top: Path, n_stills: int) -> dict:
    """Simulate, process and compare one condition; those without stills of their own take the usual ones."""
    simulate, grid, absolute = CONDITIONS[name]
    folder, images = top / name, top / ("usual" if simulate is None else name)
    folder.mkdir(parents=True, exist_ok=True)
    if not (images / "truth_stills.expt").exists():
        run(
            folder, "simulate", *BASE, f"n_stills={n_stills}", *(simulate or []), f"output.directory={images.resolve()}"
        )
    background = [] if "background=None" in grid else [f"background={images.resolve() / 'blank.expt'}"]
    if not (images / "blank.expt").exists():
        blanks = [str(path) for path in sorted((images / "blanks").resolve().glob("*.cbf"))]
        code = "import sys; from dials.command_line.dials_import import run; run(sys.argv[1:])"
        arguments = [sys.executable, "-c", f"import diffuse_dials; {code}", *blanks]
        with open(images / "import.out", "w", encoding="utf-8") as out:
            options = ["convert_sequences_to_stills=True", "output.experiments=blank.expt"]
            subprocess.run([*arguments, *options], cwd=images, check=True, stdout=out, stderr=out)
    if not (folder / "merged.refl").exists():
        options = [text for text in grid if text != "background=None"]
        paths = [text.replace("truth_pixels.mask", str(images.resolve() / "truth_pixels.mask")) for text in GRID]
        run(folder, "grid", str(images.resolve() / "truth_stills.expt"), *paths, *background, *options)
        run(folder, "scale", "gridded.expt", "gridded.refl")
    files = ["merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl"]
    given = [str(images.resolve() / "model.pdb"), str(images.resolve() / "truth_bragg.mtz")]
    run(folder, "absolute", *files, *given, *absolute)
    return compare(folder, images)


def compare(folder: Path, images: Path) -> dict:
    """K found / K true by each method; sum and correlation of |F|²."""
    with open(images / "truth_stills.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    true = float(rows[0]["absolute_constant"]) * np.mean([float(row["scale"]) for row in rows])  # mean scale 1
    found = json.loads((folder / "diffuse.absolute.json").read_text(encoding="utf-8"))
    results = {estimate["method"]: estimate["k"] / true for estimate in found["estimates"]}
    path = images / "truth_bragg.mtz"
    data = mtz.object(str(path)).as_miller_arrays()[0]
    record = load_grid_record(folder / "merged.refl")
    bragg = box_integrated(load_table(folder / "merged.refl").columns, record, parse_space_group(record.space_group))
    squared = read_reference(path, None, data.unit_cell(), data.space_group()).match(bragg.hkl)
    bragg, squared = bragg.select(np.isfinite(squared)), squared[np.isfinite(squared)]
    often = bragg.multiplicity >= 100
    results["sum |F|²"] = bragg.intensity.sum() / true / squared.sum()
    for label, which in (("", slice(None)), (", m >= 100", often))[: 2 if often.sum() > 100 else 1]:
        correlation, possible = correlations(bragg.select(which), true * squared[which])
        results[f"CC{label}"], results[f"expected CC{label}"] = correlation, possible
    results["n, m >= 100"], results["mean m"] = int(often.sum()), float(bragg.multiplicity.mean())
    return results


def main(arguments) -> None:
    """Print a table of all conditions, or of those named."""
    n_stills = next((int(a.split("=")[1]) for a in arguments if a.startswith("n_stills=")), 300)
    names = [a for a in arguments if "=" not in a]
    if not names:
        sys.exit(__doc__)
    for name in names[1:] or CONDITIONS:
        results = condition(name, Path(names[0]), n_stills)
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in results.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
