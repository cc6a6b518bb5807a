"""However many processes begin a migration, one of them does it, and the others say why not."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from cleveragents_plans.evolution import (
    run_in_batches,
    with_exclusive_lock,
)
from cleveragents_plans.evolution.errors import ExternalTransaction, WrongDialect
from cleveragents_plans.evolution.runner.connection_errors import ConnectionFailed
from cleveragents_plans.evolution.runner.migration_lock import (
    MigrationLockNotObtained,
    lock_key,
    migration_lock,
    migration_lock_holders,
)
from cleveragents_plans.evolution.settings import Settings
from support.databases import SERVERS
from support.online import client, meanwhile
from support.tiny_chain import tiny_chain
from support.waiting import wait_until

TESTS = Path(__file__).parents[2]
# They are forked when everything is imported, so that ten cost not much more than one.
TEN = """\
import logging, os, sys, time
from pathlib import Path
from alembic import command
from support.tiny_chain import tiny_chain

_, folder, url = sys.argv

def until_all_others_wait(op):
    while sum("another process is migrating" in log.read_text() for log in logs()) < 9:
        time.sleep(0.05)

def logs():
    return Path(folder).glob("*.log")

def upgrade(number):
    logging.basicConfig(level=logging.INFO, filename=Path(folder, f"{number}.log"))
    chain = tiny_chain(Path(folder, "chain"), url, stop=until_all_others_wait)
    command.upgrade(chain, "head")

processes = []
for number in range(10):
    process = os.fork()
    if not process:
        upgrade(number)
        sys.exit()
    processes.append(process)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0 for process in processes))
