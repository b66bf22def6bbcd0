"""Rules that hold for the whole tree: who may import whom, and that users' files fit the commands they are made for."""

from __future__ import annotations

import ast
import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from libtbx.phil import parse

from diffuse_dials import phil_folder
from diffuse_dials.adapters.stills_process import stills_process_module
from diffuse_dials.io import columns

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffuse_dials"
# a package imports from its own height or below
HEIGHT = {"kernels": 0, "models": 1, "io": 2, "adapters": 2, "algorithms": 3, "report": 3, "cli": 4, "command_line": 5}
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "command_line").glob("*.py")])
PHIL_FILES = sorted(phil_folder().rglob("*.phil"))
COMMANDS = sorted(path.stem for path in (PACKAGE / "cli").glob("*.py") if path.stem not in ("__init__", "startup"))


def our_imports(path):
    """Full names of what a module imports from this package, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".") for name in names if name.split(".")[0] == "diffuse_dials")


def layer_of(path):
    """Name of the package's folder that holds a module; None for the modules right in the package."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] in HEIGHT else parts[1] if len(parts) > 2 else None


def named_id(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(p)], ids=named_id)
def test_imports_run_one_way(path):
    layer = layer_of(path)
    for name in our_imports(path):
        if len(name) > 1 and name[1] in HEIGHT:
            assert HEIGHT[name[1]] <= HEIGHT[layer], f"{path} imports {'.'.join(name)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=named_id)
def test_a_command_imports_no_other_command(path):
    """What two commands share is in algorithms."""
    others = {name[2] for name in our_imports(path) if name[1] == "cli"}
    assert others <= {"startup"}


def command_of(path):
    """The command a parameter file is made for: its name up to an optional addition, as in grid_fine.phil."""
    fitting = [name for name in (*COMMANDS, "stills_process") if re.match(rf"{name}([_.-]|$)", path.stem)]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize("path", PHIL_FILES, ids=lambda path: str(path.relative_to(phil_folder())))
def test_a_parameter_file_fits_the_command_it_is_named_for(path):
    command = command_of(path)
    assert command, f"{path.name} is named for none of {COMMANDS} and not for stills_process"
    module = stills_process_module() if command == "stills_process" else import_module(f"diffuse_dials.cli.{command}")
    values = parse(path.read_text(encoding="utf-8"))
    parameters, unknown = module.phil_scope.fetch(values, track_unused_definitions=True)
    assert not unknown, f"{module.__name__} does not have {[str(one) for one in unknown]}"
    parameters.extract()  # raises for a value that its type refuses


def dispatcher_name(path):
    """As libtbx finds it: in the first 1000 characters of the file."""
    name = re.search(r"LIBTBX_SET_DISPATCHER_NAME\s+(\S+)", path.read_text(encoding="utf-8")[:1000])
    assert name, f"{path} would become diffuse_dials.{path.stem}"
    return name[1]


def test_each_command_has_one_dispatcher_of_its_own():
    names = Counter(dispatcher_name(path) for path in (ROOT / "command_line").glob("*.py"))
    assert names == {f"diffuse.{command}": 1 for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_help_text_a_scope_and_returns_nothing_to_the_shell(command):
    """A console script exits with what run returns: anything but None would be a failure."""
    module = import_module(f"diffuse_dials.cli.{command}")
    assert module.__doc__
    assert module.phil_scope.as_str()
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    assert not [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]


GROUPS = {name: names for name, names in vars(columns).items() if re.match("[A-Z]", name) and isinstance(names, tuple)}


@pytest.mark.parametrize("group", GROUPS)
def test_the_columns_of_each_file_are_described_once(group):
    assert len(set(GROUPS[group])) == len(GROUPS[group])
    assert set(GROUPS[group]) <= set(columns.COLUMNS)
