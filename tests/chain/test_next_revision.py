"""The next revision breaks no test but those that are about the newest one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.databases import ROOT
from support.revisions import HEAD

EMPTY = f'''\
"""
Change nothing

Why:    to see which tests depend on which revision is the newest.
Rows:   stay as they are.
Undo:   nothing.
Locks:  none.
"""

revision, down_revision = "m9_999_nothing", "{HEAD}"


def upgrade() -> None:
    """Do nothing."""


def downgrade() -> None:
    """Do nothing."""
'''

# At most six may stand here.
ABOUT_THE_HEAD = {
    "tests/chain/test_chain.py::test_chain_has_one_head_and_the_known_order",
    "tests/cli/test_screens.py::test_screens_are_what_the_commands_show",
    "tests/docs/test_pages.py::test_code_of_the_page_does_what_is_shown",
    "tests/docs/test_pictures.py::test_picture_is_as_the_code_draws_it",
    "tests/docs/test_readme.py::test_commands_of_the_readme_print_what_is_shown",
}

# What migrates in this process, on SQLite; the copy is not installed.
SELECTION = [
    *("tests/chain", "tests/cli", "tests/docs", "tests/schema"),
    "tests/evolution/runner/test_commands.py",
]
OTHERWISE_TESTED = "editable_install or wheel or empty_revision or worked_example or test_site"
# Processes whose output, imports and environment are looked at, at no revision.
NO_REVISION = "coloured or reader_that_leaves or encoding or fixtures_give_each or extra"
LEFT_OUT = f"{OTHERWISE_TESTED} or {NO_REVISION}"
# They take half of the time, and start at revisions that they name.
PINNED = ["tests/chain/test_odd_sqlite_databases.py", "tests/schema/test_chain.py"]


@pytest.mark.fault
@pytest.mark.timeout(900)  # as long as hundreds of tests
def test_empty_revision_breaks_only_tests_about_the_head(tmp_path: Path):
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT,
        checkout,
        symlinks=True,
        ignore=shutil.ignore_patterns(".*_cache", ".venv*", ".git", "build", "__pycache__", "*.db"),
    )
    (checkout / "migrations" / "versions" / "m9_999_nothing.py").write_text(EMPTY)
    kept = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider",
         "-p", "no:xdist", "-m", "not fault and not older", "-k", f"not ({LEFT_OUT})", *SELECTION,
         *(f"--ignore={name}" for name in PINNED)],
        cwd=checkout, capture_output=True, text=True, check=False,
        env={**kept, "PYTHONPATH": str(checkout / "src"), "TEST_ENGINES": "sqlite"},
    )  # fmt: skip

    broken = set(re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", done.stdout, re.M))
    assert re.search(r"\b[0-9]{2,} passed", done.stdout), done.stdout + done.stderr
    assert broken == ABOUT_THE_HEAD, done.stdout
    assert len(broken) <= 6