"""


@pytest.fixture
def engine(postgresql_url):
    return create_engine(
        postgresql_url, poolclass=NullPool, connect_args={"application_name": "pod 7"}
    )


def end(url, pid):
    with client(url) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])


@pytest.mark.fault
@pytest.mark.parametrize("postgresql_url", SERVERS[:1], indirect=True)
def test_one_of_ten_processes_migrates_and_nine_find_nothing_to_do(postgresql_url, tmp_path):
    tiny_chain(tmp_path / "chain", postgresql_url)

    subprocess.run(
        [sys.executable, "-c", TEN, str(tmp_path), postgresql_url],
        cwd=TESTS, check=True, timeout=240,
    )  # fmt: skip

    said = [log.read_text() for log in tmp_path.glob("*.log")]
    assert sum("Running upgrade a1_first -> b2_middle" in text for text in said) == 1
    assert sum("another process is migrating" in text for text in said) == 9
    with client(postgresql_url) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            ("c3_last",)
        ]


def test_waiting_run_names_the_holder_and_gives_up_in_the_end(engine, caplog):
    with engine.connect() as first, engine.connect() as second, migration_lock(first, ["public"]):
        pid = first.connection.driver_connection.info.backend_pid
        with (
            caplog.at_level(logging.INFO),
            pytest.raises(MigrationLockNotObtained, match="migration-lock-wait") as given_up,
            migration_lock(second, ["public"], Settings(migration_lock_wait=2, report_every=0.2)),
        ):
            pytest.fail("two have the lock")

        assert given_up.value.waited >= 1
        assert [(one.pid, one.application) for one in given_up.value.holders] == [(pid, "pod 7")]
        assert caplog.text.count(f"pid {pid} pod 7 (connected since") >= 2
        assert not second.in_transaction()


def test_waiting_run_gets_the_lock_next(engine, caplog):
    got, released = threading.Event(), []

    def hold():
        with engine.connect() as first, migration_lock(first, ["public"]):
            got.set()
            wait_until(lambda: "another process is migrating" in caplog.text)
            released.append(True)

    with caplog.at_level(logging.INFO), meanwhile(hold), engine.connect() as second:
        got.wait(120)
        with migration_lock(second, ["public"]):
            assert released


def test_the_connection_is_left_in_no_transaction_at_its_own_isolation_level(postgresql_url):
    engine = create_engine(postgresql_url, poolclass=NullPool, isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        with migration_lock(connection, ["public"]):
            assert not connection.in_transaction()
            assert connection.get_isolation_level() == "REPEATABLE READ"
            connection.rollback()
            connection.exec_driver_sql("SELECT 1")
        assert not connection.in_transaction()
        assert connection.get_isolation_level() == "REPEATABLE READ"


def test_migration_lock_is_released_after_an_error_in_a_transaction(engine):
    with engine.connect() as first:
        with pytest.raises(SQLAlchemyError), migration_lock(first, ["public"]):
            first.exec_driver_sql("SELECT no_such_column")

        with (
            engine.connect() as second,
            migration_lock(second, ["public"], Settings(migration_lock_wait=0)),
        ):
            pass


def test_migration_lock_is_released_when_its_connection_dies(engine, postgresql_url):
    def use_and_lose(connection):
        with migration_lock(connection, ["public"]):
            end(postgresql_url, connection.connection.driver_connection.info.backend_pid)
            connection.exec_driver_sql("SELECT 1")

    with engine.connect() as first, pytest.raises(SQLAlchemyError):
        use_and_lose(first)

    with (
        engine.connect() as second,
        migration_lock(second, ["public"], Settings(migration_lock_wait=60)),
    ):
        pass


def test_a_connection_in_a_transaction_is_refused(engine):
    with (
        engine.connect() as connection,
        connection.begin(),
        pytest.raises(ExternalTransaction),
        migration_lock(connection, ["public"]),
    ):
        pass


def test_another_dialect_is_refused():
    with (
        create_engine("sqlite://").connect() as connection,
        pytest.raises(WrongDialect, match="migration_lock"),
        migration_lock(connection, ["public"]),
    ):
        pass


@pytest.mark.parametrize(
    "when", ["between statements", "waiting for a lock", "in a short lock", "in a backfill"]
)
def test_a_connection_that_is_lost_is_one_line(postgresql_url, tmp_path, when):
    def lose(op):
        pid = op.get_bind().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        if when == "between statements":
            end(postgresql_url, pid)
            return
        later = threading.Timer(0.3, end, (postgresql_url, pid))
        later.start()
        if when == "waiting for a lock":
            with client(postgresql_url, autocommit=False) as idle:
                idle.execute("SELECT 1 FROM toy")
                with_exclusive_lock(op, "toy", "SELECT 1")
        elif when == "in a short lock":
            with_exclusive_lock(op, "toy", "SELECT pg_sleep(600)")
        else:
            run_in_batches(
                op,
                "toy",
                key="id",
                needs="TRUE",
                update="SELECT pg_sleep(600) FROM public.toy t WHERE {batch}",
            )

    with pytest.raises(ConnectionFailed) as lost:
        command.upgrade(tiny_chain(tmp_path / "chain", postgresql_url, stop=lose), "head")

    assert str(lost.value).startswith("the connection to the toy database was lost (")
    assert "run the same command again" in str(lost.value)
    assert "\n" not in str(lost.value)

    command.upgrade(tiny_chain(tmp_path / "chain", postgresql_url), "head")


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/nowhere"

    with pytest.raises(ConnectionFailed, match="the toy database cannot be opened") as refused:
        command.upgrade(tiny_chain(tmp_path / "chain", url), "head")

    assert "secret" not in str(refused.value)


def test_schemas_of_a_database_have_locks_of_their_own(engine):
    with client(engine.url.render_as_string(hide_password=False)) as connection:
        connection.execute("CREATE SCHEMA tenant_1; CREATE SCHEMA tenant_2")
    at_once = Settings(migration_lock_wait=0)
    with engine.connect() as first, engine.connect() as second:
        with (
            migration_lock(first, ["tenant_1", "public"]),
            migration_lock(second, ["tenant_2"], at_once),
        ):
            pid = first.connection.driver_connection.info.backend_pid
            assert [each.pid for each in migration_lock_holders(first, ["tenant_1"])] == [pid]
            assert len(migration_lock_holders(first)) == 2
        # A version table that two runs share keeps them apart.
        with (
            migration_lock(first, ["tenant_1", "public"]),
            pytest.raises(MigrationLockNotObtained, match="lock of the schema public is still"),
            migration_lock(second, ["tenant_2", "public"], at_once),
        ):
            pytest.fail("two have the lock")
        with migration_lock(first, ["tenant_2"], at_once):
            pass


def test_prepared_transaction_that_has_the_lock_is_named_with_what_ends_it(engine, postgresql_url):
    key = lock_key()["lock_class"]
    take = "SELECT pg_advisory_xact_lock(%s, 'public'::regnamespace::oid::int)"
    with client(postgresql_url, autocommit=False) as other:
        other.execute(take, [key - 2**32 if key >= 2**31 else key])
        other.execute("PREPARE TRANSACTION 'it''s'")
    try:
        with (
            engine.connect() as connection,
            pytest.raises(MigrationLockNotObtained) as given_up,
            migration_lock(connection, ["public"], Settings(migration_lock_wait=0.1)),
        ):
            pytest.fail("two have the lock")
    finally:
        with client(postgresql_url) as connection:
            connection.execute("ROLLBACK PREPARED 'it''s'")

    told = str(given_up.value)
    assert re.search(r"by a prepared transaction \(of \d{4}-\d\d-\d\d .*; end it with ", told)
    assert "end it with ROLLBACK PREPARED 'it''s')" in told
