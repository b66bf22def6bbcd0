"""One still → its pixels: counts, background, response and scattering vectors, and its radial totals."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace

import libtbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import images
from diffuse_dials.adapters.direct import DirectReader
from diffuse_dials.adapters.panels import beam_direction, edge_directions, fingerprint, pixel_geometry
from diffuse_dials.algorithms.background import choose_background
from diffuse_dials.algorithms.background.base import PanelSample
from diffuse_dials.algorithms.background.blanks import Blanks
from diffuse_dials.algorithms.corrections import choose_corrections, log_corrections, total_response
from diffuse_dials.algorithms.corrections.maps import factor_maps
from diffuse_dials.algorithms.exposure import Exposures
from diffuse_dials.algorithms.gridding import Grid, voxel_sums, with_asu_index, without_origin
from diffuse_dials.algorithms.inputs import Stills, check_photons_range, check_together
from diffuse_dials.algorithms.masking.chosen import choose_bragg_masks
from diffuse_dials.algorithms.noise import choose_noise
from diffuse_dials.io.masks import load_mask
from diffuse_dials.kernels.sums import in_units, transform
from diffuse_dials.models.exposure import Exposure
from diffuse_dials.models.geometry import PixelGeometry
from diffuse_dials.models.sums import RadialTotals, StillSums

logger = logging.getLogger(f"dials.{__name__}")

S_BIN_WIDTH = 0.005  # 1/Å: fine against the fall-off of scattering, coarse against a pixel

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1)
  .help = "High-resolution limit of the map (Å). None: the corner of the detector."
d_max = None
  .type = float(value_min=0.1)
  .help = "Low-resolution limit of the map (Å). None: the beamstop."
input {
  mask = None
    .type = path
    .multiple = True
    .help = "Mask of pixels (dials.generate_mask, diffuse.make_mask), True = use. Several are combined by AND."
  bragg_masks = None
    .type = path
    .multiple = True
    .help = "Masks of single stills (diffuse.make_mask output.bragg_masks=...), in addition to masking.bragg: what they"
            "leave out counts as Bragg scattering. They stay in memory: a byte for each pixel of each still."
  background = None
    .type = path
    .multiple = True
    .help = "Blank exposures: an .expt without crystals (dials.import). They are scaled to each still by exposure time"
            "or monitor."
}
extraction {
  pixel_step = 1
    .type = int(value_min=1)
    .help = "Read every n-th pixel along both directions of the detector. The rest is left out, nothing is summed."
  lattices = *first refuse
    .type = choice
    .help = "Images with several lattices: the diffuse pixels are used once, with the first lattice's orientation"
            "(the spots of all are masked), or the run stops."
  photons_range = None
    .type = floats(size=2)
    .help = "Use only pixels with at least and at most so many photons. It biases the map: what is cut off a Poisson"
            "variable at one end is missing from its mean. None, and better: every pixel counts."
    .expert_level = 2
  skip_failed = False
    .type = bool
    .help = "Go on without stills whose image is missing or broken; stills.csv names each and why."
}
include scope diffuse_dials.algorithms.masking.extraction_phil_scope
include scope diffuse_dials.algorithms.corrections.phil_scope
include scope diffuse_dials.algorithms.background.phil_scope
include scope diffuse_dials.algorithms.exposure.phil_scope
include scope diffuse_dials.algorithms.noise.phil_scope
""",
    process_includes=True,
)


@dataclass(frozen=True)
class PanelPixels:
    """The pixels of one panel of one still that pass everything but the Bragg mask.

    Attributes:
        panel: Number of the panel.
        position: Fast and slow coordinate of the pixel centres, shape (n, 2).
        s: Scattering vectors in the laboratory, shape (n, 3), 1/Å.
        counts, background: Photons, shape (n,).
        response: Ω·P·ε·T·t, shape (n,), sr s.
        variance: Of counts - background, shape (n,), photons².
        bragg: True: removed by the Bragg mask, shape (n,).
    """

    panel: int
    position: np.ndarray
    s: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    bragg: np.ndarray


@dataclass(frozen=True)
class StillMeasurement:
    """What one still measured.

    Attributes:
        pixels: One entry per panel that has any.
        totals: Radial totals, Bragg pixels included.
        exposure: Time, monitor and what multiplied the response.
        n_accepted: Pixels that pass the Bragg mask too.
    """

    pixels: tuple[PanelPixels, ...]
    totals: RadialTotals
    exposure: Exposure
    n_accepted: int


