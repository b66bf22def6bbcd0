"""dials.generate_mask's own regions: its parameters, except those that our commands have elsewhere, and its mask."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import dials.util.masking
import libtbx.phil
import numpy as np
from dxtbx import flumpy
from dxtbx.format.image import ImageBool

from diffuse_dials.io.masks import to_flex

# d_min and d_max are top-level parameters of our commands; the unit cell of ice would hide the crystal's.
_ELSEWHERE = {"d_min", "d_max"}
_ICE_KEPT = {"filter", "width"}


def _own_scope():
    scope = dials.util.masking.phil_scope
    objects = []
    for part in scope.objects:
        if part.name in _ELSEWHERE:
            continue
        if part.name == "ice_rings":
            part = part.customized_copy(objects=[p for p in part.objects if p.name in _ICE_KEPT])
        objects.append(part)
    return libtbx.phil.parse(scope.customized_copy(objects=objects).as_str(attributes_level=3, expert_level=10))


phil_scope = _own_scope()


@dataclass(frozen=True)
class _Geometry:
    """What dials.util.masking.generate_mask asks of an imageset: the still's own, refined models."""

    detector: object
    beam: object

    def get_detector(self):
        return self.detector

    def get_beam(self):
        return self.beam


def regions_mask(detector, beam, params, d_min=None, d_max=None) -> tuple[np.ndarray, ...]:
    """Mask of the untrusted regions, borders, resolution ranges and ice rings, worked out by DIALS.

    Args:
        detector: dxtbx detector.
        beam: dxtbx beam; the resolution of a pixel follows from both.
        params: An extract of this module's ``phil_scope``.
        d_min: High-resolution limit, Å; None: no limit.
        d_max: Low-resolution limit, Å; None: no limit.

    Returns:
        One bool array (slow, fast) per panel, True = use.

    Raises:
        ValueError: If a region is on a panel or pixel that the detector does not have, or a range is empty.
    """
    full = dials.util.masking.phil_scope.extract()
    for name in ("border", "disable_parallax_correction", "resolution_range"):
        setattr(full, name, getattr(params, name))
    full.untrusted = [copy.deepcopy(region) for region in params.untrusted if _is_given(region)]
    full.ice_rings.filter, full.ice_rings.width = params.ice_rings.filter, params.ice_rings.width
    full.d_min, full.d_max = d_min, d_max
    _check(full, detector)
    masks = dials.util.masking.generate_mask(_Geometry(detector, beam), full)
    return tuple(flumpy.to_numpy(panel).copy() for panel in masks)


def _is_given(region) -> bool:
    given = (region.panel, region.circle, region.rectangle, region.polygon, region.pixel)
    return any(value is not None for value in given)


def _check(params, detector) -> None:
    """Check the regions against the detector: DIALS ignores what it does not find, or fails with an assertion."""
    if params.d_min is not None and params.d_max is not None and params.d_min >= params.d_max:
        raise ValueError(f"d_min={params.d_min:g} is not below d_max={params.d_max:g} Å. The smaller one is d_min.")
    for limits in params.resolution_range or ():
        if limits is not None and (len(limits) != 2 or limits[0] == limits[1]):
            raise ValueError(f"resolution_range={limits} is no range. Give two different limits in Å, as in 3.93,3.87.")
    smallest = min(min(panel.get_image_size()) for panel in detector)
    if params.border is not None and not 0 <= 2 * params.border < smallest:
        raise ValueError(
            f"border={params.border} leaves nothing of a panel that is {smallest} pixels wide, or is negative. It is "
            "the width in pixels of what is masked along each edge."
        )
    for region in params.untrusted:
        panel = region.panel or 0
        if not 0 <= panel < len(detector):
            raise ValueError(f"untrusted.panel={panel}: the detector has {len(detector)} panel(s), numbered from 0.")
        n_fast, n_slow = detector[panel].get_image_size()
        if region.pixel is not None and not (region.pixel[0] < n_slow and region.pixel[1] < n_fast):
            at = tuple(region.pixel)
            raise ValueError(f"untrusted.pixel={at} (slow, fast) is outside panel {panel} ({n_slow} x {n_fast}).")
        if region.circle is not None and not _touches(region.circle, n_fast, n_slow):
            at = ",".join(f"{value:g}" for value in region.circle)
            raise ValueError(
                f"untrusted.circle={at} (fast, slow, radius) holds no pixel of panel {panel} ({n_fast} fast x {n_slow} "
                "slow). The radius must be above 0, and the circle on the panel."
            )
        if region.rectangle is not None:
            x0, x1, y0, y1 = region.rectangle
            if not (0 <= x0 < x1 <= n_fast and 0 <= y0 < y1 <= n_slow):
                raise ValueError(
                    f"untrusted.rectangle={x0},{x1},{y0},{y1} (fast from, to, slow from, to) does not fit panel "
                    f"{panel}, whose limits are 0,{n_fast},0,{n_slow}."
                )
        if region.polygon is not None and (len(region.polygon) % 2 or len(region.polygon) < 8):
            raise ValueError("untrusted.polygon needs pairs of fast, slow coordinates, four or more of them.")


def _touches(circle, n_fast: int, n_slow: int) -> bool:
    """Whether the square about a circle holds pixels of the panel, as dxtbx demands."""
    x, y, radius = circle
    return radius > 0 and all(
        max(int(np.floor(centre - radius)), 0) < min(int(np.ceil(centre + radius)), size)
        for centre, size in ((x, n_fast), (y, n_slow))
    )


def attach_mask(experiments, mask, path) -> None:
    """Make the mask part of the image sets of ``experiments``, as dials.generate_mask does.

    Args:
        experiments: Changed: their image sets name the file, and hold the mask where they are used at once.
        mask: One bool array (slow, fast) per panel, True = use.
        path: Where the mask is; written into .expt files in full, so that they can be moved.
    """
    content = ImageBool(to_flex(mask))
    for imageset in experiments.imagesets():
        imageset.external_lookup.mask.data = content
        imageset.external_lookup.mask.filename = str(Path(path).resolve())
