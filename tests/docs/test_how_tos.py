"""What the how-tos show is what happens, and what they quote stands where it is quoted from."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Column, Engine, MetaData, NullPool, String, Table, inspect, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cleveragents_plans import (
    AsyncPlanRepository,
    ChangeNotAllowed,
    InvalidValue,
    LifecyclePlanModel,
    Plan,
    PlanConflict,
    PlanRepository,
    new_ulid,
    open_async_engine,
    open_engine,
)
from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.schema import create_schema, upgrade
from support import pages
from support.databases import ROOT, SERVERS, database_at, empty_database
from support.postgres import server
from support.revisions import M4_003, M8_001
from support.toys import execute
from support.waiting import wait_until


def blocks(name: str) -> list[str]:
    """List the blocks of Python of a page."""
    return [text for kind, text in pages.blocks(pages.page(f"docs/{name}")) if kind == "python"]


@pytest.mark.parametrize("engine", SERVERS)
def test_sql_of_the_page_on_deployment_runs(engine: str):
    [sql] = [text for kind, text in pages.blocks(pages.page("docs/deployment.md")) if kind == "sql"]

    for statement in sql.split(";")[:-1]:
        execute(server(engine).url(), statement)


def names_of(name: str, block: int = 0) -> dict[str, Any]:
    """Run a block of Python of a page; give the names that it defines."""
    names: dict[str, Any] = {}
    exec(blocks(name)[block], names)  # what the page says is what is tested
    return names


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'plans.db'}")
    create_schema(engine)
    yield engine
    engine.dispose()


def stored(engine: Engine) -> list[Plan]:
    with Session(engine) as session:
        return list(PlanRepository(session).stream())


def test_page_on_workers_takes_the_oldest_plan_and_saves_what_became_of_it(engine: Engine):
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        for name in ("local/first", "local/second"):
            plan = plans.add(Plan.create(name))
            for _ in range(2):
                plan = plans.save(plan.begin().complete().advance())
    take_one = names_of("workers.md")["take_one"]
    seen = []

    def work(plan: Plan) -> Plan:
        seen.append(plan.namespaced_name)
        return plan

    assert [take_one(engine, work) for _ in range(3)] == [True, True, False]
    assert seen == ["local/first", "local/second"]
    assert {each.processing_state for each in stored(engine)} == {"complete"}


def claimed(engine: Engine) -> Plan:
    """Store a plan, and claim it."""
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        plan = plans.add(Plan.create("local/x"))
        for _ in range(2):
            plan = plans.save(plan.begin().complete().advance())
        (plan,) = plans.claim(phase="execute")
        return plan


def test_page_on_workers_tries_work_that_fails_three_times_and_keeps_the_reason(engine: Engine):
    with Session(engine) as session, session.begin():
        PlanRepository(session).release(claimed(engine))
    take_one = names_of("workers.md")["take_one"]

    def work(plan: Plan) -> Plan:
        raise ValueError(f"attempt {plan.attempt}\0")

    seen = []
    while take_one(engine, work):
        (plan,) = stored(engine)
        seen.append((plan.processing_state, plan.attempt, plan.error_message))
    assert seen == [
        ("queued", 2, r"ValueError: attempt 1\x00"),
        ("queued", 3, r"ValueError: attempt 2\x00"),
        ("errored", 3, r"ValueError: attempt 3\x00"),
    ]


def test_page_on_workers_saves_the_version_that_the_last_heartbeat_made(engine: Engine):
    work_on = names_of("workers.md", 1)["work_on"]
    plan = claimed(engine)

    def work(plan: Plan) -> dict[str, Any]:
        for _ in range(2):
            seen = stored(engine)[0].updated_at
            wait_until(lambda: stored(engine)[0].updated_at > seen)  # noqa: B023
        return {"cost_actual_usd": 0.5}

    done = work_on(engine, plan, work, seconds=0.01)

    assert [done] == stored(engine)
    assert (done.processing_state, done.cost_actual_usd) == ("complete", 0.5)


def test_page_on_workers_saves_no_work_on_a_plan_that_was_given_up(engine: Engine):
    names = names_of("workers.md", 1)
    plan = claimed(engine)
    others = {*threading.enumerate()}

    def work(_: Plan) -> dict[str, Any]:
        with Session(engine) as session, session.begin():
            found = PlanRepository(session).get(plan.plan_id)
            PlanRepository(session).save(found.cancel())
        wait_until(lambda: others >= {*threading.enumerate()})  # the heartbeats have ended
        return {}

    assert names["work_on"](engine, plan, work, seconds=0.01) is None
    assert [each.processing_state for each in stored(engine)] == ["cancelled"]


def test_page_on_workers_fails_a_plan_whose_work_raised_beside_heartbeats(engine: Engine):
    work_on, plan = names_of("workers.md", 1)["work_on"], claimed(engine)

    def work(_: Plan) -> dict[str, Any]:
        wait_until(lambda: stored(engine)[0].updated_at > plan.updated_at)
        raise KeyError

    assert work_on(engine, plan, work, seconds=0.01).error_message == "KeyError"


def test_page_on_workers_gives_its_plan_back_on_sigterm(engine: Engine):
    with Session(engine) as session, session.begin():
        PlanRepository(session).release(claimed(engine))
    taken: list[Plan] = []
    former = signal.getsignal(signal.SIGTERM)

    try:
        names_of("workers.md", 2)["run_until_sigterm"](
            engine, [taken.append, lambda _: os.kill(os.getpid(), signal.SIGTERM), taken.append]
        )
    finally:
        signal.signal(signal.SIGTERM, former)

    (plan,) = stored(engine)
    assert (len(taken), plan.processing_state, plan.attempt) == (1, "queued", 1)


def test_page_on_retention_deletes_old_trees_and_no_others(engine: Engine):
    long_ago = datetime.now(UTC) - timedelta(days=100)
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        old = plans.add(Plan.create("local/old"))
        plans.save(old.cancel())
        plans.save(plans.add(Plan.create("local/recent")).cancel())
        plans.add(Plan.create("local/open", created_at=long_ago))
    with engine.begin() as connection:
        found = LifecyclePlanModel.__table__.c
        connection.execute(
            update(LifecyclePlanModel.__table__)
            .where(found.plan_id == old.plan_id)
            .values(created_at=long_ago, completed_at=long_ago)
        )

    names_of("retention-and-import.md", 1)["delete_old_trees"](engine)

    assert [each.namespaced_name for each in stored(engine)] == ["local/recent", "local/open"]


def test_page_on_import_reads_back_what_it_exported_and_can_be_repeated(engine: Engine):
    with Session(engine) as session, session.begin():
        parent = PlanRepository(session).add(Plan.create("local/x", arguments={"a": [1, None]}))
        PlanRepository(session).add(parent.spawn("a part"))
    before = stored(engine)
    names, file = names_of("retention-and-import.md"), io.StringIO()
    names["export_plans"](engine, file)
    with Session(engine) as session, session.begin():
        PlanRepository(session).delete_tree(parent.plan_id)

    counts = [names["import_plans"](engine, io.StringIO(file.getvalue())) for _ in range(2)]

    assert counts == [2, 0]
    assert stored(engine) == before


def test_page_on_two_chains_keeps_the_version_of_the_plans_in_a_table_of_its_own(tmp_path: Path):
    engine = open_engine(f"sqlite:///{tmp_path / 'plans.db'}")

    exec(blocks("two-chains.md")[0], {"engine": engine})

    assert {"v3_plans", "plans_version"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_page_on_two_chains_refers_to_plans_by_a_foreign_key_that_lets_them_be_deleted(
    engine: Engine,
):
    metadata = MetaData()
    (block,) = (each for each in blocks("two-chains.md") if "tickets" in each)
    exec(block, {"metadata": metadata})
    tickets = metadata.tables["tickets"]
    LifecyclePlanModel.__table__.to_metadata(metadata)
    tickets.create(engine)
    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).add(Plan.create("local/x"))
        session.execute(tickets.insert().values(plan_id=plan.plan_id))
        PlanRepository(session).delete(plan)

        assert session.execute(select(tickets)).all() == [(None,)]


def test_page_on_two_chains_shows_files_that_its_tests_use():
    tested = pages.page("tests/schema/test_two_chains.py")
    shown = [line for block in blocks("two-chains.md")[1:] for line in block.splitlines()]
    starts = ("from cleveragents_plans.schema", "run_environment")
    calls = [line for line in shown if line.startswith(starts)]

    assert len(calls) == 3
    assert [line for line in calls if line not in tested] == []


def test_page_on_web_services_quotes_the_example():
    example = "".join(
        file.read_text() for file in sorted((ROOT / "examples" / "fastapi_service").glob("*.py"))
    )
    quoted = [block for block in blocks("web-service.md") if "tickets" not in block]

    assert len(quoted) >= 4
    for block in quoted:
        assert block in example


def test_page_on_web_services_stores_a_row_of_the_application_with_its_plan_or_neither(
    tmp_path: Path,
):
    url = f"sqlite:///{tmp_path / 'plans.db'}"
    engine = open_engine(url)
    create_schema(engine)
    tickets = Table(
        "tickets", MetaData(), Column("title", String, unique=True), Column("plan_id", String)
    )
    tickets.create(engine)
    opened = open_async_engine(url)

    async def writing_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(opened) as session, session.begin():
            yield session

    (block,) = (each for each in blocks("web-service.md") if "tickets" in each)
    names: dict[str, Any] = {
        "router": FastAPI(), "writing_session": writing_session, "tickets": tickets,
        "Annotated": Annotated, "AsyncSession": AsyncSession, "Depends": Depends,
        "AsyncPlanRepository": AsyncPlanRepository, "Plan": Plan,
    }  # fmt: skip
    exec(block, names)

    async def answers_of_two_requests() -> list[int]:
        transport = ASGITransport(names["router"], raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://service") as client:
            found = [await client.post("/tickets", params={"title": "one"}) for _ in range(2)]
        await opened.dispose()
        return [each.status_code for each in found]

    answers = asyncio.run(answers_of_two_requests())

    assert answers == [201, 500]  # the second title is taken
    plan_ids = [each.plan_id for each in stored(engine)]
    with engine.connect() as connection:
        assert [row.plan_id for row in connection.execute(select(tickets))] == plan_ids


IN_MEMORY = """\
from cleveragents_plans import Plan

