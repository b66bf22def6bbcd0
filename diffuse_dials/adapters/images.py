"""Pixels, exposure times and masks of stills, read through dxtbx's format classes.

Not through ImageSet: loading experiments with their format checked costs 10 ms a still, ``get_mask`` and
``get_corrected_data`` more than reading, and its cache keeps every image.
"""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.format import Registry
from dxtbx.model import Panel

from diffuse_dials.adapters import hdf5_filters
from diffuse_dials.adapters.experiments import image_of
from diffuse_dials.io.masks import load_mask, load_pickle

_classes: dict[tuple[str, str], type] = {}
_last: tuple = (None, None)


def _format_instance(path: str, options: dict | None = None):
    """The format object of an image file; its class is looked up once per folder and suffix.

    Args:
        path: The image.
        options: What the .expt says how the format is to read it (multi_panel and the like).

    Raises:
        ValueError: If the file is missing, cut off, or of no known format.
    """
    global _last
    if not os.path.isfile(path):
        raise ValueError(
            f"There is no image {path}. Put the images where the .expt file says, or change the paths in it."
        )
    name = (_version(path), tuple(sorted((options or {}).items())))
    if _last[0] != name:  # a still asks for its header and for its pixels
        _last = (name, _new_format_instance(path, options))
    return _last[1]


def _version(path: str) -> tuple:
    """A mark that changes when the file is rewritten."""
    found = os.stat(path)
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def _new_format_instance(path: str, options: dict | None):
    key = (os.path.dirname(path), Path(path).suffix)
    with _reading(path):
        cls = _classes.get(key)
        if cls is None or not cls.understand(path):
            cls = Registry.get_format_class_for_file(path)
            if cls is not None:
                _classes[key] = cls
                if h5py.is_hdf5(path):
                    hdf5_filters.use_fastest()
        if cls is not None:
            return cls.get_instance(path, **(options or {}))
    raise ValueError(f"{path} is of no format that dxtbx knows. Check that it is an image and is complete.")


@contextmanager
def _reading(path: str, what: str = ""):
    """Turn what dxtbx's formats raise, each in its own way, for a broken file into one clear line."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{what}{path} cannot be read ({type(error).__name__}: {error}). It may be cut off: copy it again."
            f"{filter_hint(error)}"
        ) from error


def _options_of(experiment) -> dict:
    """The format's options with which the images of a still were imported."""
    return dict(experiment.imageset.params()) if experiment.imageset is not None else {}


def read_image(path: str, index: int, options: dict | None = None) -> tuple[np.ndarray, ...]:
    """Raw values of one image as they are stored.

    Args:
        path: Image file.
        index: Number of the image in it, from 0.
        options: Of the image format, as the .expt holds them.

    Returns:
        One array (slow, fast) per panel; integers or floats, in detector units.

    Raises:
        ValueError: If the file is missing, cut off, or of no known format.
    """
    instance = _format_instance(path, options)
    with _reading(path):
        n_images = instance.get_num_images() if hasattr(instance, "get_num_images") else None
        if n_images is None:
            raw = instance.get_raw_data()
        elif index < n_images:
            raw = instance.get_raw_data(index)
    if n_images is not None and index >= n_images:
        raise ValueError(f"{path} holds {n_images} images; number {index} was asked for. Copy it again.")
    return tuple(flumpy.to_numpy(panel) for panel in (raw if isinstance(raw, tuple) else (raw,)))


def filter_hint(error: Exception) -> str:
    """What to do where HDF5 lacks the filter of a file's compression; empty for other errors."""
    words = str(error)
    if "filter" not in words and "plugin" not in words:
        return ""
    return " HDF5 may lack the filter of its compression: install hdf5plugin (conda) or bitshuffle (Debian)."


def read_raw(experiment) -> tuple[np.ndarray, ...]:
    """Raw values of a still's image, checked against its detector model.

    Returns:
        One array (slow, fast) per panel.

    Raises:
        ValueError: As read_image, and if the image is not of the detector's size.
    """
    path, index = image_of(experiment)
    raw = read_image(path, index, _options_of(experiment))
    sizes = panel_shapes(experiment.detector)
    found = [panel.shape for panel in raw]
    if found != sizes:
        raise ValueError(
            f"{path} has panels of {found[:1]}... ({len(found)}) pixels, its detector model {sizes[:1]}... "
            f"({len(sizes)}). It may be cut off, or the .expt belongs to other images."
        )
    return raw


