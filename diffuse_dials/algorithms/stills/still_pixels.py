"""The pixels of one still, step by step as arrays: counts, background, response, scattering vectors, radial totals.

What diffuse.extract writes, and the reference of the kernel (``algorithms.stills.fused``), which does it in one pass.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np

from diffuse_dials.adapters import images
from diffuse_dials.adapters.panels import beam_direction, fingerprint, panel_plane, pixel_geometry
from diffuse_dials.algorithms.background.base import PanelSample
from diffuse_dials.algorithms.corrections import choose_corrections, total_response
from diffuse_dials.algorithms.inputs import Stills
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.kernels.sums import in_units, transform
from diffuse_dials.models.exposure import Exposure
from diffuse_dials.models.geometry import PixelGeometry
from diffuse_dials.models.sums import RadialTotals

S_BIN_WIDTH = 0.005  # 1/Å: fine against the fall-off of scattering, coarse against a pixel


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
        totals: Radial totals, Bragg pixels included; None where they were not wanted.
        exposure: Time, monitor and what multiplied the response.
        n_accepted: Pixels that pass the Bragg mask too.
    """

    pixels: tuple[PanelPixels, ...]
    totals: RadialTotals | None
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


class StillPixels:
    """Measures stills pixel by pixel; what they share is kept from still to still.

    Attributes:
        gain: Detector units per photon for all panels; None: the panel's or the gain map's.
        step: Of the pixels.
    """

    def __init__(self, params, stills: Stills, shapes, gain: float | None, mask_of, bragg_masks, step: int, read):
        """Nothing is computed before the first still.

        Args:
            params: Extract of extraction's scope.
            stills: The stills.
            shapes: (slow, fast) size of each panel.
            gain: See above.
            mask_of: Function of an experiment: what masks every still, one bool array (slow, fast) per panel.
            bragg_masks: BraggMasks.
            step: Look at every so-many-th pixel along both directions; the others cost nothing.
            read: Function of an experiment: its raw values, one array (slow, fast) per panel, and the largest that is
                no sentinel (None: sentinels are negative).
        """
        self.step, self._window = step, np.s_[step // 2 :: step, step // 2 :: step]
        self._params, self._stills, self._shapes, self.gain = params, stills, shapes, gain
        self._mask_of, self._bragg_masks, self._read = mask_of, bragg_masks, read
        self._last_detector = (None, None)
        self._panels: OrderedDict = OrderedDict()

    def measure(self, number: int, exposure: Exposure, noise, background, with_totals: bool = True) -> StillMeasurement:
        """Measure one still.

        Args:
            number: Its position in the experiment list.
            exposure: How much light it got.
            noise: NoiseModel.
            background: Background (see algorithms.background).
            with_totals: Whether radial totals are wanted.

        Raises:
            ValueError: If its image cannot be read.
        """
        experiment = self._stills.experiments[number]
        raw, highest = self._read(experiment)
        samples, totals = [], []
        for panel, mask in enumerate(self._mask_of(experiment)):
            shared = self._panel(experiment, panel)
            photons = self.photons(raw[panel], experiment, panel, self._window)
            trusted, overloaded = self._trusted(raw[panel][self._window], highest, experiment.detector[panel])
            mask = self._sampled(mask, panel)
            good, overloaded = trusted.ravel() & mask, overloaded.ravel() & mask
            if self._params.extraction.photons_range:
                low, high = self._params.extraction.photons_range
                good &= (photons >= low) & (photons <= high)
            photons_of_background, variance, known = (self._sampled(v, panel) for v in background.at(panel, exposure))
            if known is not None:
                good &= known
                overloaded &= known
            sample = PanelSample(
                s_length=shared.s_length,
                counts=photons,
                background=np.broadcast_to(photons_of_background, photons.shape),
                response=shared.response * exposure.incident,
                variance=noise.variance(panel, photons) + variance,
                use=good,
            )
            samples.append(sample)
            if with_totals:
                totals.append(_radial_totals(number, panel, shared.s_bin, sample, overloaded))
        passes = self._passes(number, raw)
        if background.per_still:
            samples = _with_background_of_still(background, samples, passes)
        pixels = []
        for panel, sample in enumerate(samples):
            selected = np.flatnonzero(sample.use & self._within_resolution(sample.s_length))
            if not len(selected):
                continue
            shared = self._panel(experiment, panel)
            columns = (sample.counts, sample.background, sample.response, sample.variance)
            pixels.append(
                PanelPixels(
                    panel, self._centres(selected, shared.geometry.shape[1]),
                    shared.geometry.s_vectors(shared.wavelength, selected),
                    *(column[selected] for column in columns), ~passes[panel][selected],
                )
            )  # fmt: skip
        n_accepted = sum(int(np.count_nonzero(~p.bragg)) for p in pixels)
        together = RadialTotals.concatenate(totals) if with_totals else None
        return StillMeasurement(tuple(pixels), together, exposure, n_accepted)

    def sample(self, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Photons by the known gain, and which pixels pass every mask, of each panel of a still, shape (slow, fast).

        For a ``step`` of 1.
        """
        experiment = self._stills.experiments[number]
        raw, highest = self._read(experiment)
        passes, panels = self._passes(number, raw), []
        for panel, mask in enumerate(self._mask_of(experiment)):
            trusted = self._trusted(raw[panel], highest, experiment.detector[panel])[0]
            use = trusted & mask & passes[panel].reshape(mask.shape)
            panels.append((self.photons(raw[panel], experiment, panel).reshape(mask.shape), use))
        return panels

    def _sampled(self, values, panel: int):
        """The pixels of an array over a panel that are looked at, shape (n,); numbers and None come back unchanged."""
        if values is None or np.ndim(values) == 0:
            return values
        return np.asarray(values).reshape(self._shapes[panel])[self._window].ravel()

    def _centres(self, pixel: np.ndarray, n_fast: int) -> np.ndarray:
        """Fast and slow coordinate of the centres of pixels that are looked at, shape (n, 2)."""
        slow, fast = np.divmod(pixel, n_fast)
        return np.stack([fast, slow], axis=1) * self.step + (self.step // 2 + 0.5)

    def _passes(self, number: int, raw) -> list[np.ndarray]:
        """Pixels of each panel that pass all Bragg masks of the image, shape (n,), bool."""
        experiment = self._stills.experiments[number]
        masks = self._bragg_masks.of_image(self._stills.same_image(number), raw, self._mask_of(experiment))
        passes = []
        for panel, shape in enumerate(self._shapes):
            shared = self._panel(experiment, panel)
            s = shared.geometry.s_vectors(shared.wavelength)
            kept = np.ones(len(s), dtype=bool)
            for mask, setting in masks:
                if isinstance(mask, LatticeMask):
                    kept &= mask.keep(panel, shape, s, transform(np.linalg.inv(setting), s))
                else:
                    kept &= self._sampled(self._keep(mask, setting, experiment, panel), panel)
            passes.append(kept)
        return passes

    def _keep(self, mask, setting, experiment, panel: int) -> np.ndarray:
        """Pixels of a panel, all of them, that pass a Bragg mask of another kind than by distance."""
        s = hkl = None
        if getattr(mask, "needs_positions", True):
            s0, wavelength = beam_direction(experiment.beam), experiment.beam.get_wavelength()
            s = pixel_geometry(experiment.detector[panel], s0).s_vectors(wavelength)
            hkl = transform(np.linalg.inv(setting), s)
        return mask.keep(panel, self._shapes[panel], s, hkl)

    def photons(self, raw, experiment, panel: int, window=np.s_[:, :]) -> np.ndarray:
        """Photons of the raw values of a panel, shape (n,), or of the ``window`` (slices) of them."""
        gain_map, pedestal_map = images.lookup_maps(experiment)
        pedestal = 0.0 if pedestal_map is None else pedestal_map[panel][window]
        raw, model = raw[window], experiment.detector[panel]
        if self.gain is None and gain_map is not None:
            return (images.to_photons(raw, model, 1.0, pedestal) / gain_map[panel][window]).ravel()
        return images.to_photons(raw, model, self.gain, pedestal).ravel()

    def _trusted(self, raw, highest: int | None, panel) -> tuple[np.ndarray, np.ndarray]:
        """(trusted, overloaded) pixels of a panel in one still, shape (slow, fast)."""
        if self._params.masking.trusted_range in (None, "none"):  # PHIL reads a typed none as None
            trusted, overloaded = np.ones(raw.shape, dtype=bool), np.zeros(raw.shape, dtype=bool)
        else:
            trusted, overloaded = images.in_trusted_range(raw, panel)
        if highest is not None:
            measured = raw <= highest
            trusted, overloaded = trusted & measured, overloaded & measured
        return trusted, overloaded

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
            geometry = None if shared is None else shared.geometry
            if geometry is None:
                geometry = panel_plane(detector[panel], self.step, self.step // 2).geometry(s0)
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


def _with_background_of_still(background, samples: list[PanelSample], passes) -> list[PanelSample]:
    """The samples with the part of the background added that is estimated on this still."""
    diffuse = [replace(sample, use=sample.use & keep) for sample, keep in zip(samples, passes)]
    return [
        replace(sample, background=sample.background + photons, variance=sample.variance + variance)
        for sample, (photons, variance) in zip(samples, background.of_still(diffuse))
    ]


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
