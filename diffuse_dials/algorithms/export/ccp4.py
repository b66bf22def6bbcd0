"""CCP4 (MRC2014) map of reciprocal space, for Coot, ChimeraX and PyMOL."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import mrcfile.dtypes
import numpy as np
from cctbx import uctbx

from diffuse_dials.algorithms.export.base import Exporter
from diffuse_dials.algorithms.export.content import MapContent
from diffuse_dials.io.atomic import replacing

logger = logging.getLogger(f"dials.{__name__}")

_MODE_FLOAT32 = 2
_VERSION = 20140  # of the MRC2014 format, as it counts them
_LITTLE_ENDIAN = (0x44, 0x44, 0, 0)


@dataclass(frozen=True)
class Ccp4(Exporter):
    """The box as a map in P1 whose cell is the reciprocal lattice, blown up.

    A viewer draws lengths in Å: 1/Å of reciprocal space becomes ``magnification`` Å, so that with 100 a sphere of
    2 Å resolution has a radius of 50 Å. The cell's axes are a*, b*, c*, as long as the box, and its angles α*, β*, γ*;
    the header's start places the origin of reciprocal space at 0, 0, 0.
    """

    magnification: float = 100.0
    fill_lattice_points: bool = False
    not_measured: float | None = None

    name = "ccp4"
    phil = """
    magnification = 100
      .type = float(value_min=1e-6, value_max=1e6, allow_none=False)
      .expert_level = 1
      .help = "Length in the viewer (Å) of 1/Å of reciprocal space."
    fill_lattice_points = False
      .type = bool
      .help = "Give voxels that hold a lattice point and have no value the mean of their measured neighbours, so that"
              "viewers draw closed surfaces. False: they stay NaN, and with ndiv=3 surfaces lack 8 cells of 27."
    not_measured = None
      .type = float
      .expert_level = 1
      .help = "Value of voxels that were not measured; the file's header says it. None: NaN. Viewers draw no clean"
              "surfaces of maps with NaN: give them a number on the outer side of the contour level, such as 0 with"
              "isotropic_part=False."
    """

    @classmethod
    def from_phil(cls, params) -> Ccp4:
        """See :meth:`Exporter.from_phil`."""
        return cls(params.magnification, params.fill_lattice_points, params.not_measured)

    def write(self, content: MapContent, prefix: Path) -> dict[str, dict]:
        """See :meth:`Exporter.write`."""
        path = prefix.with_name(prefix.name + ".ccp4")
        volume = content.volume
        header = self._header(content)
        statistics = _Statistics()
        filling = _lattice_points(content) if self.fill_lattice_points else None
        with replacing(path) as partial, open(partial, "wb") as handle:
            handle.write(header.tobytes())
            for block in volume.blocks(axis=2):  # columns, rows, sections of the file run along h, k, l
                values = content.filled("intensity", volume.rows[:, :, block].T)
                if filling is not None:
                    places, means = filling
                    here = (places[:, 2] >= block.start) & (places[:, 2] < block.stop)
                    i, j, k = places[here].T
                    values[k - block.start, j, i] = means[here]
                if self.not_measured is not None:
                    values[np.isnan(values)] = self.not_measured
                statistics.add(values)
                handle.write(values.astype("<f4").tobytes())
            complete = statistics.into(header)
            handle.seek(0)
            handle.write(header.tobytes())
        if not complete:
            logger.info("%s holds NaN. For surfaces in Coot, ChimeraX and PyMOL see ccp4.not_measured.", path)
        return {str(path): self._description(content)}

    def _header(self, content: MapContent) -> np.ndarray:
        shape = np.array(content.volume.shape)
        header = np.zeros((), dtype=mrcfile.dtypes.HEADER_DTYPE.newbyteorder("<"))
        lengths, angles = self._cell(content)
        for i, axis in enumerate("xyz"):
            header[f"n{axis}"] = header[f"m{axis}"] = shape[i]
            header[f"n{axis}start"] = content.volume.start[i]
            header["cella"][axis] = lengths[i]
            header["cellb"][("alpha", "beta", "gamma")[i]] = angles[i]
        header["mode"] = _MODE_FLOAT32
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        header["ispg"] = 1
        header["nversion"] = _VERSION
        header["map"] = b"MAP "
        header["machst"] = _LITTLE_ENDIAN
        missing = "NaN" if self.not_measured is None else f"{self.not_measured:g}"
        labels = (
            f"diffuse_dials: {content.title()}",
            f"reciprocal space, {self.magnification:g} A for 1/A; {missing}: not measured",
            f"crystal {' '.join(f'{x:.3f}' for x in content.record.unit_cell)}",
            f"voxels per lattice point {' '.join(map(str, content.record.ndiv))}, mates by {content.record.laue_group}",
            *(("lattice points: means of their neighbours",) if self.fill_lattice_points else ()),
        )
        header["nlabl"] = len(labels)
        for i, label in enumerate(labels):
            header["label"][i] = label.encode("ascii", "replace")[:80].ljust(80)
        return header

    def _cell(self, content: MapContent) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of the map's cell (Å in the viewer) and its angles (degrees)."""
        reciprocal = np.array(uctbx.unit_cell(content.record.unit_cell).reciprocal_parameters())
        return self.magnification * reciprocal[:3] * content.volume.shape / content.record.ndiv, reciprocal[3:]

    def _description(self, content: MapContent) -> dict:
        """For the .json: a viewer puts a* along x and b* into the xy plane; ``rlp`` has a along x and c* along z."""
        reciprocal = uctbx.unit_cell(content.record.unit_cell).reciprocal()
        orthogonalization = np.array(reciprocal.orthogonalization_matrix()).reshape(3, 3)
        lengths, angles = self._cell(content)
        return {
            "cell": [*lengths.tolist(), *angles.tolist()],
            "angstrom_per_inverse_angstrom": self.magnification,
            "start": list(content.volume.start),
            "shape": list(content.volume.shape),
            "rotation_from_rlp_to_viewer": (orthogonalization @ np.linalg.inv(content.b_matrix)).tolist(),
        }


