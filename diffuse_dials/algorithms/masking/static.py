"""What masks every still: the mask of its imageset and detector, and the files the user gave."""

from __future__ import annotations

import numpy as np

from diffuse_dials.adapters import images
from diffuse_dials.io.masks import load_mask


class StaticMasks:
    """The imageset's own mask and the files given, combined by AND, made once for each imageset.

    Attributes:
        files: Names of the mask files.
    """

    def __init__(self, files, shapes):
        """
        Args:
            files: Names of mask files; they are read when the first still asks.
            shapes: (slow, fast) size of each panel.
        """
        self.files, self._shapes = tuple(files), shapes
        self._combined: dict = {}

    def of(self, experiment) -> tuple[np.ndarray, ...]:
        """Mask of a still, True = use, one bool array (slow, fast) per panel, shared: do not change it.

        Raises:
            ValueError: If a file is missing or fits another detector.
        """
        own = images.static_mask(experiment)
        if id(own) not in self._combined:
            combined = [mask.copy() for mask in own]
            for name in self.files:
                combined = [a & b for a, b in zip(combined, load_mask(name, self._shapes))]
            # The imageset's own is kept beside the product, so that its id is not given to another.
            self._combined[id(own)] = (own, tuple(combined))
        return self._combined[id(own)][1]