@dataclass
class _Panel:
    """What stills of equal geometry and wavelength share on one panel."""

    geometry: PixelGeometry
    wavelength: float
    response: np.ndarray
    s_length: np.ndarray
    s_bin: np.ndarray


class Measurement:
    """Measures stills one by one; set up once, then used by every worker.

    Attributes:
        record: What the sums contain, for grid.json: corrections, background, masks.
        factor_maps: Each correction over the detector, by the models of the first still.
    """

    def __init__(self, params, stills: Stills, stills_csv=None):
        """Prepare what all stills share and check what can be checked before the first image.

        Args:
            params: Extract of this module's ``phil_scope``.
            stills: The stills to be measured.
            stills_csv: The stills.csv of an earlier step or run, of which input.monitor may name a column.

        Raises:
            ValueError: For parameters that contradict each other, missing files, or a correction with
                ``apply=True`` that cannot be worked out.
        """
        if params.d_min is not None and params.d_max is not None and params.d_min >= params.d_max:
            raise ValueError(f"d_min={params.d_min:g} must be smaller than d_max={params.d_max:g} (both in Å).")
        self._params = params
        self._stills = stills
        self._last_detector = (None, None)
        self._panels: OrderedDict = OrderedDict()
        self._masks: dict = {}
        self._fused = self._direct = None
        self._mask_files = [name for name in params.input.mask if name]
        first = stills.experiments[0]
        self._shapes = images.panel_shapes(first.detector)
        check_together(stills, self._shapes, params.extraction.lattices)
        check_photons_range(params.extraction.photons_range)
        chosen, corrections = choose_corrections(params.corrections, first)
        self.factor_maps = factor_maps(chosen, first)
        self._bragg_masks = choose_bragg_masks(params, stills, self._mask, self._shapes)
        self._exposures = Exposures(params, stills_csv)
        exposure_record = self._exposures.check(first)
        self._gain = None if params.corrections.gain is Auto else params.corrections.gain
        gain_record = self._choose_noise(first)
        files = [name for name in params.input.background if name]
        options = params.background.image
        blanks = Blanks(files, options, self._shapes, self._photons, self._exposures, self._noise)
        self._background = choose_background(params, blanks)
        self.record = {
            "corrections": {
                **corrections,
                **exposure_record,
                "gain": gain_record,
            },
            "noise": self._noise.record,
            "background": self._background.describe(),
            "isotropic_removed": self._background.isotropic_removed,
            "masks": {
                "files": list(self._mask_files),
                "trusted_range": params.masking.trusted_range,
                "bragg": self._bragg_masks.describe(),
                "pixel_step": params.extraction.pixel_step,
            },
        }
        logger.info("Corrections:")
        log_corrections(self.record["corrections"], {found.name: found.range for found in self.factor_maps})
        logger.info("Noise: %s", ", ".join(f"{k} {v}" for k, v in self.record["noise"].items()))
        logger.info("Background: %s", ", ".join(f"{k} {v}" for k, v in self.record["background"].items()))

    def _choose_noise(self, first) -> dict:
        """Set the noise model, and the gain where it is unknown; returns the record of the gain."""
        gain_map, _ = images.lookup_maps(first)
        panels = list(first.detector)
        source = "parameters" if self._gain is not None else "gain map" if gain_map is not None else "panel"
        known = source != "panel" or any(panel.get_gain() != 1 for panel in panels)
        self._noise, estimated = choose_noise(
            self._params.noise, [images.is_counter(panel) for panel in panels], known, self._noise_sample
        )
        if estimated is None:
            value = self._gain if self._gain is not None else source if gain_map is not None else panels[0].get_gain()
            return {"applied": True, "value": value, "source": source}
        self._gain = estimated
        logger.warning(
            "The gain of the detector is not known (its panels say 1). By the variance of the images it is %.3g units "
            "per photon, to about 20 %%; corrections.gain overrides it.",
            estimated,
        )
        return {"applied": True, "value": estimated, "source": "estimated from the variance of the images"}

    def _noise_sample(self, n_stills: int):
        """Values in photons by the known gain, and the pixels that pass every mask, of a few stills.

        Which stills follows from a hash of their names, so that it does not depend on their order.
        """
        used = [number for number in range(len(self._stills)) if self.uses(number)]
        used.sort(key=lambda i: hashlib.sha256(self._stills.keys[i].label.encode()).digest())
        sample = []
        for number in used[:n_stills]:
            experiment = self._stills.experiments[number]
            raw = images.read_raw(experiment)
            passes, panels = self._passes(number, raw), []
            for panel, mask in enumerate(self._mask(experiment)):
                trusted = self._trusted(raw[panel], experiment.detector[panel])[0]
                use = trusted & mask & passes[panel].reshape(mask.shape)
                panels.append((self._photons(raw[panel], experiment, panel).reshape(mask.shape), use))
            sample.append(panels)
        return sample

    def uses(self, number: int) -> bool:
        """Whether still ``number`` is measured: of several lattices on an image only the first."""
        return self._stills.keys[number].lattice == 0

    def measure(self, number: int) -> StillMeasurement:
        """Measure one still.

        Args:
            number: Its position in the experiment list.

        Raises:
            ValueError: If its image cannot be read, or no pixel is left.
        """
        experiment = self._stills.experiments[number]
        raw = images.read_raw(experiment)
        exposure = self._exposures.of(experiment, self._stills.keys[number])
        samples, totals = [], []
        for panel, mask in enumerate(self._mask(experiment)):
            shared = self._panel(experiment, panel)
            photons = self._photons(raw[panel], experiment, panel)
            good, overloaded = self._good(raw[panel], experiment.detector[panel], mask)
            if self._params.extraction.photons_range:
                low, high = self._params.extraction.photons_range
                good &= (photons >= low) & (photons <= high)
            background, variance, known = self._background.at(panel, exposure)
            if known is not None:
                good &= known
            sample = PanelSample(
                s_length=shared.s_length,
                counts=photons,
                background=np.broadcast_to(background, photons.shape),
                response=shared.response * exposure.incident,
                variance=self._noise.variance(panel, photons) + variance,
                use=good,
            )
            samples.append(sample)
            overloaded &= mask.ravel() if known is None else mask.ravel() & known
            totals.append(_radial_totals(number, panel, shared.s_bin, sample, overloaded))
        passes = self._passes(number, raw)
        if self._background.per_still:
            samples = self._with_background_of_still(samples, passes)
        pixels = []
        for panel, sample in enumerate(samples):
            selected = np.flatnonzero(sample.use & self._within_resolution(sample.s_length))
            if not len(selected):
                continue
            shared = self._panel(experiment, panel)
            columns = (sample.counts, sample.background, sample.response, sample.variance)
            pixels.append(
                PanelPixels(
                    panel, _centres(selected, self._shapes[panel][1]),
                    shared.geometry.s_vectors(shared.wavelength, selected),
                    *(column[selected] for column in columns), ~passes[panel][selected],
                )
            )  # fmt: skip
        n_accepted = sum(int(np.count_nonzero(~p.bragg)) for p in pixels)
        self._refuse_empty(number, n_accepted)
        totals = RadialTotals.concatenate(totals)
        return StillMeasurement(tuple(pixels), totals, exposure, n_accepted)

    def sums(self, number: int, grid: Grid) -> StillSums:
        """Measure one still and sum its pixels per voxel: by the kernel in one pass, or by ``measure`` and NumPy.

        A background that is estimated on each still needs all its pixels first, and so NumPy; so does a photons_range.

        Args:
            number: Position of the still in the experiment list.
            grid: The grid, which says by ``engine`` how.

        Raises:
            ValueError: As ``measure``.
        """
        experiment = self._stills.experiments[number]
        to_hkl = grid.to_hkl(experiment)
        if self._by_numpy(grid):
            measured = self.measure(number)
            voxels = without_origin(voxel_sums(number, measured.pixels, to_hkl, grid.ndiv, grid.positions))
            voxels = with_asu_index(voxels, grid.symmetry_group)
            return StillSums(voxels, measured.totals, measured.exposure, measured.n_accepted)
        return self.sums_of_image(number, grid, *self._read(experiment, grid.reader))

    def sums_of_image(self, number: int, grid: Grid, raw, highest: int | None = None) -> StillSums:
        """The kernel's part of ``sums``, once the image is in memory.

        Args:
            number: Position of the still in the experiment list.
            grid: The grid.
            raw: Values as stored, one array (slow, fast) per panel.
            highest: Largest value that is no sentinel; None: sentinels are negative.
        """
        experiment = self._stills.experiments[number]
        exposure = self._exposures.of(experiment, self._stills.keys[number])
        mask = self._mask(experiment)
        bragg_masks, settings = zip(*self._bragg_masks.of_image(self._stills.same_image(number), raw, mask))
        voxels, totals, n_accepted = self._kernel().sums(
            number, experiment, raw, highest, mask, exposure, bragg_masks, settings, grid.to_hkl(experiment), grid
        )
        self._refuse_empty(number, n_accepted)
        return StillSums(voxels, totals, exposure, n_accepted)

    def prepare(self, grid: Grid) -> None:
        """Work out what the stills share, so that forked processes inherit it; without it the first still does."""
        if self._by_numpy(grid):
            return
        number = next(i for i in range(len(self._stills)) if self.uses(i))
        experiment = self._stills.experiments[number]
        exposure = self._exposures.of(experiment, self._stills.keys[number])
        self._kernel().prepare(experiment, self._mask(experiment), exposure)

    def _by_numpy(self, grid: Grid) -> bool:
        return grid.engine == "numpy" or self._background.per_still or bool(self._params.extraction.photons_range)

    def _read(self, experiment, reader: str):
        """Raw values of an image, and the largest that is no sentinel (None: sentinels are negative)."""
        if reader == "dxtbx":
            return images.read_raw(experiment), None
        if self._direct is None:
            self._direct = DirectReader()
        return self._direct.read(experiment)

    def _kernel(self):
        if self._fused is None:
            from diffuse_dials.algorithms.fused import Fused  # needs numba, which diffuse.extract does not

            self._fused = Fused(self._params, self._shapes, S_BIN_WIDTH, self._gain, self._noise, self._background)
        return self._fused

    def _refuse_empty(self, number: int, n_accepted: int) -> None:
        if not n_accepted:
            raise ValueError(
                f"No pixel of {self._stills.keys[number].image} passes the masks and the resolution limits. "
                "Look at the mask, d_min, d_max and masking.bragg."
            )

    def _passes(self, number: int, raw) -> list[np.ndarray]:
        """Pixels of each panel that pass all Bragg masks of the image, shape (n,), bool."""
        experiment = self._stills.experiments[number]
        masks = self._bragg_masks.of_image(self._stills.same_image(number), raw, self._mask(experiment))
        passes = []
        for panel, shape in enumerate(self._shapes):
            shared = self._panel(experiment, panel)
            s = shared.geometry.s_vectors(shared.wavelength)
            kept = np.ones(len(s), dtype=bool)
            for mask, setting in masks:
                kept &= mask.keep(panel, shape, s, transform(np.linalg.inv(setting), s))
            passes.append(kept)
        return passes

    def _with_background_of_still(self, samples: list[PanelSample], passes) -> list[PanelSample]:
        """The samples with the part of the background added that is estimated on this still."""
        diffuse = [replace(sample, use=sample.use & keep) for sample, keep in zip(samples, passes)]
        return [
            replace(sample, background=sample.background + photons, variance=sample.variance + variance)
            for sample, (photons, variance) in zip(samples, self._background.of_still(diffuse))
        ]

    def _photons(self, raw, experiment, panel) -> np.ndarray:
        gain_map, pedestal_map = images.lookup_maps(experiment)
        pedestal = 0.0 if pedestal_map is None else pedestal_map[panel]
        if self._gain is None and gain_map is not None:
            return (images.to_photons(raw, experiment.detector[panel], 1.0, pedestal) / gain_map[panel]).ravel()
        return images.to_photons(raw, experiment.detector[panel], self._gain, pedestal).ravel()

    def _trusted(self, raw, panel) -> tuple[np.ndarray, np.ndarray]:
        """(trusted, overloaded) pixels of a panel in one still, shape (slow, fast)."""
        if self._params.masking.trusted_range in (None, "none"):  # PHIL reads a typed none as None
            return np.ones(raw.shape, dtype=bool), np.zeros(raw.shape, dtype=bool)
        return images.in_trusted_range(raw, panel)

    def _good(self, raw, panel, mask) -> tuple[np.ndarray, np.ndarray]:
        step = self._params.extraction.pixel_step
        trusted, overloaded = self._trusted(raw, panel)
        good = trusted & mask
        if step > 1:
            sampled = np.zeros(raw.shape, dtype=bool)
            sampled[step // 2 :: step, step // 2 :: step] = True
            good &= sampled
            overloaded = overloaded & sampled
        return good.ravel(), overloaded.ravel()

    def _mask(self, experiment) -> tuple[np.ndarray, ...]:
        """What masks every still of this imageset: its own static mask and the files given, combined by AND."""
        static = images.static_mask(experiment)
        if id(static) not in self._masks:
            combined = [mask.copy() for mask in static]
            for name in self._mask_files:
                combined = [a & b for a, b in zip(combined, load_mask(name, self._shapes))]
            # The static mask is kept beside its product, so that its id is not given to another.
            self._masks[id(static)] = (static, tuple(combined))
        return self._masks[id(static)][1]

    def _panel(self, experiment, panel: int) -> _Panel:
        """Geometry and response of a panel, made again only when the models or the wavelength change."""
        detector = experiment.detector
        if self._last_detector[0] is not detector:
            self._last_detector = (detector, fingerprint(detector))
        s0 = beam_direction(experiment.beam)
        polarization = (experiment.beam.get_polarization_fraction(), tuple(experiment.beam.get_polarization_normal()))
        key = (self._last_detector[1], tuple(np.round(s0, 12)), polarization, panel)
        wavelength = experiment.beam.get_wavelength()
        shared = self._panels.get(key)
        if shared is None or shared.wavelength != wavelength:
            geometry = pixel_geometry(detector[panel], s0) if shared is None else shared.geometry
            corrections, _ = choose_corrections(self._params.corrections, experiment)
            s_length = geometry.s_lengths(wavelength)
            response, unit = in_units(total_response(corrections, panel, geometry, wavelength))
            shared = _Panel(
                geometry,
                wavelength,
                response * unit,
                s_length,
                np.floor(s_length / S_BIN_WIDTH).astype(np.int32),
            )
            self._panels[key] = shared
            while len(self._panels) > 2 * len(self._shapes):  # stills with models of their own must not fill the memory
                self._panels.popitem(last=False)
        return shared

    def _within_resolution(self, s_length: np.ndarray) -> np.ndarray:
        inside = s_length > 0
        if self._params.d_min is not None:
            inside &= s_length <= 1 / self._params.d_min
        if self._params.d_max is not None:
            inside &= s_length >= 1 / self._params.d_max
        return inside


def _centres(pixel: np.ndarray, n_fast: int) -> np.ndarray:
    """Fast and slow coordinate of pixel centres, shape (n, 2)."""
    slow, fast = np.divmod(pixel, n_fast)
    return np.stack([fast + 0.5, slow + 0.5], axis=1)


def _radial_totals(number, panel, s_bin, sample: PanelSample, overloaded) -> RadialTotals:
    """Sums over the |s| bins of one panel, in ascending order of |s|; bins without a good pixel are left out."""
    selected = np.flatnonzero(sample.use)
    bins = s_bin[selected]
    length = int(s_bin.max(initial=0)) + 1
    n_pixels = np.bincount(bins, minlength=length)
    n_overloaded = np.bincount(s_bin[overloaded], minlength=length)
    hit = np.flatnonzero(n_pixels + n_overloaded)
    columns = (sample.counts, sample.background, sample.response, sample.variance)
    sums = [np.bincount(bins, weights=column[selected], minlength=length)[hit] for column in columns]
    full = np.full(len(hit), 1, dtype=np.int32)
    return RadialTotals(
        full * number, full * panel, (hit + 0.5) * S_BIN_WIDTH, *sums,
        n_pixels[hit].astype(np.int32), n_overloaded[hit].astype(np.int32),
    )  # fmt: skip


def corner_resolution(experiment) -> float:
    """Resolution (Å) of the pixel with the largest |s|: the limit of a map for which none is given."""
    s0 = beam_direction(experiment.beam)
    # Up to 2θ = 90° the largest |s| of a panel is at its edge; behind the sample its middle may be the farthest.
    smallest = min(float((edge_directions(panel) @ s0).min()) for panel in experiment.detector)
    if smallest < 0:
        smallest = min(float((pixel_geometry(panel, s0).direction @ s0).min()) for panel in experiment.detector)
    return experiment.beam.get_wavelength() / np.sqrt(2 - 2 * smallest)
