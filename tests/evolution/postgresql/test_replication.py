"""Who reads from replicas, publications and subscriptions is thought of before a run begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from cleveragents_plans.evolution.postgresql.replication import (
    RowsArePublished,
    UpdatesNotReplicable,
)
from support import postgres
from support.databases import SERVERS, migrate, roll_back
from support.former_release import write_former_release
from support.online import client
from support.revisions import M4_003, M8_001


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer]:
    """A server of its own, which can be followed and subscribed to."""
    own = postgres.PostgresServer(
        postgres.binaries()[request.param],
        {"wal_level": "logical", "wal_retrieve_retry_interval": "200ms"},
        within=postgres.memory_folder(),
    )
    yield own
    own.close()


def warned(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [text for text in caplog.messages if words in text]


STANDBY = "max_standby_streaming_delay"


@pytest.mark.slow
def test_replica_is_warned_of_once(
    server: postgres.PostgresServer, caplog: pytest.LogCaptureFixture
):
    url = server.create_database()
    migrate(url, M4_003)
    assert warned(caplog, STANDBY) == []

    with server.replica(), caplog.at_level(logging.WARNING):
        migrate(url, M8_001)
        assert len(warned(caplog, STANDBY)) == 1
        assert "replicas are attached (walreceiver)" in warned(caplog, STANDBY)[0]

        migrate(url, M8_001)  # nothing to do
        assert len(warned(caplog, STANDBY)) == 1

        roll_back(url, M4_003)
        assert len(warned(caplog, STANDBY)) == 2


@contextmanager
def subscribed(
    server: postgres.PostgresServer, source: str, url: str, tables: str
) -> Iterator[None]:
    """Let the database *url* subscribe to *tables* of *source*."""
    name = f"plans_{make_url(url).database}"
    where = f"host={server.folder} user=postgres dbname={make_url(source).database}"
    with client(source) as publisher, client(url) as subscriber:
        publisher.execute(f"CREATE PUBLICATION plans FOR {tables}".encode())
        publisher.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        subscriber.execute(
            f"CREATE SUBSCRIPTION {name} CONNECTION '{where}' PUBLICATION plans"
            " WITH (create_slot = false, copy_data = false)".encode()
        )
        server.wait_for(f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{name}'")
        try:
            yield
        finally:
            subscriber.execute(f"DROP SUBSCRIPTION {name}".encode())


@pytest.mark.parametrize("tables", ["TABLE v3_plans", "ALL TABLES"])
def test_publication_and_subscription_are_warned_of(
    server: postgres.PostgresServer, caplog: pytest.LogCaptureFixture, tables: str
):
    source, url = server.create_database(), server.create_database()
    for each in (source, url):
        migrate(each, M4_003)
    with subscribed(server, source, url, tables), caplog.at_level(logging.WARNING):
        migrate(url, M8_001)
        (told,) = warned(caplog, "subscriptions")
        assert f"are written by subscriptions (plans_{make_url(url).database})" in told
        assert "the one to migrate first" in told
        assert warned(caplog, "are published") == []

        caplog.clear()
        migrate(source, M8_001)
        (told,) = warned(caplog, "are published")
        everything = " FOR ALL TABLES" if tables == "ALL TABLES" else ""
        assert f"are published (plans{everything}; logical replication slots: plans_test_" in told
        assert "Migrate every subscriber first" in told
        assert warned(caplog, STANDBY) == []


def test_publication_of_other_tables_is_not_warned_of(
    server: postgres.PostgresServer, caplog: pytest.LogCaptureFixture
):
    source, url = server.create_database(), server.create_database()
    for each in (source, url):
        with client(each) as connection:
            connection.execute("CREATE TABLE toy (id int PRIMARY KEY)")
    with subscribed(server, source, url, "TABLE toy"), caplog.at_level(logging.WARNING):
        migrate(source, M8_001)
        migrate(url, M8_001)

    assert warned(caplog, "are published") == []
    assert warned(caplog, "subscriptions") == []
    # Nor is a logical subscriber a replica.
    assert warned(caplog, STANDBY) == []


PUBLICATIONS = {
    "ALL TABLES": "plans FOR ALL TABLES",
    "TABLES IN SCHEMA public": "plans",
}


@pytest.mark.slow
@pytest.mark.parametrize("tables", PUBLICATIONS)
def test_rows_that_subscribers_have_no_table_for_are_not_written(
    server: postgres.PostgresServer, tables: str
):
    if server.major < 15:
        pytest.skip("FOR TABLES IN SCHEMA needs PostgreSQL 15")
    source, url = server.create_database(), server.create_database()
    for each in (url, source):
        migrate(each, M8_001)
    archive = "v3_plans_snapshot_archive"
    with client(source) as connection:
        connection.execute(
            "INSERT INTO v3_plans (plan_id, root_plan_id, action_name, created_at, updated_at,"
            " effective_profile_snapshot) VALUES ('a', 'a', 'local/x', 'now', 'now', '{1}')"
        )
    with subscribed(server, source, url, tables):
        with pytest.raises(RowsArePublished) as refused:
            roll_back(source, M4_003)
        told = str(refused.value)
        assert f"writes to {archive} are published ({PUBLICATIONS[tables]})" in told
        assert f"(plans_{make_url(url).database})" in told
        assert told.endswith("; nothing was changed")

        # What it says helps; and then the archive, which is there, must not be published.
        with client(source) as publisher:
            publisher.execute("DROP PUBLICATION plans")
            publisher.execute("CREATE PUBLICATION plans FOR TABLE v3_plans")
            roll_back(source, M4_003)
            publisher.execute("DROP PUBLICATION plans")
            publisher.execute(f"CREATE PUBLICATION plans FOR {tables}".encode())
        with pytest.raises(RowsArePublished):
            migrate(source, M8_001)
    with client(source) as publisher:
        publisher.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                          " WHERE database = current_database()")  # fmt: skip
    migrate(source, M8_001)


def test_published_rows_are_written_where_nothing_reads_them(server: postgres.PostgresServer):
    url = server.create_database()
    migrate(url, M8_001)
    with client(url) as connection:
        connection.execute("CREATE PUBLICATION plans FOR ALL TABLES")

    roll_back(url, M4_003)
    migrate(url, M8_001)


def test_each_row_of_a_backfill_goes_through_the_slot_of_a_subscriber_once(
    server: postgres.PostgresServer,
):
    url = server.create_database()
    write_former_release(url, 300, pure=True)
    with client(url) as publisher:
        publisher.execute("CREATE PUBLICATION plans FOR TABLE v3_plans")
        publisher.execute("SELECT pg_create_logical_replication_slot('plans_slow', 'pgoutput')")
        kept = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'plans_slow'"
        before = publisher.execute(kept).fetchone()
        lacking = "SELECT count(*) FROM v3_plans WHERE root_plan_id IS NULL OR automation_profile"
        (rows,) = publisher.execute(f"{lacking} IS NULL").fetchone() or (0,)

        migrate(url, M8_001)

        changes = publisher.execute(
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('plans_slow', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'plans') WHERE get_byte(data, 0) = 85"
        ).fetchone()
        # Without a reader the write-ahead log is kept from before the first.
        assert publisher.execute(kept).fetchone() == before
        publisher.execute("SELECT pg_drop_replication_slot('plans_slow')")
    assert rows > 100
    assert changes == (rows,)


def applied(server: postgres.PostgresServer, source: str, url: str) -> None:
    """Wait until the subscription of *url* has applied everything that *source* has written."""
    with client(source) as publisher:
        [lsn] = publisher.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or ()
    server.wait_for(
        f"SELECT 1 FROM pg_replication_slots WHERE slot_name = 'plans_{make_url(url).database}'"
        f" AND active AND confirmed_flush_lsn >= '{lsn}'"
    )


def plans(url: str, columns: str = "root_plan_id, automation_profile") -> list[tuple[str, ...]]:
    with client(url) as connection:
        query = f"SELECT plan_id, {columns} FROM v3_plans ORDER BY 1"
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize(
    ("prepared", "said", "remedy"),
    [
        (
            "ALTER TABLE v3_plans REPLICA IDENTITY NOTHING",
            "does not have a replica identity",
            "ALTER TABLE public.v3_plans REPLICA IDENTITY DEFAULT",
        ),
        (
            "CREATE PUBLICATION few FOR TABLE v3_plans WHERE (phase <> 'x')",
            "WHERE expression",
            "out of the row filter",
        ),
    ],
    ids=["no identity", "row filter"],
)
def test_published_rows_that_cannot_be_updated_are_refused_before_a_change(
    server: postgres.PostgresServer, prepared: str, said: str, remedy: str
):
    url = server.create_database()
    migrate(url, M4_003)
    with client(url) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        connection.execute(prepared.encode())

    with pytest.raises(UpdatesNotReplicable, match=said) as refused:
        migrate(url, M8_001)

    assert remedy in str(refused.value)
    with client(url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (M4_003,)
        ]
        connection.execute("DROP PUBLICATION everything")


@pytest.mark.slow
def test_subscriber_is_migrated_first_and_rolled_back_last(server: postgres.PostgresServer):
    source, url = server.create_database(), server.create_database()
    for each in (source, url):
        migrate(each, M4_003)
    tables = "TABLE v3_plans, plan_projects, plan_arguments, plan_invariants"
    insert = (
        "INSERT INTO v3_plans (plan_id, parent_plan_id, root_plan_id, action_name, created_at,"
        " updated_at) VALUES ({}, 'local/x', 'now', 'now')"
    )
    with subscribed(server, source, url, tables), client(source) as former_release:
        former_release.execute(insert.format("'a', NULL, NULL").encode())
        applied(server, source, url)
        migrate(url, M8_001)

        # The former release writes what the subscriber forbids; the apply worker fills it in.
        former_release.execute(insert.format("'b', 'a', NULL").encode())
        former_release.execute(insert.format("'c', 'b', 'a'").encode())
        former_release.execute(b"UPDATE v3_plans SET description = 'x'")
        applied(server, source, url)
        filled = [(key, "a", "balanced") for key in "abc"]
        assert plans(url) == filled
        assert [root for _, root, _ in plans(source)] == [None, None, "a"]

        migrate(source, M8_001)
        former_release.execute(b"UPDATE v3_plans SET effective_profile_snapshot = '[1]'")
        applied(server, source, url)
        assert plans(source) == plans(url) == filled
        assert {each for _, each in plans(url, "effective_profile_snapshot")} == {"[1]"}

        roll_back(source, M4_003)
        former_release.execute(insert.format("'d', NULL, NULL").encode())
        applied(server, source, url)
        roll_back(url, M4_003)
        former_release.execute(insert.format("'e', 'd', 'd'").encode())
        applied(server, source, url)
        assert plans(source) == plans(url)
        assert [root for _, root, _ in plans(url)] == [None, "a", "a", None, "d"]
