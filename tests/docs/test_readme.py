"""What the README shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from support.databases import ROOT
from support.pages import blocks, run_commands

README = (ROOT / "README.md").read_text()


def test_python_lines_of_the_readme_give_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["upgrade"]) == 0
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    examples = doctest.DocTestParser().get_doctest(README, {}, "README.md", "README.md", 0)

    results = doctest.DocTestRunner(optionflags=options).run(examples)

    examples.globs.clear()
    assert results.attempted >= 20
    assert results.failed == 0


@pytest.mark.slow
def test_commands_of_the_readme_print_what_is_shown(tmp_path: Path):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("alembic.ini", "migrations", "tests", "src"):
        (folder / name).symlink_to(ROOT / name)

    ran = sum(
        run_commands(each.text, folder) for each in blocks(README) if each.language == "console"
    )

    assert ran >= 5


def test_make_targets_named_in_documents_exist():
    makefile = (ROOT / "Makefile").read_text()
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        target
        for document in documents
        for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", document.read_text())
    }

    assert {"upgrade", "test", "check", "help"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in named), named


def test_links_within_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_anchors_of_links_are_headings():
    """As GitHub makes them: lower case, without punctuation, with hyphens for spaces."""
    checked = 0
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            page = (document.parent / path) if path else document
            text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, f"{document.name}: {path}#{anchor}"
            checked += 1
    assert checked
