"""What a correction says when it cannot be worked out."""

from __future__ import annotations


class NotKnown(Exception):
    """The experiment and the parameters lack what a correction needs; the text says what, and what to give."""
