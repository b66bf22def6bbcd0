"""How much light a still received."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exposure:
    """Exposure of one image.

    Attributes:
        time: Exposure time, s.
        time_stamp: Seconds since 1970, None if unknown.
        monitor: Reading of the flux monitor or transmission, None where there is none.
        incident: Factor of the response, whose ratio also scales blanks: the exposure time, multiplied or
            replaced by the monitor (corrections.monitor.measures); s where there is no monitor.
    """

    time: float
    time_stamp: float | None
    monitor: float | None
    incident: float
