"""Without other clients two sessions write, and whatever one of them meets is met by the run."""

from __future__ import annotations

import time
from concurrent.futures import wait

import pytest
from psycopg.errors import OperationalError, RaiseException
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import run_in_batches
from cleveragents_plans.evolution.postgresql import backfill, second_session
from support.online import client, revision
from support.waiting import wait_until

ROWS = 20_000
UPDATE = """\
WITH b AS MATERIALIZED (
  SELECT id FROM public.toy t WHERE {batch} AND t.writer IS NULL
   ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE public.toy t SET writer = current_setting('application_name'), writes = writes + 1
  FROM b WHERE b.id = t.id"""
END_OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class ConnectedSession(second_session.SecondSession):
    """One that is waited for until it is connected, so that the next rows are written by two."""

    def beside(self, queue, work):
        result = super().beside(queue, work)
        if self._connected is None:
            with result:
                pass
            wait([self._connected])
            result = super().beside(queue, work)
        return result


@pytest.fixture
def url(postgresql_url, monkeypatch):
    monkeypatch.setattr(backfill, "SecondSession", ConnectedSession)
    with client(postgresql_url) as connection:
        connection.execute(END_OTHERS)  # a test that failed may have left some
        connection.execute(
            "CREATE TABLE toy (id int PRIMARY KEY, writer text, writes int NOT NULL DEFAULT 0)"
        )
        connection.execute(f"INSERT INTO toy SELECT generate_series(1, {ROWS})")
    return postgresql_url


@pytest.fixture
def no_client_is_seen(monkeypatch):
    """Tests that run beside this one have clients on the same server."""
    monkeypatch.setattr(backfill.Throttle, "_others_work", lambda _throttle: False)


def fill(url, **changed):
    with revision(url) as op:
        arguments = {"key": "id", "needs": "t.writer IS NULL", "update": UPDATE, **changed}
        return run_in_batches(op, "toy", **arguments)


def writers(url):
    query = "SELECT writer = %s, writes, count(*) FROM toy GROUP BY 1, 2"
    with client(url) as connection:
        rows = connection.execute(query, [second_session.SECOND_SESSION]).fetchall()
    assert {row[1] for row in rows} == {1}
    assert sum(row[2] for row in rows) == ROWS
    return {"second" if row[0] else "first" for row in rows}


def test_second_session_writes_batches_beside_the_first(url, no_client_is_seen):
    assert fill(url) == ROWS

    assert writers(url) == {"first", "second"}


def test_second_session_is_gone_with_the_backfill(url, no_client_is_seen):
    fill(url)

    with client(url) as connection:
        query = "SELECT FROM pg_stat_activity WHERE application_name = %s"
        name = [second_session.SECOND_SESSION]
        wait_until(lambda: not connection.execute(query, name).fetchall())


def test_one_session_writes_beside_clients(url, monkeypatch):
    def a_client_is_seen(throttle):
        throttle._seen = time.monotonic()
        return True

    monkeypatch.setattr(backfill.Throttle, "_others_work", a_client_is_seen)

    assert fill(url) == ROWS
    assert writers(url) == {"first"}


def test_one_session_writes_when_statements_use_what_it_alone_has(url, no_client_is_seen):
    assert fill(url, setup=["SELECT 1"]) == ROWS

    assert writers(url) == {"first"}


def test_one_session_writes_when_the_server_accepts_no_second_one(
    url, no_client_is_seen, monkeypatch
):
    def refuse(_connection, _name):
        raise OperationalError("too many clients already")

    monkeypatch.setattr(
        "cleveragents_plans.evolution.postgresql.statement_watch.second_connection", refuse
    )

    assert fill(url) == ROWS
    assert writers(url) == {"first"}


def test_error_in_the_second_session_ends_the_run(url, no_client_is_seen):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF current_setting('application_name') = '{second_session.SECOND_SESSION}'"
            " THEN RAISE 'refused by a rule'; END IF; RETURN new; END $$"
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON toy FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    with pytest.raises(DBAPIError, match="refused by a rule") as raised:
        fill(url)

    assert isinstance(raised.value.orig, RaiseException)


def test_first_session_goes_on_by_itself_when_the_second_meets_a_lock(url, no_client_is_seen):
    with client(url) as connection:
        connection.execute(
            "CREATE FUNCTION public.conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF current_setting('application_name') = '{second_session.SECOND_SESSION}'"
            " THEN RAISE lock_not_available; END IF; RETURN new; END $$"
        )
        connection.execute(
            "CREATE TRIGGER conflict BEFORE UPDATE ON toy FOR EACH ROW EXECUTE FUNCTION conflict()"
        )

    assert fill(url) == ROWS
    assert writers(url) == {"first"}
