"""How much light a still got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exposure:
    """Exposure of one image.

    Attributes:
        time: Exposure time, s.
        time_stamp: Seconds since 1970, None if unknown.
        monitor: Reading of the flux monitor or transmission, None where there is none.
        incident: What multiplies the response, and by whose ratio blanks are scaled: the exposure time, times or
            replaced by the monitor (corrections.monitor.measures); s where there is no monitor.
    """

    time: float
    time_stamp: float | None
    monitor: float | None
    incident: float
