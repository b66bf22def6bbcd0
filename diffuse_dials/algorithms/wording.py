"""Texts of others within sentences of ours: each ends with one mark."""

from __future__ import annotations


def sentence(text) -> str:
    """A text (or an error's) as a sentence: with a full stop, unless it ends with a mark of its own."""
    text = str(text).rstrip()
    return text if text.endswith((".", "?", "!")) else f"{text}."


def clause(text) -> str:
    """A text (or an error's) for brackets or a longer sentence: without its full stop."""
    return str(text).rstrip().removesuffix(".")
