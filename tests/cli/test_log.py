"""``--log``, ``-v`` and ``-q``: what is written to standard error, and how."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from support.broken import store_family
from support.databases import ONE_OF_EACH, database_at, database_with
from support.online import client
from support.revisions import M4_003, M8_001, M8_002


def said(*typed: str, status: int = 0) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cleveragents_plans", *typed],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()


def events(*typed: str, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(*typed, "--log", "json", status=status)]


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_each_line_is_an_event_of_json(engine: str, tmp_path: Path):
    with database_with(store_family, engine, tmp_path, M8_002) as url:
        found = events("downgrade", M4_003, "--url", url)

    assert all({"ts", "level", "event", "message"} <= each.keys() for each in found)
    steps = [each["revision"] for each in found if each["event"] == "step"]
    assert steps == [M8_002, M8_001]
    progress = [each for each in found if each["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (5, 5)
    assert progress[-1]["revision"] == M8_001
    assert progress[-1]["rate"] > 0
    assert f"{M8_002} -> {M4_003}" in found[-2]["message"]


def test_refusal_is_an_event_of_level_error(tmp_path: Path):
    (*_, last) = events("upgrade", "--url", f"sqlite:///{tmp_path}/none.db", status=1)

    assert (last["level"], last["event"]) == ("error", "error")
    assert last["message"].startswith("there is no file at sqlite:///")


@pytest.mark.slow
def test_wait_for_a_lock_names_the_blockers(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url, client(
        url, autocommit=False
    ) as other:  # fmt: skip
        other.execute("LOCK TABLE v3_plans IN ACCESS SHARE MODE")
        pid = other.info.backend_pid
        found = events(
            "upgrade", "--url", url, "--lock-wait", "2", "--report-every", "0.2", status=75
        )

    waits = [each for each in found if each["event"] == "waiting"]
    assert waits
    assert (waits[0]["level"], waits[0]["revision"]) == ("warning", M8_001)
    assert waits[0]["blockers"][0].startswith(f"pid {pid} ")


STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "


@pytest.mark.parametrize("options", [(), ("--log", "lines")], ids=["default", "lines"])
def test_lines_of_a_file_begin_with_time_and_level(options: tuple[str, ...], tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        lines = said("upgrade", "--url", url, *options)
    (refused,) = said("status", "--url", f"sqlite:///{tmp_path}/none.db", *options, status=1)

    assert len(lines) > 3
    assert all(re.match(STAMP + "(info|warning) ", line) for line in lines)
    assert re.match(STAMP + "error   there is no file", refused)


def test_plain_lines_have_neither(tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        lines = said("upgrade", "--url", url, "--log", "plain")

    assert not any(re.match(STAMP, line) for line in lines)
    assert any(line.startswith("Running upgrade") for line in lines)


def test_lines_on_a_terminal_have_neither(tmp_path: Path):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cleveragents_plans", "status", "--url", f"sqlite:///{tmp_path}/no"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = os.read(ours, 1000)
        assert process.wait() == ExitStatus.REFUSED
    os.close(ours)

    assert shown.startswith(b"error: there is no file")


def test_verbose_run_has_what_alembic_logs_and_a_quiet_one_nothing(tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url:
        verbose = said("upgrade", "-v", "--url", url)
        quiet = said("downgrade", M4_003, "-q", "--url", url)

    assert any("Context impl SQLiteImpl" in line for line in verbose)
    assert any("Running upgrade" in line for line in verbose)
    assert quiet == []


def test_quiet_and_verbose_at_once_are_a_usage_error(capfd: pytest.CaptureFixture[str]):
    assert main(["upgrade", "-q", "-v"]) == ExitStatus.USAGE
    assert "give -q or -v, not both" in capfd.readouterr().err


def test_format_is_that_of_one_call(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    url = f"sqlite:///{tmp_path}/none.db"

    main(["upgrade", "--log", "json", "--url", url])
    main(["upgrade", "--log", "plain", "--url", url])

    lines = capfd.readouterr().err.splitlines()
    assert json.loads(lines[1])["level"] == "error"
    assert lines[-1].startswith("error: there is no file")
