"""The transaction that migrates a SQLite file waits aloud, and gives the disk space back."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import NullPool
from sqlalchemy.exc import OperationalError

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite import lock_holders
from cleveragents_plans.evolution.sqlite.soundness import FileDamaged
from cleveragents_plans.evolution.sqlite.transaction import FileLocked, write_transaction
from support.databases import migrating_connection
from support.rebuilds import execute

QUICK = Settings(migration_lock_wait=0.3, report_every=0.1)


@pytest.fixture(params=["delete", "wal"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "plans.db"
    execute(path, f"PRAGMA journal_mode = {request.param}", "CREATE TABLE port (id)")
    execute(path, "INSERT INTO port VALUES (1)")
    return path


def write(file: Path, *statements: str, settings: Settings = QUICK) -> None:
    with migrating_connection(file) as connection, write_transaction(connection, settings):
        for statement in statements or ["INSERT INTO port VALUES (2)"]:
            connection.exec_driver_sql(statement)


def is_logged_ahead(file: Path) -> bool:
    return execute(file, "PRAGMA journal_mode") == [("wal",)]


def test_transaction_is_committed(file: Path):
    write(file)

    assert execute(file, "SELECT id FROM port") == [(1,), (2,)]


def test_transaction_is_rolled_back_by_an_error(file: Path):
    with pytest.raises(OperationalError, match="no such table"):
        write(file, "INSERT INTO port VALUES (2)", "SELECT 1 FROM missing")

    assert execute(file, "SELECT id FROM port") == [(1,)]


def test_writer_is_waited_for_aloud_until_it_ends(file: Path, caplog: pytest.LogCaptureFixture):
    patient = Settings(migration_lock_wait=60, report_every=0.2)
    with (
        closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as writer,
        caplog.at_level(logging.INFO, "alembic.evolution"),
    ):
        writer.execute("BEGIN IMMEDIATE")

        def end_when_waited_for() -> None:
            while len(caplog.records) < 3:
                time.sleep(0.02)
            writer.execute("COMMIT")

        thread = threading.Thread(target=end_when_waited_for)
        thread.start()
        write(file, settings=patient)
        thread.join()

    for record in caplog.records:
        said = record.getMessage()
        assert said.startswith(f"{file} is locked by another connection of this process; waiting (")
    assert execute(file, "SELECT id FROM port") == [(1,), (2,)]


def test_writer_that_does_not_end_is_given_up_on(file: Path):
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(FileLocked, match="-x migration-lock-wait=SECONDS") as given_up:
            write(file)

    assert time.monotonic() - begun > 0.3
    assert given_up.value.file == file
    assert given_up.value.waited > 0.3
    assert len(given_up.value.holders) == 1
    write(file)


def test_reader_is_waited_for_before_anything_is_done_unless_the_log_is_written_ahead(file: Path):
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT id FROM port").fetchall()
        if is_logged_ahead(file):
            write(file)
            return
        with pytest.raises(FileLocked, match="another connection of this process"):
            write(file)
    write(file)


def test_reader_waits_until_the_transaction_ends_unless_the_log_is_written_ahead(file: Path):
    logged_ahead = is_logged_ahead(file)
    with (
        migrating_connection(file) as connection,
        write_transaction(connection, QUICK),
        closing(sqlite3.connect(file, timeout=0)) as reader,
    ):
        if logged_ahead:
            assert reader.execute("SELECT id FROM port").fetchall() == [(1,)]
        else:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                reader.execute("SELECT id FROM port")


def test_holder_that_cannot_be_seen_is_described(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock_holders, "_PROC", tmp_path / "none")
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        with pytest.raises(FileLocked, match=f"cannot be seen from here .`lsof {file}` lists"):
            write(file)


def test_write_ahead_log_is_emptied_at_the_end(tmp_path: Path):
    file = tmp_path / "plans.db"
    execute(file, "PRAGMA journal_mode = WAL", "CREATE TABLE port (id)")
    log = Path(f"{file}-wal")
    with closing(sqlite3.connect(file)) as other:  # the last one to close would empty it
        other.execute("SELECT id FROM port").fetchall()
        # More than fits into the page cache, so that it is written at once.
        much = "INSERT INTO port VALUES (zeroblob(9000000))"
        write(file, much)
        assert log.stat().st_size == 0
        with pytest.raises(OperationalError):
            write(file, much, "SELECT 1 FROM missing")
        assert log.stat().st_size == 0


def test_write_ahead_log_that_a_reader_needs_is_said_to_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "plans.db"
    execute(file, "PRAGMA journal_mode = WAL", "CREATE TABLE port (id)")
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT id FROM port").fetchall()
        write(file)

    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{file}-wal (0.0 MB) could not be emptied yet")
    assert "never delete, move or copy" in said


def test_damage_that_a_statement_meets_is_one_line(tmp_path: Path):
    file = tmp_path / "plans.db"
    execute(file, "CREATE TABLE port (id)", "INSERT INTO port VALUES (zeroblob(5000))")
    content = bytearray(file.read_bytes())
    content[4096:4104] = b"\xff" * 8
    file.write_bytes(content)

    with pytest.raises(FileDamaged):
        write(file)


def test_database_in_memory_is_written():
    engine = open_engine("sqlite://", migrating=True, poolclass=NullPool)
    with engine.connect() as connection, write_transaction(connection, QUICK):
        connection.exec_driver_sql("CREATE TABLE port (id)")


def test_driver_that_has_no_names_of_extended_codes_will_do():
    """Such as pysqlite3, which programs put in the place of `sqlite3`."""
    code = """
import sqlite3, sys
for name in [n for n in dir(sqlite3) if n.startswith(("SQLITE_IOERR_", "SQLITE_READONLY_"))]:
    delattr(sqlite3, name)
from cleveragents_plans import schema
from cleveragents_plans.cli import main
sys.exit(main(["--version"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
