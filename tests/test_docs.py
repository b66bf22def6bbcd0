"""What keeps docs/ true: pages made from the commands are those that would be made now, and links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def make_docs():
    """tools/make_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_of_each_command_is_what_the_command_says_now(make_docs):
    """If this fails: make docs, look at what changed, commit it."""
    wanted = make_docs.pages()
    assert set((ROOT / "docs" / "commands").glob("*.md")) == set(wanted)
    stale = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"make docs would change {', '.join(stale)}"


def test_every_parameter_of_a_command_says_what_it_is(make_docs):
    """Those of DIALS's own programs aside."""
    for command in make_docs.commands():
        scope = importlib.import_module(f"diffuse_dials.cli.{command}").phil_scope
        silent = [p.path for p in make_docs.parameters(scope) if not p.meaning and not make_docs.of_dials(p.path)]
        assert not silent, f"diffuse.{command}: no help for {', '.join(silent)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


SOURCES = [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
        assert any(f"/{source}".endswith(f"/{name}") for source in SOURCES), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_parameter_files_that_a_page_names_exist(page):
    for name in re.findall(r"\bphil/\w+/\w+\.phil", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def python_blocks(page):
    """The Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_ten_lines_of_the_readme_give_what_the_commands_give(simulated, run_in_tmp_path):
    """Run as they stand, on simulated stills; the commands, on the same files, are the reference."""
    from diffuse_dials.cli import absolute, grid, scale
    from diffuse_dials.io.tables import load_table

    for name, source in {"integrated.expt": "truth_stills.expt"}.items():
        shutil.copy(simulated / source, name)
    for name in ("blank.expt", "model.pdb"):
        shutil.copy(simulated / name, name)
    (block,) = python_blocks("README.md")
    assert len(block.split("\n\n", 1)[1].splitlines()) <= 10
    found = {}
    exec(block, found)
    grid.run(["integrated.expt", "mask=pixels.mask", "background=blank.expt", "d_min=2", "ndiv=3,3,3"])
    scale.run(["gridded.expt", "gridded.refl"])
    absolute.run(["merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl", "absolute.model=model.pdb"])
    table = load_table("absolute.refl")
    np.testing.assert_array_equal(found["hkl"], table["hkl"])
    np.testing.assert_allclose(found["intensity"], table["intensity.absolute.value"], rtol=1e-12)
    np.testing.assert_allclose(found["variance"], table["intensity.absolute.variance"], rtol=1e-12)
    summary = json.loads(Path("diffuse.absolute.json").read_text())
    assert found["found"].k == pytest.approx(summary["k"], rel=1e-12)
    with np.load("map.npz") as arrays:
        assert np.nanmax(arrays["intensity"]) > 0
    assert Path("map.ccp4").is_file()
