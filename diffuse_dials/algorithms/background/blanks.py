"""Blank exposures as a stream: photons, good pixels and exposure of one image after the other."""

from __future__ import annotations

from diffuse_dials.adapters import images
from diffuse_dials.adapters.experiments import load_blanks, still_keys


class Blanks:
    """The blanks of input.background; iterating reads them one by one.

    Attributes:
        files: Names of the .expt files; empty where none was given.
        shapes: (slow, fast) of each panel.
        options: Extract of ``background.image``, which says how they are used.
        noise: NoiseModel of the detector.
    """

    def __init__(self, files, options, shapes, photons, exposures, noise):
        """
        Args:
            files: Names of .expt files without crystals.
            options: Extract of ``background.image``.
            shapes: (slow, fast) of each panel of the stills.
            photons: Function (raw values of a panel, experiment, panel number) → photons, shape (n,).
            exposures: Exposures of the run.
            noise: NoiseModel of the detector.

        Raises:
            ValueError: If a file cannot be read, has crystals, or its blanks were taken with another detector.
        """
        self.files, self.options, self.shapes, self.noise = tuple(files), options, shapes, noise
        self._photons, self._exposures = photons, exposures
        self._experiments = []
        for file in self.files:
            loaded = load_blanks(file)
            for experiment, key in zip(loaded, still_keys(loaded)):
                if experiment.crystal is not None:
                    raise ValueError(
                        f"input.background={file} holds stills with a crystal: their diffraction would be subtracted. "
                        "Give blank exposures, an .expt of dials.import."
                    )
                if images.panel_shapes(experiment.detector) != list(shapes):
                    raise ValueError(
                        f"The blanks of {file} were taken with another detector than the stills. "
                        "Give blanks of the same detector."
                    )
                self._experiments.append((experiment, key))

    def have_monitor(self) -> bool:
        """Whether input.monitor has a reading for every blank."""
        return all(self._exposures.has_reading(experiment, key) for experiment, key in self._experiments)

    def __iter__(self):
        """Yields (photons, good pixels, exposure), arrays (n,) per panel.

        Raises:
            ValueError: If an image cannot be read, or has no exposure time while the stills have one.
        """
        for experiment, key in self._experiments:
            raw = images.read_raw(experiment)
            good, photons = [], []
            for panel, mask in enumerate(images.static_mask(experiment)):
                trusted, _ = images.in_trusted_range(raw[panel], experiment.detector[panel])
                good.append((trusted & mask).ravel())
                photons.append(self._photons(raw[panel], experiment, panel))
            yield tuple(photons), tuple(good), self._exposures.of_blank(experiment, key)
