"""Messages of other programs within our sentences, with a single full stop; unknown numbers in tables."""

from __future__ import annotations


def sentence(text) -> str:
    """A text (or an error's) as a sentence: with a full stop, unless it ends with a mark of its own."""
    text = str(text).rstrip()
    return text if text.endswith((".", "?", "!")) else f"{text}."


def clause(text) -> str:
    """A text (or an error's) for brackets or a longer sentence: without its full stop."""
    return str(text).rstrip().removesuffix(".")


def without_nan(rows) -> list[tuple]:
    """Rows of a table with a dash for each number that is not known (text "nan")."""
    return [tuple("-" if cell == "nan" else cell for cell in row) for row in rows]
