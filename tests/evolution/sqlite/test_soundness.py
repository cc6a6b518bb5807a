"""A damaged SQLite file is refused before anything is changed; rows that break a rule are not."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution.sqlite.soundness import (
    FileDamaged,
    OnlyInApplication,
    report_damage,
    require_sound_file,
)
from support.rebuilds import execute

PAGE = 4096


@contextmanager
def connected(file: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _connect(driver: sqlite3.Connection, _record: object) -> None:
        driver.isolation_level = None

    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of some pages: a table, and its index."""
    path = tmp_path / "plans.db"
    execute(
        path,
        "CREATE TABLE port (id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (name <> 'bad'))",
        "CREATE INDEX ix ON port (name)",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        " INSERT INTO port SELECT i, hex(randomblob(20)) FROM n",
    )
    return path


def flip(file: Path, place: int, length: int = 8) -> None:
    content = bytearray(file.read_bytes())
    content[place : place + length] = bytes(255 - byte for byte in content[place : place + length])
    file.write_bytes(content)


def test_sound_file_passes(file: Path):
    with connected(file) as connection:
        require_sound_file(connection, 3)


@pytest.mark.parametrize("page", range(1, 20))
def test_damaged_page_is_refused_in_one_line(file: Path, page: int):
    flip(file, page * PAGE)
    with connected(file) as connection, pytest.raises(FileDamaged) as refused:
        require_sound_file(connection, 3)

    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith(f"{file} is damaged (")
    assert line.endswith(".recover`; nothing was changed")
    assert refused.value.file == file


def test_rows_that_break_a_rule_of_their_column_are_no_damage(file: Path):
    execute(
        file,
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE port SET name = 'bad' WHERE id < 300",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE port (id INTEGER PRIMARY KEY, name TEXT)'"
        " WHERE name = 'port'",
    )
    execute(file, "UPDATE port SET name = NULL WHERE id BETWEEN 300 AND 600")
    execute(
        file,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE TABLE port (id INTEGER PRIMARY KEY,"
        " name TEXT NOT NULL CHECK (name <> ''bad''))' WHERE name = 'port'",
    )
    assert ("NULL value in port.name",) in execute(file, "PRAGMA quick_check(1000)")

    with connected(file) as connection:
        require_sound_file(connection, 3)
        assert connection.exec_driver_sql("PRAGMA ignore_check_constraints").scalar() == 0
    flip(file, 3 * PAGE)
    with connected(file) as connection, pytest.raises(FileDamaged):
        require_sound_file(connection, 3)


def test_statement_that_meets_damage_is_reported_in_one_line(file: Path):
    flip(file, PAGE)
    with (
        connected(file) as connection,
        pytest.raises(FileDamaged, match=r"is damaged \(database disk image is malformed\)"),
        report_damage(file),
    ):
        connection.exec_driver_sql("SELECT count(name || 'x') FROM port NOT INDEXED").scalar()


def test_other_errors_pass_as_they_are(file: Path):
    with (
        connected(file) as connection,
        pytest.raises(Exception, match="no such table"),
        report_damage(file),
    ):
        connection.exec_driver_sql("SELECT 1 FROM missing")


def test_long_check_is_reported(file: Path, caplog: pytest.LogCaptureFixture):
    execute(
        file,
        "WITH RECURSIVE n (i) AS (SELECT 3000 UNION ALL SELECT i + 1 FROM n WHERE i < 90000)"
        " INSERT INTO port SELECT i, hex(randomblob(20)) FROM n",
    )
    with caplog.at_level(logging.INFO, "alembic.evolution"), connected(file) as connection:
        require_sound_file(connection, 0.001)

    assert f"checking that {file} is not damaged (0:00 elapsed)" in caplog.text


def with_own(file: Path, *statements: str) -> None:
    """Run *statements* as an application does that has a collation and a function of its own."""
    with closing(sqlite3.connect(file, isolation_level=None)) as driver:
        driver.create_collation("unicase", lambda a, b: (a > b) - (a < b))
        driver.create_function("own", 1, lambda value: value, deterministic=True)
        for statement in statements:
            driver.execute(statement)


OWN = {
    "an index": ("CREATE TABLE notes (n TEXT COLLATE unicase)", "CREATE INDEX ix_n ON notes (n)"),
    "a key": ("CREATE TABLE notes (n TEXT COLLATE unicase PRIMARY KEY) WITHOUT ROWID",),
    "a CHECK": ("CREATE TABLE notes (n TEXT CHECK (own(n) = n))",),
    "a generated column": ("CREATE TABLE notes (n TEXT, g TEXT AS (own(n)))",),
    "an expression": ("CREATE TABLE notes (n TEXT)", "CREATE INDEX ix_n ON notes (own(n))"),
}


@pytest.mark.parametrize("own", OWN)
def test_table_that_only_the_application_can_check_is_left_out_with_a_warning(
    file: Path, own: str, caplog: pytest.LogCaptureFixture
):
    with_own(file, *OWN[own], "INSERT INTO notes (n) VALUES ('b'), ('a')")
    execute(file, 'CREATE TABLE [odd "name] (id)', 'INSERT INTO [odd "name] VALUES (1)')
    with connected(file) as connection:
        require_sound_file(connection, 3, ["port"])

    if own in ("an index", "a key"):  # versions of SQLite differ in what of the others they read
        assert "the table notes was not checked for damaged pages: it needs what" in caplog.text
    flip(file, PAGE)
    with connected(file) as connection, pytest.raises(FileDamaged):
        require_sound_file(connection, 3, ["port"])


def test_table_of_the_chain_that_only_the_application_can_check_is_refused(file: Path):
    with_own(file, "CREATE INDEX ix_own ON port (name COLLATE unicase)")
    with connected(file) as connection, pytest.raises(OnlyInApplication) as refused:
        require_sound_file(connection, 3, ["PORT"])

    assert str(refused.value).startswith(f"the index ix_own of port in {file} needs what only")
    assert "(no such collation sequence: unicase)" in str(refused.value)
    assert "cleveragents_plans.schema.upgrade(engine)" in str(refused.value)


def test_older_sqlite_says_that_the_file_was_not_checked(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """One that would check all tables for each."""
    with_own(file, *OWN["an index"], "INSERT INTO notes (n) VALUES ('b'), ('a')")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 32, 3))
    with connected(file) as connection:
        require_sound_file(connection, 3, ["port"])

    assert caplog.text.count(f"{file} was not checked for damaged pages") == 1
