"""Sessions in the way are named, whatever bytes others have put into their names and statements."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from sqlalchemy import Engine, NullPool, create_engine

from cleveragents_plans.evolution.postgresql.blockers import (
    blockers,
    old_snapshots,
    waited_for,
)
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.locks import ANY_LOCK
from cleveragents_plans.evolution.runner.migration_lock import lock_key, migration_lock_holders
from support.broken import libpq
from support.databases import SERVERS
from support.encodings import database_in, role_named

#: No UTF-8, no EUC_JP, and what SQL and bytea escape.
ODD = b"r\xff\\134'\x81"
SHOWN = r"r\xff\134'\x81"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with a role whose name is no text but in a database in SQL_ASCII."""
    with role_named(ODD, request.param):
        yield request.param


@pytest.fixture
def url(request: pytest.FixtureRequest, server: str) -> Iterator[str]:
    """A database of the encoding that the test names."""
    with database_in(request.param, server, None) as url:
        yield url


@pytest.mark.parametrize("url", ["UTF8", "SQL_ASCII", "EUC_JP", "LATIN1"], indirect=True)
def test_blocker_with_bytes_that_are_no_text_is_named(url: str, monkeypatch: pytest.MonkeyPatch):
    # libpq takes any bytes from there only.
    monkeypatch.setenv("PGUSER", os.fsdecode(ODD))
    anonymous = libpq(url).replace("postgres@", "")
    # A server checks the bytes that a statement has, but in SQL_ASCII.
    comment, said = b"/* it's", "/* it's"
    if "sql_ascii" in url:
        comment, said = b"/* " + ODD, f"/* {SHOWN}"
    engine = engine_in_utf8(url)
    with (
        psycopg.connect(anonymous, client_encoding="SQL_ASCII") as other,
        engine.connect() as connection,
    ):
        other.execute(b"CREATE TABLE toy ()")
        other.commit()
        other.execute(comment + b" */ LOCK TABLE\n\n  toy IN SHARE MODE")
        query = f"{said} */ LOCK TABLE toy IN SHARE MODE"

        (found,) = blockers(connection, ["public.toy"], ANY_LOCK)
        assert (found.user, found.query) == (SHOWN, query)
        assert str(found).endswith(query)
        other.execute(b"SELECT txid_current(), " + b"1 + " * 99 + b"1")
        (found,) = blockers(connection, ["public.toy"], ANY_LOCK)
        assert found.query == f"SELECT txid_current(), {'1 + ' * 99}"[:80] + " ..."
        other.execute(b"DECLARE c CURSOR FOR SELECT " + comment + b" */ 1")
        (found,) = old_snapshots(connection)
        assert (found.user, found.query) == (SHOWN, f"DECLARE c CURSOR FOR SELECT {said} */ 1")
        assert waited_for_by(url, other.info.backend_pid, engine) == (SHOWN, found.query)


def engine_in_utf8(url: str) -> Engine:
    return create_engine(
        f"{url}&client_encoding=utf8", poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )


def waited_for_by(url: str, holder: int, engine: Engine) -> tuple[str | None, str | None]:
    with engine.connect() as connection, waiting(url, "LOCK TABLE toy") as pid:
        (found,) = waited_for(connection, pid)
    assert found.pid == holder
    return found.user, found.query


@contextmanager
def waiting(url: str, statement: str) -> Iterator[int]:
    """Let a session wait for a lock within *statement*; yield its pid."""

    def wait() -> None:
        with suppress(psycopg.errors.QueryCanceled):
            session.execute(statement.encode())

    with psycopg.connect(libpq(url)) as session:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        try:
            query = f"SELECT pg_blocking_pids({session.info.backend_pid}) = '{{}}'"
            until = time.monotonic() + 60
            with psycopg.connect(libpq(url)) as look:
                while look.execute(query.encode()).fetchone() == (True,):
                    assert time.monotonic() < until
                    time.sleep(0.05)
            yield session.info.backend_pid
        finally:
            session.cancel()
            thread.join(60)


@pytest.mark.parametrize("server", ["postgresql-18"], indirect=True)
@pytest.mark.parametrize("url", ["UTF8"], indirect=True)
def test_session_without_a_transaction_is_not_named(url: str):
    """Locks and states are read at different moments: here the states were read before."""
    with (
        psycopg.connect(libpq(url)) as other,
        create_engine(url, poolclass=NullPool).connect() as connection,
    ):
        holder = other.info.backend_pid
        other.execute("CREATE TABLE toy ()")
        other.commit()
        run(connection, "SELECT count(*) FROM pg_stat_activity")
        other.execute("LOCK TABLE toy")
        with waiting(url, "LOCK TABLE toy") as pid:
            assert blockers(connection, ["public.toy"], ANY_LOCK) == []
            assert waited_for(connection, pid) == []
            connection.rollback()
            for found in (
                blockers(connection, ["public.toy"], ANY_LOCK),
                waited_for(connection, pid),
            ):
                assert [(each.pid, each.state) for each in found] == [
                    (holder, "idle in transaction")
                ]


@pytest.mark.parametrize("server", ["postgresql-18"], indirect=True)
@pytest.mark.parametrize("url", ["UTF8"], indirect=True)
def test_idle_session_with_an_advisory_lock_is_named(url: str):
    with psycopg.connect(libpq(url)) as other, engine_in_utf8(url).connect() as connection:
        other.execute("SELECT pg_advisory_lock(7)")
        other.commit()
        with waiting(url, "SELECT pg_advisory_lock(7)") as pid:
            (found,) = waited_for(connection, pid)
        assert (found.pid, found.state) == (other.info.backend_pid, "idle")


@pytest.mark.parametrize("url", ["SQL_ASCII"], indirect=True)
def test_prepared_transaction_with_such_a_name_is_named(url: str):
    engine = engine_in_utf8(url)
    name = ODD.replace(b"'", b"''")
    key = f"{lock_key()['lock_class']}::bigint::bit(32)::int"
    with psycopg.connect(libpq(url), client_encoding="SQL_ASCII") as other:
        other.execute(b"CREATE TABLE toy ()")
        other.commit()
        other.execute(b"LOCK TABLE toy IN SHARE MODE")
        other.execute(f"SELECT pg_advisory_xact_lock({key}, 1)".encode())
        other.execute(b"PREPARE TRANSACTION '" + name + b"'")
        try:
            with engine.connect() as connection:
                (blocker,) = blockers(connection, ["public.toy"], ANY_LOCK)
                (holder,) = migration_lock_holders(connection)
        finally:
            other.rollback()
            other.autocommit = True
            other.execute(b"ROLLBACK PREPARED '" + name + b"'")

    assert (blocker.pid, blocker.query, holder.prepared) == (None, SHOWN, SHOWN)
    assert (
        blocker.ended_by
        == holder.ended_by
        == "ROLLBACK PREPARED '{}'".format(SHOWN.replace("'", "''"))
    )
