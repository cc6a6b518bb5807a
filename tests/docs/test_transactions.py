"""What databases.md says of transactions: who commits, and which error a conflict is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, ForeignKey, MetaData, NullPool, String, Table, select
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from cleveragents_plans import (
    AsyncPlanRepository,
    LifecyclePlanModel,
    Plan,
    PlanConflict,
    PlanRepository,
    PlansError,
    open_async_engine,
    open_engine,
)
from support import pages
from support.databases import ONE_OF_EACH, database_at
from support.every_method import call_every_method
from support.pooler import transaction_pooler
from support.statements import recorded

PAGE = pages.page("docs/databases.md")
STRICTER = ("REPEATABLE READ", "SERIALIZABLE")


@pytest.fixture(params=ONE_OF_EACH)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with database_at("head", request.param, tmp_path) as url:
        engine = open_engine(url, poolclass=NullPool)
        yield engine
        engine.dispose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Engine]:
    with database_at("head", "postgresql-18", tmp_path) as url:
        yield open_engine(url, poolclass=NullPool)


def code(naming: str) -> dict[str, Any]:
    """Run the block of Python of the page that has this word; give what it defines."""
    (block,) = [
        text for kind, text in pages.blocks(PAGE) if kind == "python" and f"def {naming}" in text
    ]
    names: dict[str, Any] = {}
    exec(block, names)  # what the page says is what is tested
    return names


def orders_of(engine: Engine) -> Table:
    metadata = MetaData()
    plans = LifecyclePlanModel.__table__.to_metadata(metadata)
    orders = Table(
        "orders", metadata,
        Column("title", String(20), unique=True),
        Column("plan_id", ForeignKey(plans.c.plan_id, ondelete="SET NULL")),
    )  # fmt: skip
    orders.create(engine)
    return orders


def test_order_and_its_plan_are_both_stored_or_neither(engine: Engine):
    place_order, orders = code("place_order")["place_order"], orders_of(engine)
    plan = place_order(engine, orders, "one")
    with pytest.raises(IntegrityError):
        place_order(engine, orders, "one")

    with Session(engine) as session:
        assert [each.plan_id for each in PlanRepository(session).list()] == [plan.plan_id]
        assert session.execute(select(orders.c.plan_id)).all() == [(plan.plan_id,)]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    title: Mapped[str] = mapped_column(String(20), primary_key=True)
    plan_id: Mapped[str]


def test_objects_that_are_pending_are_flushed_before_a_plan_is_written(engine: Engine):
    orders_of(engine)
    plan = Plan.create("local/x")
    with Session(engine) as session:
        session.add(Order(title="first", plan_id=plan.plan_id))
        with pytest.raises(IntegrityError):
            PlanRepository(session).add(plan)
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(plan)
        session.add(Order(title="then", plan_id=plan.plan_id))
        PlanRepository(session).save(plan.begin())

        assert not session.new


def touch(plans: PlanRepository, plan: Plan) -> Any:
    return plans.touch(plan)


def delete(plans: PlanRepository, plan: Plan) -> Any:
    return plans.delete(plan)


#: What each method does to a plan, in which state, that another one wrote, or deleted, meanwhile.
METHODS: dict[str, tuple[Callable[[PlanRepository, Plan], Any], str, Any]] = {
    "save": (lambda plans, plan: plans.save(plan.begin()), "queued", touch),
    "touch": (touch, "queued", touch),
    "release": (lambda plans, plan: plans.release(plan), "processing", touch),
    "delete": (delete, "queued", touch),
    "change": (lambda plans, plan: plans.change(plan.plan_id, Plan.begin), "queued", touch),
    "claim": (lambda plans, plan: plans.claim(), "queued", touch),
    "requeue_stalled": (
        lambda plans, plan: plans.requeue_stalled(not_touched_for=timedelta(0)),
        "processing",
        touch,
    ),
    "delete_tree": (lambda plans, plan: plans.delete_tree(plan.plan_id), "queued", touch),
    "delete_trees": (
        lambda plans, plan: plans.delete_trees(
            completed_before=datetime.now(UTC) + timedelta(days=1)
        ),
        "cancelled",
        touch,
    ),
    "add": (lambda plans, plan: plans.add(plan.spawn("a part")), "queued", delete),
    "add_all": (lambda plans, plan: plans.add_all([plan.spawn("a part")]), "queued", delete),
}


def promised() -> dict[str, tuple[str, str]]:
    """Read the table of the page: by method, what happens in READ COMMITTED, and else."""
    section = PAGE.split("## Transactions")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    return {
        method: (default, stricter)
        for methods, default, stricter in rows
        for method in re.findall(r"`(\w+)`", methods)
    }


def raised(engine: Engine, level: str, method: str) -> str:
    """Let another transaction come first; name the error of *method*, or give ``none``."""
    act, state, other = METHODS[method]
    with Session(engine) as session, session.begin():
        session.execute(sql_delete(LifecyclePlanModel.__table__))  # of the level before
        plans = PlanRepository(session)
        stored = plans.add(Plan.create("local/x"))
        if state != "queued":
            stored = plans.save(stored.begin() if state == "processing" else stored.cancel())
    with Session(engine.execution_options(isolation_level=level)) as session:
        plans = PlanRepository(session)
        plan = plans.get(stored.plan_id)
        with Session(engine) as first, first.begin():
            other(PlanRepository(first), stored)
        try:
            act(plans, plan)
        except PlansError as error:
            return type(error).__name__
        except OperationalError as error:
            meant = "could not serialize access due to concurrent update" in str(error)
            return type(error).__name__ if meant else str(error)
    return "none"


def test_table_of_the_page_has_every_method_that_writes():
    assert promised().keys() == METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_conflict_raises_the_error_that_the_page_names(method: str, server: Engine):
    default, stricter = promised()[method]
    wanted = {"READ COMMITTED": default} | dict.fromkeys(STRICTER, stricter)
    for level, said in wanted.items():
        named = re.findall(r"`(\w+)`", said) or ["none"]

        assert raised(server, level, method) == named[0], level


def test_plan_that_another_transaction_wrote_is_not_overwritten(engine: Engine):
    """As by two requests that read it, and then save it one after the other."""
    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).add(Plan.create("local/x"))
    with Session(engine) as session, session.begin():
        PlanRepository(session).save(plan.edit(description="first"))
    with Session(engine) as session, session.begin(), pytest.raises(PlanConflict):
        PlanRepository(session).save(plan.edit(description="second"))

    with Session(engine) as session:
        assert PlanRepository(session).get(plan.plan_id).description == "first"


def test_change_gives_up_after_so_many_attempts(engine: Engine):
    with Session(engine) as session, session.begin():
        plan = PlanRepository(session).add(Plan.create("local/x"))
    tries: list[str] = []

    def step(read: Plan) -> Plan:
        tries.append("")
        touch(PlanRepository(session), read)  # what another writer does, before this one saves
        return read.begin()

    with Session(engine) as session, pytest.raises(PlanConflict):
        PlanRepository(session).change(plan.plan_id, step)
    assert len(tries) == 10


def test_methods_leave_nothing_in_a_session_of_the_server(server: Engine):
    """A pooler in transaction mode gives the session to another client after each transaction."""
    with recorded() as sent:
        call_every_method(server.url.render_as_string(hide_password=False))

    assert any("SKIP LOCKED" in each for each in sent)
    lasting = re.compile(r"^\s*(SET|LISTEN|PREPARE|DECLARE|LOAD)\b|advisory|\bTEMP", re.I)
    assert [each for each in sent if lasting.search(each)] == []


def test_every_method_works_behind_a_pooler_in_transaction_mode(tmp_path: Path):
    with (
        database_at("head", "postgresql-18", tmp_path) as url,
        transaction_pooler(url) as pooled,
    ):
        for _ in range(2):
            call_every_method(f"{pooled}&prepare_threshold=none")


def test_transaction_that_is_begun_again_by_the_code_of_the_page_ends_well(server: Engine):
    run = code("in_one_transaction")["in_one_transaction"]
    with Session(server) as session, session.begin():
        plan = PlanRepository(session).add(Plan.create("local/x"))
    strict = server.execution_options(isolation_level="SERIALIZABLE")
    tries: list[str] = []

    def work(plans: PlanRepository) -> Plan:
        stored = plans.get(plan.plan_id)
        if len(tries) < 2:
            with Session(server) as first, first.begin():
                PlanRepository(first).touch(stored)
        tries.append("")
        return plans.save(stored.begin())

    assert run(strict, work).processing_state == "processing"
    assert len(tries) == 3

    def never(plans: PlanRepository) -> None:
        tries.append("")
        raise PlanConflict(plan.plan_id, "now")

    tries.clear()
    with pytest.raises(PlanConflict):
        run(strict, never, attempts=2)
    assert len(tries) == 2


def test_commit_of_a_serializable_transaction_can_be_refused_by_the_database(server: Engine):
    strict = server.execution_options(isolation_level="SERIALIZABLE")
    with Session(strict) as one, Session(strict) as two:
        for session in (one, two):
            PlanRepository(session).count()
        for session in (one, two):
            PlanRepository(session).add(Plan.create("local/x"))
        one.commit()
        with pytest.raises(OperationalError, match="could not serialize access"):
            two.commit()


def test_plan_can_be_read_after_the_commit(tmp_path: Path):
    async def add_and_read(url: str) -> tuple[Plan, Plan, str]:
        engine = open_async_engine(url)
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            plan = await AsyncPlanRepository(session).add(Plan.create("local/x", description="d"))
            query = select(LifecyclePlanModel).options(*LifecyclePlanModel.with_children())
            row = (await session.scalars(query)).one()
        await engine.dispose()
        return plan, row.to_domain(), row.description

    with database_at("head", "sqlite", tmp_path) as url:
        plan, same, description = asyncio.run(add_and_read(url))

    assert (plan, plan.description) == (same, description)
