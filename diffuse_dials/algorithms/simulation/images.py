"""Mini-CBF images as Pilatus detectors write them: a text header, then byte-offset compressed counts."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from cctbx import factor_ev_angstrom
from dxtbx import flumpy
from dxtbx.ext import compress

_FIRST_IMAGE = datetime(2024, 1, 1)  # a fixed day: the same run gives the same bytes at any time
_PADDING = 4095
_HEADER = """###CBF: VERSION 1.5

data_{block}

_array_data.header_convention "PILATUS_1.2"
_array_data.header_contents
;
# Detector: {header.name}, simulated by diffuse.simulate
# {date}
# Pixel_size {pixel:.6g} m x {pixel:.6g} m
# Silicon sensor, thickness {thickness:.6f} m
# Exposure_time {exposure:.7f} s
# Exposure_period {exposure:.7f} s
# Tau = 0 s
# Count_cutoff {header.count_cutoff} counts
# Threshold_setting: {threshold:.0f} eV
# N_excluded_pixels = 0
# Wavelength {header.wavelength:.6f} A
# Detector_distance {distance:.6f} m
# Beam_xy ({header.beam_centre[0]:.4f}, {header.beam_centre[1]:.4f}) pixels
# Filter_transmission 1.0000
# Start_angle 0.0000 deg.
# Angle_increment 0.0000 deg.
# Polarization {header.polarization:.3f}
# Detector_2theta 0.0000 deg.
;

_array_data.data
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: {size}
X-Binary-ID: 1
X-Binary-Element-Type: "signed 32-bit integer"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
Content-MD5: {digest}
X-Binary-Number-of-Elements: {elements}
X-Binary-Size-Fastest-Dimension: {header.shape[1]}
X-Binary-Size-Second-Dimension: {header.shape[0]}
X-Binary-Size-Padding: {padding}

"""


@dataclass(frozen=True)
class Header:
    """What every image of a detector says about it.

    Attributes:
        shape: (slow, fast) pixels.
        pixel_size, thickness, distance: mm.
        beam_centre: (fast, slow), pixels.
        wavelength: Å.
        count_cutoff: Largest valid count.
        polarization: Fraction; dxtbx does not read it.
        name: Of the detector.
    """

    shape: tuple[int, int]
    pixel_size: float
    thickness: float
    distance: float
    beam_centre: tuple[float, float]
    wavelength: float
    count_cutoff: int
    polarization: float
    name: str


def encode(counts: np.ndarray, header: Header, number: int, exposure_time: float, block: str = "image") -> bytes:
    """One image as the bytes of a mini-CBF file.

    Args:
        counts: Shape (slow, fast), int32; -1 where there is no pixel.
        header: Of the detector.
        number: Of the image; sets its time stamp, one second after another.
        exposure_time: s.
        block: Name of the CIF data block.
    """
    data = compress(flumpy.from_numpy(np.ascontiguousarray(counts, dtype=np.int32)))
    text = _HEADER.format(
        block=block,
        header=header,
        date=(_FIRST_IMAGE + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.000"),
        pixel=header.pixel_size * 1e-3,
        thickness=header.thickness * 1e-3,
        distance=header.distance * 1e-3,
        exposure=exposure_time,
        threshold=factor_ev_angstrom / header.wavelength / 2,
        size=len(data),
        digest=base64.b64encode(hashlib.md5(data).digest()).decode(),
        elements=counts.size,
        padding=_PADDING,
    )
    end = b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n"
    return text.replace("\n", "\r\n").encode() + b"\x0c\x1a\x04\xd5" + data + b"\0" * _PADDING + end
