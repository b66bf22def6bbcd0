"""What keeps docs/ true: pages made from the commands are those that would be made now, and links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

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
