"""The heartbeat: how far a run is, how it ended, and that it never stops one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import NullPool, create_engine

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.runner.runs import Run, RunsTable
from support.broken import libpq
from support.databases import empty_database
from support.tiny_chain import FIRST, LAST, MIDDLE, tiny_chain
from support.waiting import wait_until


def runs(url: str) -> list[Run]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return RunsTable("alembic_version", "public").read(connection)


def ended_runs(url: str) -> list[Run]:
    """Give the runs when all have ended; the thread that notes the end may be late."""
    wait_until(lambda: all(each.ended_at for each in runs(url)))
    return runs(url)


def when_run(act: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let *act* be called when the revision is run, and not when it is rehearsed."""
    return lambda op: None if op.get_context().as_sql else act(op)


@pytest.mark.parametrize(
    ("error", "outcome", "why"),
    [
        (EvolutionError("no room for this"), "failed", "no room for this"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
)
def test_run_that_ends_early_says_where_and_why(
    error: BaseException, outcome: str, why: str | None, tmp_path: Path
):
    def stop(_op: object) -> None:
        raise error

    with empty_database("postgresql-18", tmp_path) as url:
        with pytest.raises(type(error)):
            command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [found] = ended_runs(url)

    assert (found.outcome, found.error) == (outcome, why)
    assert (found.revision, found.revision_after) == (MIDDLE, FIRST)
    assert found.ended_at is not None


def test_runs_are_noted_where_the_server_quotes_every_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with empty_database("postgresql-18", tmp_path) as url:
        with psycopg.connect(libpq(url), autocommit=True) as client:
            database = client.info.dbname
            client.execute(f'ALTER DATABASE "{database}" SET quote_all_identifiers = on'.encode())

            command.upgrade(tiny_chain(tmp_path / "chain", url), MIDDLE)
            command.upgrade(tiny_chain(tmp_path / "chain", url), "head")

            client.execute(f'ALTER DATABASE "{database}" RESET quote_all_identifiers'.encode())
        found = ended_runs(url)

    assert [each.outcome for each in found] == ["done", "done"]
    assert not [each for each in caplog.messages if "has other columns" in each]


def test_run_whose_connection_was_ended_is_noted_as_failed(tmp_path: Path):
    def stop(op: Any) -> None:
        pid = op.get_bind().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with psycopg.connect(libpq(url), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        op.execute("SELECT 1")

    with empty_database("postgresql-18", tmp_path) as url:
        with pytest.raises(EvolutionError, match="was lost"):
            command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [found] = ended_runs(url)

    assert found.outcome == "failed"
    assert "the connection to the toy database was lost" in (found.error or "")


def test_heartbeat_tells_which_revision_runs_and_what_it_waits_for(tmp_path: Path):
    seen: list[Run] = []

    holding = threading.Event()

    def hold() -> None:
        with psycopg.connect(libpq(url)) as other:
            other.execute("SELECT * FROM toy FOR UPDATE")
            holding.set()
            seen.append(wait_until(lambda: next((r for r in runs(url) if r.waiting_for), None)))

    def stop(_op: object) -> None:
        holder.start()
        assert holding.wait(60)

    holder = threading.Thread(target=hold, daemon=True)
    with empty_database("postgresql-18", tmp_path) as url:
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [last] = ended_runs(url)

    assert (seen[0].revision, seen[0].outcome) == (MIDDLE, "running")
    assert seen[0].what == "filling toy"
    assert (seen[0].done, seen[0].total) == (0, 100)
    assert "sessions that lock the table: pid" in (seen[0].waiting_for or "")
    assert (last.outcome, last.revision_after) == ("done", LAST)


def test_heartbeat_does_not_write_to_a_table_that_was_put_in_the_place_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def stop(_op: object) -> None:
        wait_until(lambda: runs(url)[0].revision == MIDDLE)
        with psycopg.connect(libpq(url)) as other:
            other.execute("CREATE SEQUENCE fired")
            other.execute("CREATE TABLE planted (LIKE evolution_runs)")
            other.execute(
                "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN PERFORM nextval('public.fired'); RETURN NULL; END$$"
            )
            other.execute(
                "CREATE TRIGGER t BEFORE UPDATE ON planted EXECUTE FUNCTION public.fire()"
            )
            other.execute("DROP TABLE evolution_runs")
            other.execute("ALTER TABLE planted RENAME TO evolution_runs")
        wait_until(lambda: "has the trigger" in caplog.text)

    with empty_database("postgresql-18", tmp_path) as url:
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        with psycopg.connect(libpq(url)) as client:
            assert client.execute("SELECT is_called FROM fired").fetchone() == (False,)


def test_heartbeat_goes_on_while_a_statement_runs(tmp_path: Path):
    def stop(op: Any) -> None:
        # Within one statement.
        op.execute(
            "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM public.evolution_runs"
            " WHERE updated_at > began_at) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$"
        )
        beats.append(runs(url)[0].updated_at)

    beats: list[str | None] = []
    with empty_database("postgresql-18", tmp_path) as url:
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [run] = ended_runs(url)

    assert beats[0] is not None
    assert beats[0] > run.began_at


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-5", "1e-300"])
def test_rate_that_is_none_is_not_taken_from_the_row(rate: str, tmp_path: Path):
    def stop(_op: object) -> None:
        with psycopg.connect(libpq(url), autocommit=True) as other:
            wait_until(lambda: runs(url))
            other.execute("UPDATE evolution_runs SET rows_per_second = %s", [rate])
        written = runs(url)[0].updated_at
        first = wait_until(lambda: runs(url)[0].updated_at != written and runs(url)[0].updated_at)
        wait_until(lambda: runs(url)[0].updated_at != first)

    with empty_database("postgresql-18", tmp_path) as url:
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [run] = ended_runs(url)

    assert (run.outcome, run.revision_after) == ("done", LAST)


def test_heartbeat_whose_connection_is_ended_connects_again_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    end = (
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
        "WHERE application_name = 'cleveragents-plans heartbeat' AND datname = current_database()"
    )

    def stop(_op: object) -> None:
        with psycopg.connect(libpq(url), autocommit=True) as other:
            for _ in range(2):
                wait_until(lambda: other.execute(end.encode()).fetchone())

    with empty_database("postgresql-18", tmp_path) as url, caplog.at_level(logging.WARNING):
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [run] = ended_runs(url)

    assert (run.outcome, run.revision_after) == ("done", LAST)
    assert len([m for m in caplog.messages if "evolution_runs" in m]) == 1


def test_run_that_was_killed_is_interrupted_and_the_next_one_says_so(tmp_path: Path):
    with empty_database("postgresql-18", tmp_path) as url:
        command.upgrade(tiny_chain(tmp_path / "chain", url), FIRST)
        with psycopg.connect(libpq(url), autocommit=True) as other:
            ended_runs(url)
            other.execute("UPDATE evolution_runs SET outcome = 'running', ended_at = NULL")
            assert [each.outcome for each in runs(url)] == ["interrupted"]
            command.upgrade(tiny_chain(tmp_path / "chain", url), MIDDLE)
            ended_runs(url)
            kept = other.execute(
                "SELECT outcome, ended_at IS NULL FROM evolution_runs ORDER BY began_at"
            ).fetchall()

    assert kept == [("interrupted", False), ("done", False)]


def test_lock_on_the_row_holds_no_run_up(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def stop(_op: object) -> None:
        with psycopg.connect(libpq(url)) as other:
            other.execute("LOCK TABLE evolution_runs IN ACCESS EXCLUSIVE MODE")
            wait_until(lambda: any("evolution_runs" in m for m in caplog.messages))

    with empty_database("postgresql-18", tmp_path) as url, caplog.at_level(logging.WARNING):
        command.upgrade(tiny_chain(tmp_path / "chain", url, stop=when_run(stop)), "head")
        [run] = ended_runs(url)

    assert (run.outcome, run.revision_after) == ("done", LAST)
