"""The runbook and the pages beside it name the commands, settings and statuses that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cleveragents_plans.cli.options import _FLAGS, SETTINGS
from cleveragents_plans.cli.program import program
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ROOT

PAGES = [
    ROOT / "docs" / name
    for name in (
        "operations.md",
        "deployment.md",
        "backup-and-restore.md",
        "settings-and-locks.md",
        "inspection.md",
    )
]


def rows(page: str, heading: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text()
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_runbook_explains_every_exit_status():
    shown = [
        int(each)
        for status, *_ in rows("operations.md", "Exit statuses")
        for each in status.split(", ")
    ]

    assert {*ExitStatus} <= {*shown}
    assert len(shown) == len({*shown})


def test_table_of_settings_has_every_setting():
    shown = {name.strip("`") for name, *_ in rows("settings-and-locks.md", "Settings")}

    assert {*SETTINGS, *_FLAGS} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_exist_with_their_options(page: Path):
    shown = re.findall(r"^ *cleveragents-plans (.*)$", page.read_text(), re.MULTILINE)
    shown += re.findall(r"`cleveragents-plans ([^`]*)`", page.read_text())
    for line in shown:
        name, *words = shlex.split(line.partition("|")[0], comments=True)
        command = program.commands[name]
        options = {option for each in command.params for option in each.opts} | {"-h", "--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= options, f"{line}: {used - options}"


def test_no_page_for_operators_is_longer_than_can_be_read_at_night():
    assert [page.name for page in PAGES if len(page.read_text().splitlines()) > 300] == []
