"""Sums of one still straight from its image, by the kernel, in one pass over the pixels.

What stills share (plane of the pixels, response, |s| bins, masks) is worked out once for a detector and a beam and
kept; a still adds its image, its orientation and its Bragg radius. The result is that of ``Measurement.measure``
followed by ``gridding.voxel_sums``: equal counts and numbers of pixels, the rest to rounding.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from diffuse_dials.adapters import images, symmetry
from diffuse_dials.adapters.panels import beam_direction, fingerprint, panel_plane, pixel_geometry
from diffuse_dials.algorithms.corrections import choose_corrections, closed_form, total_response
from diffuse_dials.algorithms.masking.bragg import SIGMAS_STEP, LatticeMask
from diffuse_dials.algorithms.stills.still_profile import StillProfile
from diffuse_dials.kernels import asymmetric_unit, lattice, pieces, still
from diffuse_dials.kernels.accumulator import Accumulator
from diffuse_dials.kernels.directions import make_pieces
from diffuse_dials.kernels.harvest import away_from_spots, columns
from diffuse_dials.kernels.shared import ClosedForm, make_shared
from diffuse_dials.kernels.sums import in_units, transform
from diffuse_dials.models.geometry import PanelPlane
from diffuse_dials.models.sums import RadialTotals, VoxelSums

_ROWS_A_TIME = 64  # so that the directions of a big panel are never all in memory
_SAMPLED_ROWS = 8  # of a panel, for a guess at its largest response


@dataclass
class _Panel:
    """What stills of one detector and beam share on one panel.

    Attributes:
        plane: The pixels.
        pieces: Their directions, as the kernel has them.
        wavelength: For which the rest was made, Å.
        shared: Response, without the exposure, |s| bins and masks, as the kernel has them.
        unit: Of the response, sr.
        bins: Number of unmasked pixels and response of each |s| bin.
        s_max: Largest |s| of a pixel, 1/Å.
        mask: The mask that is in ``shared``.
    """

    plane: PanelPlane
    pieces: pieces.Pieces
    wavelength: float
    shared: pieces.Shared
    unit: float
    bins: np.ndarray
    s_max: float
    mask: tuple

    def fits(self, mask, known) -> bool:
        """Whether it was made with these masks."""
        return self.mask[0] is mask and self.mask[1] is known


class PanelInput(NamedTuple):
    """What the kernel needs of one panel of a still: arguments of kernels.still.sum_rows.

    Attributes:
        shared: What stills share.
        corner: Lowest voxel index of the grid, shape (3,).
        raw, limits, crystal, keep, pedestal, gain, background, variance, ratio: As sum_rows has them.
    """

    shared: _Panel
    corner: np.ndarray
    raw: np.ndarray
    limits: tuple
    crystal: still.Crystal
    keep: np.ndarray | None
    pedestal: np.ndarray | None
    gain: np.ndarray | None
    background: np.ndarray | None
    variance: np.ndarray | None
    ratio: float


class Fused:
    """Sums stills one by one."""

    def __init__(self, params, shapes, bin_width: float, gain: float | None, noise, background):
        """Nothing is computed before the first still.

        Args:
            params: Extract of extraction's scope.
            shapes: (slow, fast) size of each panel.
            bin_width: Of the radial totals, 1/Å.
            gain: Detector units per photon for all panels; None: the panel's or the gain map's.
            noise: NoiseModel.
            background: Background; a part of each still by a profile, if there is one.
        """
        if bin_width != SIGMAS_STEP:
            raise RuntimeError("The Bragg radius is looked up by |s| bin: both must have one width.")
        self._params, self._shapes, self._bin_width = params, shapes, bin_width
        self._gain, self._noise, self._background = gain, noise, background
        self._panels: OrderedDict = OrderedDict()
        self._last_detector = self._last_corrections = (None, None)
        self._accumulator = Accumulator()
        self._unit_of: tuple = (None, None)

    def prepare(self, experiment, mask, exposure, share) -> None:
        """Work out what stills share with this one, so that forked processes inherit it.

        Args:
            experiment, mask, exposure: As in ``sums``.
            share: Function that calls another and returns what that returns, see mpi.Communicator.shared.
        """
        known = [self._background.unscaled(panel, exposure)[3] for panel in range(len(self._shapes))]

        def make():
            for panel in range(len(known)):
                self._panel(experiment, panel, mask[panel], known[panel])
            found = {key: replace(shared, mask=()) for key, shared in self._panels.items()}
            self._panels.clear()  # they come back, in memory that processes share
            return found

        for key, shared in share(make).items():
            self._panels[key] = replace(shared, mask=(mask[key[-1]], known[key[-1]]))

    def sums(self, number, experiment, raw, highest, mask, exposure, bragg_masks, settings, to_hkl, grid):
        """Sums of one still.

        Args:
            number: Its position in the experiment list.
            experiment: The still.
            raw: Its image, one array (slow, fast) per panel.
            highest: Largest value of a pixel that is no sentinel; None: any.
            mask: What masks every still, one bool array (slow, fast) per panel.
            exposure: Exposure.
            bragg_masks: Of all lattices on the image.
            settings: A of each of these lattices, in the same order.
            to_hkl: Matrix from s to fractional Miller indices.
            grid: Grid.

        Returns:
            (VoxelSums with asu_index, without the origin; RadialTotals; number of pixels that pass all masks).
        """
        of_still = experiment, exposure, bragg_masks, settings, to_hkl, grid
        panels = (self._input(panel, raw[panel], highest, mask[panel], *of_still) for panel in range(len(self._shapes)))
        profiles = None
        if self._background.per_still:
            panels = list(panels)  # the profile is that of all of them
            units = [panel.shared.unit * exposure.incident for panel in panels]
            profiles = StillProfile(self._background, self._noise, panels, units).find()
        voxels, totals, n_accepted = [], [], 0
        for panel, given in enumerate(panels):
            profile = None if profiles is None else profiles[panel]
            parts = self._panel_sums(number, panel, given, exposure, grid, profile)
            voxels.append(parts[0])
            totals.append(parts[1])
            n_accepted += parts[2]
        return VoxelSums.concatenate(voxels), RadialTotals.concatenate(totals), n_accepted

    def _input(self, panel, raw, highest, mask, experiment, exposure, bragg_masks, settings, to_hkl, grid):
        """PanelInput of one panel."""
        background, variance, ratio, known = self._background.unscaled(panel, exposure)
        shared = self._panel(experiment, panel, mask, known)
        model, wavelength = experiment.detector[panel], experiment.beam.get_wavelength()
        beam, ndiv = beam_direction(experiment.beam), np.asarray(grid.ndiv, dtype=np.float64)
        matrix = ndiv[:, None] * to_hkl
        d_min = self._params.d_min  # pixels beyond it are in no voxel
        s_max = shared.s_max if d_min is None else min(shared.s_max, 1 / d_min)
        reach = np.floor(np.linalg.norm(matrix, axis=1) * s_max + 0.5).astype(np.int64) + 1
        corner = -reach
        n_bricks = (2 * reach + 4) // 4
        to_voxel = np.column_stack([matrix / wavelength, -matrix @ beam / wavelength + 0.5 - corner])
        crystal, keep = self._crystal(panel, experiment, bragg_masks, settings, to_voxel, n_bricks)
        pedestal, gain = self._calibration(experiment, model, panel, raw)
        raw = self._sampled(raw)
        raw, limits = self._limits(model, raw, highest, pedestal, gain)
        if gain is None and (limits[0] < 0 or has_values(raw, still.LARGEST + 1, limits[1])):
            # of negative values the variance is not the sum, and the kernel counts no larger ones
            pedestal, gain = np.zeros((1, 1)), np.ones((1, 1))
        return PanelInput(
            shared, corner, raw, limits, crystal, keep, pedestal, gain,
            *self._per_pixel(panel, background, variance), float(ratio),
        )  # fmt: skip

    def _per_pixel(self, panel, background, variance):
        """A background and its variance as arrays that broadcast to the pixels that are read; None where both are 0."""
        if np.ndim(background) == 0 and np.ndim(variance) == 0 and not (background or variance):
            return None, None
        return tuple(
            np.full((1, 1), float(values)) if np.ndim(values) == 0
            else self._sampled(np.asarray(values, dtype=np.float64).reshape(self._shapes[panel]))
            for values in (background, variance)
        )  # fmt: skip

    def _sampled(self, array):
        step = self._params.extraction.pixel_step
        return np.ascontiguousarray(array[step // 2 :: step, step // 2 :: step])

    def _panel_sums(self, number, panel, given: PanelInput, exposure, grid, profile):
        shared, plane, gain = given.shared, given.shared.plane, given.gain
        of_the_sums = (
            gain is None, shared.unit * exposure.incident, self._noise.factor[panel], self._noise.read_variance[panel]
        )  # fmt: skip
        place = (plane.offset, plane.step) if grid.positions else None
        index, bragg, of_voxels, n_accepted, bin_whole, bin_real = self._accumulator.sum_panel(
            given.raw, given.limits, shared.shared, shared.bins, shared.pieces, plane.vectors, plane.shift,
            given.crystal, given.keep, given.pedestal, gain, given.background, given.variance, given.corner,
            lambda *sums: columns(*sums, *of_the_sums, place), given.ratio, profile,
        )  # fmt: skip
        asu_index = self._representatives(index, grid.symmetry_group)
        numbers, panels = (np.broadcast_to(np.int32(value), len(index)) for value in (number, panel))
        voxels = VoxelSums(numbers, index, asu_index, panels, bragg, *of_voxels)
        n_accepted += away_from_spots(voxels.n_pixels, bragg)
        hit = np.flatnonzero(bin_whole[:, still.N_PIXELS] + bin_whole[:, still.N_OVERLOADED])
        numbers, panels = (np.full(len(hit), value, dtype=np.int32) for value in (number, panel))
        totals = RadialTotals(
            numbers, panels, (hit + 0.5) * self._bin_width,
            *columns(bin_whole, bin_real, hit, *of_the_sums, None)[:-1],
            bin_whole[hit, still.N_OVERLOADED].astype(np.int32),
        )  # fmt: skip
        return voxels, totals, n_accepted

    def _calibration(self, experiment, model, panel, raw):
        """Pedestal and gain that the kernel applies; None, None where whole numbers are photons."""
        gain_map, pedestal_map = images.lookup_maps(experiment)
        pedestal, gain = np.full((1, 1), float(model.get_pedestal())), None
        if pedestal_map is not None:
            pedestal = self._sampled(model.get_pedestal() + pedestal_map[panel])
        if self._gain is None and gain_map is not None:
            gain = self._sampled(np.asarray(gain_map[panel], dtype=np.float64))
        else:
            gain = np.full((1, 1), float(images.gain_of(model, self._gain)))
        if np.issubdtype(raw.dtype, np.integer) and gain.size == 1 and gain[0, 0] == 1 and not pedestal.any():
            return None, None
        return pedestal, gain

    def _limits(self, model, raw, highest, pedestal, gain):
        """The image as the kernel gets it, and the limits of still.sum_rows.

        A photons_range becomes limits of the values where one pedestal and gain hold for all of them; where not, values
        outside it become NaN, which is within no limits.
        """
        low, high = images.trusted_bounds(model)
        if self._params.masking.trusted_range in (None, "none"):
            low, high = -np.inf, np.inf
        highest = np.inf if highest is None else highest
        wanted = self._params.extraction.photons_range
        one = gain is None or (gain.size == 1 and pedestal.size == 1)
        if wanted and not (one and np.issubdtype(raw.dtype, np.integer)):
            raw, wanted = images.within_photons(raw, wanted, (low, high), pedestal, gain), None
        low, trusted = images.bounds_as(raw.dtype, low, min(high, highest))
        top = images.bounds_as(raw.dtype, -np.inf, highest)[1]
        high = trusted
        if wanted:
            first, last = images.values_of_photons(
                raw.dtype, wanted, *((0.0, 1.0) if gain is None else (pedestal[0, 0], gain[0, 0]))
            )
            low, high = max(low, first), min(high, last)
        return raw, (low, high, trusted, top)

    def _crystal(self, panel, experiment, bragg_masks, settings, to_voxel, n_bricks):
        """The kernel's Crystal, and the Bragg masks that are not by distance as one bool array or None."""
        wavelength, beam = experiment.beam.get_wavelength(), beam_direction(experiment.beam)
        lattices, matrices, keep = [], [to_voxel], None
        sigmas_squared, centring = np.ones(1), np.zeros((0, 3))
        for mask, a in zip(bragg_masks, settings):
            inverse = np.linalg.inv(a)
            if isinstance(mask, LatticeMask):
                lattices.append(lattice_parameters(mask, panel, wavelength))
                matrices.append(np.column_stack([inverse, -inverse @ beam]) / wavelength)
                sigmas_squared = np.ones(1) if mask.radius is not None else mask.sigmas**2
                centring = mask.centring
            else:
                shape, s, hkl = self._shapes[panel], None, None
                if getattr(mask, "needs_positions", True):
                    s = pixel_geometry(experiment.detector[panel], beam).s_vectors(wavelength)
                    hkl = transform(inverse, s)
                passes = self._sampled(mask.keep(panel, shape, s, hkl).reshape(shape))
                keep = passes if keep is None else passes & keep
        matrices, lattices = np.array(matrices), np.array(lattices).reshape(-1, lattice.N_LATTICE)
        crystal = still.Crystal(
            matrices, np.abs(matrices[..., :3]).sum(axis=2), n_bricks, beam, wavelength, lattices,
            np.ascontiguousarray(centring), np.ascontiguousarray(sigmas_squared), SIGMAS_STEP,
        )  # fmt: skip
        return crystal, keep

    def _representatives(self, index, group):
        """Representative of each voxel under the Laue group, by cctbx's convention."""
        if self._unit_of[0] is not group:
            text, rotations, to_reference = symmetry.asymmetric_unit(group)
            known = text in asymmetric_unit.REFERENCE_UNITS
            conditions = asymmetric_unit.conditions(text, to_reference) if known else None
            self._unit_of = (group, (conditions, rotations))
        conditions, rotations = self._unit_of[1]
        if conditions is None:  # a convention of a later cctbx
            return symmetry.map_to_asu(index, group)
        mapped = np.empty_like(index)
        if asymmetric_unit.map_to_asu(index, conditions, rotations, mapped):
            raise RuntimeError(f"The asymmetric unit of {symmetry.symbol(group)} does not hold every orbit.")
        return mapped

    def _panel(self, experiment, panel: int, mask, known) -> _Panel:
        """What stills share; made again only where the models, the wavelength or the mask change."""
        detector, beam = experiment.detector, experiment.beam
        if self._last_detector[0] is not detector:
            self._last_detector = (detector, fingerprint(detector))
        s0, wavelength = beam_direction(beam), beam.get_wavelength()
        polarization = (beam.get_polarization_fraction(), tuple(beam.get_polarization_normal()))
        key = (self._last_detector[1], tuple(s0.round(12)), polarization, panel)
        shared = self._panels.get(key)
        if shared is not None and shared.wavelength == wavelength and shared.fits(mask, known):
            return shared
        step = self._params.extraction.pixel_step
        if shared is None:
            plane = panel_plane(detector[panel], step, step // 2)
            directions = make_pieces(plane.shape, plane.vectors, plane.shift, s0)
        else:
            plane, directions = shared.plane, shared.pieces
        unit = None if shared is None else shared.unit
        self._panels.pop(key, None)
        shared = None  # so that its memory can be used again
        use = self._sampled(mask if known is None else mask & known.reshape(mask.shape))
        s_max = float(directions.bounds[pieces.CHORD_HIGH].max()) / wavelength
        models = (*key[:-1], wavelength)
        if self._last_corrections[0] != models:  # they look at all panels
            self._last_corrections = models, choose_corrections(self._params.corrections, experiment)[0]
        corrections = self._last_corrections[1]
        made, bins, unit = self._share(corrections, panel, wavelength, plane, directions.bounds, s0, use, unit)
        shared = _Panel(plane, directions, wavelength, made, unit, bins, s_max, (mask, known))
        self._panels[key] = shared
        while len(self._panels) > 2 * len(self._shapes):  # stills with models of their own must not fill the memory
            self._panels.popitem(last=False)
        return shared

    def _share(self, corrections, panel: int, wavelength, plane, bounds, s0, use, unit: float | None):
        """pieces.Shared of a panel, its bins and the unit of its response; ``unit`` is a guess of it."""
        values, others = closed_form(corrections, panel, wavelength)
        form = ClosedForm(pixel_area=plane.pixel_area, **values)

        def by_numpy(chosen, rows):
            geometry = plane.geometry(s0, rows)
            return total_response(chosen, panel, geometry, wavelength).reshape(geometry.shape)

        def by_rows(chosen):
            for start in range(0, plane.shape[0], _ROWS_A_TIME):
                rows = slice(start, min(start + _ROWS_A_TIME, plane.shape[0]))
                yield rows, by_numpy(chosen, rows)

        factor = None
        if others:  # those of other packages
            factor = np.empty(plane.shape)
            for rows, values in by_rows(others):
                factor[rows] = values
        if unit is None:
            unit = in_units(by_numpy(corrections, slice(None, None, -(-plane.shape[0] // _SAMPLED_ROWS))))[1]
        d_min, d_max = self._params.d_min, self._params.d_max
        s_range = (0.0 if d_max is None else 1 / d_max, np.inf if d_min is None else 1 / d_min)
        for _ in range(2):
            made = make_shared(
                plane.shape, plane.vectors, plane.shift, s0, plane.normal, bounds, form, factor, use, wavelength,
                self._bin_width, *s_range, unit,
            )  # fmt: skip
            if made is not None:
                return made
            # a factor that is not positive, which this finds and names, or a unit far off
            unit = in_units(np.array([values.max() for _, values in by_rows(corrections)]))[1]
        raise RuntimeError(f"The response of panel {panel} could not be worked out.")


def lattice_parameters(mask: LatticeMask, panel: int, wavelength: float):
    """The parameters of lattice.N_LATTICE: terms of oᵀ M o, of the radius squared, and what follows from them."""
    (a, d, e), (_, b, f), (_, _, c) = mask.metric.tolist()
    terms = [a, b, c, 2 * d, 2 * e, 2 * f]
    if mask.radius is not None:
        radius = [mask.radius**2, 0.0, 0.0, 0.0, np.inf]
    else:
        footprint = mask.point_spread * mask.panels[panel][0] / wavelength
        radius = [
            (0.4 / mask.domain_size) ** 2, (mask.mosaicity / wavelength) ** 2, footprint**2, mask.spot**2,
            mask.largest**2,
        ]  # fmt: skip
    half_spacing = 0.5 / math.sqrt(np.linalg.inv(mask.metric).diagonal().max())
    sizes = [abs(term) for term in terms]
    oblique = max(sizes[3:]) > 1e-12 * max(sizes[:3])
    return np.array([*terms, *radius, half_spacing, *map(math.sqrt, (a, b, c)), sum(sizes), oblique])


def has_values(raw, low: int, high: int) -> bool:
    """Whether an image of whole numbers has a value from ``low`` to ``high``."""
    return low <= high and bool(np.any((raw >= low) & (raw <= high)))
