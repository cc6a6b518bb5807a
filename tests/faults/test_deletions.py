"""Roots that clients delete during the migration: no plan gets a root that is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.databases import ENGINES, database_at, migrate
from support.faults import Migration
from support.online import client, meanwhile
from support.revisions import M4_003, M8_001

pytestmark = pytest.mark.slow

SERVERS = [engine for engine in ENGINES if engine != "sqlite"]
ROW = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
    " VALUES (%s, %s, 'local/tidy', 'now', 'now')"
)
DELETE = "DELETE FROM v3_plans WHERE plan_id = %s"
OTHERS = [f"01J{n:023d}" for n in range(300)]
ROOT, MIDDLE, CHILD, GRANDCHILD = (f"02J{n:023d}" for n in range(1, 5))
HAS_THE_TRIGGER = "SELECT FROM pg_trigger WHERE tgname = 'v3_plans_fill'"
WAITS_FOR_A_LOCK = (
    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
NO_FOREIGN_KEY = "ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_root_plan_id"


@pytest.fixture(params=SERVERS[:1])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the former release: a tree without roots, and other plans."""
    with database_at(M4_003, request.param, tmp_path) as url:
        with client(url) as connection:
            for key, parent in ((ROOT, None), (MIDDLE, ROOT), (CHILD, MIDDLE)):
                connection.execute(ROW, [key, parent])
            for key in OTHERS:
                connection.execute(ROW, [key, None])
        yield url


def roots(url: str) -> dict[str, str | None]:
    with client(url) as connection:
        return dict(connection.execute("SELECT plan_id, root_plan_id FROM v3_plans").fetchall())


def wait_for(connection: Any, query: str) -> None:
    until = time.monotonic() + 60
    while connection.execute(query).fetchone() is None:
        assert time.monotonic() < until
        time.sleep(0.02)


def upgraded_as_far_as_the_trigger(url: str) -> None:
    died = Migration(url, M8_001, victim=("--die-at", "WITH RECURSIVE batch")).ended()
    assert died.killed, died.said
    assert set(roots(url).values()) == {None}


@pytest.mark.parametrize("foreign_key", [True, False], ids=["foreign key", "none"])
def test_root_that_is_being_deleted_is_not_used_and_delays_no_other_row(
    url: str, tmp_path: Path, foreign_key: bool
):
    if not foreign_key:
        with client(url) as connection:
            connection.execute(NO_FOREIGN_KEY)
    go_on = tmp_path / "go on"
    pause = ("--pause-at", "count(*) FILTER", str(go_on))
    migration = Migration(url, M8_001, "report-every=0.3", victim=pause)
    migration.wait_for("pausing at")
    with client(url) as connection:
        assert connection.execute(HAS_THE_TRIGGER).fetchone() is not None
    with client(url, autocommit=False) as deleter:
        deleter.execute(DELETE, [ROOT])
        go_on.touch()
        migration.wait_for("could not be written for")
        meantime = roots(url)
        deleter.commit()
    ended = migration.ended()

    assert ended.status == 0, ended.said
    assert {key: meantime[key] for key in OTHERS} == {key: key for key in OTHERS}
    assert meantime[CHILD] is None
    assert roots(url) == {**{key: key for key in OTHERS}, MIDDLE: MIDDLE, CHILD: MIDDLE}


@pytest.mark.parametrize("foreign_key", [True, False], ids=["foreign key", "none"])
def test_plan_inserted_while_its_root_is_deleted_gets_the_root_that_is_left(
    url: str, foreign_key: bool
):
    upgraded_as_far_as_the_trigger(url)
    inserted = []

    def insert() -> None:
        with client(url) as connection:
            connection.execute(ROW, [GRANDCHILD, CHILD])
            inserted.append(GRANDCHILD)

    with client(url) as connection:
        if not foreign_key:
            connection.execute(NO_FOREIGN_KEY)
        with client(url, autocommit=False) as deleter:
            deleter.execute(DELETE, [ROOT])
            with meanwhile(insert):
                wait_for(connection, WAITS_FOR_A_LOCK)
                deleter.commit()

    assert inserted == [GRANDCHILD]
    assert roots(url)[GRANDCHILD] == MIDDLE
    migrate(url, M8_001)
    assert {key: roots(url)[key] for key in (MIDDLE, CHILD, GRANDCHILD)} == {
        MIDDLE: MIDDLE,
        CHILD: MIDDLE,
        GRANDCHILD: MIDDLE,
    }


@pytest.mark.parametrize("plan", [MIDDLE, CHILD])
def test_plans_below_a_deleted_plan_keep_the_recorded_root(url: str, plan: str):
    migrate(url, M8_001)
    with client(url) as connection:
        connection.execute(ROW, [GRANDCHILD, CHILD])
        connection.execute(DELETE, [plan])

    assert set(roots(url).items()) >= {(GRANDCHILD, ROOT)}
    died = Migration(
        url, M4_003, victim=("--die-at", "DROP COLUMN effective_profile_snapshot")
    ).ended()
    assert died.killed, died.said
    assert roots(url)[GRANDCHILD] == ROOT
    migrate(url, M8_001)
    assert roots(url)[GRANDCHILD] == ROOT
