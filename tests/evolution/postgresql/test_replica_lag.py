"""A run pauses while a replica is too far behind, and says which one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.replica_lag import ReplicaLag
from cleveragents_plans.evolution.settings import BadSetting
from support import postgres
from support.broken import break_database, libpq
from support.databases import database_at, migrate
from support.postgres import PostgresServer
from support.revisions import M4_003


def wait_until(holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + 90
    while not (found := holds()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_replica_that_stands_still_is_behind_and_no_more_when_it_has_caught_up():
    server = PostgresServer(postgres.binaries()["postgresql-18"], within=postgres.memory_folder())
    engine = create_engine(server.url(), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        with server.replica() as standby, engine.connect() as connection:
            lag = ReplicaLag(1.0)
            assert wait_until(lambda: lag.reason(connection) == "")
            standby.execute("SELECT pg_wal_replay_pause()")
            server.execute("CREATE TABLE toy ()")
            found = wait_until(lambda: lag.reason(connection))
            assert lag.seconds is not None
            assert lag.seconds > 1
            standby.execute("SELECT pg_wal_replay_resume()")
            wait_until(lambda: lag.reason(connection) == "")
            assert lag.seconds is None

            standby.execute("SELECT pg_wal_replay_pause()")
            server.execute("CREATE TABLE toy2 ()")
            wait_until(lambda: lag.reason(connection))
            standby.stop("immediate")
            wait_until(lambda: lag.reason(connection) == "")
    finally:
        server.close()

    assert found.startswith("the replica walreceiver is ")
    assert found.endswith(" s behind (max-replica-lag=1)")


def test_role_that_may_not_see_the_lag_is_refused_with_the_grant(tmp_path: Path):
    with database_at(M4_003, "postgresql-18", tmp_path) as url:
        role = f"owner_{url.split('/test_')[1].split('?')[0]}"
        with psycopg.connect(libpq(url)) as client:
            query = (
                "SELECT relname FROM pg_class WHERE relkind = 'r' "
                "AND relnamespace = 'public'::regnamespace"
            )
            found = client.execute(query).fetchall()
        break_database(
            url,
            [f"CREATE ROLE {role} LOGIN", f"GRANT CREATE ON SCHEMA public TO {role}",
             *(f"ALTER TABLE {name} OWNER TO {role}" for (name,) in found)],
        )  # fmt: skip
        as_owner = url.replace("postgres@", f"{role}@")
        try:
            with pytest.raises(EvolutionError, match=f"GRANT pg_read_all_stats TO {role}"):
                migrate(as_owner, "head", "max-replica-lag=10s")
            break_database(url, [f"GRANT pg_read_all_stats TO {role}"])
            migrate(as_owner, "head", "max-replica-lag=10s")
        finally:
            break_database(url, [f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}"])


def test_lag_on_sqlite_is_refused(tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url, pytest.raises(BadSetting):
        migrate(url, "head", "max-replica-lag=10")


@pytest.mark.parametrize("value", ["10 minutes", "-1", "s", "inf"])
def test_lag_that_is_no_number_of_seconds_is_refused(value: str, tmp_path: Path):
    with database_at(M4_003, "sqlite", tmp_path) as url, pytest.raises(BadSetting):
        migrate(url, "head", f"max-replica-lag={value}")
