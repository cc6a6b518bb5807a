"""What of the repository can be used on a hot standby, and how old it may be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, make_url, text
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanNotFound, PlanRepository, open_engine
from cleveragents_plans.domain import PlansError
from cleveragents_plans.persistence import DatabaseReadOnly
from support import postgres
from support.databases import database_at, migrate
from support.pages import blocks, page
from support.plans import a_child, a_root, ulid
from support.postgres import PostgresServer
from support.waiting import wait_until

ROOT, CHILD = a_root(1, project_links=[{"project_name": "local/api"}]), a_child(2, a_root(1))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Engine, Engine, PostgresServer]]:
    """A primary with two plans, its standby that follows it, and the server of that one."""
    server = PostgresServer(postgres.binaries()["postgresql-18"], within=postgres.memory_folder())
    try:
        url = server.create_database()
        migrate(url, "head")
        primary = open_engine(url, poolclass=NullPool)
        with Session(primary) as session:
            PlanRepository(session).add_all([ROOT, CHILD])
            session.commit()
        with server.replica() as follower:
            standby = open_engine(follower.url(make_url(url).database or ""), poolclass=NullPool)
            wait_until_replayed(primary, standby)
            yield primary, standby, follower
    finally:
        server.close()


def wait_until_replayed(primary: Engine, standby: Engine) -> None:
    """Wait as docs/scaling.md says, until *standby* has all that *primary* has committed."""
    with primary.connect() as connection:
        end = connection.execute(text("SELECT pg_current_wal_insert_lsn()")).scalar_one()
    host = standby.url.query["host"]
    query = text("SELECT pg_last_wal_replay_lsn() >= CAST(:end AS pg_lsn)")
    for _ in range(1200):
        with standby.connect() as connection:
            if connection.execute(query, {"end": str(end)}).scalar():
                return
            connection.execute(text("SELECT pg_sleep(0.05)"))
    raise AssertionError(f"{host} has not caught up with {end}")


READS: dict[str, tuple[Callable[[PlanRepository], Any], Any]] = {
    "get": (lambda it: it.get(CHILD.plan_id).plan_id, CHILD.plan_id),
    "get_many": (lambda it: len(it.get_many([ROOT.plan_id, CHILD.plan_id])), 2),
    "exists": (lambda it: it.exists(ROOT.plan_id), True),
    "children": (lambda it: [plan.plan_id for plan in it.children(ROOT.plan_id)], [CHILD.plan_id]),
    "tree": (lambda it: len(it.tree(ROOT.plan_id)), 2),
    "tree_summary": (lambda it: it.tree_summary(ROOT.plan_id).plans, 2),
    "ancestors": (
        lambda it: [plan.plan_id for plan in it.ancestors(CHILD.plan_id)],
        [ROOT.plan_id],
    ),
    "depth": (lambda it: it.depth(CHILD.plan_id), 1),
    "list": (lambda it: len(it.list(project="local/api")), 1),
    "stream": (lambda it: len([*it.stream()]), 2),
    "count": (lambda it: it.count(), 2),
    "count_by": (lambda it: it.count_by("phase"), {"action": 2}),
}
WRITES: dict[str, Callable[[PlanRepository], Any]] = {
    "add": lambda it: it.add(a_root(3)),
    "add_all": lambda it: it.add_all([a_root(3)]),
    "save": lambda it: it.save(it.get(ROOT.plan_id).edit(description="x")),
    "change": lambda it: it.change(ROOT.plan_id, lambda plan: plan.edit(description="x")),
    "touch": lambda it: it.touch(it.get(ROOT.plan_id)),
    "delete": lambda it: it.delete(it.get(CHILD.plan_id)),
    "delete_tree": lambda it: it.delete_tree(ROOT.plan_id),
    "delete_trees": lambda it: it.delete_trees(completed_before=ROOT.created_at),
    "claim": lambda it: it.claim(),
    "release": lambda it: it.release(it.get(ROOT.plan_id).begin()),
    "requeue_stalled": lambda it: it.requeue_stalled(not_touched_for=timedelta(0)),
}


def test_every_method_of_the_repository_is_tried_on_a_standby():
    named = {name for kind in PlanRepository.__mro__[:-1] for name in vars(kind)}

    assert {name for name in named if not name.startswith("_")} == READS.keys() | WRITES.keys()


@pytest.mark.parametrize("name", READS)
def test_methods_that_read_work_on_a_standby(name: str, pair: tuple[Engine, Engine, Any]):
    read, expected = READS[name]
    with Session(pair[1]) as session:
        assert read(PlanRepository(session)) == expected


@pytest.mark.parametrize("name", WRITES)
def test_methods_that_write_raise_one_error_on_a_standby(
    name: str, pair: tuple[Engine, Engine, Any]
):
    primary, standby, _ = pair
    with Session(standby) as session, pytest.raises(DatabaseReadOnly) as error:
        WRITES[name](PlanRepository(session))

    told = str(error.value)
    assert isinstance(error.value, PlansError)
    assert (
        "read-only transaction); only the methods that read can be used: write to the primary"
        in told
    )
    assert "\n" not in told
    with Session(primary) as session:
        assert PlanRepository(session).get(ROOT.plan_id).description == ROOT.description


def test_plan_that_the_standby_has_not_replayed_is_not_there_until_it_has(
    pair: tuple[Engine, Engine, PostgresServer],
):
    primary, standby, follower = pair
    late = a_root(7)
    follower.execute("SELECT pg_wal_replay_pause()")
    try:
        follower.wait_for("SELECT WHERE pg_get_wal_replay_pause_state() = 'paused'")
        with Session(primary) as session:
            PlanRepository(session).add(late)
            session.commit()
        with Session(standby) as session, pytest.raises(PlanNotFound):
            PlanRepository(session).get(late.plan_id)
    finally:
        follower.execute("SELECT pg_wal_replay_resume()")

    wait_until_replayed(primary, standby)

    with Session(standby) as session:
        assert PlanRepository(session).get(late.plan_id).plan_id == late.plan_id
    with Session(primary) as session:
        PlanRepository(session).delete(PlanRepository(session).get(late.plan_id))
        session.commit()
    wait_until_replayed(primary, standby)


def write(primary: Engine) -> None:
    """Commit a transaction that changes no plan."""
    with primary.begin() as connection:
        connection.execute(text("SELECT pg_logical_emit_message(true, 'stale', '')"))
        connection.execute(text("SELECT pg_current_xact_id()"))


def test_query_of_the_page_says_how_stale_the_standby_is(
    pair: tuple[Engine, Engine, PostgresServer],
):
    primary, standby, follower = pair
    (query,) = (each.text for each in blocks(page("docs/scaling.md")) if each.language == "sql")

    def stale() -> float:
        with standby.connect() as connection:
            return float(connection.execute(text(query)).scalar_one())

    write(primary)
    wait_until_replayed(primary, standby)
    wait_until(lambda: stale() == 0)  # the server writes to the log by itself, too
    follower.execute("SELECT pg_wal_replay_pause()")
    try:
        follower.wait_for("SELECT WHERE pg_get_wal_replay_pause_state() = 'paused'")
        write(primary)
        follower_has_more = "SELECT WHERE pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        follower.wait_for(follower_has_more)
        assert stale() > 0
    finally:
        follower.execute("SELECT pg_wal_replay_resume()")


def test_engines_of_the_page_are_opened():
    names: dict[str, Any] = {}

    for each in blocks(page("docs/scaling.md")):
        if each.language == "python":
            exec(each.text, names)

    assert names["standby"].url.host == "db2"
    assert names["Reading"]().get_bind() is names["standby"]


def test_read_only_transaction_of_postgresql_raises_the_same_error(tmp_path: Path):
    with database_at("head", "postgresql-18", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        with Session(engine) as session:
            session.execute(text("SET TRANSACTION READ ONLY"))
            with pytest.raises(DatabaseReadOnly):
                PlanRepository(session).add(Plan.create("local/tidy", plan_id=ulid(1)))


def test_file_of_sqlite_that_cannot_be_written_raises_the_same_error(tmp_path: Path):
    with database_at("head", "sqlite", tmp_path) as url:
        file = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        engine = open_engine(url, poolclass=NullPool).execution_options(read_only=True)
        with Session(engine) as session, pytest.raises(DatabaseReadOnly, match=r"plans\.db"):
            PlanRepository(session).add(Plan.create("local/tidy", plan_id=ulid(1)))
