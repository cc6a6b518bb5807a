"""The runbook and the pages beside it name the commands, settings and statuses that exist."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cleveragents_plans.cli.history import RunFacts
from cleveragents_plans.cli.options import _FLAGS, SETTINGS
from cleveragents_plans.cli.program import program
from cleveragents_plans.cli.statuses import ExitStatus
from support.databases import ROOT
from support.revisions import M8_001

PAGES = [
    ROOT / "docs" / name
    for name in (
        "operations.md",
        "deployment.md",
        "backup-and-restore.md",
        "settings-and-locks.md",
        "inspection.md",
        "fleets.md",
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


def test_runbook_shows_what_status_says_of_a_run_under_way():
    told: dict[str, Any] = dict.fromkeys(RunFacts.model_fields) | {
        **{"run_id": "", "version_table": "", "package_version": "", "pid": 1, "paused": False},
        **{"began_at": "2026-11-27T20:19:56.000+00:00", "command": "upgrade"},
        **{"outcome": "running", "role": "plans_owner", "host": "job-7f9c"},
        **{"revision": M8_001, "what": "roots and profiles", "done": 7334, "total": 13754},
        **{"rate": 919.0, "eta_s": 7.0},
    }
    run = RunFacts(**told)

    page = (ROOT / "docs" / "operations.md").read_text()
    assert f"last run   {run.line()}\n           {run.how_far()}\n" in page


def test_no_page_for_operators_is_longer_than_can_be_read_at_night():
    assert [page.name for page in PAGES if len(page.read_text().splitlines()) > 300] == []


def test_backup_of_a_file_with_a_rollback_journal_keeps_writers_waiting(tmp_path: Path):
    # As docs/backup-and-restore.md says of VACUUM INTO.
    file = tmp_path / "plans.db"
    with closing(sqlite3.connect(file)) as reader, closing(sqlite3.connect(file, 0)) as writer:
        reader.executescript("CREATE TABLE t (i); INSERT INTO t VALUES (1)")
        met: list[str] = []

        def write() -> int:
            try:
                writer.execute("INSERT INTO t VALUES (2)")
                writer.commit()
            except sqlite3.OperationalError as error:
                writer.rollback()
                met.append(str(error))
            return 0

        reader.set_progress_handler(write, 1)
        reader.execute(f"VACUUM INTO '{tmp_path / 'before.db'}'")

    assert {*met} == {"database is locked"}
