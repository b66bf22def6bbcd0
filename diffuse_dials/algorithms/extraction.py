"""The measurement of stills: all that their pixels or sums depend on is chosen and checked once, at the start."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

import libtbx.phil
import numpy as np
from libtbx import Auto

from diffuse_dials.adapters import images
from diffuse_dials.algorithms.background import choose_background
from diffuse_dials.algorithms.background.blanks import Blanks
from diffuse_dials.algorithms.corrections import choose_corrections, log_corrections
from diffuse_dials.algorithms.corrections.maps import factor_maps
from diffuse_dials.algorithms.gridding import Grid, voxel_sums, with_asu_index, without_origin
from diffuse_dials.algorithms.inputs import Stills, check_photons_range, check_together
from diffuse_dials.algorithms.masking.chosen import choose_bragg_masks
from diffuse_dials.algorithms.masking.static import StaticMasks
from diffuse_dials.algorithms.stills.exposure import Exposures
from diffuse_dials.algorithms.stills.noise import choose_noise
from diffuse_dials.algorithms.stills.still_pixels import S_BIN_WIDTH, StillMeasurement, StillPixels
from diffuse_dials.models.sums import StillSums

logger = logging.getLogger(f"dials.{__name__}")

phil_scope = libtbx.phil.parse(
    """
