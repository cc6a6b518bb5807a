"""A question about few plans is answered by an index of m8_002, not by reading the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from cleveragents_plans import PlanRepository, open_engine
from cleveragents_plans.persistence.pages import cursor_of
from support.databases import ONE_OF_EACH, database_at
from support.plan_tables import TREE, created_at, fill, plan_id

PLANS = 3 * TREE * 100
ROOT = plan_id(PLANS // 2)
MINUTE = timedelta(minutes=1)

Ask = Callable[[PlanRepository], Any]


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with database_at("head", request.param, tmp_path_factory.mktemp("filled")) as url:
        engine = open_engine(url)
        fill(engine, PLANS)
        yield engine
        engine.dispose()


def explained(engine: Engine, ask: Ask, *, small: bool = True) -> list[str]:
    """Give how the database goes about each statement of a question, in a *small* table or not."""
    explained: list[str] = []
    how = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "WITH", "DELETE")):
            driver = connection.connection.driver_connection
            rows = driver.execute(f"{how} {statement}", parameters).fetchall()
            explained.append("\n".join(str(row[-1]) for row in rows))

    with Session(engine) as session:
        if small and engine.dialect.name == "postgresql":
            # Which is right for a table as small as this one.
            session.connection().exec_driver_sql("SET LOCAL enable_seqscan = off")
        event.listen(engine, "before_cursor_execute", explain)
        try:
            ask(PlanRepository(session))
        finally:
            event.remove(engine, "before_cursor_execute", explain)
        session.rollback()
    return explained


QUESTIONS: dict[str, tuple[Ask, str]] = {
    # By when they were written, or all that are in work: PostgreSQL takes what it expects less of.
    "requeue": (lambda it: it.requeue_stalled(not_touched_for=MINUTE), "ix_v3_plans_"),
    "poll": (lambda it: it.claim(phase="apply"), "ix_v3_plans_queued"),
    "claim": (lambda it: it.claim(phase="action"), "ix_v3_plans_queued"),
    "claim of any phase": (lambda it: it.claim(), "ix_v3_plans_queued"),
    "list of a namespace": (lambda it: it.list(namespace="team7"), "ix_v3_plans_namespace"),
    "list of a project": (lambda it: it.list(project="p7"), "ix_plan_projects_project_name"),
    "list of the last": (
        lambda it: it.list(created_from=created_at(PLANS - 100)),
        "ix_v3_plans_created_at",
    ),
    "list of the first": (
        lambda it: it.list(created_before=created_at(100), order="newest"),
        "ix_v3_plans_created_at",
    ),
    "list of the errored": (lambda it: it.list(processing_state="errored"), "ix_v3_plans_open"),
    "list of two states": (
        lambda it: it.list(processing_state=["errored", "complete"]),
        "ix_v3_plans_open",
    ),
    "list of the open in a tree": (
        lambda it: it.list(root=ROOT, is_final=False),
        "ix_v3_plans_root_plan_id",
    ),
    "list of the open children": (
        lambda it: it.list(parent=ROOT, is_final=False),
        "ix_v3_plans_parent_plan_id",
    ),
    "count of the open": (lambda it: it.count_by("phase", is_final=False), "ix_v3_plans_open"),
    "retention": (
        lambda it: it.delete_trees(completed_before=created_at(TREE), limit=1),
        "ix_v3_plans_completed_roots",
    ),
    "depth of a tree": (lambda it: it.tree_summary(ROOT), "ix_v3_plans_parent_plan_id"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_about_few_plans_is_answered_by_its_index(filled: Engine, question: str):
    ask, index = QUESTIONS[question]

    plans = explained(filled, ask)

    assert any(index in each for each in plans), plans
    # SQLite fills one from the whole table.
    assert not any("BLOOM" in each for each in plans), plans


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_many_plans_of_a_time_are_not_sorted(filled: Engine):
    (_, plan) = explained(filled, lambda it: it.list(created_from=created_at(0)))

    assert "TEMP B-TREE" not in plan


@contextmanager
def done_since(engine_name: str, state: str, folder: Path) -> Iterator[Engine]:
    """Give plans that are done, and statistics from when nearly all of them were in *state*."""
    with database_at("head", engine_name, folder) as url:
        engine = open_engine(url)
        fill(engine, PLANS)
        old = {"last": plan_id(PLANS - 50)}
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE plan_projects SET project_name = 'most' WHERE plan_id < :last"), old
            )
        for each, then in ((state, "ANALYZE"), ("cancelled", "SELECT 1")):
            update = (
                f"UPDATE v3_plans SET processing_state = '{each}', phase = 'action',"
                " namespace = 'most', completed_at = NULL WHERE plan_id < :last"
            )
            with engine.begin() as connection:
                connection.execute(text(update), old)
            with engine.begin() as connection:
                connection.exec_driver_sql(then)
        yield engine
        engine.dispose()


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def emptied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    with done_since(request.param, "queued", tmp_path_factory.mktemp("emptied")) as engine:
        yield engine


QUEUED_THEN: dict[str, tuple[Ask, str]] = {
    "claim": (lambda it: it.claim(), "ix_v3_plans_queued"),
    "claim of a phase": (lambda it: it.claim(phase="execute"), "ix_v3_plans_queued"),
    "requeue": (lambda it: it.requeue_stalled(not_touched_for=MINUTE), "ix_v3_plans_"),
    "list of the queued": (
        lambda it: it.list(processing_state="queued", order="newest"),
        "ix_v3_plans_open",
    ),
    "list of a queue": (
        lambda it: it.list(processing_state="queued", phase="action"),
        "ix_v3_plans_queued",
    ),
    "next page": (
        lambda it: it.list(
            processing_state="queued", after=cursor_of(plan_id(PLANS // 2), "oldest")
        ),
        "ix_v3_plans_open",
    ),
    "list of what is open": (lambda it: it.list(is_final=False), "ix_v3_plans_open"),
    "list of two states": (
        lambda it: it.list(processing_state=["queued", "errored"]),
        "ix_v3_plans_open",
    ),
    "list of a namespace": (lambda it: it.list(namespace="team7"), "ix_v3_plans_namespace"),
    "list of a project that most plans have": (
        lambda it: it.list(project="most", order="newest"),
        "ix_plan_projects_project_name",
    ),
    "next page of a project": (
        lambda it: it.list(project="most", after=cursor_of(plan_id(PLANS // 2), "oldest")),
        "ix_plan_projects_project_name",
    ),
    "poll": (lambda it: it.exists(processing_state="queued"), "ix_v3_plans_open"),
    "poll of a phase": (
        lambda it: it.exists(processing_state="queued", phase="apply"),
        "ix_v3_plans_queued",
    ),
    "poll for what is left": (
        lambda it: it.exists(processing_state=["queued", "processing"], phase="apply"),
        "ix_v3_plans_queued",
    ),
}


@pytest.mark.parametrize("question", QUEUED_THEN)
def test_queue_that_was_emptied_since_the_last_analyze_is_not_searched(
    emptied: Engine, question: str
):
    ask, index = QUEUED_THEN[question]

    plans = explained(emptied, ask, small=False)

    assert_no_walk(plans, index)
    # SQLite would read all ids of a project before the first plan.
    assert "project" not in question or not any("LIST SUBQUERY" in each for each in plans), plans


@pytest.mark.parametrize("engine_name", ONE_OF_EACH)
def test_plans_that_were_in_work_at_the_last_analyze_are_not_searched_for_stalled_ones(
    engine_name: str, tmp_path: Path
):
    with done_since(engine_name, "processing", tmp_path) as engine:
        ask, index = QUESTIONS["requeue"]

        plans = explained(engine, ask, small=False)

    assert_no_walk(plans, index)


def assert_no_walk(plans: list[str], index: str) -> None:
    assert any(index in each for each in plans), plans
    walked = re.compile(
        "Seq Scan on v3_plans|pk_v3_plans on v3_plans .*rows=[0-9]{2}|SCAN v3_plans"
    )
    assert not any(walked.search(each) for each in plans), plans
