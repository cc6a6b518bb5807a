"""What a run needs of the server and of its session is made sure of before anything is changed."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.dialects.postgresql.base import PGDialect

from cleveragents_plans.evolution.postgresql.server import configure_session
from cleveragents_plans.evolution.runner.migration_lock import migration_lock
from support import postgres
from support.databases import ENGINES, migrate, roll_back
from support.online import client
from support.revisions import M4_003

SERVERS = [engine for engine in ENGINES if engine != "sqlite"]


def tables(url: str) -> list[str]:
    with client(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [name for (name,) in rows]


def test_a_server_that_is_too_old_is_refused_in_one_line(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PGDialect, "_get_server_version_info", lambda *_: (13, 22))

    with pytest.raises(CommandError) as refused:
        migrate(postgresql_url, "head")

    told = str(refused.value)
    assert "is PostgreSQL 13.22; expected 14 or newer: upgrade the server first" in told
    assert "\n" not in told
    assert tables(postgresql_url) == []


def test_one_session_all_along_has_the_lock_until_it_gives_it_back(postgresql_url: str):
    engine = create_engine(postgresql_url, poolclass=NullPool)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with engine.connect() as connection:
        with migration_lock(connection), client(postgresql_url) as other:
            assert other.execute(held).fetchone() == (1,)
        with client(postgresql_url) as other:
            assert other.execute(held).fetchone() == (0,)


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer]:
    """A server of its own, which can be reached by TCP and be followed."""
    # An address that nobody else uses, so that the usual port is free.
    address = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
    own = postgres.PostgresServer(
        postgres.binaries()[request.param], {"listen_addresses": address, "wal_level": "logical"}
    )
    with (own.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 127.0.0.0/8 trust\n")
    own.execute("SELECT pg_reload_conf()")
    yield own
    own.close()


def test_a_session_depends_on_nothing_and_ends_soon_after_its_client_has_died(
    server: postgres.PostgresServer,
):
    wanted = {
        "statement_timeout": "0",
        "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "default_transaction_isolation": "read committed",
        "row_security": "off",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }
    with client(server.url()) as connection:
        (address,) = connection.execute("SHOW listen_addresses").fetchone() or ("",)
    engine = create_engine(
        f"postgresql+psycopg://postgres@{address}/postgres",
        poolclass=NullPool,
        connect_args={"options": "-c idle_session_timeout=50ms -c statement_timeout=50ms"},
    )
    with engine.connect() as connection:
        configure_session(connection)

        found = connection.exec_driver_sql("SELECT name, setting FROM pg_settings").all()
        assert {name: value for name, value in found if name in wanted} == wanted


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "max_standby_streaming_delay" in text]


def test_operator_is_warned_of_replicas_once(
    server: postgres.PostgresServer, caplog: pytest.LogCaptureFixture
):
    url = server.create_database()
    migrate(url, M4_003)
    assert warned(caplog) == []

    with server.replica(), caplog.at_level(logging.WARNING):
        migrate(url, "head")
        assert len(warned(caplog)) == 1
        assert "replicas are attached (walreceiver)" in warned(caplog)[0]

        migrate(url, "head")  # nothing to do
        assert len(warned(caplog)) == 1

        roll_back(url, M4_003)
        assert len(warned(caplog)) == 2


def test_a_subscriber_or_a_backup_is_no_replica(
    server: postgres.PostgresServer, caplog: pytest.LogCaptureFixture
):
    source, url = server.create_database(), server.create_database()
    with client(source) as publisher, client(url) as subscriber:
        publisher.execute("CREATE TABLE toy (id int PRIMARY KEY)")
        subscriber.execute("CREATE TABLE toy (id int PRIMARY KEY)")
        publisher.execute("CREATE PUBLICATION toys FOR TABLE toy")
        publisher.execute("SELECT pg_create_logical_replication_slot('toys', 'pgoutput')")
        name = make_url(source).database
        where = f"host={server.folder} user=postgres dbname={name}"
        subscriber.execute(
            f"CREATE SUBSCRIPTION toys CONNECTION '{where}'"
            " PUBLICATION toys WITH (create_slot = false)".encode()
        )
        server.wait_for("SELECT FROM pg_stat_replication WHERE application_name = 'toys'")

        migrate(source, "head")

        subscriber.execute("DROP SUBSCRIPTION toys")
    assert warned(caplog) == []
