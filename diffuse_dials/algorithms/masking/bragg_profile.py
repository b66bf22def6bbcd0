"""How Bragg intensity falls off around the lattice points, measured on the images: the basis of radius=Auto.

On a sample of stills each pixel is compared with the level of its surroundings, which comes from pixels far from any
lattice point. The mean excess, Σ counts / Σ level - 1, against the distance from the nearest lattice point is the
Bragg profile with everything that widens it: mosaicity and domains, errors of the orientation, the tails of a CCD's
spots. The radius ends where the excess has dropped to ``tolerance``, in units of the width σ of each still's own spots
and as a function of |s|.

The crystal's own diffuse scattering may also be stronger around lattice points. It falls off slowly there (TDS as r⁻²)
and is no reason to mask, whereas the tail of a Bragg spot is steep: a fall-off slower than r^-2.5 ends the mask.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from libtbx import Auto
from scipy import ndimage

from diffuse_dials.adapters import images
from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking.bragg import SIGMAS_STEP, LatticeMask, distances_in_a_cell, quantile_in_a_cell
from diffuse_dials.algorithms.masking.dynamic import block_levels, spread_out
from diffuse_dials.algorithms.masking.geometry import Geometries, in_parts
from diffuse_dials.algorithms.masking.survey import trusted_values
from diffuse_dials.algorithms.running import parallel
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.kernels.sums import transform

SHELL = 0.05  # 1/Å, width of a shell of |s|
R_STEP = 0.0004  # 1/Å, of the distance from the lattice point
X_STEP = 0.25  # σ, of the same in widths of a spot
_SHAPE_R, _SHAPE_X = (60, 75), (60, 80)  # shells, steps; what is farther goes into the last
_FAR = 0.5  # the level is that of the half of reciprocal space farthest from lattice points
_LEAST_COUNTS = 2000  # of level in a shell, below which it takes its neighbour's radius
_SMALLEST = 1.5  # σ, smallest radius: where the sample shows no Bragg intensity a strong spot still may
_SLOPE, _WINDOW, _HALO = -2.5, 4, 0.5  # d ln(excess)/d ln(r) of a halo, over how many steps, and its largest excess
_MEDIAN = 5  # steps
_PIXELS, _FEWEST = 8_000_000, 4  # size of the sample

PROFILE_PHIL = """
tolerance = 0.03
  .type = float(value_min=0.001, value_max=1)
  .help = "radius=Auto ends where the mean intensity around lattice points has dropped to 1 + tolerance times the level"
          "of the diffuse scattering (and background) around."
n_sample = Auto
  .type = int(value_min=1)
  .help = "Number of stills on which radius_sigmas is measured, chosen by a hash of their names. Auto: about 8 million"
          "pixels, at least four stills."
  .expert_level = 1
profile = None
  .type = path
  .help = "bragg_profile.json of diffuse.make_mask, to be used instead of measuring at the start of the command. Give"
          "it if a data set is processed in parts, so that all parts are masked alike."
