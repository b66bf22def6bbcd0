"""Exposure of each still: time from its header, monitor or transmission from a table; looked up when it is measured."""

from __future__ import annotations

from pathlib import Path

import libtbx.phil
from libtbx import Auto

from diffuse_dials.adapters import images
from diffuse_dials.adapters.experiments import StillKey
from diffuse_dials.io.stills import read_csv
from diffuse_dials.models.exposure import Exposure

phil_scope = libtbx.phil.parse(
    """
input {
  monitor = None
    .type = str
    .help = "Flux monitor or transmission of each image: a CSV file with a column 'monitor' and a column 'identifier',"
            "or 'image' (file name, and 'index' if a file holds several). Or the name of a column that you added to the"
            "stills.csv in the output folder. None: the exposure time alone says how much light a still received."
}
corrections {
  exposure_time = Auto
    .type = float(value_min=1e-15, value_max=1e6)
    .help = "Exposure time of every still (s). Auto: from the scan or the image's header; 1, with a warning, if no"
            "image has one."
  monitor {
    measures = *photons rate
      .type = choice
      .help = "photons: the reading is proportional to the light of the whole exposure and takes the place of the"
              "exposure time. rate: it is a flux or a transmission, which multiplies the exposure time."
  }
}
"""
)


class Exposures:
    """Looks up how much light each image received; nothing is opened before it is needed.

    Attributes:
        has_monitor: Whether a table of monitor readings was given.
    """

    def __init__(self, params, stills_csv=None, header=images.header):
        """Read the table of the monitor.

        Args:
            params: Extract with ``input.monitor`` and ``corrections``.
            stills_csv: Path of the stills.csv whose column ``input.monitor`` may name.
            header: Function of an experiment: its exposure time and time stamp.

        Raises:
            ValueError: If the table cannot be read or lacks what it needs.
        """
        given = params.corrections.exposure_time
        self._given = None if given is Auto else given
        self._per_second = params.corrections.monitor.measures == "rate"
        self._source = params.input.monitor
        self._by_identifier, self._by_image = _read_monitor(self._source, stills_csv) if self._source else ({}, {})
        self._header, self._known = header, False

    @property
    def has_monitor(self) -> bool:
        return self._source is not None

    def check(self, first) -> dict:
        """Record for the log and grid.json, after a look at the first still: its header says whether times are known.

        Raises:
            ValueError: If that image cannot be read.
        """
        if self._given is not None:
            record = {"exposure_time": {"applied": True, "value_s": self._given}}
        else:
            self._known = self._header(first)[0] is not None
            if self._known:
                record = {"exposure_time": {"applied": True, "source": "images"}}
            else:
                reason = "the images have no exposure time; 1 s was taken for all"
                record = {"exposure_time": {"applied": False, "reason": reason}}
        if self.has_monitor:
            measures = "exposure time x reading" if self._per_second else "reading, in place of the exposure time"
            record["monitor"] = {"applied": True, "source": self._source, "response_follows": measures}
        return record

    def of(self, experiment, key: StillKey) -> Exposure:
        """Exposure of one still.

        Raises:
            ValueError: If its header cannot be read, it has no exposure time while the first still has one, or the
                other way round, or the table of the monitor does not hold it.
        """
        time, stamp = self._time(experiment, key)
        if not self.has_monitor:
            return Exposure(time, stamp, None, time)
        monitor = self._reading(experiment, key)
        if monitor is None:
            raise ValueError(
                f"input.monitor={self._source} has no reading for image {key.index} of {key.image}. "
                "Add a line for it: identifier, or image and index, and monitor."
            )
        return Exposure(time, stamp, monitor, time * monitor if self._per_second else monitor)

    def of_blank(self, experiment, key: StillKey) -> Exposure:
        """Exposure of a blank; without a reading of the monitor it can be scaled by exposure time only."""
        if self.has_reading(experiment, key):
            return self.of(experiment, key)
        time, stamp = self._time(experiment, key)
        return Exposure(time, stamp, None, time)

    def has_reading(self, experiment, key: StillKey) -> bool:
        """Whether the table of the monitor holds an image."""
        return self.has_monitor and self._reading(experiment, key) is not None

    def _time(self, experiment, key: StillKey) -> tuple[float, float | None]:
        found, stamp = self._header(experiment)
        if self._given is not None:
            return self._given, stamp
        if (found is not None) != self._known:
            has, other = ("no", "one") if found is None else ("an", "none")
            raise ValueError(
                f"{key.image} has {has} exposure time, the first still has {other}. Give corrections.exposure_time, "
                "if all are equal."
            )
        return (1.0 if found is None else found), stamp

    def _reading(self, experiment, key: StillKey) -> float | None:
        if experiment.identifier in self._by_identifier:
            return self._by_identifier[experiment.identifier]
        for image in (key.image, Path(key.image).name):
            if (image, key.index) in self._by_image:
                return self._by_image[image, key.index]
        return None


def _read_monitor(source: str, stills_csv):
    """Readings by identifier and by (image, index)."""
    path, column = Path(source), "monitor"
    if not path.is_file():
        if path.suffix.lower() == ".csv" or stills_csv is None or not Path(stills_csv).is_file():
            raise ValueError(
                f"input.monitor={source} is neither a file nor a column of a stills.csv in the output folder. "
                "Give a CSV file with the columns image (or identifier) and monitor."
            )
        path, column = Path(stills_csv), source
    names, lines = read_csv(path, skipinitialspace=True)
    if column not in names or not {"identifier", "image"} & set(names):
        raise ValueError(
            f"{path} has the columns {', '.join(names) or '(none)'}; a column '{column}' and one named 'identifier' or "
            "'image' are needed."
        )
    by_identifier, by_image = {}, {}
    for number, line in enumerate(lines, start=2):
        if not (line[column] or "").strip() and path.name == "stills.csv":
            continue  # a still that the user has no reading for; it is missed when it is measured
        reading = _positive(line[column], path, number)
        if line.get("identifier"):
            by_identifier[line["identifier"]] = reading
        if line.get("image"):
            place = (line["image"], _index(line.get("index"), path, number))
            if by_image.setdefault(place, reading) != reading:
                raise ValueError(f"{path}, line {number}: {place[0]} has two readings. Keep one line for each image.")
    return by_identifier, by_image


def _positive(text, path, number: int) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(
            f"{path}, line {number}: the reading {text!r} is no positive number. Correct or remove the line."
        )
    return value


def _index(text, path, number: int) -> int:
    try:
        return int(text) if text else 0
    except ValueError:
        raise ValueError(f"{path}, line {number}: the index {text!r} is no whole number.") from None
