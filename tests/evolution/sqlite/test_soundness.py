"""A damaged SQLite file is refused before anything is changed; rows that break a rule are not."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution.sqlite.soundness import (
    FileDamaged,
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
