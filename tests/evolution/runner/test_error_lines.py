"""What a run raises says what was found and what to do, in one line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.runner.error_lines import (
    NameNotReadable,
    TableDropped,
    VersionChanged,
)
from support.broken import libpq
from support.databases import SERVERS, database_at, migrate
from support.encodings import role_named
from support.revisions import HEAD, M4_003, M8_001


def test_version_that_another_session_stored_meanwhile_is_said_and_the_run_can_be_repeated(
    tmp_path: Path,
):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        stored: list[str] = []

        def store_first(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            # As a logical subscription does to a subscriber that is being migrated.
            if statement.startswith("UPDATE") and "version_num" in statement and not stored:
                stored.append(M8_001)
                with psycopg.connect(libpq(url), autocommit=True) as other:
                    other.execute("UPDATE alembic_version SET version_num = %s", stored)

        event.listen(Engine, "before_cursor_execute", store_first)
        try:
            with pytest.raises(VersionChanged, match=r"another session .*FOR ALL TABLES.* again"):
                migrate(url, M8_001)
        finally:
            event.remove(Engine, "before_cursor_execute", store_first)

        migrate(url, "head")
        with psycopg.connect(libpq(url)) as client:
            assert client.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_table_that_is_dropped_while_it_is_looked_at_is_told_in_one_line(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        dropped: list[str] = []

        def drop_first(_connection: Any, _cursor: Any, _sql: str, values: Any, *_: Any) -> None:
            # SQLAlchemy has found the table, and asks for its columns.
            if "plan_projects" in str(values) and "format_type" in _sql and not dropped:
                dropped.append("plan_projects")
                with psycopg.connect(libpq(url), autocommit=True) as other:
                    other.execute("DROP TABLE plan_projects")

        event.listen(Engine, "before_cursor_execute", drop_first)
        try:
            with pytest.raises(TableDropped, match=r"dropped or renamed public\.plan_projects"):
                migrate(url, M8_001)
        finally:
            event.remove(Engine, "before_cursor_execute", drop_first)


@pytest.mark.parametrize("engine", SERVERS)
def test_owner_whose_name_is_no_utf_8_is_told_in_one_line(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with role_named(b"cl\xe9", engine), database_at(M4_003, engine, tmp_path) as url:
        with psycopg.connect(libpq(url), client_encoding="SQL_ASCII") as connection:
            connection.execute(OWNED_BY_CLE)
        with pytest.raises(NameNotReadable, match=r"bytes .*\(b'.*cl\\xe9.*'\).*; rename it there"):
            migrate(url, "head")
        for command in ("preflight", "verify"):
            assert main([command, "--url", url]) == ExitStatus.REFUSED
            out, err = capfd.readouterr()
            assert "rename it there (ALTER TABLE" in err
            assert "Traceback" not in out + err


#: A database in UTF8 does not take the name in a statement.
OWNED_BY_CLE = b"""\
DO $$ DECLARE
  name text;
  owner name := (SELECT rolname FROM pg_roles WHERE rolname ~ '^cl');
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('ALTER TABLE %I OWNER TO %I', name, owner);
  END LOOP;
END $$"""


@pytest.mark.parametrize(
    "command", ["upgrade", "status", "preflight", "verify", "history", "plans"]
)
def test_file_whose_schema_cannot_be_read_is_said_to_be_damaged(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """As an interrupted run leaves it where its journal is lost."""
    with database_at(M4_003, "sqlite", tmp_path) as url:
        file = Path(url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(file, isolation_level=None)) as driver:
            driver.execute("PRAGMA writable_schema = ON")
            driver.execute("UPDATE sqlite_master SET rootpage = 99999 WHERE name = 'v3_plans'")
        before = file.read_bytes()
        capfd.readouterr()
        status = main([command, "-q", "--url", url])

        said = "".join(capfd.readouterr())
        assert status != 0
        assert said.count("\n") == 1
        assert "is damaged (malformed database schema (v3_plans) - invalid rootpage)" in said
        assert file.read_bytes() == before
