"""A statement that waits for a lock in vain names the table, and the session that holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.evolution.postgresql import lock_timeouts
from cleveragents_plans.schema import sessions
from support.databases import database_at
from support.online import client
from support.revisions import M4_003, M8_001
from support.toys import execute

READERS = [["status"], ["history"], ["preflight"], ["verify"], ["plans"], ["throttle", "pause"]]
RUNS = [["current"], ["upgrade"], ["downgrade", M8_001]]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sessions._SESSION, "lock_timeout", "100ms")


def said_by(command: list[str], url: str, capfd: pytest.CaptureFixture[str]) -> str:
    assert main([*command, "--url", url]) == ExitStatus.AGAIN
    err = capfd.readouterr().err
    return "".join(err.splitlines(keepends=True)[-1:])


@pytest.mark.parametrize("command", READERS + RUNS, ids=lambda command: command[0])
def test_session_that_locks_the_version_table_is_named(
    command: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    wait = ["-x", "lock-wait=0.1"] if command in RUNS else []
    with (
        database_at("head", "postgresql-18", tmp_path) as url,
        client(url, autocommit=False) as holder,
    ):
        holder.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        pid = holder.info.backend_pid

        said = said_by([*command, *wait], url, capfd)

        holder.rollback()
        assert "no lock on public.alembic_version in " in said
        assert f"pid {pid} " in said
        assert "idle in transaction" in said
        assert f"SELECT pg_terminate_backend({pid})" in said


def test_session_that_locks_a_version_table_of_others_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with (
        database_at(M4_003, "postgresql-18", tmp_path) as url,
        client(url, autocommit=False) as holder,
    ):
        execute(
            url,
            "DELETE FROM alembic_version",
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.versions (version_num text)",
            "CREATE TABLE other (a int)",
        )
        holder.execute("LOCK TABLE other, shop.versions IN ACCESS EXCLUSIVE MODE")

        said = said_by(["status"], url, capfd)

        holder.rollback()
        assert "no lock on shop.versions in " in said
        assert f"pid {holder.info.backend_pid} " in said


def test_session_that_locks_the_table_of_runs_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with (
        database_at("head", "postgresql-18", tmp_path) as url,
        client(url, autocommit=False) as holder,
    ):
        # In which '\\s' is an s.
        name = make_url(url).database
        execute(url, f"ALTER DATABASE {name} SET standard_conforming_strings = off")
        holder.execute("LOCK TABLE evolution_runs  IN ACCESS EXCLUSIVE MODE -- ss")

        said = said_by(["history"], url, capfd)

        holder.rollback()
        assert "no lock on public.evolution_runs in " in said
        assert ": LOCK TABLE evolution_runs IN ACCESS EXCLUSIVE MODE -- ss;" in said


@pytest.mark.parametrize("command", [*READERS[2:5], RUNS[2]], ids=lambda command: command[0])
def test_session_that_locks_a_table_of_others_is_not_blamed(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with (
        database_at("head", "postgresql-18", tmp_path) as url,
        client(url, autocommit=False) as innocent,
        client(url, autocommit=False) as holder,
    ):
        execute(url, "CREATE SCHEMA shop", "CREATE TABLE t (a int)", "CREATE TABLE plan (a int)",
                "CREATE TABLE shop.v3_plans (a int)")  # fmt: skip
        innocent.execute("LOCK TABLE t, plan, shop.v3_plans IN ACCESS EXCLUSIVE MODE")
        holder.execute("LOCK TABLE v3_plans IN ACCESS EXCLUSIVE MODE")
        wait = ["-x", "lock-wait=0.1"] if command in RUNS else []

        said = said_by([*command, *wait], url, capfd)

        innocent.rollback()
        holder.rollback()
        assert "no lock on public.v3_plans in " in said
        assert f"SELECT pg_terminate_backend({holder.info.backend_pid})" in said
        assert f"pid {innocent.info.backend_pid} " not in said


@pytest.mark.parametrize(
    ("statement", "values", "named"),
    [
        ("SELECT FROM public.v3_plans t", {}, True),
        ('SELECT FROM "public"."v3_plans"', {}, True),
        ("SELECT FROM public.v3_plans_old", {}, False),
        ("SELECT FROM x.public.v3_plans, shop.v3_plans", {}, False),
        ("SELECT v3_plans FROM public.t v3_plans", {}, False),
        ("SELECT %(names)s", {"names": ["v3_plans", "other"], "schema": "public"}, True),
        ("SELECT %(names)s", {"names": ["v3_plans"], "schema": "shop"}, False),
        ("SELECT to_regclass(%(table)s)", {"table": '"public".v3_plans'}, True),
        ("SELECT %(oids_1)s", {"oids_1": 16384}, True),
        ("SELECT %(rows)s", {"rows": 16384}, False),
    ],
)
def test_table_is_named_by_its_whole_name_or_its_oid(
    statement: str, values: dict[str, object], named: bool
):
    table = lock_timeouts._Table(16384, ("public", "v3_plans"), "public.v3_plans")

    assert table.is_named_by(OperationalError(statement, values, Exception())) is named
