"""Beside a run, every command says that it is under way, and not that it was interrupted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from sqlalchemy import NullPool

from cleveragents_plans import open_engine
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from cleveragents_plans.evolution.runner.runs import RunsTable
from support.broken import break_database
from support.databases import SERVERS, database_at, url_option
from support.revisions import M4_003, M8_001

NOTE = f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {M8_001}]'"
COMMANDS = {
    "status": ExitStatus.UNFINISHED, "verify": ExitStatus.FOUND, "preflight": ExitStatus.REFUSED,
}  # fmt: skip


@pytest.mark.parametrize("engine", SERVERS)
def test_commands_beside_a_run_say_that_it_is_waited_for(
    engine: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
):
    wait = "wait for the run that is under way; `cleveragents-plans status --follow {url}` shows it"
    with database_at(M4_003, engine, tmp_path) as url:
        break_database(url, [NOTE])
        said, alone, paused = {}, {}, {}
        with open_engine(url, poolclass=NullPool).connect() as run, migration_lock(run, ["public"]):
            with caplog.at_level(logging.INFO):
                for command, status in COMMANDS.items():
                    said[command] = ran(command, url, status, capsys)
            pid = run.connection.driver_connection.info.backend_pid
            note_paused_run(url, pid)
            for command, status in COMMANDS.items():
                paused[command] = ran(command, url, status, capsys)
        for command in ("status", "verify"):
            alone[command] = ran(command, url, COMMANDS[command], capsys)

    for command, output in said.items():
        assert squeezed(wait.format(url=url_option(url))) in output, command
        assert f"pid{pid}" in output, command
        assert "interrupted" not in output, command
    assert not [each for each in caplog.messages if "interrupted" in each]
    for command, output in paused.items():
        assert squeezed("to let the run go on that is paused") in output, command
    assert squeezed("to complete it") in alone["status"]
    assert squeezed("was interrupted") in alone["verify"]


def ran(command: str, url: str, status: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([command, "--url", url]) == status
    # However wide the terminal is.
    return squeezed("".join(capsys.readouterr()))


def squeezed(text: str) -> str:
    return "".join(text.split())


def note_paused_run(url: str, pid: int) -> None:
    with open_engine(url, poolclass=NullPool).begin() as connection:
        RunsTable("alembic_version", "public").insert(
            connection,
            command="upgrade", began_at="2026-01-01T00:00:00.000+00:00", outcome="running",
            host="host", pid=1, backend_pid=pid, package_version="0", paused=True,
        )  # fmt: skip
