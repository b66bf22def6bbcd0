"""The Bragg mask of each still as the user chose it, and what it needs from all stills."""

from __future__ import annotations

import logging

import numpy as np
from libtbx import Auto

from diffuse_dials.algorithms.inputs import setting_matrix
from diffuse_dials.algorithms.masking import BRAGG_MASKS, bragg_profile, found_spots
from diffuse_dials.algorithms.masking.bragg import LatticeMask
from diffuse_dials.algorithms.masking.given_masks import GivenMasks
from diffuse_dials.algorithms.masking.survey import trusted_values
from diffuse_dials.algorithms.running.parallel import n_processes

logger = logging.getLogger(f"dials.{__name__}")


class BraggMasks:
    """Makes the Bragg masks of stills.

    Attributes:
        profile: The Bragg profile that the radius rests on; None where the method or a radius given needs none.
    """

    def __init__(self, masking, experiments, reflections, profile=None, given=None):
        """From ``masking``.

        Args:
            masking: The extract.
            experiments: The stills.
            reflections: Table of each still that has one, by identifier.
            profile: From :func:`profile_for`, or None.
            given: GivenMasks of input.bragg_masks, or None.
        """
        self._masking, self._params = masking, masking.bragg
        self._experiments, self._reflections = experiments, reflections
        self.profile, self._given = profile, given
        self._sigmas = None if profile is None else bragg_profile.radius_sigmas(profile, self._params.tolerance)
        if profile is not None and self._sigmas is None:
            logger.warning("The images are too weak to measure Bragg spots: the radius is 3 of their widths.")

    def of(self, number: int):
        """Mask of one still; see LatticeMask.keep.

        Raises:
            ValueError: If the still lacks what the method needs.
        """
        experiment = self._experiments[number]
        reflections = self._reflections.get(experiment.identifier)
        mask = BRAGG_MASKS[self._params.method].from_phil(self._params, experiment, reflections)
        return mask.with_sigmas(self._sigmas) if self._sigmas is not None and isinstance(mask, LatticeMask) else mask

    def of_image(self, numbers, raw, use) -> list:
        """All masks of one image: of each lattice on it, those given by file, and that of the spots found where wanted.

        Args:
            numbers: Numbers of the stills on the image.
            raw: Values as stored, one array (slow, fast) per panel.
            use: Static mask, one bool array per panel.

        Returns:
            (mask, A of the lattice whose indices it wants, shape (3, 3), 1/Å) of each.
        """
        masks = [(self.of(number), setting_matrix(self._experiments[number])) for number in numbers]
        if self._given is not None:
            masks += [(self._given.of(self._experiments[number]), masks[0][1]) for number in numbers]
        detector = self._experiments[numbers[0]].detector
        if found_spots.wanted(self._params, detector):
            masks.append((self.found(detector, raw, use), masks[0][1]))
        return masks

    def found(self, detector, raw, use) -> found_spots.FoundSpots:
        """Spots found on an image, whether or not they are masked; arguments as in of_image."""
        tested = [trusted_values(values, panel, self._masking) for values, panel in zip(raw, detector)]
        good = [trusted & kept for (trusted, _), kept in zip(tested, use)]
        above = [overloaded & kept for (_, overloaded), kept in zip(tested, use)]
        return found_spots.find_spots(raw, good, above, detector, self._params)

    def describe(self) -> dict:
        """Method and numbers of the first still's mask, and what the radius leaves, for grid.json and the log."""
        record = self.of(0).describe()
        record["found_spots"] = found_spots.wanted(self._params, self._experiments[0].detector)
        if self._given is not None:
            record["files"] = list(self._given.files)
        if self.profile is not None:
            record["tolerance"] = self._params.tolerance
            record["measured_on_stills"] = int(self.profile.n_stills)
            record["left_over"] = bragg_profile.left_over(self.profile, self._params.tolerance)
        return record


def needs_profile(params) -> bool:
    """Whether ``masking.bragg`` leaves the radius to a measurement."""
    automatic = all(value in (None, Auto) for value in (params.radius, params.radius_sigmas))
    return params.method == LatticeMask.name and automatic


def profile_for(params, experiments, keys, mask_of, nproc: int):
    """The Bragg profile that ``masking.bragg`` needs: from the file it names, else measured; None if it needs none.

    Args:
        params: The ``masking`` extract.
        experiments, keys, mask_of, nproc: As measure_profile.

    Raises:
        ValueError: As measure_profile and load_profile.
    """
    if not needs_profile(params.bragg):
        return None
    if params.bragg.profile is not None:
        return bragg_profile.load_profile(params.bragg.profile)
    return bragg_profile.measure_profile(experiments, keys, params, mask_of, nproc)


def log_profile(profile, tolerance: float) -> None:
    """The radius and what it leaves, one line per shell that matters."""
    rows = bragg_profile.left_over(profile, tolerance)
    if not rows:
        return
    k, left = [row["radius_sigmas"] for row in rows], [row["left"] for row in rows]
    logger.info(
        "Bragg radius, measured on %d still(s): %.2f to %.2f standard deviations of a spot; it masks %.1f %% of the "
        "pixels and leaves, on average, %.1f %% of the local level (at most %.1f %% in a shell).",
        profile.n_stills, min(k), max(k), 100 * np.mean([row["masked"] for row in rows]), 100 * np.mean(left),
        100 * max(left),
    )  # fmt: skip
    if max(row["bragg"] for row in rows) < tolerance:
        logger.warning("The images show no Bragg intensity at the lattice points: check the crystals' orientations.")


def choose_bragg_masks(params, stills, mask_of, shapes) -> BraggMasks:
    """Bragg masks for diffuse.extract and diffuse.grid; their radius is measured where nothing else sets it.

    Args:
        params: Extract with ``masking`` and ``mp``.
        stills: The stills.
        mask_of: Function of an experiment: its static mask, one bool array (slow, fast) per panel.
        shapes: (slow, fast) size of each panel.

    Raises:
        ValueError: As measure_profile, load_profile and GivenMasks.
    """
    options = params.masking.bragg
    files = [name for name in params.input.bragg_masks if name]
    profile = profile_for(params.masking, stills.experiments, stills.keys, mask_of, n_processes(params.mp))
    if profile is not None:
        log_profile(profile, options.tolerance)
    given = GivenMasks(files, shapes) if files else None
    return BraggMasks(params.masking, stills.experiments, stills.reflections, profile, given)
