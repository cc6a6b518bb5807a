"""What the README shows is what happens."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cleveragents_plans.cli import main
from support.databases import ROOT

README = (ROOT / "README.md").read_text()

# Run by CI itself, which begins with them; here they would install everything again.
RUN_ELSEWHERE = ("make ", "pip install ")


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
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1"}
    environment.pop("DATABASE_URL", None)
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    steps = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.M)[1:]]
    ran = 0

    for step in steps:
        command, _, shown = step.partition("\n")
        if command.startswith(RUN_ELSEWHERE):
            continue
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        ran += 1
        wanted = re.escape(shown.strip()).replace(re.escape("..."), ".*")
        assert done.returncode == 0, done.stdout
        assert re.fullmatch(wanted, done.stdout.strip(), re.DOTALL), done.stdout
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