def test_it(plans):
    plans.add(Plan.create("local/x"))
    plans._session.commit()
    assert plans.count() == 1

test_it_again = test_it
"""
BY_URL = """\
from sqlalchemy.orm import Session
from cleveragents_plans import Plan, PlanRepository, open_engine
from cleveragents_plans.schema import current

def test_it(database_url):
    current(database_url, check_heads=True)
    engine = open_engine(database_url)
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(Plan.create("local/x"))
    with Session(engine) as session:
        assert PlanRepository(session).count() == 1
    engine.dispose()

test_it_again = test_it
"""


@pytest.mark.parametrize(
    ("fixtures", "tests", "engine"),
    [
        ("# in memory", IN_MEMORY, "sqlite"),
        ("# a file", BY_URL, "sqlite"),
        ("# a template database", BY_URL, "postgresql-18"),
    ],
)
def test_fixtures_give_each_test_an_empty_database(
    fixtures: str, tests: str, engine: str, tmp_path: Path
):
    (block,) = (each for each in blocks("testing-an-application.md") if each.startswith(fixtures))
    (tmp_path / "conftest.py").write_text(block)
    (tmp_path / "test_application.py").write_text(tests)
    environment = dict(os.environ)
    if engine != "sqlite":
        environment["SERVER_URL"] = server(engine).url()

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 1, 0), 0), ((0, 1, 1), 1), ((0, 1, None), 1), ((0, 0, 0), 0)],
)
def test_page_on_fleets_judges_by_the_schemas_that_are_not_known_to_be_broken(
    statuses: tuple[int | None, ...], expected: int
):
    names = ("tenant_a", "tenant_c", "tenant_d")
    members = [
        {"schema_name": name, "status": status}
        for name, status in zip(names, statuses, strict=True)
    ]
    (script,) = blocks("fleets.md")

    done = subprocess.run(
        [sys.executable, "-c", script, "tenant_c"],
        input=json.dumps({"members": members}), text=True, check=False,
    )  # fmt: skip

    assert done.returncode == expected


@pytest.mark.slow
def test_page_on_fleets_shows_the_table_that_a_run_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "300")
    said = [text for kind, text in pages.blocks(pages.page("docs/fleets.md")) if kind == "text"]
    with empty_database("postgresql-18", tmp_path) as url:
        for name in "abcd":
            schema = f"tenant_{name}"
            execute(url, f"CREATE SCHEMA {schema}")
            upgrade(url, M4_003, schema=schema, allow_second_schema=True)
        execute(
            url,
            f"COMMENT ON TABLE tenant_b.alembic_version IS '[unfinished upgrade of {M8_001}]'",
            "ALTER TABLE tenant_c.v3_plans ADD CONSTRAINT bad"
            " CHECK (automation_profile <> 'balanced')",
        )
        each = ["--url", url, "--each-schema", "tenant_%", "-q"]
        capsys.readouterr()

        ended = [main([command, *each]) for command in ("status", "upgrade", "status")]

    shown = capsys.readouterr().out
    assert ended == [ExitStatus.UNFINISHED, ExitStatus.REFUSED, ExitStatus.FOUND]
    for line in "\n".join(said[1:]).splitlines():
        pattern = re.sub(r"lock \d+ ms", r"lock \\d+ ms", re.escape(line).replace("\\ ", " "))
        assert re.search(rf"^{pattern}\s*$", shown, re.MULTILINE), line


def test_page_on_listing_goes_through_all_plans_newest_first(engine: Engine):
    newest = names_of("listing.md")["newest"]
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        ids = [plans.add(Plan.create("local/x")).plan_id for _ in range(120)]

    seen: list[str] = []
    page, cursor = newest(engine, namespace="local")
    sizes = [len(page)]
    while cursor:
        seen += [plan.plan_id for plan in page]
        with Session(engine) as session, session.begin():  # neither hides another nor repeats it
            PlanRepository(session).delete(page[-1])
            PlanRepository(session).add(Plan.create("local/x"))
        page, cursor = newest(engine, cursor, namespace="local")
        sizes.append(len(page))
    seen += [plan.plan_id for plan in page]

    assert (seen, sizes) == (sorted(ids, reverse=True), [50, 50, 20])
    with Session(engine) as session, pytest.raises(InvalidValue):
        PlanRepository(session).list(after=newest(engine)[1])


def test_page_on_listing_finds_a_plan_that_was_committed_late(engine: Engine):
    created_since = names_of("listing.md", 1)["created_since"]
    late, sooner = Plan.create("local/late"), Plan.create("local/sooner")
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(sooner)
    known = {plan.plan_id for plan in created_since(engine, sooner.created_at, ())}
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(late)

    new = [plan.plan_id for plan in created_since(engine, sooner.created_at, known)]

    assert (known, new) == ({sooner.plan_id}, [late.plan_id])


def test_page_on_deployment_says_what_the_new_release_reads_of_the_former_ones_rows(
    tmp_path: Path,
):
    plan = Plan.create("local/x", profile="trusted")
    inserted = (
        "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
        f" SELECT '{new_ulid()}', plan_id, 'local/x', created_at, updated_at FROM v3_plans"
    )
    with database_at("head", "postgresql-18", tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        with Session(engine) as session, session.begin():
            read = PlanRepository(session).add(plan)
        execute(url, inserted)
        (child,) = (each for each in stored(engine) if each.parent_plan_id)
        changes = "root_plan_id = NULL, automation_profile = ' ', description = 'former'"
        execute(url, f"UPDATE v3_plans SET {changes} WHERE plan_id = '{plan.plan_id}'")
        (updated,) = (each for each in stored(engine) if not each.parent_plan_id)

        assert child.root_plan_id == plan.plan_id
        assert child.effective_profile is None
        assert child.resolved_profile().profile.name == "balanced"
        assert updated.root_plan_id == plan.plan_id
        assert updated.automation_profile.profile_name == "balanced"
        assert updated.effective_profile is not None
        assert updated.effective_profile.name == "trusted"
        assert updated.updated_at == read.updated_at
        with Session(engine) as session, pytest.raises(ChangeNotAllowed):
            PlanRepository(session).save(read.begin())
        execute(url, "UPDATE v3_plans SET updated_at = '2126-03-14T00:05:32.000000+00:00'")
        with Session(engine) as session, pytest.raises(PlanConflict):
            PlanRepository(session).save(read.begin())
