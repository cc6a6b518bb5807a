"""A session that blocks the migration is named and waited for, and blocks no other client."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import postgres
from support.databases import ENGINES, migrate
from support.faults import Migration, State, models, one_clear_line
from support.online import MAX_LOCK_WAIT, client, never_blocked
from support.revisions import M4_003, M8_001
from support.waiting import wait_until

pytestmark = pytest.mark.slow

PLANS = 3_000
SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
ROW = "WHERE plan_id = (SELECT max(plan_id) FROM v3_plans)"
READ = f"SELECT phase FROM v3_plans {ROW}"
WRITE = f"UPDATE v3_plans SET last_completed_step = last_completed_step {ROW}"
#: Seconds; a client behind a lock that is waited for would wait as long.
HELD = MAX_LOCK_WAIT + 1
#: What a backfill sends first, when the step before it is over.
COUNTS = "count(*) FILTER"


STARTS = {M8_001: "gaps", M4_003: "new"}
ENDS = {M8_001: "new", M4_003: "former"}


@dataclass(frozen=True)
class Way:
    """A database and where it is to be brought."""

    url: str
    goal: str
    engine: str

    def migration(self, *extra: str) -> Migration:
        return Migration(self.url, self.goal, *extra)

    def is_done(self) -> None:
        assert State.of(self.url) == models(self.engine, PLANS).states[ENDS[self.goal]]


@contextmanager
def copied(engine: str, goal: str, folder: Path) -> Iterator[Way]:
    with models(engine, PLANS).copy(STARTS[goal], folder) as url:
        yield Way(url, goal, engine)


@pytest.fixture(params=[M8_001, M4_003], ids=["up", "down"])
def goal(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SERVERS[:1])
def way(request: pytest.FixtureRequest, goal: str, tmp_path: Path) -> Iterator[Way]:
    with copied(request.param, goal, tmp_path) as way:
        yield way


@pytest.fixture(params=SERVERS)
def each_way(request: pytest.FixtureRequest, goal: str, tmp_path: Path) -> Iterator[Way]:
    with copied(request.param, goal, tmp_path) as way:
        yield way


def block_a_migration(way: Way, seconds: float, lock: str) -> str:
    """Hold *lock* for so long that a migration waits that long; give what it said."""
    url = way.url
    with (
        client(url, autocommit=False) as holder,
        never_blocked(url, READ),
        never_blocked(url, WRITE),
    ):
        holder.execute(lock.encode())
        pid = holder.info.backend_pid
        migration = way.migration("report-every=0.5")
        migration.wait_for("waiting for a lock on public.v3_plans")
        time.sleep(seconds)
        assert migration.running
        holder.rollback()
        ended = migration.ended()

    assert ended.status == 0, ended.said
    assert f"pid {pid} (idle in transaction for" in ended.said
    way.is_done()
    return ended.said


@pytest.mark.fault
def test_clients_do_not_queue_while_a_lock_waits_for_an_idle_transaction(way: Way):
    block_a_migration(way, HELD, READ)


@pytest.mark.fault
@pytest.mark.parametrize(
    "lock", [READ, f"SELECT FROM v3_plans {ROW.replace('max', 'min')} FOR UPDATE"]
)
def test_clients_do_not_queue_on_any_server_whatever_the_lock_waits_for(each_way: Way, lock: str):
    block_a_migration(each_way, 8, lock)


@pytest.mark.fault
def test_clients_do_not_queue_when_the_lock_is_waited_for_longer_than_a_minute(way: Way):
    block_a_migration(way, 70, READ)


@pytest.mark.fault
def test_lock_wait_ends_a_run_that_can_be_repeated(way: Way):
    with client(way.url, autocommit=False) as holder:
        holder.execute(READ.encode())
        begun = time.monotonic()
        ended = way.migration("lock-wait=2").ended()

        line = one_clear_line(ended.said)
        assert ended.status not in (0, None)
        assert f"pid {holder.info.backend_pid} " in line
        assert "no lock on public.v3_plans in" in line
        assert "run the same command again" in line
        assert time.monotonic() - begun >= 2

    again = way.migration().ended()
    assert again.status == 0
    way.is_done()


# When the first step of each direction is over, only rows are locked. What is picked is
# written last: what the backfill needs, what only the restoring of snapshots needs, what
# takes the former form.
FIRST_STEP_OF = {
    M8_001: "SELECT FROM pg_trigger WHERE tgrelid = 'v3_plans'::regclass"
    " AND tgname = 'v3_plans_fill'",
    M4_003: "SELECT FROM pg_trigger WHERE tgrelid = 'v3_plans'::regclass"
    " AND tgname = 'v3_plans_unfill'",
}
OF_THE_BACKFILL = "SELECT max(plan_id) FROM v3_plans WHERE root_plan_id IS NULL"
OF_THE_ARCHIVE = (
    "SELECT max(plan_id) FROM v3_plans JOIN v3_plans_snapshot_archive USING (plan_id)"
    " WHERE root_plan_id IS NOT NULL AND automation_profile LIKE '{\"%'"
)
OF_THE_DOWNGRADE = "SELECT max(plan_id) FROM v3_plans WHERE root_plan_id = plan_id"

each_row = pytest.mark.parametrize(
    ("start", "goal", "pick"),
    [
        pytest.param("gaps", M8_001, OF_THE_BACKFILL, id="backfill"),
        pytest.param("former", M8_001, OF_THE_ARCHIVE, id="snapshots"),
        pytest.param("new", M4_003, OF_THE_DOWNGRADE, id="down"),
    ],
)


def lock_a_row(holder: Any, migration: Migration, goal: str, pick: str) -> str:
    """Lock the row that *pick* finds, when the first step is over and the backfill begins."""
    migration.wait_for(f"pausing at {COUNTS}")
    assert holder.execute(FIRST_STEP_OF[goal]).fetchall()
    (key,) = holder.execute(pick).fetchone()
    holder.execute("SELECT FROM v3_plans WHERE plan_id = %s FOR UPDATE", [key])
    return str(key)


@pytest.mark.fault
@each_row
@pytest.mark.parametrize("engine", SERVERS[:1])
def test_session_that_locks_a_row_is_named_and_waited_for(
    tmp_path: Path, engine: str, start: str, goal: str, pick: str
):
    with models(engine, PLANS).copy(start, tmp_path) as url:
        go_on = tmp_path / "go on"
        pause = ("--pause-at", COUNTS, str(go_on))
        migration = Migration(url, goal, "report-every=0.3", victim=pause)
        with client(url, autocommit=False) as holder:
            lock_a_row(holder, migration, goal, pick)
            go_on.touch()
            migration.wait_for(" could not be written for ")
            pid = holder.info.backend_pid
            assert migration.running
            holder.rollback()
        ended = migration.ended()

        assert ended.status == 0, ended.said
        assert f"sessions that lock the table: pid {pid} (idle in transaction" in ended.said
        assert State.of(url) == models(engine, PLANS).states[ENDS[goal]]


@pytest.mark.fault
@each_row
@pytest.mark.parametrize("engine", SERVERS)
def test_row_that_stays_locked_ends_the_run_with_its_key_and_the_session(
    tmp_path: Path, engine: str, start: str, goal: str, pick: str
):
    with models(engine, PLANS).copy(start, tmp_path) as url:
        go_on = tmp_path / "go on"
        pause = ("--pause-at", COUNTS, str(go_on))
        migration = Migration(url, goal, "lock-wait=1", victim=pause)
        with client(url, autocommit=False) as holder:
            key = lock_a_row(holder, migration, goal, pick)
            go_on.touch()
            ended = migration.ended()
            line = one_clear_line(ended.said)
            assert ended.status not in (0, None)
            # A batch that cannot skip the row leaves others, too.
            assert key in line or pick == OF_THE_ARCHIVE
            assert f"pid {holder.info.backend_pid} " in line
            assert "trigger" not in line  # those on the table are the chain's

        assert Migration(url, goal).ended().status == 0
        assert State.of(url) == models(engine, PLANS).states[ENDS[goal]]


@pytest.mark.fault
def test_manual_vacuum_is_waited_for_and_named(each_way: Way):
    each_url = each_way.url
    with (
        client(each_url) as holder,
        client(each_url) as watcher,
        never_blocked(each_url, READ),
        never_blocked(each_url, WRITE),
    ):
        pid = holder.info.backend_pid
        holder.execute("SET vacuum_cost_delay = 20")
        holder.execute("SET vacuum_cost_limit = 2")
        slow_vacuum = holder.pgconn
        slow_vacuum.send_query(b"VACUUM (DISABLE_PAGE_SKIPPING) v3_plans")
        progress = "SELECT FROM pg_stat_progress_vacuum"
        wait_until(lambda: watcher.execute(progress).fetchall())
        migration = each_way.migration("report-every=0.5")
        migration.wait_for("waiting for a lock on public.v3_plans")
        time.sleep(HELD)
        assert migration.running
        holder.cancel()
        while slow_vacuum.get_result() is not None:
            pass
        ended = migration.ended()

    assert ended.status == 0, ended.said
    assert f"pid {pid} (active" in ended.said
    assert "VACUUM (DISABLE_PAGE_SKIPPING) v3_plans" in ended.said
    each_way.is_done()


@pytest.mark.fault
@pytest.mark.parametrize("engine", SERVERS)
def test_autovacuum_is_cancelled_by_the_lock_wait(engine: str, goal: str):
    server = postgres.PostgresServer(
        postgres.binaries()[engine],
        {"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_max_workers": "1"},
    )
    try:
        url = server.create_database()
        migrate(url, M4_003 if goal == M8_001 else M8_001)
        with client(url) as connection:
            connection.execute(
                "INSERT INTO v3_plans (plan_id, action_name, description, created_at, updated_at)"
                " SELECT '01J' || lpad(g::text, 23, '0'), 'local/tidy', repeat('x', 500), 'a', 'b'"
                " FROM generate_series(1, 20000) g"
            )
            connection.execute(
                "ALTER TABLE v3_plans SET (autovacuum_vacuum_cost_delay = 50,"
                " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_scale_factor = 0,"
                " autovacuum_vacuum_threshold = 1, autovacuum_analyze_threshold = 1000000)"
            )
            connection.execute("UPDATE v3_plans SET description = 'y'")
            at_work = (
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
                " AND query LIKE '%v3_plans%'"
            )
            wait_until(lambda: connection.execute(at_work.encode()).fetchone() == (1,))
            with never_blocked(url, READ), never_blocked(url, WRITE):
                ended = Migration(url, goal, "lock-wait=60").ended()

            assert ended.status == 0, ended.said
            assert "canceling autovacuum task" in (server.folder / "log").read_text()
    finally:
        server.close()


def test_migration_lock_wait_ends_the_wait_for_a_writer_of_a_file(tmp_path: Path):
    model = models("sqlite", PLANS)
    with model.copy("gaps", tmp_path) as url:
        writer = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")

        ended = Migration(url, M8_001, "migration-lock-wait=1.5").ended()

        line = one_clear_line(ended.said)
        assert ended.status not in (0, None)
        assert f"is locked by pid {os.getpid()}" in ended.said
        assert "migration-lock-wait=SECONDS" in line
        writer.execute("ROLLBACK")
        writer.close()
        assert State.of(url) == model.states["gaps"]
        migrate(url, M8_001)
        assert State.of(url) == model.states["new"]
