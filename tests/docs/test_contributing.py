"""What CONTRIBUTING.md names is there: commands, files, names in the code, terms."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from support.databases import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PACKAGE = ROOT / "src" / "cleveragents_plans"
CODE = "\n".join(
    file.read_text()
    for folder in (PACKAGE, ROOT / "migrations", ROOT / "tests")
    for file in folder.rglob("*.py")
)
COMMANDS = [
    shlex.split(line.removeprefix("$ "), comments=True)
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
# In the text, not in its blocks.
QUOTED = set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.M | re.S)))
PATHS = sorted(
    each for each in QUOTED if re.fullmatch(r"[\w./-]+/[\w./-]*|[\w-]+\.(toml|md)", each)
)
NAMES = sorted(each for each in QUOTED if re.fullmatch(r"[A-Za-z_]+(\.[a-z_]+)?", each))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_names_a_program_and_files_that_exist(command: list[str]):
    while "=" in command[0]:
        command = command[1:]
    program, *arguments = command

    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program.startswith(".venv/bin/")
        assert (Path(sys.executable).parent / Path(program).name).exists()
        files = [each for each in arguments if "/" in each and not each.startswith("build/")]
        assert files
        assert all((ROOT / each).exists() for each in files)


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path: str):
    absolute = path.startswith("/")  # of a Debian package, or none of ours
    assert absolute or path == ".venv" or (ROOT / path).exists() or (PACKAGE / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_name_stands_in_the_code(name: str):
    assert re.search(rf"\b{name.rsplit('.', 1)[-1]}\b", CODE)


@pytest.mark.parametrize(
    "term",
    [
        term.strip()
        for line in re.findall(r"^\| ([^|]+) \|", PAGE.split("## Glossary")[1], re.MULTILINE)
        for term in line.split(",")
        if term != "term"
    ],
)
def test_term_of_the_glossary_is_used_in_the_code(term: str):
    words = rf"\b{term}".replace(" ", r"[\s_-]+")

    assert re.search(words, CODE, re.IGNORECASE)


def test_page_was_taken_apart():
    assert len(COMMANDS) >= 9
    assert len(PATHS) > 20
    assert len(NAMES) > 15
