"""A server that goes away in the middle is one line, and the next run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url

from support import postgres
from support.databases import ENGINES, migrate, roll_back
from support.faults import Migration, State, one_clear_line
from support.former_release import write_former_release
from support.online import client
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

PLANS = 3_000
SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
# The rows that are done, in each direction.
DONE = {
    M8_001: "SELECT count(*) FROM v3_plans WHERE automation_profile = 'balanced'",
    M4_003: "SELECT count(*) FROM v3_plans WHERE automation_profile IS NULL",
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[postgres.PostgresServer]:
    # Commits are on disk here, as they are where it matters.
    own = postgres.PostgresServer(
        postgres.binaries()[request.param], {"fsync": "on", "synchronous_commit": "on"}
    )
    yield own
    own.close()


def prepared(server: postgres.PostgresServer, goal: str) -> tuple[str, State]:
    """Make a database, and what an undisturbed run would make of it."""
    url = server.create_database()
    write_former_release(url, PLANS, seed=6)
    if goal == M4_003:
        migrate(url, M8_001)
    twin = server.create_database(template=make_url(url).database)
    (migrate if goal == M8_001 else roll_back)(twin, goal)
    return url, State.of(twin)


def wait_until_some_rows_are_done(url: str, goal: str) -> None:
    until = time.monotonic() + 60
    with client(url) as connection:
        before = connection.execute(DONE[goal].encode()).fetchone()
        while connection.execute(DONE[goal].encode()).fetchone() == before:
            assert time.monotonic() < until
            time.sleep(0.02)


def lose_the_server(server: postgres.PostgresServer, goal: str, mode: str) -> None:
    url, end = prepared(server, goal)
    migration = Migration(url, goal, "rows-per-second=200")
    wait_until_some_rows_are_done(url, goal)

    server.stop(mode)
    ended = migration.ended()
    refused = Migration(url, goal).ended()
    server.start()

    line = one_clear_line(ended.said)
    assert ended.status not in (0, None)
    assert "the connection to postgresql" in line
    assert "was lost" in line
    assert "run the same command again" in line
    assert refused.status not in (0, None)
    assert "cannot be opened" in one_clear_line(refused.said)
    again = Migration(url, goal).ended()
    assert again.status == 0, again.said
    assert State.of(url) == end


@pytest.mark.fault
@pytest.mark.parametrize("mode", ["immediate", "fast"])
@pytest.mark.parametrize("goal", [M8_001, M4_003], ids=["up", "down"])
def test_run_can_be_repeated_after_the_server_stopped(
    server: postgres.PostgresServer, goal: str, mode: str
):
    lose_the_server(server, goal, mode)


@pytest.mark.fault
@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_server_that_stops_during_a_lock_wait_is_reported_in_one_line(
    server: postgres.PostgresServer, mode: str
):
    url, end = prepared(server, M8_001)
    holder = client(url, autocommit=False)
    holder.execute("SELECT FROM v3_plans")
    first = Migration(url, M8_001, "report-every=0.5")
    first.wait_for("waiting for a lock on public.v3_plans")
    second = Migration(url, M8_001)
    second.wait_for("another process is migrating")

    server.stop(mode)
    lines = [one_clear_line(each.ended().said) for each in (first, second)]
    server.start()
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT")
    holder.close()

    assert all("was lost" in line for line in lines), lines
    migrate(url, M8_001)
    assert State.of(url) == end


@pytest.mark.fault
def test_session_terminated_at_any_moment_is_reported_in_one_line(
    server: postgres.PostgresServer,
):
    url, end = prepared(server, M8_001)
    for moment in range(12):
        migration = Migration(url, M8_001, "rows-per-second=2000")
        time.sleep(0.8 + moment / 10)
        with client(url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ended = migration.ended()
        if ended.status != 0:
            assert "run the same command again" in one_clear_line(ended.said)

    migrate(url, M8_001)
    assert State.of(url) == end
