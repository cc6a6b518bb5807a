"""A strong lock is got without stopping anybody for long, or given up with a reason."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution import (
    with_exclusive_lock,
)
from cleveragents_plans.evolution.errors import ExternalTransaction, WrongDialect
from cleveragents_plans.evolution.postgresql.connection import online
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from support import patience
from support.online import MAX_LOCK_WAIT, client, meanwhile, never_blocked, revision, script
from support.waiting import wait_until

STRANGE = """SELECT '%' a, '100%%' b, ':x' c, '{"a":1}' d, E'\\\\' e, ':1'::text f"""


@pytest.fixture
def url(postgresql_url):
    with client(postgresql_url) as connection:
        connection.execute("CREATE TABLE public.toy (id int PRIMARY KEY, word text)")
        connection.execute("INSERT INTO public.toy SELECT g, 'w' FROM generate_series(1, 100) g")
    return postgresql_url


def columns(url):
    with client(url) as connection:
        rows = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'toy'::regclass"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return [name for (name,) in rows]


def test_the_statements_run_and_commit_before_the_revision_ends(url):
    with revision(url) as op:
        with_exclusive_lock(
            op,
            "toy",
            "ALTER TABLE {schema}.toy ADD a int -- a word",
            "ALTER TABLE {schema}.toy ADD b int",
        )

        assert columns(url) == ["id", "word", "a", "b"]


def test_sql_is_sent_as_it_is_written(url):
    with revision(url) as op:
        with_exclusive_lock(op, "toy", f"CREATE TABLE {{schema}}.strange AS {STRANGE}")

    with client(url) as connection:
        assert connection.execute("SELECT * FROM public.strange").fetchone() == (
            "%", "100%%", ":x", '{"a":1}', "\\", ":1",
        )  # fmt: skip


def test_a_script_has_the_sql_as_it_is_written_and_no_lock(url):
    with script() as (op, written):
        with_exclusive_lock(
            op, "toy", f"CREATE TABLE {{schema}}.strange AS\n{STRANGE};", "SELECT 1 -- the end"
        )

    text = written.getvalue()
    assert STRANGE in text
    assert "LOCK" not in text
    with client(url) as connection:
        connection.execute(text.encode())
        assert connection.execute("SELECT * FROM strange").fetchone()[0:3] == ("%", "100%%", ":x")


SETTINGS = (
    "SELECT current_setting('synchronous_commit'), current_setting('lock_timeout'),"
    " current_setting('statement_timeout'), current_setting('transaction_timeout', true),"
    " current_setting('idle_in_transaction_session_timeout')"
)


@pytest.fixture
def waiting_url(url):
    """A database whose commits wait for the disk, as they do where it matters."""
    name = make_url(url).database
    with client(url) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = on'.encode())
    return url


@pytest.mark.parametrize(
    "statement", ["ALTER TABLE {schema}.toy ADD a int", "ALTER TABLE {schema}.toy DROP none"]
)
def test_exclusive_lock_restores_the_settings_of_the_session(waiting_url, statement):
    with revision(waiting_url) as op:
        before = op.get_bind().exec_driver_sql(SETTINGS).one()
        with suppress(DBAPIError), online(op):
            with_exclusive_lock(op, "toy", statement)

        # The version that is written next must reach the disk, and all before it.
        assert op.get_bind().exec_driver_sql(SETTINGS).one() == before
        assert before[0] == "on"


def test_failing_statement_leaves_nothing_behind(url):
    with (
        revision(url) as op,
        online(op),
        pytest.raises(DBAPIError, match="no_such_column"),
    ):
        with_exclusive_lock(
            op,
            "toy",
            "ALTER TABLE {schema}.toy ADD a int",
            "ALTER TABLE {schema}.toy DROP no_such_column",
        )

    assert columns(url) == ["id", "word"]


@pytest.fixture
def limit_as_released():
    patience.set_limit(patience.AS_RELEASED)
    yield
    patience.set_limit("120s")


def test_session_that_freezes_under_the_lock_is_ended_by_the_server(url, limit_as_released):
    waited = []

    def freeze(_connection, _cursor, statement, *_):
        if "ADD frozen" in statement:
            begun = time.monotonic()
            with client(url) as other:
                other.execute("SET statement_timeout = '120s'")
                other.execute("SELECT FROM public.toy")
                waited.append(time.monotonic() - begun)

    event.listen(Engine, "before_cursor_execute", freeze)
    try:
        with pytest.raises((DBAPIError, PendingRollbackError)), revision(url) as op:
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD frozen int")
    finally:
        event.remove(Engine, "before_cursor_execute", freeze)

    assert waited[0] > 1  # it is ended after five
    assert columns(url) == ["id", "word"]


def test_blocks_can_be_nested_and_alembic_goes_on_afterwards(url):
    with revision(url) as op:
        with online(op) as connection:
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD b int")
            connection.exec_driver_sql("INSERT INTO public.toy VALUES (200, 'x')")
        op.execute("INSERT INTO public.toy VALUES (201, 'x')")

        with client(url) as other:
            assert other.execute("SELECT count(*) FROM toy WHERE id >= 200").fetchone() == (1,)
    with client(url) as other:
        assert other.execute("SELECT count(*) FROM public.toy WHERE id >= 200").fetchone() == (2,)


def test_clients_do_not_queue_while_a_lock_waits_for_an_idle_transaction(url, caplog):
    idle = client(url, autocommit=False)
    idle.execute("SELECT 1 FROM public.toy")
    pid = idle.info.backend_pid

    def end_it():
        try:
            wait_until(lambda: f"pid {pid}" in caplog.text)
            time.sleep(MAX_LOCK_WAIT + 1)  # which a client behind it would wait for
        finally:
            idle.rollback()

    with (
        caplog.at_level(logging.WARNING),
        never_blocked(url, "UPDATE public.toy SET word = 'x' WHERE id = 7"),
        meanwhile(end_it),
        revision(url, report_every=1) as op,
    ):
        with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")
    idle.close()

    assert columns(url) == ["id", "word", "a"]
    assert "idle in transaction" in caplog.text
    assert "SELECT 1 FROM public.toy" in caplog.text


def test_lock_is_granted_among_transactions_that_overlap_without_a_gap(url):
    done = threading.Event()

    def read_all_the_time():
        with client(url, autocommit=False) as connection:
            while not done.is_set():
                connection.execute("SELECT 1 FROM public.toy LIMIT 1")
                time.sleep(0.012)
                connection.commit()

    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(meanwhile(read_all_the_time))
        stack.callback(done.set)
        with revision(url, lock_wait=120) as op:
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")

    assert columns(url) == ["id", "word", "a"]


def test_lock_wait_ends_with_the_blockers_and_the_lock_can_be_taken_again(url):
    with client(url, autocommit=False) as idle:
        idle.execute("SELECT 1 FROM public.toy")
        with (
            pytest.raises(LockNotObtained, match="run the same command again") as given_up,
            revision(url, lock_wait=1) as op,
        ):
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")

        assert columns(url) == ["id", "word"]
        assert given_up.value.table == "public.toy"
        assert given_up.value.waited >= 1
        assert [blocker.pid for blocker in given_up.value.blockers] == [idle.info.backend_pid]
        assert given_up.value.blockers[0].state == "idle in transaction"
        idle.rollback()

        with revision(url, lock_wait=60) as op:
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")
    assert columns(url) == ["id", "word", "a"]


def test_a_session_that_bars_the_gate_is_named_too(url):
    with client(url, autocommit=False) as other:
        query = "LOCK TABLE public.toy IN SHARE UPDATE EXCLUSIVE MODE"
        other.execute(f"{query}  /* {100 * 'x'} */")
        with (
            pytest.raises(LockNotObtained) as given_up,
            revision(url, lock_wait=0.2) as op,
        ):
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")

    [blocker] = given_up.value.blockers
    assert blocker.mode == "ShareUpdateExclusiveLock"
    # The beginning, and a mark that it goes on.
    assert blocker.query == f"{query} /* {100 * 'x'}"[:80] + " ..."


def test_prepared_transaction_that_blocks_is_named_with_the_way_to_end_it(url):
    lost = "lost  one, " + 100 * "x"
    with client(url) as other:
        # Subtransactions have ids of their own, which name nothing.
        other.execute("BEGIN")
        other.execute("UPDATE public.toy SET word = 'x' WHERE id = 1")
        other.execute("SAVEPOINT s")
        other.execute("UPDATE public.toy SET word = 'x' WHERE id = 2")
        other.execute(f"PREPARE TRANSACTION '{lost}'")
        try:
            with (
                pytest.raises(LockNotObtained, match="ROLLBACK PREPARED") as given_up,
                revision(url, lock_wait=0.2) as op,
            ):
                with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")
        finally:
            other.execute(f"ROLLBACK PREPARED '{lost}'")

    (blocker,) = given_up.value.blockers
    assert (blocker.pid, blocker.query, blocker.mode) == (None, lost, "RowExclusiveLock")
    assert blocker.ended_by == f"ROLLBACK PREPARED '{lost}'"
    assert blocker.age is not None
    assert 0 <= blocker.age < 60


def test_readers_and_writers_go_on_during_the_wait_for_the_weaker_lock(url):
    with (
        client(url, autocommit=False) as other,
        never_blocked(url, "UPDATE public.toy SET word = 'x' WHERE id = 7"),
    ):
        other.execute("LOCK TABLE public.toy IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(LockNotObtained), revision(url, lock_wait=MAX_LOCK_WAIT + 1) as op:
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")


def test_an_autovacuum_gives_way(url):
    with client(url) as connection:
        connection.execute("CREATE TABLE big (id int) WITH (autovacuum_vacuum_cost_delay = 100,"
                           " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 0,"
                           " autovacuum_vacuum_scale_factor = 0)")  # fmt: skip
        connection.execute("INSERT INTO big SELECT generate_series(1, 200000)")
        connection.execute("DELETE FROM big")
        connection.execute("ALTER SYSTEM SET autovacuum = on")
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            at_work = "SELECT FROM pg_stat_activity WHERE query LIKE 'autovacuum:%big%'"
            wait_until(lambda: connection.execute(at_work).fetchall())

            # It would go on for minutes.
            with revision(url, lock_wait=60) as op:
                with_exclusive_lock(op, "big", "ALTER TABLE {schema}.big ADD a int")
        finally:
            connection.execute("ALTER SYSTEM RESET autovacuum")
            connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
            connection.execute("SELECT pg_reload_conf()")


def test_a_vacuum_by_hand_is_waited_for_and_named(url, caplog):
    with client(url) as connection:
        connection.execute("CREATE TABLE big AS SELECT generate_series(1, 100000) AS id")
        connection.execute("DELETE FROM big")

    def vacuum():
        with client(url) as by_hand:
            by_hand.execute("SET vacuum_cost_delay = 50; SET vacuum_cost_limit = 20")
            by_hand.execute("VACUUM big")

    with caplog.at_level(logging.WARNING), meanwhile(vacuum), client(url) as connection:
        wait_until(lambda: connection.execute("SELECT FROM pg_stat_progress_vacuum").fetchall())
        with revision(url, lock_wait=60, report_every=0.1) as op:
            with_exclusive_lock(op, "big", "ALTER TABLE {schema}.big ADD a int")

    assert "VACUUM big" in caplog.text


def test_a_transaction_that_is_not_alembics_is_refused(url):
    with create_engine(url, poolclass=NullPool).connect() as connection, connection.begin():
        opts = {"table_schema": "public"}
        op = Operations(MigrationContext.configure(connection, opts=opts))
        with pytest.raises(ExternalTransaction, match="transaction_per_migration"):
            with_exclusive_lock(op, "toy", "ALTER TABLE {schema}.toy ADD a int")


def test_another_dialect_is_refused(url):
    with script("sqlite") as (op, _), pytest.raises(WrongDialect, match="with_exclusive_lock"):
        with_exclusive_lock(op, "toy", "SELECT 1")


def test_a_table_is_found_in_its_schema_whatever_it_is_called(url):
    with client(url) as connection:
        connection.execute('CREATE SCHEMA "Odd One"')
        connection.execute('CREATE TABLE "Odd One"."my table" (id int)')

    with revision(url) as op:
        with_exclusive_lock(
            op, "my table", 'ALTER TABLE "Odd One"."my table" ADD a int', schema="Odd One"
        )
