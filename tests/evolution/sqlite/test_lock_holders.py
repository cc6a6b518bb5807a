"""Processes that hold a lock on a SQLite file are found by what Linux tells of locks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cleveragents_plans.evolution.sqlite import lock_holders as module
from cleveragents_plans.evolution.sqlite.lock_holders import LockHolder, lock_holders
from support.rebuilds import execute

PROGRAM = """\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    cursor = connection.execute(statement)
    cursor.fetchone()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(file: Path, *statements: str) -> Iterator[int]:
    """Run *statements* in a process, which then does nothing; give its pid."""
    command = [sys.executable, "-c", PROGRAM, str(file), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plans.db"
    execute(path, "CREATE TABLE port (id)", "INSERT INTO port VALUES (1), (2)")
    return path


READING = ("BEGIN", "SELECT id FROM port")


@pytest.mark.parametrize(
    ("statements", "writes"),
    [
        (READING, False),
        (("BEGIN IMMEDIATE",), True),
        (("BEGIN EXCLUSIVE",), True),
        (("BEGIN", "INSERT INTO port VALUES (3)"), True),
    ],
)
def test_holder_of_a_file_with_a_rollback_journal_is_found(
    file: Path, statements: tuple[str, ...], writes: bool
):
    with another_process(file, *statements) as pid:
        (found,) = lock_holders(file)

        assert (found.pid, found.writes) == (pid, writes)
        does = "writes to" if writes else "reads"
        assert str(found).endswith(f", which {does} it")
        assert str(found).startswith(f"pid {pid} (python")


def test_holder_is_found_whose_locks_are_on_a_device_that_programs_do_not_see(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with another_process(file, *READING) as pid:
        device = f"{os.major(file.stat().st_dev):02x}:{os.minor(file.stat().st_dev):02x}"
        lines = Path("/proc/locks").read_text().replace(f" {device}:", " 00:99:")
        other = tmp_path / "proc"
        other.mkdir()
        (other / "locks").write_text(lines)
        (other / str(pid)).symlink_to(f"/proc/{pid}")
        monkeypatch.setattr(module, "_PROC", other)

        assert [one.pid for one in lock_holders(file)] == [pid]


def test_only_writers_are_found_where_a_log_is_written_ahead(file: Path):
    execute(file, "PRAGMA journal_mode = WAL")
    with another_process(file, *READING), another_process(file, "BEGIN IMMEDIATE") as writer:
        assert [(one.pid, one.writes) for one in lock_holders(file)] == [(writer, True)]


def test_process_that_has_a_file_open_without_a_lock_is_not_named(file: Path):
    with another_process(file, "SELECT count(*) FROM port"):
        assert lock_holders(file) == []
    execute(file, "PRAGMA journal_mode = WAL")
    with another_process(file, *READING):
        assert lock_holders(file) == []


def test_holder_in_this_process_is_said_to_be_one(file: Path):
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")

        assert [str(one) for one in lock_holders(file)] == ["another connection of this process"]


def test_nothing_is_found_without_proc(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "_PROC", tmp_path / "none")
    with another_process(file, "BEGIN IMMEDIATE"):
        assert lock_holders(file) == []
    assert lock_holders(tmp_path / "no file") == []


def test_program_that_is_not_shown_is_left_out():
    assert str(LockHolder(7, None, writes=False)) == "pid 7, which reads it"
