"""Named choices (corrections, backgrounds, masks, ...): built-in classes plus entry points of other packages."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points


@functools.cache
def installed():
    """Entry points of all packages, which are looked for once in a process: it takes 15 ms."""
    return entry_points()


def with_plugins(group: str, builtin: tuple) -> dict[str, type]:
    """Classes that a user can name, by their ``name``.

    Args:
        group: Entry-point group in which another package may register one more class.
        builtin: This package's own classes, in the order in which they are applied and listed.

    Returns:
        ``{name: class}``, built-in classes first.

    Raises:
        ValueError: If a plug-in claims a name that is taken.
    """
    choices = {cls.name: cls for cls in builtin}
    for entry in sorted(installed().select(group=group), key=lambda e: e.name):
        cls = entry.load()
        if cls.name in choices:
            raise ValueError(
                f"Entry point {entry.value} ({group}) claims the name {cls.name}, which is taken. "
                "Rename the class or uninstall the package that holds it."
            )
        choices[cls.name] = cls
    return choices