def _lattice_points(content: MapContent) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that hold a lattice point and have no value, and the means of their neighbours.

    Returns:
        Places in the box, shape (n, 3), and means of those of the 26 neighbours that were measured, shape (n,).
    """
    volume, ndiv = content.volume, content.record.ndiv
    rows, shape = volume.rows, np.array(volume.shape)
    axes = [np.flatnonzero((volume.start[i] + np.arange(shape[i])) % ndiv[i] == 0) for i in range(3)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    places = places[rows[tuple(places.T)] < 0]
    total, number = np.zeros(len(places)), np.zeros(len(places))
    for offset in itertools.product((-1, 0, 1), repeat=3):
        moved = places + offset
        inside = np.flatnonzero(np.all((moved >= 0) & (moved < shape), axis=1))
        values = content.filled("intensity", rows[tuple(moved[inside].T)])
        seen = np.isfinite(values)
        total[inside[seen]] += values[seen]
        number[inside[seen]] += 1
    known = number > 0
    return places[known], total[known] / number[known]


class _Statistics:
    """Minimum, maximum, mean and rms deviation, block by block."""

    def __init__(self):
        self.n, self.total, self.square = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> None:
        """One more block; a single NaN makes the sums NaN, and with them the statistics unknown."""
        values = values.ravel().astype(np.float64)
        self.n += len(values)
        self.total += values.sum()
        self.square += values @ values
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def into(self, header: np.ndarray) -> bool:
        """Write them, and tell whether all voxels have a value.

        Where voxels are missing the statistics count as not determined, as MRC2014 and mrcfile understand it.
        """
        mean = self.total / self.n
        if np.isnan(mean):
            header["dmin"], header["dmax"], header["dmean"], header["rms"] = 0, -1, -2, -1
            return False
        header["dmin"], header["dmax"], header["dmean"] = self.low, self.high, mean
        header["rms"] = np.sqrt(max(self.square / self.n - mean**2, 0))
        return True
