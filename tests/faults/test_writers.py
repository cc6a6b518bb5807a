"""The former release writes all the while: no write fails, and no plan gets a wrong root."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.databases import ENGINES, empty_database, migrate
from support.faults import Migration
from support.former_clients import FormerClients
from support.former_release import write_former_release
from support.online import client, meanwhile
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
DEFAULT = "SELECT count(*) FROM v3_plans WHERE automation_profile = 'balanced'"
ASLEEP = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event = 'PgSleep' AND datname = current_database()"
)
THINGS = {
    *("insert_child_where_the_backfill_is", "write_back", "delete_leaf", "delete_middle"),
    "refused",
}
BLANK = "SELECT count(*) FROM v3_plans WHERE automation_profile IS NULL OR automation_profile = ''"


def stored_roots(url: str) -> dict[str, str | None]:
    with client(url) as connection:
        return dict(connection.execute("SELECT plan_id, root_plan_id FROM v3_plans").fetchall())


def number(url: str, query: str) -> int:
    with client(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def migrate_among_writers(
    url: str, goal: str, seed: int, *extra: str, kills: tuple[str, ...] = ()
) -> FormerClients:
    clients = FormerClients(url, seed=seed)
    # What was read before the end of a downgrade must not be written after it: the former
    # release could not have read the new form of it.
    clients.slow_writers = goal == M8_001
    with clients:
        wait_until(lambda: clients.done.total() > 50)
        killed = 0
        for moment in kills:
            died = Migration(url, goal, *extra, victim=("--die-after", moment)).ended()
            killed += died.killed
            time.sleep(0.2)
        before = clients.done.total()
        ended = Migration(url, goal, *extra, limit=600).ended()
        during = clients.done.total() - before
        wait_until(lambda: clients.failures or {*clients.done} >= THINGS)
    assert ended.status == 0, ended.said
    # Of many, the last ones may come when all is done.
    assert killed >= min(len(kills), 11)
    assert clients.failures == []
    assert during > 100
    return clients


def up_down_and_up(url: str, plans: int, *extra: str, kills: tuple[str, ...] = ()) -> None:
    write_former_release(url, plans, seed=9)

    up = migrate_among_writers(url, M8_001, 1, *extra, kills=kills)
    assert stored_roots(url) == up.roots
    assert number(url, BLANK) == 0

    at_first = stored_roots(url)
    down = migrate_among_writers(url, M4_003, 2, *extra, kills=kills)
    stored = stored_roots(url)
    assert stored.keys() == down.roots.keys()
    wrong = {key: root for key, root in stored.items() if root not in (None, down.roots[key])}
    assert wrong == {}
    # Only root plans lose theirs, and what was inserted without one keeps none.
    lost = [key for key in at_first if stored[key] is None and down.roots[key] != key]
    assert lost == []
    assert number(url, DEFAULT) == 0

    up = migrate_among_writers(url, M8_001, 3, *extra, kills=kills)
    assert stored_roots(url) == up.roots
    assert number(url, BLANK) == 0


@pytest.fixture(params=SERVERS[:1])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as empty:
        yield empty


@pytest.mark.fault
def test_writes_succeed_and_roots_are_right_up_down_and_up_again(url: str):
    up_down_and_up(url, 4_000)


@pytest.mark.fault
def test_writes_succeed_and_roots_are_right_in_a_throttled_run(postgresql_url: str):
    up_down_and_up(postgresql_url, 10_000, "rows-per-second=1000")


@pytest.mark.fault
def test_writes_succeed_and_roots_are_right_with_many_plans(postgresql_url: str):
    up_down_and_up(postgresql_url, 200_000)


@pytest.mark.fault
def test_writes_succeed_and_roots_are_right_when_the_run_is_killed(postgresql_url: str):
    up_down_and_up(postgresql_url, 30_000, "rows-per-second=5000", kills=("0.02", "0.5", "1.5"))


@pytest.mark.fault
def test_writes_succeed_and_roots_are_right_when_the_run_is_killed_often_inside_a_statement(
    postgresql_url: str,
):
    # Without rests it is inside of one nearly all the time.
    chance = random.Random(4)
    moments = tuple(f"{chance.uniform(0, 0.3):.4f}" for _ in range(14))
    up_down_and_up(postgresql_url, 50_000, "duty-cycle=1", kills=moments)


def test_child_of_a_plan_in_an_open_batch_gets_its_root(url: str):
    migrate(url, M4_003)
    row = (
        "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
        " VALUES (%s, %s, 'local/tidy', 'now', 'now')"
    )
    root, middle, child, grandchild = (f"01J{n:023d}" for n in range(1, 5))
    with client(url) as connection:
        connection.execute(row, [root, None])
        connection.execute(row, [middle, root])
        # The batch that writes both does not end before they are inserted. What a sequence holds
        # is seen in a snapshot of before, too.
        connection.execute("CREATE SEQUENCE inserted")
        connection.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN WHILE NOT (SELECT is_called FROM public.inserted) LOOP"
            " PERFORM pg_sleep(0.02); END LOOP; RETURN NULL; END $$"
        )
        connection.execute("SET statement_timeout = '60s'")
        connection.execute(
            f"CREATE TRIGGER dawdle AFTER UPDATE ON v3_plans FOR EACH ROW"
            f" WHEN (new.plan_id = '{root}') EXECUTE FUNCTION dawdle()"
        )
        with meanwhile(lambda: migrate(url, M8_001)):
            wait_until(lambda: number(url, ASLEEP))
            try:
                connection.execute(row, [child, middle])
                connection.execute(row, [grandchild, child])
            finally:
                connection.execute("SELECT nextval('inserted')")

    assert stored_roots(url) == dict.fromkeys((root, middle, child, grandchild), root)
