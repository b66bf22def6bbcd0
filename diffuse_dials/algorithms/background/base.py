"""What every background offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffuse_dials.models.exposure import Exposure


@dataclass(frozen=True)
class PanelSample:
    """One panel of one still, as a per-still background sees it; arrays over all its pixels, shape (n,).

    Attributes:
        s_length: |s|, 1/Å.
        counts: Photons.
        background: Photons of the part that all stills share.
        response: Ω·P·ε·T·t, sr s.
        variance: Of counts - background, photons².
        use: Pixels that pass every mask, the Bragg mask too, bool.
    """

    s_length: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    response: np.ndarray
    variance: np.ndarray
    use: np.ndarray


class Background:
    """A term of the background. Sub-classes have ``name``, ``phil``, ``from_phil`` and ``describe``.

    Attributes:
        per_still: Whether :meth:`of_still` is to be asked, once the pixels of a still are known.
        by_profile: Whether :meth:`profile` says the same as :meth:`of_still`, from sums over bins of |s|: what the
            compiled pass needs.
        isotropic_removed: Whether it takes the crystal's isotropic scattering with it.
        takes_blanks: Whether it makes use of input.background.
    """

    per_still: ClassVar[bool] = False
    by_profile: ClassVar[bool] = False
    isotropic_removed: ClassVar[bool] = False
    takes_blanks: ClassVar[bool] = False

    def at(self, panel: int, exposure: Exposure):
        """The part that all stills share, scaled to one still.

        Args:
            panel: Number of the panel.
            exposure: Of the still.

        Returns:
            (photons, their variance, where they are known): arrays (n,) or numbers; None for "everywhere".
        """
        return 0.0, 0.0, None

    def unscaled(self, panel: int, exposure: Exposure):
        """The same as ``at``, without arrays of its own where the stills share all but one factor.

        Args:
            panel, exposure: As in ``at``.

        Returns:
            (photons, their variance, a number that multiplies the photons, and its square their variance, where they
            are known).
        """
        photons, variance, known = self.at(panel, exposure)
        return photons, variance, 1.0, known

    def profile(self, sums):
        """The part that is estimated on each still as a profile over |s| times the response; for ``by_profile``.

        The compiled pass needs ``bin_width`` and ``rejection`` of such a class too, as RadialBackground has them.

        Args:
            sums: As RadialBackground.profile has it.

        Returns:
            A background.radial.Profile, or None where a still has no pixel.

        Raises:
            TypeError: If the sub-class sets ``by_profile`` and does not have this.
        """
        raise TypeError(f"{type(self).__name__} sets by_profile, but has no profile().")

    def of_still(self, panels: list[PanelSample]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The part that is estimated on each still; added to the map's background, never to the radial totals.

        Args:
            panels: All panels of the still, in order.

        Returns:
            (photons, their variance) of each panel, arrays (n,).

        Raises:
            TypeError: If the sub-class sets ``per_still`` and does not have this.
        """
        raise TypeError(f"{type(self).__name__} sets per_still, but has no of_still().")
