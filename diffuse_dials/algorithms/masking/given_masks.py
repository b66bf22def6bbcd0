"""Bragg masks that a file gives for each still: what diffuse.make_mask wrote, perhaps edited, or another program's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.io.masks import load_still_masks


@dataclass(frozen=True)
class GivenMask:
    """Mask of one still from a file.

    Attributes:
        use: Per panel, bool (slow, fast): True = use the pixel.
    """

    use: tuple[np.ndarray, ...]
    name: ClassVar[str] = "given"
    needs_positions: ClassVar[bool] = False  # of keep's arguments, s and hkl

    def keep(self, panel: int, shape, s, hkl) -> np.ndarray:
        """Which pixels of a panel pass, shape (slow x fast,), bool; the other arguments are as LatticeMask.keep's."""
        return self.use[panel].ravel()


class GivenMasks:
    """The masks of input.bragg_masks, kept in memory: a byte for each pixel of each still.

    Attributes:
        files: Names of the files.
    """

    def __init__(self, files, shapes):
        """Read the files.

        Args:
            files: Pickles of dictionaries: experiment identifier → tuple of flex.bool, one per panel.
            shapes: (slow, fast) size of each panel.

        Raises:
            ValueError: If a file is no such dictionary, or fits another detector.
        """
        self.files = tuple(files)
        self._masks: dict[str, tuple[np.ndarray, ...]] = {}
        for file in self.files:
            for identifier, mask in load_still_masks(file, shapes).items():
                known = self._masks.get(identifier)
                self._masks[identifier] = mask if known is None else tuple(a & b for a, b in zip(known, mask))

    def of(self, experiment) -> GivenMask:
        """Mask of one still.

        Raises:
            ValueError: If the files have none for it.
        """
        mask = self._masks.get(experiment.identifier)
        if mask is None:
            raise ValueError(
                f"input.bragg_masks={' '.join(map(str, self.files))} has no mask for still {experiment.identifier}. "
                "Give the bragg_masks.pickle that diffuse.make_mask wrote for these stills."
            )
        return GivenMask(mask)
