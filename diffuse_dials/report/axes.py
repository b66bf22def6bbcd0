"""Axes of matplotlib with short numbers: powers of ten go into the label, where they do not touch a title."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN = (1e-3, 1e6)  # the largest number of an axis that is written as it is


def short_numbers(axis, whole: bool = False) -> None:
    """Take a power of ten out of the numbers of an axis and into the unit that its label ends with.

    "sr" becomes "10⁻⁶ sr", and "<I> (relative)" becomes "<I> (10⁶ relative)". Call it when the limits are set.

    Args:
        axis: A linear axis of matplotlib; that of a colour bar is ``bar.ax.yaxis``.
        whole: Whether numbers between whole ones mean nothing.
    """
    largest = float(np.max(np.abs(axis.get_view_interval())))
    power = 0
    if largest > 0 and not _PLAIN[0] <= largest < _PLAIN[1]:
        power = 3 * int(np.floor(np.log10(largest) / 3))
    formatter = axis.get_major_formatter()
    formatter.set_useOffset(False)
    formatter.set_scientific(power != 0)
    formatter.set_powerlimits((power, power))
    axis.get_offset_text().set_visible(False)
    if whole:
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    if power:
        before, bracket, unit = axis.get_label_text().rpartition("(")
        axis.set_label_text(f"{before}{bracket}10{str(power).translate(_SUPERSCRIPTS)} {unit}".strip())
