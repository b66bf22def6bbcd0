"""How the crystallographic part went: indexing rate, cells, spots, residuals of their positions, partialities."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.adapters.experiments import load_experiments, still_keys
from diffuse_dials.io.stills import StillsTable
from diffuse_dials.io.tables import load_flex

CELL = ("a", "b", "c", "alpha", "beta", "gamma")
PARTIALITY_EDGES = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class Images:
    """What became of the images.

    Attributes:
        n_images: All that were tried; None where nothing lists them.
        n_indexed: Images with an indexed lattice; None likewise.
        n_integrated: Images with an integrated lattice.
        reasons: How often an image was lost for which kind of reason.
    """

    n_images: int | None
    n_indexed: int | None
    n_integrated: int
    reasons: dict[str, int]

    @property
    def indexing_rate(self) -> float | None:
        """Part of the images with an indexed lattice; None where their number is unknown."""
        return self.n_indexed / self.n_images if self.n_images else None


@dataclass(frozen=True)
class IntegratedStatistics:
    """Statistics of integrated stills; arrays have one element per still (lattice), in the order of the files.

    Attributes:
        images: What became of the images.
        labels: Names of the stills.
        cells: a, b, c (Å), α, β, γ (degrees), shape (n, 6).
        mosaicity: Half mosaicity, degrees; NaN where the crystal model has none.
        n_spots: Spots found on the image; NaN where stills.csv does not say.
        n_indexed, n_integrated: Reflections indexed and integrated; NaN without a .refl file.
        rmsd: Root mean square distance of observed and predicted spots, pixels; NaN where unknown.
        rmsd_source: What ``rmsd`` was taken from, in words.
        partiality: Histogram over PARTIALITY_EDGES of all reflections, shape (n_bins,); None where no file has any.
        placeholder: Whether all partialities are exactly 1, which DIALS writes where its model knows none.
    """

    images: Images
    labels: tuple[str, ...]
    cells: np.ndarray
    mosaicity: np.ndarray
    n_spots: np.ndarray
    n_indexed: np.ndarray
    n_integrated: np.ndarray
    rmsd: np.ndarray
    rmsd_source: str
    partiality: np.ndarray | None
    placeholder: bool

    headers = ("parameter", "mean", "standard deviation", "smallest", "largest", "stills")

    def cell_rows(self) -> list[tuple]:
        """Rows of the table of cells: name, mean, standard deviation, smallest, largest, number."""
        spread = self.cells.std(axis=0, ddof=1) if len(self.cells) > 1 else np.full(6, np.nan)
        return [
            (name, *("" if np.isnan(x) else f"{x:.4f}" for x in (v.mean(), sd, v.min(), v.max())), len(v))
            for name, v, sd in zip(CELL, self.cells.T, spread)
        ]

    def to_dict(self) -> dict:
        """For JSON: NaN becomes null."""
        several = len(self.cells) > 1
        return {
            **asdict(self.images),
            "indexing_rate": self.images.indexing_rate,
            "n_lattices": len(self.labels),
            "cell_mean": dict(zip(CELL, self.cells.mean(axis=0).tolist())),
            "cell_sd": dict(zip(CELL, self.cells.std(axis=0, ddof=1).tolist())) if several else None,
            **{
                f"median_{name}": _median(getattr(self, name))
                for name in ("mosaicity", "n_spots", "n_indexed", "n_integrated", "rmsd")
            },
            "rmsd_source": self.rmsd_source,
            "partiality_is_placeholder": self.placeholder,
        }


def integrated_statistics(experiment_files, reflection_files, stills_csv=None) -> IntegratedStatistics:
    """Read integrated stills, one file after the other.

    Args:
        experiment_files: Names of .expt files, at least one.
        reflection_files: Names of the .refl files that belong to them; may be none.
        stills_csv: stills.csv of diffuse.integrate or a later step, or None.

    Raises:
        ValueError: If a file cannot be read, or a still has no crystal.
    """
    table = StillsTable.read(stills_csv).rows if stills_csv and Path(stills_csv).is_file() else {}
    keys, identifiers, cells, mosaicity = [], [], [], []
    for name in experiment_files:
        experiments = load_experiments(name)
        if any(experiment.crystal is None for experiment in experiments):
            raise ValueError(f"{name} has stills without a crystal. Give the integrated.expt of dials.stills_process.")
        keys += still_keys(experiments)
        identifiers += list(experiments.identifiers())
        for experiment in experiments:
            crystal = experiment.crystal
            cells.append(crystal.get_unit_cell().parameters())
            known = hasattr(crystal, "get_half_mosaicity_deg")
            mosaicity.append(crystal.get_half_mosaicity_deg() if known else np.nan)
    found = _reflections(reflection_files)
    rows = [table.get(identifier, {}) for identifier in identifiers]
    from_csv = np.array([_number(row.get("rmsd")) for row in rows])
    of_spots = np.array([found.rmsd.get(identifier, np.nan) for identifier in identifiers])
    recorded = np.isfinite(from_csv).any()
    return IntegratedStatistics(
        _images(keys, table),
        tuple(key.label for key in keys),
        np.array(cells),
        np.array(mosaicity, dtype=float),
        np.array([_number(row.get("n_spots")) for row in rows]),
        np.array([found.n_indexed.get(identifier, np.nan) for identifier in identifiers]),
        np.array([found.n_integrated.get(identifier, np.nan) for identifier in identifiers]),
        from_csv if recorded else of_spots,
        "indexed spots after refinement (stills.csv)" if recorded else "spots used in refinement, as integrated",
        found.partiality,
        found.placeholder,
    )


@dataclass
class _Reflections:
    n_indexed: dict[str, int]
    n_integrated: dict[str, int]
    rmsd: dict[str, float]
    partiality: np.ndarray | None = None
    placeholder: bool = False


def _reflections(names) -> _Reflections:
    found = _Reflections({}, {}, {})
    least, most = np.inf, -np.inf
    for name in names:
        table = load_flex(name)
        if "flags" not in table or "id" not in table:
            raise ValueError(f"{name} holds no integrated reflections. Give the .refl of dials.stills_process.")
        known = table.experiment_identifiers()
        names_of = dict(zip(known.keys(), known.values()))
        ids = flumpy.to_numpy(table["id"])
        n = int(ids.max(initial=-1)) + 1
        indexed, integrated, used = (
            flumpy.to_numpy(table.get_flags(flag))
            for flag in (table.flags.indexed, table.flags.integrated_sum, table.flags.used_in_refinement)
        )
        square = np.full(len(ids), np.nan)
        if "xyzcal.px" in table and "xyzobs.px.value" in table:
            observed, predicted = (flumpy.to_numpy(table[c]) for c in ("xyzobs.px.value", "xyzcal.px"))
            square = ((observed - predicted)[:, :2] ** 2).sum(axis=1)
        good = used & (ids >= 0) & np.isfinite(square)
        sums, numbers = np.bincount(ids[good], square[good], n), np.bincount(ids[good], minlength=n)
        for counts, flag in ((found.n_indexed, indexed), (found.n_integrated, integrated)):
            each = np.bincount(ids[flag & (ids >= 0)], minlength=n)
            counts.update({names_of[i]: int(each[i]) for i in range(n) if i in names_of})
        found.rmsd.update({names_of[i]: np.sqrt(sums[i] / numbers[i]) for i in names_of if i < n and numbers[i]})
        if isinstance(table.get("partiality", None), flex.double):
            values = flumpy.to_numpy(table["partiality"])
            counts = np.histogram(np.clip(values, 0, 1), PARTIALITY_EDGES)[0]
            found.partiality = counts if found.partiality is None else found.partiality + counts
            least, most = min(least, values.min(initial=np.inf)), max(most, values.max(initial=-np.inf))
    found.placeholder = bool(least == most == 1.0)
    return found


def _images(keys, table: dict) -> Images:
    """stills.csv lists failed images only where diffuse.integrate began it: then it has the column n_spots."""
    integrated = {(key.image, key.index) for key in keys}
    rows = list(table.values())
    if not any("n_spots" in row for row in rows):
        return Images(None, None, len(integrated), {})
    images, indexed, reasons = set(), set(), {}
    for row in rows:
        image = (row["image"], row["index"])
        images.add(image)
        if _number(row.get("n_indexed")) > 0:
            indexed.add(image)
        if _number(row.get("n_integrated")) > 0:
            continue
        reasons[image] = (row.get("reason") or "").partition(":")[0] or "unknown"
    counts = dict(Counter(reasons.values()).most_common())
    return Images(len(images), len(indexed), len(integrated), counts)


def _number(text: str | None) -> float:
    try:
        return float(text) if text else np.nan
    except ValueError:
        return np.nan


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