d_min = None
  .type = float(value_min=0.1, value_max=10000)
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
    .help = "For images with several lattices. first: the diffuse pixels are used once, with the first lattice's"
            "orientation (the spots of all are masked). refuse: the run stops."
  photons_range = None
    .type = floats(size=2)
    .help = "Use only pixels with a number of photons in this range. This biases the map, because cutting one end off a"
            "Poisson distribution changes its mean. None (recommended): use every pixel."
    .expert_level = 2
  skip_failed = False
    .type = bool
    .help = "Continue without stills whose image is missing or broken; stills.csv lists them with the reason."
}
include scope diffuse_dials.algorithms.masking.extraction_phil_scope
include scope diffuse_dials.algorithms.corrections.phil_scope
include scope diffuse_dials.algorithms.background.phil_scope
include scope diffuse_dials.algorithms.stills.exposure.phil_scope
include scope diffuse_dials.algorithms.stills.noise.phil_scope
include scope diffuse_dials.algorithms.stills.pixel_statistics.phil_scope
""",
    process_includes=True,
)


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
        self._fused = None
        direct = getattr(params, "grid", None) is not None and params.grid.reader == "hdf5"  # diffuse.extract: dxtbx
        header, self._read = images.header, _read_by_dxtbx
        if direct:
            from diffuse_dials.adapters.direct import DirectReader  # slow to import, see images._is_nexus

            reader = DirectReader()
            header, self._read = reader.header, reader.read
        first = stills.experiments[0]
        self._shapes = images.panel_shapes(first.detector)
        check_together(stills, self._shapes, params.extraction.lattices)
        check_photons_range(params.extraction.photons_range)
        if params.extraction.pixel_step // 2 >= min(min(shape) for shape in self._shapes):
            raise ValueError(
                f"extraction.pixel_step={params.extraction.pixel_step} leaves no pixel of a panel of "
                f"{' x '.join(map(str, min(self._shapes)))} pixels. Use a smaller step."
            )
        chosen, corrections = choose_corrections(params.corrections, first)
        self.factor_maps = factor_maps(chosen, first)
        self._masks = StaticMasks([name for name in params.input.mask if name], self._shapes)
        self._bragg_masks = choose_bragg_masks(params, stills, self._masks.of, self._shapes)
        self._exposures = Exposures(params, stills_csv, header)
        self._first = self._first_readable()
        exposure_record = self._exposures.check(stills.experiments[self._first])
        gain = None if params.corrections.gain is Auto else params.corrections.gain
        self._pixels = self._looking_at(params.extraction.pixel_step, gain)
        gain_record = self._choose_noise(first)
        files = [name for name in params.input.background if name]
        options = params.background.image
        blanks = Blanks(files, options, self._shapes, self._pixels.photons, self._exposures, self._noise)
        self._background = choose_background(params, blanks)
        self._compiled_background = self._look_at_engine()
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
                "files": list(self._masks.files),
                "trusted_range": params.masking.trusted_range,
                "bragg": self._bragg_masks.describe(),
                "pixel_step": params.extraction.pixel_step,
            },
        }
        logger.info("Corrections:")
        log_corrections(self.record["corrections"], {found.name: found.range for found in self.factor_maps})
        logger.info("Noise: %s", ", ".join(f"{k} {v}" for k, v in self.record["noise"].items()))
        logger.info("Background: %s", ", ".join(f"{k} {v}" for k, v in self.record["background"].items()))

    def _first_readable(self) -> int:
        """Number of the first still that is used and whose image can be opened: it serves to work out what all share.

        Raises:
            ValueError: If one before it cannot and failures stop the run, or if none can.
        """
        reasons = []
        for number in filter(self.uses, range(len(self._stills))):
            experiment = self._stills.experiments[number]
            try:
                self._exposures.check(experiment)
                self._masks.of(experiment)
                return number
            except ValueError as error:
                if not self._params.extraction.skip_failed:
                    raise
                reasons.append(error)
        raise ValueError(f"None of {len(reasons)} images can be opened. The first: {reasons[0]}")

    def _choose_noise(self, first) -> dict:
        """Set the noise model, and the gain where it is unknown; returns the record of the gain."""
        gain_map, _ = images.lookup_maps(first)
        panels, given = list(first.detector), self._pixels.gain
        source = "parameters" if given is not None else "gain map" if gain_map is not None else "panel"
        known = source != "panel" or any(panel.get_gain() != 1 for panel in panels)
        self._noise, estimated = choose_noise(
            self._params.noise, [images.is_counter(panel) for panel in panels], known, self._noise_sample
        )
        if estimated is None:
            value = given if given is not None else source if gain_map is not None else panels[0].get_gain()
            return {"applied": True, "value": value, "source": source}
        self._pixels.gain = estimated
        logger.warning(
            "The gain of the detector is not known (its panels say 1). By the variance of the images it is %.3g units "
            "per photon, to about 20 %%; corrections.gain overrides it.",
            estimated,
        )
        return {"applied": True, "value": estimated, "source": "estimated from the variance of the images"}

    def _noise_sample(self, n_stills: int):
        """``StillPixels.sample`` of a few stills.

        Which stills follows from a hash of their names, so that it does not depend on their order.
        """
        used = [number for number in range(len(self._stills)) if self.uses(number)]
        used.sort(key=lambda i: hashlib.sha256(self._stills.keys[i].label.encode()).digest())
        pixels = self._looking_at(1, self._pixels.gain)
        return [pixels.sample(number) for number in used[:n_stills]]

    def _looking_at(self, step: int, gain: float | None) -> StillPixels:
        """The pixel path for every ``step``-th pixel."""
        return StillPixels(
            self._params, self._stills, self._shapes, gain, self._masks.of, self._bragg_masks, step, self._read
        )

    def uses(self, number: int) -> bool:
        """Whether still ``number`` is measured: of several lattices on an image only the first."""
        return self._stills.keys[number].lattice == 0

    def mask_of(self, number: int) -> tuple[np.ndarray, ...]:
        """Mask of a still, whatever its values are, True = use, shape (slow, fast) per panel; do not change it."""
        return self._masks.of(self._stills.experiments[number])

    def thinned(self, step: int) -> Callable[[int], StillMeasurement]:
        """``measure``, without totals, for every ``step``-th pixel along both directions: not extraction.pixel_step."""
        pixels = self._looking_at(step, self._pixels.gain)
        return lambda number: self.measure(number, pixels)

    def measure(self, number: int, pixels: StillPixels | None = None) -> StillMeasurement:
        """Measure one still, pixel by pixel.

        Args:
            number: Its position in the experiment list.
            pixels: Which pixels, without totals; None: by extraction.pixel_step.

        Raises:
            ValueError: If its image cannot be read, or no pixel is left.
        """
        exposure = self._exposures.of(self._stills.experiments[number], self._stills.keys[number])
        measured = (pixels or self._pixels).measure(
            number, exposure, self._noise, self._background, with_totals=pixels is None
        )
        self._refuse_empty(number, measured.n_accepted)
        return measured

    def sums(self, number: int, grid: Grid) -> StillSums:
        """Measure one still and sum its pixels per voxel: by the kernel in one pass, or by ``measure`` and NumPy.

        A background from another package that is estimated on each still needs all its pixels first, and hence NumPy.

        Args:
            number: Position of the still in the experiment list.
            grid: The grid; its ``engine`` says how.

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
        return self.sums_of_image(number, grid, *self._read(experiment))

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
        mask = self._masks.of(experiment)
        bragg_masks, settings = zip(*self._bragg_masks.of_image(self._stills.same_image(number), raw, mask))
        voxels, totals, n_accepted = self._kernel().sums(
            number, experiment, raw, highest, mask, exposure, bragg_masks, settings, grid.to_hkl(experiment), grid
        )
        self._refuse_empty(number, n_accepted)
        return StillSums(voxels, totals, exposure, n_accepted)

    def prepare(self, grid: Grid, share=lambda make: make()) -> None:
        """Work out what the stills share, so that forked processes inherit it; without it the first still does.

        Args:
            grid: The grid.
            share: Function that calls another and returns what that returns; mpi.Communicator.shared makes the ranks
                of a machine share it.
        """
        if self._by_numpy(grid):
            return
        experiment = self._stills.experiments[self._first]
        exposure = self._exposures.of(experiment, self._stills.keys[self._first])
        self._kernel().prepare(experiment, self._masks.of(experiment), exposure, share)

    def _by_numpy(self, grid: Grid) -> bool:
        return grid.engine == "numpy" or not self._compiled_background

    def _look_at_engine(self) -> bool:
        """Whether the compiled pass can handle the background; if it was meant to and cannot, the log says why.

        Raises:
            ValueError: If it cannot and grid.engine=numba or grid.reader=hdf5 was asked for.
        """
        if not self._background.per_still or self._background.by_profile:
            return True
        grid = getattr(self._params, "grid", None)  # diffuse.extract has none: it goes by pixels
        if grid is None or grid.engine == "numpy":
            return False
        name = self._background.name
        why = f"background_method={name} needs all pixels of a still at once, which the compiled pass never has"
        for option, given in (("engine", "numba"), ("reader", "hdf5")):
            if getattr(grid, option) == given:
                raise ValueError(f"grid.{option}={given} was asked for, but {why}. Leave grid.{option} out.")
        logger.info("grid.engine: numpy, because %s.", why)
        return False

    def _kernel(self):
        if self._fused is None:
            from diffuse_dials.algorithms.stills.fused import Fused  # needs numba, which diffuse.extract does not

            self._fused = Fused(
                self._params, self._shapes, S_BIN_WIDTH, self._pixels.gain, self._noise, self._background
            )
        return self._fused

    def _refuse_empty(self, number: int, n_accepted: int) -> None:
        if not n_accepted:
            raise ValueError(
                f"No pixel of {self._stills.keys[number].image} passes the masks and the resolution limits. "
                "Look at the mask, d_min, d_max, extraction.photons_range and masking.bragg."
            )


def _read_by_dxtbx(experiment):
    """As DirectReader.read, but sentinels are negative: None in place of the largest value that is none."""
    return images.read_raw(experiment), None