def panel_shapes(detector) -> list[tuple[int, int]]:
    """(slow, fast) size of each panel, pixels."""
    return [panel.get_image_size()[::-1] for panel in detector]


def header(experiment) -> tuple[float | None, float | None]:
    """Exposure time (s) and time stamp (s since 1970) of a still: of its scan, else of the image; None if unknown."""
    scan = experiment.scan
    if scan is None:
        path, index = image_of(experiment)
        instance = _format_instance(path, _options_of(experiment))
        with _reading(path, "The header of "):
            if _is_nexus(instance):  # dxtbx makes no scan of stills, though their times are in the file
                return _nexus_times(_version(path)).of(index)
            scan = instance.get_scan()
    if scan is None or not len(scan.get_exposure_times()):
        return None, None
    exposure, epoch = scan.get_exposure_times()[0], scan.get_epochs()[0]
    return (exposure if exposure > 0 else None), (epoch if epoch > 0 else None)


@functools.lru_cache(maxsize=1)
def _nexus_times(version: tuple):
    """nexus.Times of a file, by its ``_version``."""
    from diffuse_dials.adapters import nexus

    path = version[0]
    with h5py.File(path, "r", swmr=True) as file:
        return nexus.Times(file, nexus.layout_of(file, path))


def _is_nexus(instance) -> bool:
    """Whether a format instance is a FormatNXmx, told without importing that: it takes a third of a second."""
    return any(cls.__name__ == "FormatNXmx" for cls in type(instance).__mro__)


@functools.cache
def bounds_are_valid() -> bool:
    """Whether this dxtbx counts the two ends of a trusted range as trusted (3.12 and later) or not (3.11)."""
    panel = Panel()
    panel.set_image_size((2, 1))
    panel.set_trusted_range((0, 10))
    return bool(panel.get_trusted_range_mask(flex.int(flex.grid(1, 2), 0))[0])


def is_counter(panel) -> bool:
    """Whether the panel counts photons: then 0 is a measurement and -1 is none, whatever its trusted range says."""
    return panel.get_type() == "SENSOR_PAD" and panel.get_trusted_range()[0] in (-1, 0)


def in_trusted_range(raw: np.ndarray, panel) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of one still are neither under- nor overloaded.

    The meaning of the bounds changed: dxtbx 3.12 includes both, 3.11 excludes both, so that (0, max) would take
    every zero of a photon counter for untrusted and, from the other side, (-1, max) the gaps for trusted.

    Args:
        raw: Values as stored, any shape.
        panel: The dxtbx panel.

    Returns:
        (trusted, overloaded), bool arrays of the same shape; negative sentinels are neither.
    """
    low, high = trusted_bounds(panel)
    above = raw > high
    return (raw >= low) & ~above, above


def trusted_bounds(panel) -> tuple[float, float]:
    """Lowest and highest trusted value of a panel, both included."""
    low, high = panel.get_trusted_range()
    if not bounds_are_valid():
        low, high = np.nextafter(low, np.inf), np.nextafter(high, -np.inf)
    return (0.0 if is_counter(panel) else float(low)), float(high)


def bounds_as(dtype, low: float, high: float) -> tuple:
    """The same bounds as values of a type that can hold less, or whole numbers only."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        low, high = max(np.ceil(low), limits.min), min(np.floor(high), limits.max)
        return dtype.type(int(low)), dtype.type(int(high))
    return np.float64(low), np.float64(high)


def to_photons(raw: np.ndarray, panel, gain: float | None, pedestal: np.ndarray | float = 0.0) -> np.ndarray:
    """(raw - pedestal) / gain, as float64; ``gain`` None takes the panel's."""
    return (raw - (panel.get_pedestal() + pedestal)) / gain_of(panel, gain)


