"""Invalid values of PHIL parameters: a clear line if the type refuses them, and a refusal if it lets them through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import libtbx.phil
from dials.util import Sorry
from libtbx import Auto

_OF_OTHERS = "stills_process"  # the scope of dials.stills_process, whose parameters have rules of their own
_WANTED = {
    "int": "a whole number", "float": "a number", "bool": "True or False", "ints": "whole numbers",
    "floats": "numbers", "path": "a name",
}  # fmt: skip

_SHORTEST, _LONGEST = 2, 10000  # Å
_EXAMPLES = {"space_group": "P43212", "unit_cell": "79,79,38,90,90,90", "int": "3", "ints": "3,3,3"}


def why_refused(scope, given, error: Exception) -> str:
    """One line about a value that its type refuses; cctbx's errors about symmetry, cells and nan name no parameter.

    Args:
        scope: A command's PHIL scope.
        given: ``"d_min=2"`` and names of files, as on the command line.
        error: What reading them raised.
    """
    reason = " ".join(str(error).split())
    if reason.startswith("The following definitions were not recognised"):
        return _not_recognised(scope, given) or reason
    for found in _given(scope, given):
        text = " ".join(str(word) for word in found.object.words)
        try:
            scope.fetch(libtbx.phil.parse(f"{found.path} = {text}")).extract()
        except (Sorry, RuntimeError, ValueError, OverflowError):
            if found.path in reason:
                return reason
            (definition,) = scope.get_without_substitution(found.path)
            example = _EXAMPLES.get(definition.type.phil_type)
            right = f"one such as {example}" if example else "another"
            return f"{found.path}={text}: {reason.rstrip('.')}. Give {right}."
    return reason


def _not_recognised(scope, given) -> str | None:
    """One line on parameters in files that the command does not have, where DIALS lists the values of all."""
    for source in _sources(scope, given):
        _, unknown = scope.fetch(source=source, track_unused_definitions=True)
        if unknown:
            first, more = unknown[0], f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
            hint = "-c -e2 lists all of them."
            if any(found.path == f"{_OF_OTHERS}.{first.path}" for found in scope.all_definitions()):
                hint = f"Those of dials.{_OF_OTHERS} stand in {_OF_OTHERS} {{ ... }}."
            return f"{first}{more} no parameter of this command. {hint}"
    return None


def _given(scope, given) -> Iterator:
    """The definitions in arguments and parameter files, as far as they can be read."""
    for source in _sources(scope, given):
        yield from source.all_definitions()


def _sources(scope, given) -> Iterator:
    interpreter = scope.command_line_argument_interpreter()
    for one in given:
        try:
            yield libtbx.phil.parse(file_name=one) if Path(one).is_file() else interpreter.process(one)
        except (Sorry, RuntimeError, UnicodeDecodeError):
            continue  # an image, or a file with another mistake


def settle_values(scope, params) -> None:
    """Refuse values that no PHIL type refuses, and put in the default where None and Auto stand for it.

    Every type of PHIL lets None and Auto through. They are values of ours where they are the default, or where the
    help says what they do ("None: ...", "Auto: ..."), or where a choice has one of their name, which PHIL does not
    recognise then.

    Args:
        scope: A command's PHIL scope.
        params: Extract of it, changed in place.

    Raises:
        ValueError: With the parameter, its value, and what it takes.
    """
    for path, definition, holder in _definitions(scope, params):
        value = getattr(holder, definition.name)
        if value is None or value is Auto:
            setattr(holder, definition.name, _meant(path, definition, value))
        kind = definition.type.phil_type if definition.type is not None else ""
        if isinstance(value, list) and not value and kind in ("ints", "floats") and not definition.multiple:
            raise ValueError(f"{path}= is empty: give {_WANTED[kind]}, or leave the parameter out.")
        if kind == "unit_cell" and value not in (None, Auto):
            check_unit_cell(path, value.parameters())
        for one in _single(value):
            if one is Auto and one is not value:
                raise ValueError(f"{path}=Auto: give {_WANTED['path']}, or leave the parameter out.")
            # infinity is for ends of ranges
            if isinstance(one, float) and (math.isnan(one) or math.isinf(one) and one is value):
                raise ValueError(f"{path}={one} is no number. Give one, or leave the parameter out.")


def check_unit_cell(path: str, cell) -> None:
    """Refuse what cctbx takes for a unit cell and is none: it fills up edges with 1 Å, and lets infinite ones through.

    Args:
        path: Of the parameter.
        cell: Six numbers, Å and degrees.

    Raises:
        ValueError: With the parameter and what to give.
    """
    if not all(_SHORTEST < edge < _LONGEST for edge in cell[:3]):
        raise ValueError(
            f"{path}={','.join(f'{number:g}' for number in cell)} is no unit cell of a crystal: its edges must be "
            f"between {_SHORTEST} and {_LONGEST} Å. Give all of it, such as {_EXAMPLES['unit_cell']}."
        )


def refuse_missing(scope, params) -> None:
    """Refuse parameters that name a file which is not there, also where this run would not have read it.

    Args:
        scope: A command's PHIL scope.
        params: Extract of it.

    Raises:
        ValueError: With the parameter and the name.
    """
    for path, definition, holder in _definitions(scope, params):
        kind = definition.type.phil_type if definition.type is not None else ""
        if kind != "path" or path.startswith("output."):
            continue
        for name in _single(getattr(holder, definition.name)):
            if isinstance(name, str) and name and not Path(name).is_file():
                raise ValueError(f"{path}={name}: there is no such file. Check name and folder.")


def _definitions(scope, extract, path: str = "") -> Iterator[tuple]:
    """(path, definition, the extract that holds its value) of all parameters; scopes may stand there several times."""
    for found in scope.objects:
        if found.is_definition:
            yield path + found.name, found, extract
        elif found.name != _OF_OTHERS:
            parts = getattr(extract, found.name)
            for part in parts if isinstance(parts, list) else [parts]:
                yield from _definitions(found, part, f"{path}{found.name}.")


def _single(value) -> Iterator:
    """The values in lists, and in lists of lists, of a parameter."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _single(one)
    else:
        yield value


def _meant(path: str, definition, value):
    """What None or Auto stands for."""
    default = [word.value for word in definition.words]
    kind = definition.type.phil_type if definition.type is not None else "str"
    choices = [name.lstrip("*") for name in default] if kind == "choice" else []
    if choices == default and value is None:  # none of them is the default
        return None
    for name in choices:
        if name.lower() == str(value).lower():
            return name
    if f"{value}:".lower() in (definition.help or "").lower() or definition.multiple:  # PHIL reads "none" as None
        return value
    if default == ["None"]:
        return None
    if default == ["Auto"]:
        return Auto
    wanted = f"one of {', '.join(choices)}" if choices else _WANTED.get(kind, "a value")
    raise ValueError(f"{path}={value}: give {wanted}, or leave the parameter out.")
