"""What the reference and the explanations promise of plans is what both engines do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, text
from sqlalchemy.orm import Session

from cleveragents_plans import (
    EnvironmentPriority,
    Level,
    LifecyclePlanModel,
    Phase,
    Plan,
    PlanRepository,
    ProcessingState,
    open_engine,
)
from cleveragents_plans.cli import main
from support.databases import ONE_OF_EACH, database_at

INDIA = timezone(timedelta(hours=5.5))
TIME = datetime(2026, 3, 14, 17, 30, 0, 123456, INDIA)


@pytest.fixture(params=ONE_OF_EACH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database_at("head", request.param, tmp_path) as url:
        yield url


def engine_of(url: str) -> Engine:
    return open_engine(url, poolclass=NullPool)


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "full"])
def test_plan_is_equal_after_json_and_rows_one_after_the_other(url: str, empty: bool):
    plan = Plan.create("local/x", created_at=TIME, plan_id="01JQ0000000000000000000000")
    if not empty:
        plan = Plan.create(
            "server:team/x", created_at=TIME, profile="trusted", tags=["b", "a"],
            arguments={"b": [1, 1.0, True, None, {}], "a": ""}, invariants=["dry"],
            project_links=["p"], execution_env_priority=EnvironmentPriority.OVERRIDE,
            definition_of_done="", execution_environment="", created_by="",
        ).edit(validation_summary={}, sandbox_refs=[""], cost_actual_usd=0.1)  # fmt: skip
        plan = plan.fail("it broke", {})
    engine = engine_of(url)

    again = Plan.model_validate_json(plan.model_dump_json())
    with Session(engine) as session, session.begin():
        session.add(LifecyclePlanModel.from_domain(again))
    with Session(engine) as session:
        row = session.get(
            LifecyclePlanModel, plan.plan_id, options=LifecyclePlanModel.with_children()
        )
        assert row is not None
        read = row.to_domain()
        assert PlanRepository(session).get(plan.plan_id) == read
    engine.dispose()

    assert Plan.model_validate_json(read.model_dump_json()) == read == plan
    assert (read.created_at, read.created_at.tzinfo) == (TIME, UTC)
    assert read.created_at.microsecond == TIME.microsecond
    assert type(read.phase) is Phase
    assert type(read.processing_state) is ProcessingState
    assert (read.definition_of_done, read.validation_summary) == (
        (None,) * 2 if empty else ("", {})
    )
    assert type(read.tags) is tuple
    if not empty:
        assert type(read.automation_profile.provenance) is Level
        assert repr(read.arguments["b"]) == repr(plan.arguments["b"])


# Rows that only SQL of others can write


@pytest.fixture
def broken(url: str) -> tuple[str, dict[str, str]]:
    """
    A tree whose plans do not all hang together; the id of each plan by its description.

    top; in the cycle: one below two, two below three, three below one; below the cycle: leaf;
    lost, whose parent is missing, and under it its child.
    """
    engine = engine_of(url)
    with Session(engine) as session, session.begin():
        plans = PlanRepository(session)
        top = plans.add(Plan.create("local/x", description="top"))
        ids = {"top": top.plan_id}
        above = {"one": "top", "two": "one", "three": "two", "leaf": "three", "gone": "top"}
        above |= {"lost": "gone", "child": "lost"}
        made = {"top": top}
        for name, parent in above.items():
            made[name] = plans.add(made[parent].spawn(name))
            ids[name] = made[name].plan_id
    engine.dispose()
    engine = open_engine(url, migrating=True)  # foreign keys are off on SQLite
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            text("UPDATE v3_plans SET parent_plan_id = :three WHERE plan_id = :one"), ids
        )
        connection.execute(text("DELETE FROM v3_plans WHERE plan_id = :gone"), ids)
    engine.dispose()
    del ids["gone"]
    return url, ids


def test_cycles_and_missing_parents_end_every_walk_as_the_page_says(
    broken: tuple[str, dict[str, str]],
):
    url, ids = broken
    name_of = {plan_id: name for name, plan_id in ids.items()}
    engine = engine_of(url)
    with Session(engine) as session:
        plans = PlanRepository(session)

        def above(name: str) -> list[str]:
            return [name_of[each.plan_id] for each in plans.ancestors(ids[name])]

        assert [name_of[each.plan_id] for each in plans.tree(ids["top"])] == list(ids)
        assert [name_of[each.plan_id] for each in plans.children(ids["three"])] == ["one", "leaf"]
        assert above("one") == ["three", "two"]
        assert above("leaf") == ["three", "two", "one"]
        assert (above("lost"), above("child")) == ([], ["lost"])
        assert plans.depth(ids["leaf"]) == 3
        assert plans.depth(ids["child"]) == 1
        summary = plans.tree_summary(ids["top"])
        assert (summary.plans, summary.depth) == (len(ids), 0)
    engine.dispose()


def test_command_tree_shows_each_plan_of_a_cycle_once_and_verify_names_both_faults(
    broken: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
):
    url, ids = broken

    cycle = {"one", "two", "three", "leaf"}
    for asked, wanted in (("top", {*ids}), ("leaf", cycle), ("child", {"lost", "child"})):
        assert main(["tree", ids[asked], "--url", url]) == 0
        drawn = capsys.readouterr().out
        assert f"{len(wanted)} plans" in drawn
        assert drawn.count("its own ancestor") == (asked != "child")
        assert {name: drawn.count(plan_id) for name, plan_id in ids.items()} == {
            name: int(name in wanted) for name in ids
        }
    assert main(["tree", ids["leaf"], "--limit", "2", "--url", url]) == 0
    drawn = capsys.readouterr().out
    assert sum(plan_id in drawn for plan_id in ids.values()) == 2
    assert "4 plans; 2 more are not shown" in drawn
    main(["verify", "--url", url, "--json"])
    said = capsys.readouterr().out
    assert '"cycle"' in said
    assert '"parent-not-stored"' in said
