"""Write docs/commands/*.md, a page for each command, from its help text and its parameters.

    python tools/make_docs.py              # make docs
    python tools/make_docs.py --check      # exit 1 if a page is not what would be written

Parameters that belong to DIALS (those of dials.stills_process and dials.generate_mask) differ between its versions and
are named as a group only.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import diffuse_dials  # noqa: E402  (prepares the environment)
from diffuse_dials.adapters import generate_mask  # noqa: E402

FOLDER = ROOT / "docs" / "commands"
# In the order in which a user meets them; a command that is not named here comes last.
ORDER = (
    "process", "integrate", "make_mask", "extract", "grid", "scale", "absolute", "report", "export", "compare",
    "simulate",
)  # fmt: skip
LEVELS = ("Parameters", "For special cases (-e1)", "Rarely needed (-e2)", "For developers (-e3)")
# Those of each, with the scope they stand in.
OF_DIALS = {
    "stills_process.": "dials.stills_process",
    **{f"masking.{found.path}": "dials.generate_mask" for found in generate_mask.phil_scope.all_definitions()},
}
_PLACES = {
    "dials.stills_process": "`stills_process { ... }` holds the parameters of dials.stills_process",
    "dials.generate_mask": "`masking { ... }` also takes the parameters of dials.generate_mask (`untrusted { ... }`, "
    "`border`, `ice_rings` ...)",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter as a user sees it.

    Attributes:
        path: Its whole name.
        default: As PHIL would show it.
        kind: What values it takes.
        meaning: Its help text.
        level: Expert level, the highest of its own and those of the scopes around it.
    """

    path: str
    default: str
    kind: str
    meaning: str
    level: int


def commands() -> list[str]:
    """Names of all commands, without ``diffuse.``."""
    folder = Path(diffuse_dials.__file__).parent / "cli"
    found = {path.stem for path in folder.glob("*.py")} - {"__init__", "startup"}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def parameters(scope, path: str = "", level: int = 0) -> Iterator[Parameter]:
    """All parameters of a scope, in its order."""
    for item in scope.objects:
        name = f"{path}.{item.name}" if path else item.name
        own = max(level, item.expert_level or 0)
        if item.is_scope:
            yield from parameters(item, name, own)
            continue
        default, kind = _default_and_kind(item)
        meaning = " ".join((item.help or "").split())
        if item.multiple:
            meaning += " May be given several times."
        yield Parameter(name, default, kind, meaning.strip(), own)


def _default_and_kind(item) -> tuple[str, str]:
    words = [word.value for word in item.words]
    if str(item.type).startswith("choice"):
        chosen = [word[1:] for word in words if word.startswith("*")]
        values = ", ".join(word.lstrip("*") for word in words)
        return "+".join(chosen) or "None", ("any of " if item.type.multi else "one of ") + values
    return " ".join(words), _in_words(item.type)


def _in_words(kind) -> str:
    """A PHIL type as a user would say it: float(value_min=0) is a number ≥ 0."""
    name = str(kind).partition("(")[0]
    words = {
        "bool": "True, False", "path": "file name", "str": "text", "strings": "words", "unit_cell": "6 numbers",
        "space_group": "symbol", "float": "number", "floats": "numbers", "int": "integer", "ints": "integers",
    }.get(name, name)  # fmt: skip
    if getattr(kind, "size_min", None) and kind.size_min == kind.size_max:
        words = f"{kind.size_min} {words}"
    low, high = (getattr(kind, limit, None) for limit in ("value_min", "value_max"))
    if low is not None and high is not None:
        return f"{words}, {low:g} to {high:g}"
    return words + (f" ≥ {low:g}" if low is not None else "") + (f" ≤ {high:g}" if high is not None else "")


def of_dials(path: str) -> str | None:
    """The program of DIALS that a parameter belongs to, if it does."""
    return next((program for start, program in OF_DIALS.items() if path.startswith(start)), None)


def help_of(name: str) -> tuple[str, str]:
    """Usage and help text of a command, as -h prints them."""
    module = import_module(f"diffuse_dials.cli.{name}")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        module.run(["-h"])
    usage = re.search(r"usage: (.*?)\n\s*\n", shown.getvalue(), re.DOTALL | re.IGNORECASE)
    return " ".join(usage[1].split()), module.__doc__.strip()


def page(name: str) -> str:
    """The page of a command."""
    scope = import_module(f"diffuse_dials.cli.{name}").phil_scope
    usage, text = help_of(name)
    every = list(parameters(scope))
    found = [parameter for parameter in every if not of_dials(parameter.path)]
    programs = dict.fromkeys(filter(None, (of_dials(parameter.path) for parameter in every)))
    notes = [f"{_PLACES[program]}." for program in programs]
    if name == "process":
        steps = [step for step in commands() if step not in ("process", "simulate", "compare")]
        known = {p.path for step in steps for p in parameters(import_module(f"diffuse_dials.cli.{step}").phil_scope)}
        found = [parameter for parameter in found if parameter.path not in known]
        links = ",\n".join(f"[{step}]({_file(step)})" for step in steps)
        notes.insert(0, f"Those of the steps are parameters of this command, by the same names:\n{links}.")
    lines = [f"# diffuse.{name}", "", f"    {usage}", "", *_markdown(text), ""]
    for level, title in enumerate(LEVELS):
        rows = [parameter for parameter in found if min(parameter.level, len(LEVELS) - 1) == level]
        if rows or (level == 0 and notes):
            lines += [f"## {title}", ""]
        if level == 0:
            lines += [line for note in notes for line in (note, "")]
        if rows:
            lines += ["| parameter | default | values | meaning |", "|---|---|---|---|"]
            lines += [_row(row) for row in rows] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _row(parameter: Parameter) -> str:
    cells = (f"`{parameter.path}`", f"`{parameter.default}`", parameter.kind, parameter.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _markdown(text: str) -> list[str]:
    """The help text, whose indented lines become code."""
    lines = []
    for line in text.splitlines():
        indented = line.startswith("  ")
        if indented and lines and lines[-1] and not lines[-1].startswith("    "):
            lines.append("")
        lines.append(f"  {line}" if indented else line.replace("<", "&lt;"))
    return lines


def _file(name: str) -> str:
    return f"diffuse.{name}.md"


def index() -> str:
    """The page that lists the commands."""
    lines = [
        "# The commands", "",
        "Made by `make docs` from what each command says itself; `-h` and `-c -e2 -a2` show the same on a terminal.",
        "",
        "`diffuse.X [options] files param=value file.phil`: parameters may be shortened to the end of their name, as",
        "long as that is unique (`d_min=2`, `ndiv=3,3,3`). A `.phil` file holds parameters, one a line or in scopes.",
        "",
        "| command | what it does |", "|---|---|",
    ]  # fmt: skip
    for name in commands():
        first = " ".join(help_of(name)[1].split("\n\n")[0].split())
        lines.append(f"| [diffuse.{name}]({_file(name)}) | {first} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """All pages by their path."""
    return {FOLDER / "README.md": index(), **{FOLDER / _file(name): page(name) for name in commands()}}


def main(check: bool) -> int:
    """Write the pages, or say which are not as they should be."""
    wanted, wrong = pages(), 0
    present = set(FOLDER.glob("*.md"))
    for path in present - set(wanted):
        wrong += 1
        print(f"{path.relative_to(ROOT)} is of no command")
        if not check:
            path.unlink()
    for path, text in wanted.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        print(f"{path.relative_to(ROOT)} {'is out of date: make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return wrong if check else 0


if __name__ == "__main__":
    sys.exit(bool(main("--check" in sys.argv[1:])))
