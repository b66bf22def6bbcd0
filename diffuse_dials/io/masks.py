"""Pixel masks as dials.generate_mask writes them: a pickled tuple of flex.bool, one per panel, True = use."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_dials.io.atomic import replacing

_MASK_FILE = "a .mask file of dials.generate_mask or diffuse.make_mask"
_STILL_MASKS_FILE = "the bragg_masks.pickle of diffuse.make_mask; a mask of all stills is input.mask"


def load_pickle(path, wanted: str = _MASK_FILE):
    """Unpickle a file that DIALS wrote, Python 2 ones too.

    Args:
        path: The file.
        wanted: What it should be, for messages.

    Raises:
        ValueError: If the file is missing or is no pickle.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check the name and the folder.")
    try:
        with open(path, "rb") as handle:
            return pickle.load(handle, encoding="bytes")
    except Exception as error:  # unpickling garbage can raise anything: pickle's documentation says so
        raise ValueError(f"{path} is no mask that can be read ({str(error).rstrip('.')}). Give {wanted}.") from error


def load_mask(path, shapes) -> tuple[np.ndarray, ...]:
    """Read a mask and check that it fits the detector.

    Args:
        path: Mask file.
        shapes: (slow, fast) size of each panel, pixels.

    Returns:
        One bool array (slow, fast) per panel, True = use the pixel.

    Raises:
        ValueError: If the file is no mask, or belongs to another detector.
    """
    return _checked(load_pickle(path), path, shapes)


def load_still_masks(path, shapes) -> dict[str, tuple[np.ndarray, ...]]:
    """Read masks of single stills (diffuse.make_mask's bragg_masks.pickle) and check that they fit the detector.

    Args:
        path: Pickle of a dictionary: experiment identifier → tuple of flex.bool, one per panel.
        shapes: (slow, fast) size of each panel, pixels.

    Returns:
        Bool arrays (slow, fast) per panel, True = use, by experiment identifier.

    Raises:
        ValueError: If the file is no such dictionary, or belongs to another detector.
    """
    content = load_pickle(path, _STILL_MASKS_FILE)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no masks of single stills. Give {_STILL_MASKS_FILE}.")
    return {str(identifier): _checked(mask, path, shapes) for identifier, mask in content.items()}


def combine_masks(names, path) -> None:
    """Write the AND of several masks; a file that holds it already is left as it is.

    Args:
        names: Mask files of one detector.
        path: The file to write.

    Raises:
        ValueError: If a file is no mask, or they belong to different detectors.
    """
    first = _panels(load_pickle(names[0]), names[0])
    shapes = [panel.all() for panel in first]
    masks = [load_mask(name, shapes) for name in names]
    combined = tuple(np.logical_and.reduce(panels) for panels in zip(*masks))
    if Path(path).is_file():
        before = _panels(load_pickle(path), path)
        if [p.all() for p in before] == shapes and all(map(np.array_equal, map(flumpy.to_numpy, before), combined)):
            return
    save_mask(combined, path)


def _panels(content, path) -> tuple[flex.bool, ...]:
    content = (content,) if isinstance(content, flex.bool) else content
    if not isinstance(content, (tuple, list)) or not all(isinstance(panel, flex.bool) for panel in content):
        raise ValueError(f"{path} holds no mask. Give {_MASK_FILE}.")
    return tuple(content)


def _checked(content, path, shapes) -> tuple[np.ndarray, ...]:
    panels = _panels(content, path)
    found = [panel.all() for panel in panels]
    if [tuple(size) for size in found] != [tuple(shape) for shape in shapes]:
        raise ValueError(
            f"{path} has {len(found)} panel(s), the first of {found[0] if found else ()} pixels; the detector has "
            f"{len(shapes)}, the first of {tuple(shapes[0])}. Give the mask that was made for these images."
        )
    return tuple(flumpy.to_numpy(panel) for panel in panels)


def to_flex(mask) -> tuple:
    """Arrays (slow, fast) as the tuple of flex.bool that DIALS uses."""
    return tuple(flumpy.from_numpy(np.ascontiguousarray(panel, dtype=bool)) for panel in mask)


def save_mask(mask, path) -> None:
    """Write one mask (arrays per panel, True = use) for ``dials.import lookup.mask=`` and our own commands."""
    save_pickle(to_flex(mask), path)


def save_pickle(content, path) -> None:
    """Pickle ``content``, complete or not at all."""
    with replacing(path) as partial, open(partial, "wb") as handle:
        pickle.dump(content, handle, pickle.HIGHEST_PROTOCOL)
