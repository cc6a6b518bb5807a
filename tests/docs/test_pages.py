"""The code on every page is run: here, or by the test that this file names for the page."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from support.databases import ROOT
from support.pages import blocks, page, run_page

#: Pages whose blocks are run here, one after the other, in an empty folder.
RUN_HERE = ["lifecycle.md", "reference/plans.md", "roots.md", "snapshots.md", "tutorial.md"]
#: The test that runs, or compares, what the blocks of each other page say.
RUN_BY = {
    "backup-and-restore.md": "robot/runbook.robot",
    "databases.md": "tests/docs/test_transactions.py",
    "deployment.md": "tests/docs/test_how_tos.py",
    "fleets.md": "tests/docs/test_how_tos.py",
    "listing.md": "tests/docs/test_how_tos.py",
    "operations.md": "robot/runbook.robot",
    "renaming-a-word.md": "tests/docs/test_writing_a_revision.py",
    "retention-and-import.md": "tests/docs/test_how_tos.py",
    "scaling.md": "tests/persistence/test_standby.py",
    "security.md": "tests/docs/test_security.py",
    "specification.md": "tests/chain/test_specification.py",
    "testing-an-application.md": "tests/docs/test_how_tos.py",
    "two-chains.md": "tests/docs/test_how_tos.py",
    "web-service.md": "tests/docs/test_how_tos.py",
    "workers.md": "tests/docs/test_how_tos.py",
    "writing-a-revision.md": "tests/docs/test_writing_a_revision.py",
}
#: Made when the site is built, which is the test.
_MADE_BY_SPHINX = {"", "text"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "tutorial.md" else [])
        for name in RUN_HERE
    ],
)
def test_code_of_the_page_does_what_is_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    assert run_page(page(f"docs/{name}"), tmp_path) >= 3


def test_every_page_with_code_has_a_test_that_runs_it():
    folder = ROOT / "docs"
    with_code = {
        str(file.relative_to(folder))
        for file in (*folder.glob("*.md"), *folder.glob("reference/*.md"))
        if {each.language for each in blocks(file.read_text())} - _MADE_BY_SPHINX
    }

    assert with_code == {*RUN_HERE, *RUN_BY}
    for name, test in RUN_BY.items():
        assert name in (ROOT / test).read_text(), f"{test} does not name {name}"


def test_code_is_in_fenced_blocks():
    """What is only indented is not found by the tests, and has no colours on the site."""
    for file in (ROOT / "docs").glob("*.md"):
        former = ""
        fenced = False
        for line in file.read_text().splitlines():
            fenced ^= line.lstrip().startswith("```")
            indented = line.startswith("    ") and not former.strip()
            assert fenced or not indented, f"{file.name}: {line}"
            former = line


def test_rows_of_tables_follow_one_another():
    """A blank line ends a table; rows behind it are shown as text."""
    cut_off = []
    for file in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        lines = ["", *re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S).split("\n")]
        for number, (former, line) in enumerate(pairwise(lines), 1):
            begins = line.startswith("|") and not former.startswith("|")
            rule = lines[number + 1] if number + 1 < len(lines) else ""
            if begins and not re.fullmatch(r"\|( *:?-+:? *\|)+", rule):
                cut_off.append(f"{file.name}: {line[:40]}")

    assert cut_off == []


def test_index_lists_every_page_once():
    """The contents of the site are made from it; the page on decisions lists its folder."""
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", page("docs/index.md"), re.MULTILINE)
    folder = ROOT / "docs"
    there = {str(file.relative_to(folder)) for file in folder.rglob("*.md")} - {"index.md"}
    decisions = {name for name in there if name.startswith("decisions/")} - {"decisions/README.md"}

    assert sorted(listed) == sorted(there - decisions)
