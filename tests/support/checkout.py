"""A copy of the checkout, in which models and revisions can be changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.databases import ENGINES, ROOT

MODELS = "src/cleveragents_plans/persistence/models.py"


class Checkout:
    """A copy of the checkout for the database at *url*, and for tests of *engines*."""

    def __init__(self, folder: Path, url: str, engines: str = ",".join(ENGINES)) -> None:
        self.folder = folder
        self.environment = {
            "DATABASE_URL": url,
            "PYTHONPATH": f"{folder / 'src'}:{folder / 'tests'}",
            "TEST_ENGINES": engines,
        }
        ignored = shutil.ignore_patterns("__pycache__", "*.db", "fuzz", "faults")
        for name in ("src", "migrations", "tests", "examples", "features", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        for name in ("alembic.ini", "pyproject.toml", "constraints-lowest.txt"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "docs").mkdir()
        shutil.copy(ROOT / "docs/specification.md", folder / "docs")

    def change_models(self, *edits: tuple[str, str]) -> None:
        """Replace text in the models, once each."""
        self.change(MODELS, *edits)

    def change(self, name: str, *edits: tuple[str, str]) -> None:
        """Replace text in the file *name*, once each."""
        file = self.folder / name
        text = file.read_text()
        for former, new in edits:
            assert former in text, f"{name} has no {former!r}"
            text = text.replace(former, new, 1)
        file.write_text(text)

    def alembic(self, *arguments: str) -> str:
        """Run Alembic; give what it wrote to standard error."""
        return self.run("-m", "alembic", *arguments).stderr

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python in it; *check* that it succeeds. Only what Alembic runs is measured."""
        measured = "alembic" in arguments
        kept = {n: value for n, value in os.environ.items() if measured or "COVERAGE" not in n}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, capture_output=True, text=True,
            check=False, env={**kept, **self.environment},
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def revisions(self) -> list[Path]:
        """List the files of the chain, by name."""
        return sorted((self.folder / "migrations/versions").glob("*.py"))