def values_of_photons(dtype, photons, pedestal: float, gain: float) -> tuple:
    """Lowest and highest whole number, of a type, that is so many photons; the former is larger if there is none.

    Args:
        dtype: Of whole numbers.
        photons: Least and most.
        pedestal, gain: As in ``to_photons``.
    """
    limits = np.iinfo(dtype)

    def first(wanted, passes):
        """The lowest value that passes; rounding moves it by one from where algebra has it."""
        value = int(np.clip(np.floor(wanted * gain + pedestal) - 2, limits.min, limits.max + 1))
        while value <= limits.max and not passes((value - pedestal) / gain, wanted):
            value += 1
        return value

    low, beyond = first(photons[0], np.greater_equal), first(photons[1], np.greater)
    if low >= beyond:
        return dtype.type(1), dtype.type(0)
    return dtype.type(low), dtype.type(beyond - 1)


def within_photons(raw: np.ndarray, photons, trusted, pedestal: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Values as float64, NaN where a trusted one is not so many photons.

    Args:
        raw: Shape (slow, fast).
        photons: Least and most.
        trusted: Lowest and highest trusted value; others stay as they are.
        pedestal, gain: Arrays that broadcast to raw's shape.
    """
    pedestal, gain = (np.broadcast_to(values, raw.shape) for values in (pedestal, gain))
    values = raw.astype(np.float64)
    for row, offset, divisor in zip(values, pedestal, gain):  # so that no other array of the image's size is made
        of_row = (row - offset) / divisor
        good = (of_row >= photons[0]) & (of_row <= photons[1])
        row[~good & (row >= trusted[0]) & (row <= trusted[1])] = np.nan
    return values


def gain_of(panel, gain: float | None = None) -> float:
    """Detector units per photon: what is given, else the panel's.

    Raises:
        ValueError: If it is not positive.
    """
    gain = panel.get_gain() if gain is None else gain
    if not gain > 0:
        raise ValueError(f"Panel {panel.get_name()} has the gain {gain}; give corrections.gain in counts per photon.")
    return gain


def static_mask(experiment) -> tuple[np.ndarray, ...]:
    """What the imageset and the detector model mask in every image, True = use.

    The mask file named in the .expt, the mask of the image format, and the panels' untrusted rectangles; without
    the trusted range, which is tested still by still.

    Returns:
        One bool array (slow, fast) per panel; do not change it: it is kept and shared by all stills it fits.

    Raises:
        ValueError: If the mask file is missing or fits another detector.
    """
    path, _ = image_of(experiment)
    panels = list(experiment.detector)
    rectangles = tuple(tuple(map(tuple, panel.get_mask())) for panel in panels)
    lookup = experiment.imageset.external_lookup.mask.filename if experiment.imageset is not None else ""
    suffix = (os.path.dirname(path), os.path.splitext(path)[1])
    shapes = tuple(panel_shapes(panels))
    return _static_mask(lookup, rectangles, shapes, suffix, _FirstPath(path, _options_of(experiment)))


class _FirstPath:
    """An argument that the cache takes for equal, whatever it holds: any image of a folder has the format's mask."""

    def __init__(self, path, options):
        self.path, self.options = path, options

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


@functools.lru_cache(maxsize=8)
def _static_mask(lookup, rectangles, shapes, _suffix, first) -> tuple[np.ndarray, ...]:
    masks = [np.ones(shape, dtype=bool) for shape in shapes]
    if lookup:
        masks = [mask & found for mask, found in zip(masks, load_mask(lookup, shapes))]
    instance = _format_instance(first.path, first.options)
    with _reading(first.path):
        own = instance.get_static_mask() if hasattr(instance, "get_static_mask") else None
    if own is not None:
        masks = [mask & flumpy.to_numpy(panel) for mask, panel in zip(masks, own)]
    for mask, boxes in zip(masks, rectangles):
        for fast_0, slow_0, fast_1, slow_1 in boxes:
            mask[slow_0:slow_1, fast_0:fast_1] = False
    return tuple(masks)


def lookup_maps(experiment) -> tuple[tuple | None, tuple | None]:
    """Gain and pedestal maps that the .expt names (one array per panel), None where it names none.

    Raises:
        ValueError: If a file is missing or no look-up table.
    """
    lookup = experiment.imageset.external_lookup
    return _lookup_map(lookup.gain.filename), _lookup_map(lookup.pedestal.filename)


@functools.lru_cache(maxsize=4)
def _lookup_map(path: str):
    if not path:
        return None
    content = load_pickle(path)
    content = content if isinstance(content, (tuple, list)) else (content,)
    return tuple(flumpy.to_numpy(panel).astype(np.float64) for panel in content)