"""


@dataclass
class BraggProfile:
    """Sums of counts and levels by |s| and distance from the lattice point; those of several stills add.

    Attributes:
        counts_r, level_r: By shell of |s| and distance in steps of R_STEP, shape (60, 75); detector units.
        counts_x, level_x: The same with the distance in units of the spots' σ, steps of X_STEP, shape (60, 80).
        n_stills: Number of stills.
    """

    counts_r: np.ndarray
    level_r: np.ndarray
    counts_x: np.ndarray
    level_x: np.ndarray
    n_stills: int = 0

    @classmethod
    def zeros(cls) -> BraggProfile:
        """Nothing measured yet."""
        return cls(*(np.zeros(shape) for shape in (_SHAPE_R, _SHAPE_R, _SHAPE_X, _SHAPE_X)))

    def __iadd__(self, other: BraggProfile) -> BraggProfile:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def add(self, s_length, r, x, counts, level) -> None:
        """Add pixels: |s| and r in 1/Å, x in σ, counts and level in detector units, all of shape (n,)."""
        shell = np.minimum(s_length / SHELL, _SHAPE_R[0] - 1).astype(np.int32)
        for name, distance, step, shape in (("r", r, R_STEP, _SHAPE_R), ("x", x, X_STEP, _SHAPE_X)):
            code = shell * shape[1] + np.minimum(distance / step, shape[1] - 1).astype(np.int32)
            for total, weights in ((f"counts_{name}", counts), (f"level_{name}", level)):
                sums = np.bincount(code, weights, shape[0] * shape[1]).reshape(shape)
                setattr(self, total, getattr(self, total) + sums)

    def excess_r(self) -> np.ndarray:
        """Mean intensity over the level, less 1, by shell and distance, shape (60, 75); NaN where nothing is."""
        return _ratio(self.counts_r, self.level_r)

    def excess_x(self) -> np.ndarray:
        """The same by distance in widths of a spot, shape (60, 80)."""
        return _ratio(self.counts_x, self.level_x)

    def to_dict(self) -> dict:
        """For bragg_profile.json; from_dict reads it."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "shell_width": SHELL, "r_step": R_STEP, "x_step": X_STEP,
            **{k: v.round(3).tolist() if isinstance(v, np.ndarray) else v for k, v in arrays.items()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: dict) -> BraggProfile:
        """As to_dict wrote it.

        Raises:
            ValueError: If it is something else, or was written with other steps.
        """
        try:
            steps = [content[name] for name in ("shell_width", "r_step", "x_step")]
            values = {f.name: np.array(content[f.name], dtype=float) for f in fields(cls) if f.name != "n_stills"}
            profile = cls(**values, n_stills=int(content["n_stills"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is no Bragg profile of diffuse.make_mask ({error!r})") from error
        if steps != [SHELL, R_STEP, X_STEP] or profile.counts_x.shape != _SHAPE_X:
            raise ValueError("it was written by another version of diffuse_dials")
        return profile


def _ratio(counts, level) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(level > 0, counts / level - 1, np.nan)


def sigmas_needed(profile: BraggProfile, tolerance: float) -> np.ndarray:
    """Radius in σ at which the excess has dropped to ``tolerance``, by shell, shape (60,); NaN: too few counts."""
    needed = np.full(_SHAPE_X[0], np.nan)
    for shell, (counts, level) in enumerate(zip(profile.counts_x, profile.level_x)):
        measured = np.flatnonzero(level > 0)
        if level.sum() < _LEAST_COUNTS or len(measured) < 2 * _WINDOW:
            continue
        # The running median leaves a falling curve as it is; hot pixels and spots of something else drop out.
        excess = ndimage.median_filter(counts[measured] / level[measured] - 1, _MEDIAN, mode="nearest")
        needed[shell] = max(_SMALLEST, X_STEP * measured[_end_of(excess, X_STEP * (measured + 0.5), tolerance)])
    return needed


def _end_of(excess, x, tolerance: float) -> int:
    """First step that is no longer Bragg intensity: below the tolerance, or the slow fall-off of a halo."""
    below = np.flatnonzero(excess < tolerance)
    end = below[0] if len(below) else len(excess) - 1
    steepest = 0.0
    for i in range(min(end, len(excess) - _WINDOW)):  # all of these exceed the tolerance
        fall = max(excess[i + _WINDOW], 0.1 * tolerance) / excess[i]
        slope = math.log(fall) / math.log(x[i + _WINDOW] / x[i])
        steepest = min(steepest, slope)
        if steepest < 2 * _SLOPE and slope > _SLOPE and excess[i] < _HALO:
            return i
    return end


def radius_sigmas(profile: BraggProfile, tolerance: float) -> np.ndarray | None:
    """k(|s|) of LatticeMask in steps of SIGMAS_STEP; None if no shell has enough counts."""
    needed = sigmas_needed(profile, tolerance)
    known = np.flatnonzero(np.isfinite(needed))
    if not len(known):
        return None
    last = (known[-1] + 1) * SHELL
    s = np.arange(SIGMAS_STEP / 2, last, SIGMAS_STEP)
    return np.interp(s, (known + 0.5) * SHELL, needed[known]).round(4)


def left_over(profile: BraggProfile, tolerance: float) -> list[dict]:
    """What the radius does, shell by shell.

    Returns:
        One dictionary per shell that has counts: ``s_min``, ``s_max`` (1/Å), ``radius_sigmas``, ``masked`` (fraction of
        the pixels, weighted by their level), ``bragg`` (excess of all pixels over the level) and ``left`` (the same of
        the pixels beyond the radius), both in units of the level.
    """
    rows = []
    for shell, k in enumerate(sigmas_needed(profile, tolerance)):
        level, excess = profile.level_x[shell], profile.counts_x[shell] - profile.level_x[shell]
        if np.isfinite(k):
            beyond = np.arange(len(level)) * X_STEP >= k
            rows.append({
                "s_min": shell * SHELL, "s_max": (shell + 1) * SHELL, "radius_sigmas": float(k),
                "masked": float(1 - level[beyond].sum() / level.sum()), "bragg": float(excess.sum() / level.sum()),
                "left": float(excess[beyond].sum() / max(level[beyond].sum(), 1e-9)),
            })  # fmt: skip
    return rows


def load_profile(path) -> BraggProfile:
    """Read bragg_profile.json.

    Raises:
        ValueError: If it is missing or holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Give the bragg_profile.json that diffuse.make_mask wrote.")
    try:
        return BraggProfile.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be used as masking.bragg.profile: {sentence(error)} Give the bragg_profile.json that "
            "diffuse.make_mask wrote."
        ) from None


def sample(keys, shape_sizes: int, n_sample) -> list[int]:
    """Numbers of the stills on which the profile is measured: chosen by a hash, whatever their order.

    Args:
        keys: StillKey of each still.
        shape_sizes: Pixels of the detector.
        n_sample: How many, or Auto.
    """
    wanted = max(_FEWEST, _PIXELS // shape_sizes) if n_sample in (None, Auto) else n_sample
    drawn = sorted(range(len(keys)), key=lambda n: hashlib.sha256(keys[n].label.encode()).digest())
    return drawn[:wanted]


def measure_profile(experiments, keys, params, mask_of, nproc: int) -> BraggProfile:
    """Measure the profile on a sample of stills.

    Args:
        experiments: The stills; those without a crystal are passed over.
        keys: StillKey of each.
        params: The ``masking`` extract.
        mask_of: Function of an experiment: its static mask, one bool array (slow, fast) per panel.
        nproc: Processes; the profile does not depend on it.

    Raises:
        ValueError: If no image of the sample can be read.
    """
    with_crystal = [n for n in range(len(keys)) if experiments[n].crystal is not None and keys[n].lattice == 0]
    n_pixels = sum(int(np.prod(shape)) for shape in images.panel_shapes(experiments[0].detector))
    chosen = [with_crystal[i] for i in sample([keys[n] for n in with_crystal], n_pixels, params.bragg.n_sample)]
    several = {(keys[n].image, keys[n].index) for n in range(len(keys)) if keys[n].lattice}
    chosen = [n for n in chosen if (keys[n].image, keys[n].index) not in several] or chosen
    geometries = Geometries()

    def work(number):
        try:
            return _profile_of(experiments[number], params, mask_of, geometries), ""
        except ValueError as error:  # whether a broken image stops the run is decided when it is measured
            return None, str(error)

    total, failure = BraggProfile.zeros(), ""
    for found, reason in parallel.each(work, chosen, nproc, "Bragg profile"):
        if found is None:
            failure = reason
        else:
            total += found
    if chosen and not total.n_stills:
        raise ValueError(failure)
    return total


def _profile_of(experiment, params, mask_of, geometries: Geometries) -> BraggProfile:
    """Sums of one still."""
    profile = BraggProfile.zeros()
    lattice = LatticeMask.from_phil(params.bragg, experiment)
    inverse = np.linalg.inv(setting_matrix(experiment))
    far = quantile_in_a_cell(distances_in_a_cell(lattice.metric), _FAR)
    wavelength = experiment.beam.get_wavelength()
    for number, (raw, mask) in enumerate(zip(images.read_raw(experiment), mask_of(experiment))):
        panel = experiment.detector[number]
        geometry = geometries.of(experiment, number)
        r, x = np.empty(raw.size, dtype=np.float32), np.empty(raw.size, dtype=np.float32)
        for part, s in in_parts(geometry, wavelength):
            r[part] = lattice.distances(transform(inverse, s))
            x[part] = r[part] / np.sqrt(lattice.width_squared(number, s))
        good = trusted_values(raw, panel, params)[0] & mask
        values = raw.astype(np.float32)
        floor = 0.3 if np.issubdtype(raw.dtype, np.integer) else np.finfo(np.float32).tiny
        level, _, _ = block_levels(values, good & (r > far).reshape(raw.shape), images.is_counter(panel), floor)
        level = spread_out(level, raw.shape)
        s_length = geometry.s_lengths(wavelength)
        # Around the origin there is the direct beam, not a reflection.
        use = np.flatnonzero(good.ravel() & (level.ravel() > 0) & (s_length > 2 * far))
        profile.add(s_length[use], r[use], x[use], values.ravel()[use], level.ravel()[use])
    profile.n_stills = 1
    return profile
