"""From gridded stills to the scaling model of each: what diffuse.scale does before it merges."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np
from dials.util import tabulate

from diffuse_dials.algorithms.merging import excludes_lattice_points
from diffuse_dials.algorithms.scaling.anisotropic import NoAnisotropy
from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks, Totals, VoxelNumbers, compact, make_shells
from diffuse_dials.algorithms.scaling.cells import DetectorCells, make_cells
from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS
from diffuse_dials.algorithms.scaling.engines import finish_with
from diffuse_dials.algorithms.scaling.errors import parameter_esds
from diffuse_dials.algorithms.scaling.fit import Fitter
from diffuse_dials.algorithms.scaling.inputs import Gridded
from diffuse_dials.algorithms.scaling.model import DiffuseScalingModel, check_parameter_count
from diffuse_dials.algorithms.scaling.options import MODELS, check_options, component_names
from diffuse_dials.algorithms.scaling.outliers import StillAgreement, agreement, find_outliers
from diffuse_dials.algorithms.scaling.problem import MergedSums, NoSignal, Problem
from diffuse_dials.algorithms.scaling.signed import METHOD, fit_signed, ring_shells
from diffuse_dials.algorithms.scaling.streaming import all_voxels, subsample
from diffuse_dials.algorithms.scaling.symmetry import reciprocal_vectors
from diffuse_dials.algorithms.scaling.validation import HEADERS, Verdict, validate
from diffuse_dials.algorithms.wording import sentence
from diffuse_dials.kernels.scaling import group_of_stills
from diffuse_dials.models.grid import holds_lattice_point

logger = logging.getLogger(f"dials.{__name__}")

_NAMED = 5
_OUTLIER_ROUNDS = 5


@dataclass(frozen=True)
class Scales:
    """The scales of the stills and how they were found.

    Attributes:
        scale: b of each still, shape (n_stills,), mean 1 over the stills scaled; NaN for stills without one.
        esd: Standard uncertainties from counting statistics, same shape.
        esd_method: "full" (Schur complement of the map's parameters) or "diagonal" (stills taken one by one).
        n_cycles: Cycles needed.
        last_change: Largest relative change of a factor in the last cycle.
    """

    scale: np.ndarray
    esd: np.ndarray
    esd_method: str
    n_cycles: int
    last_change: float


@dataclass(frozen=True)
class ScaledStills:
    """Outcome of the scaling.

    Attributes:
        observations: The voxels that were measured, numbered.
        use: Those that the scaling used, shape (n_voxels,), bool.
        problem: Refined components and the weights of the observations.
        fitter: What the components depend on.
        scales: The scales of the stills.
        failed: Why, for stills that have none, by position in the experiment list.
        models: DIALS models of the stills that have a scale, by position.
        outlier_probability: Below which rows are left out; 0: none are.
        n_outliers: Rows left out of the scaling.
        agreement: Of each still with the map of the others; None where it was not looked at.
        verdicts: Whether each experimental component earned its parameters.
        merged: The map of all voxels that were used, with which outliers are compared.
    """

    observations: VoxelNumbers
    use: np.ndarray
    problem: Problem
    fitter: Fitter
    scales: Scales
    failed: dict[int, str]
    models: dict[int, DiffuseScalingModel]
    outlier_probability: float = 0.0
    n_outliers: int = 0
    agreement: StillAgreement | None = None
    verdicts: tuple[Verdict, ...] = ()
    merged: MergedSums | None = None


def scale_stills(gridded: Gridded, params) -> ScaledStills:
    """Refine the scaling model.

    Args:
        gridded: Stills and sums, indexed alike; under MPI every rank calls with its own sums and gets the same scales.
        params: Extract of diffuse.scale: ``scale`` and ``merging``.

    Raises:
        ValueError: If options do not fit the model or the data, the stills do not hang together, or nothing can be
            scaled.
    """
    options = params.scale
    check_options(options)
    names = component_names(options)
    n_stills = len(gridded.experiments)
    numbers = _number_voxels(gridded)
    use = np.ones(len(numbers), dtype=bool)
    if excludes_lattice_points(params.merging.exclude_lattice_points, gridded.record.ndiv):
        use = ~holds_lattice_point(numbers.index, gridded.record.ndiv)
    if not use.any():
        raise ValueError("Every voxel holds a lattice point. Set merging.exclude_lattice_points=False.")
    s = np.linalg.norm(reciprocal_vectors(numbers.index, gridded.record), axis=1)
    cells = _cells(gridded, names, options)
    signed = gridded.record.isotropic_removed
    if signed and names != ["scale"]:
        raise ValueError(
            "The isotropic part was subtracted from the stills (background_method=radial), so that nothing but one "
            "scale per still can be refined. Use scale.model=still without further components, or grid again."
        )
    shells = ring_shells(s) if signed else make_shells(s, use)
    part = subsample(gridded, use)
    blocks, totals = compact(gridded.blocks(), n_stills, numbers, part, shells, cells, gridded.comm)
    failed = _without_photons(blocks, totals.photons, gridded)
    finish = None if options.engine == "newton" else partial(finish_with, options.engine)
    fitter = Fitter(cells, options, float(s[use].max()), finish)
    run = _Run(gridded, names, options, fitter, blocks, totals if signed else None, failed)
    del totals, blocks  # tables of all stills and shells, and the observations before any are left out
    run.fit()
    n_outliers, agrees = (0, None) if signed else run.clean()
    for still, reason in run.failed.items():
        logger.warning("%s is left out: %s", gridded.keys[still].label, reason)
    n_scaled = n_stills - len(run.failed)
    if n_scaled == 1:
        logger.warning("Only one still could be scaled: there is nothing to compare it with.")
    convergence = fitter.convergence
    logger.info(
        "%d scales converged in %d cycles (last change %.1e)", n_scaled, convergence.n_cycles, convergence.last_change
    )
    verdicts = run.validate()
    merged, share = None, 1.0
    if part is not use:
        merged, share = all_voxels(run.problem, gridded, numbers, use, cells)
    esds, method = ([run.signed_esd[:, None]], METHOD) if signed else parameter_esds(run.problem)
    esds = [esd * np.sqrt(share) for esd in esds]
    models = _models(run.problem, esds, method, fitter.layout, sorted(set(range(n_stills)) - set(run.failed)))
    scale = np.array([models[i].scale if i in models else np.nan for i in range(n_stills)])
    esd = np.array([models[i].scale_esd if i in models else np.nan for i in range(n_stills)])
    scales = Scales(scale, esd, method, convergence.n_cycles, convergence.last_change)
    return ScaledStills(
        numbers, use, run.problem, fitter, scales, run.failed, models, 0.0 if signed else options.outlier.probability,
        n_outliers, agrees, verdicts, merged or run.problem.merged(),
    )  # fmt: skip


def _number_voxels(gridded: Gridded) -> VoxelNumbers:
    listed = gridded.measured_voxels()
    if listed is None:
        return VoxelNumbers.of(gridded.blocks(), gridded.comm)
    return VoxelNumbers.listed(listed)


class _Run:
    """One run of scaling: what is left of the stills and observations, and the fit to them."""

    def __init__(
        self, gridded: Gridded, names, options, fitter: Fitter, blocks: ScaleBlocks,
        totals: Totals | None, failed: dict[int, str],
    ):  # fmt: skip
        self.gridded, self.names, self.options, self.fitter, self.totals = gridded, names, options, fitter, totals
        self.blocks, self.failed = blocks.without_stills(list(failed)), failed
        self.problem: Problem | None = None
        self.signed_esd: np.ndarray | None = None

    def fit(self) -> None:
        """Refine; stills without signal are left out."""
        n_stills = len(self.gridded.experiments)
        while True:
            if len(self.failed) == n_stills:
                still, reason = next(iter(self.failed.items()))
                raise ValueError(
                    f"None of the {n_stills} stills can be scaled. The first: {self.gridded.keys[still].label}: "
                    f"{sentence(reason)}"
                )
            _check_overlap(self.blocks, self.gridded, n_stills - len(self.failed))
            try:
                self._refine()
                break
            except NoSignal as error:
                self.leave_out(dict.fromkeys(error.stills, "its counts do not exceed the background"))
            except NoAnisotropy as error:
                self.leave_out(dict.fromkeys(error.stills, "it shows nothing of the others' anisotropic scattering"))
        self._check_guard()

    def _refine(self) -> None:
        if not self.gridded.record.isotropic_removed:
            self.problem = self.fitter(self.blocks, self.names, self.problem)
            return
        layout = self.fitter.new_layout(self.blocks)
        tolerance, max_cycles = self.options.tolerance, self.options.max_cycles
        found = fit_signed(self.blocks, self.totals, layout, tolerance, max_cycles)
        self.problem, self.signed_esd, self.fitter.convergence = found
        logger.info("The isotropic part was subtracted from the stills: they are scaled on what is left.")

    def leave_out(self, stills: dict[int, str]) -> None:
        """Take stills out, with the reason."""
        self.failed.update(stills)
        self.blocks = self.blocks.without_stills(list(stills))

    def _check_guard(self) -> None:
        problem, n = self.problem, int(self.problem.present.sum())
        free = sum(c.n_params if c.kind == "detector" else c.values.shape[1] * n for c in problem.components)
        if self.options.experimental_scale_model:
            n_rows = self.blocks.n_rows
            logger.info("%d parameters for %d stills and %d observations", free, n, n_rows)
            if free > n_rows / 10:
                raise ValueError(
                    f"The scaling model has {free} parameters for {n_rows} observations. Leave out components."
                )
        else:
            check_parameter_count(free, n, len(MODELS[self.options.model]))

    def clean(self) -> tuple[int, StillAgreement | None]:
        """Take out improbable sums, look for stills that disagree, and refine again where something went."""
        n_outliers = self._reject()
        if self.options.outlier.stills == "ignore":
            return n_outliers, None
        found = agreement(self.problem)
        disagreeing = np.flatnonzero(found.disagrees)
        for i in disagreeing:
            logger.warning(
                "%s does not show the map of the other stills (agreement %.2f ± %.2f): wrong orientation or indexing, "
                "or no crystal", self.gridded.keys[i].label, found.slope[i], found.esd[i],
            )  # fmt: skip
        if not found.judged.any():
            logger.info("The stills are too weak to be compared with the map one by one")
        if len(disagreeing) and self.options.outlier.stills == "remove":
            self.leave_out({int(i): "it does not agree with the map of the other stills" for i in disagreeing})
            self.fit()
            n_outliers += self._reject()
        elif len(disagreeing):
            logger.warning("Set scale.outlier.stills=remove to leave these %d stills out", len(disagreeing))
        return n_outliers, found

    def _reject(self) -> int:
        total = 0
        for _ in range(_OUTLIER_ROUNDS):
            outliers = find_outliers(self.problem, self.options.outlier.probability)
            n = int(self.blocks.comm.sum(outliers.sum()))
            if not n:
                break
            total += n
            self.blocks = self.blocks.select(~outliers)
            self.fit()
        if total:
            logger.info(
                "%d of %d sums are improbable (below %g) and left out", total, total + self.blocks.n_rows,
                self.options.outlier.probability,
            )  # fmt: skip
        return total

    def validate(self) -> tuple[Verdict, ...]:
        """Cross-validate experimental components, and the fall-off where it was asked for."""
        names = [name for name in self.names if name != "scale"]
        if not names:
            return ()
        fitter = Fitter(self.fitter.cells, self.options, self.fitter.s_max)
        verdicts = tuple(validate(name, self.names, self.blocks, fitter) for name in names)
        logger.info("\n%s", tabulate([v.row() for v in verdicts], headers=HEADERS, disable_numparse=True))
        for verdict in verdicts:
            if not verdict.earned:
                logger.warning("The component %s does not predict left-out data better: leave it out.", verdict.name)
        return verdicts


def _cells(gridded: Gridded, names, options) -> DetectorCells | None:
    if not any(SCALE_COMPONENTS[name].kind == "detector" for name in names):
        return None
    positions = gridded.has_positions
    if "surface" in names and not positions:
        raise ValueError(
            "scale.components=surface needs the mean position of each sum. Run diffuse.grid with grid.positions=True."
        )
    order = order_of_stills(gridded, options.order)
    first = gridded.experiments[0]
    bins = 4 * options.surface.order_intervals if order is not None else 1
    return make_cells(first.detector, first.beam, positions, order, len(gridded.experiments), bins)


def order_of_stills(gridded: Gridded, name: str | None) -> np.ndarray | None:
    """Order parameter of each still, shape (n_stills,), or None.

    Args:
        gridded: The stills.
        name: "file", a column of stills.csv, or None.

    Raises:
        ValueError: If stills.csv has no such column, or no number in it for a still.
    """
    if name is None:
        return None
    if name == "file":
        return np.arange(len(gridded.experiments), dtype=float)
    values = []
    for identifier, key in zip(gridded.experiments.identifiers(), gridded.keys):
        text = gridded.stills.rows.get(identifier, {}).get(name, "")
        try:
            values.append(float(text))
        except ValueError:
            raise ValueError(
                f"stills.csv has no number in the column {name} for {key.label} ({text!r}). Name another column with "
                "scale.order, or use scale.order=file."
            ) from None
    return np.array(values)


def _without_photons(blocks: ScaleBlocks, photons: np.ndarray, gridded: Gridded) -> dict[int, str]:
    """Stills that cannot have a scale, with the reason."""
    failed, n_rows = {}, blocks.still_rows
    for i, identifier in enumerate(gridded.experiments.identifiers()):
        if not n_rows[i]:
            known = gridded.stills.rows.get(identifier, {})
            failed[i] = known.get("reason") or "no pixel of it fell into a voxel that is used"
        elif photons[i] <= 0:
            failed[i] = "it holds no photons"
    return failed


def unconnected_stills(blocks: ScaleBlocks) -> np.ndarray:
    """Stills that share no voxel with photons in it with the largest group of stills, positions."""
    comm = blocks.comm
    photons = np.bincount(blocks.voxel, blocks.signal, blocks.n_voxels)
    lit = comm.sum(photons.astype(np.float64, copy=False)) > 0  # NumPy's sums of no values are integers
    group = group_of_stills(blocks.starts, blocks.voxel, lit)
    if comm.size > 1:
        group = _joined(blocks, lit, group)
    present = np.flatnonzero(blocks.still_rows > 0)
    labels, sizes = np.unique(group[present], return_counts=True)
    return present[group[present] != labels[np.argmax(sizes)]]


def _joined(blocks: ScaleBlocks, lit: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Groups over all ranks from those of each rank: its own are one where a voxel of another rank's group is in both.

    Args:
        blocks: The observations.
        lit: Voxels that connect stills, shape (n_voxels,), bool.
        group: Smallest still of the group of each of this rank's stills, shape (n_stills,).
    """
    comm, nobody = blocks.comm, blocks.n_stills
    owner = np.full(blocks.n_voxels, nobody)  # the rank's group that holds the voxel: by construction there is one
    owner[blocks.voxel] = np.repeat(group, np.diff(blocks.starts))
    owner[~lit] = nobody
    label = np.arange(nobody + 1)  # of each group; the smallest of those it hangs together with spreads
    while True:
        smaller = label.copy()
        np.minimum.at(smaller, owner, comm.least(label[owner]))
        smaller[nobody] = nobody
        done = not comm.sum(np.count_nonzero(smaller != label))
        label = smaller
        if done:
            return comm.sum(np.where(np.diff(blocks.starts) > 0, label[group], 0))


def _check_overlap(blocks: ScaleBlocks, gridded: Gridded, n_scaled: int) -> None:
    apart = unconnected_stills(blocks)
    if len(apart):
        names = ", ".join(gridded.keys[i].label for i in apart[:_NAMED]) + (" ..." if len(apart) > _NAMED else "")
        raise ValueError(
            f"{len(apart)} of {n_scaled} stills share no voxel that holds photons with the other stills: {names}. "
            "They cannot be put on one scale: use larger voxels (smaller grid.ndiv), more stills, or leave them out."
        )


def _models(problem: Problem, esds, method: str, layout, stills) -> dict[int, DiffuseScalingModel]:
    """The model of each still as DIALS stores it."""
    configuration = {
        "gauge": f"mean scale 1 over {len(stills)} stills",
        "uncertainty": f"counting statistics, {method}",
    }
    models = {}
    for i in stills:
        components = {}
        for component, esd in zip(problem.components, esds):
            row = 0 if component.kind == "detector" else i
            parameters = component.values[row]
            components[component.name] = component.component.stored(parameters, esd[row], layout)
        ordered = {name: components[name] for name in SCALE_COMPONENTS if name in components}
        models[i] = DiffuseScalingModel.from_components(ordered, **configuration)
    return models
