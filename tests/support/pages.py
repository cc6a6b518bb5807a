"""Pages of the documentation, and the code on them, which is run as a reader would run it."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from support.databases import ROOT

# Installing again what the tests run with would show nothing.
RUN_ELSEWHERE = ("make ", "pip install ", "python -m venv ")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def page(name: str) -> str:
    """Read a page by its path in the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """List the fenced blocks of a page, in their order, those of lists included."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))
        for indent, language, body in found
    ]


def run_page(text: str, folder: Path) -> int:
    """
    Run every block of a page, in their order; fail where something else is printed than shown.

    A block of Python with prompts is a doctest; one that begins with the name of a file is
    written to it. Doctests, commands and files share *folder*, which is the current one.

    Returns:
        How many examples and commands were run.
    """
    names: dict[str, object] = {}
    ran = 0
    for language, body in blocks(text):
        file = re.match(r"# (\w+\.py)\n", body)
        if language == "console":
            ran += run_commands(body, folder)
        elif language == "python" and file:
            (folder / file[1]).write_text(body)
        elif language == "python":
            ran += _run_examples(body, names)
    names.clear()
    return ran


def _run_examples(body: str, names: dict[str, object]) -> int:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    examples = doctest.DocTestParser().get_doctest(body, names, "page", None, 0)
    results = doctest.DocTestRunner(optionflags=options).run(examples, clear_globs=False)
    assert results.failed == 0
    assert results.attempted > 0, body
    names.update(examples.globs)
    examples.globs.clear()
    return results.attempted


# Log lines begin with them where nobody looks; pages show what a terminal does.
_TIME_AND_LEVEL = re.compile(r"^[-\d]{10}T[:.\d]{12}Z \w+ +", re.MULTILINE)


def run_commands(body: str, folder: Path) -> int:
    """Run the commands of a block in *folder*; ``...`` stands for any output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120"}
    environment.pop("DATABASE_URL", None)
    ran = 0
    for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
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
        printed = _TIME_AND_LEVEL.sub("", done.stdout.strip())
        assert re.fullmatch(wanted, printed, re.DOTALL), f"{command}\n{done.stdout}"
    return ran
