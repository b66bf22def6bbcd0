"""Factors of the response of a pixel, one per file; another package adds one through an entry point.

A correction is a class with ``name``, ``phil`` (its parameters), ``from_phil(params, experiment)``,
``response(panel, pixels, wavelength)`` and ``describe()``. Its switch, its parameters and its row in the log
follow from the class. If it has ``closed_form(panel, wavelength)``, which returns parameters of
kernels.shared.ClosedForm, the compiled pass of diffuse.grid works it out; otherwise ``response`` does.
"""

from __future__ import annotations

import logging

import libtbx.phil
import numpy as np

from diffuse_dials.algorithms.corrections.air import Air
from diffuse_dials.algorithms.corrections.base import NotKnown
from diffuse_dials.algorithms.corrections.maps import checked_factor
from diffuse_dials.algorithms.corrections.polarization import Polarization
from diffuse_dials.algorithms.corrections.sensor_efficiency import SensorEfficiency
from diffuse_dials.algorithms.corrections.solid_angle import SolidAngle
from diffuse_dials.algorithms.wording import clause, sentence
from diffuse_dials.plugins import with_plugins

logger = logging.getLogger(f"dials.{__name__}")

CORRECTIONS = with_plugins("diffuse_dials.corrections", (SolidAngle, Polarization, SensorEfficiency, Air))

_SWITCH = """
  apply = Auto
    .type = bool
    .help = "Auto: applied if everything it needs is known, otherwise left out with a warning. True: the run stops if"
            "it cannot be worked out. False: left out, which is recorded."
"""

phil_scope = libtbx.phil.parse(
    """
corrections {
  gain = Auto
    .type = float(value_min=1e-9, value_max=1e9)
    .help = "Detector units per photon. Auto: the panel's gain."
"""
    + "".join(f"  {name} {{{_SWITCH}{cls.phil}\n  }}\n" for name, cls in CORRECTIONS.items())
    + "}\n"
)


def choose_corrections(params, experiment) -> tuple[list, dict]:
    """The corrections that apply to one still, and the record of all of them.

    Args:
        params: The extract of ``corrections``.
        experiment: The still whose beam and detector give what the parameters leave open.

    Returns:
        (corrections in the order of their list, {name: {"applied": bool, ...values or reason}}).

    Raises:
        ValueError: If a correction with ``apply=True`` lacks what it needs.
    """
    chosen, record = [], {}
    for name, cls in CORRECTIONS.items():
        values = getattr(params, name)
        if values.apply is False:
            record[name] = {"applied": False, "reason": "switched off by the user"}
            continue
        try:
            correction = cls.from_phil(values, experiment)
        except NotKnown as reason:
            if values.apply is True:
                raise ValueError(f"corrections.{name}.apply=True, but {sentence(reason)}") from None
            record[name] = {"applied": False, "reason": str(reason)}
            continue
        chosen.append(correction)
        record[name] = {"applied": True, **correction.describe()}
    return chosen, record


def total_response(corrections, panel: int, pixels, wavelength: float) -> np.ndarray:
    """Product of the factors for all pixels of a panel, shape (n,): the response without the exposure time, sr.

    Args:
        corrections: From :func:`choose_corrections`.
        panel: Number of the panel.
        pixels: Its PixelGeometry.
        wavelength: Å.

    Raises:
        ValueError: If a factor is not finite and positive: a correction is never silently 1.
    """
    product = np.ones(len(pixels.distance))
    for correction in corrections:
        product *= checked_factor(correction, panel, pixels, wavelength)
    return product


def closed_form(corrections, panel: int, wavelength: float) -> tuple[dict, list]:
    """What the compiled pass needs to know of corrections.

    Returns:
        (parameters of kernels.shared.ClosedForm, the corrections that it does not know).
    """
    values, others = {}, []
    for correction in corrections:
        given = correction.closed_form(panel, wavelength) if hasattr(correction, "closed_form") else {}
        if given and not values.keys() & given.keys():
            values.update(given)
        else:
            others.append(correction)
    return values, others


def log_corrections(record: dict, ranges: dict) -> None:
    """One line per correction: its range over the detector and its values, or a warning that it was left out and why.

    Args:
        record: From :func:`choose_corrections`, exposure time and gain added.
        ranges: (smallest, largest) factor by the name of the correction.
    """
    for name, values in record.items():
        if not values["applied"]:
            logger.warning("  %s: not applied (%s)", name, clause(values["reason"]))
            continue
        words = [f"{key} {value}" for key, value in values.items() if key != "applied"]
        if name in ranges:
            words.insert(0, "factor {:.4g} to {:.4g} over the detector".format(*ranges[name]))
        logger.info("  %s: %s", name, ", ".join(words))
