"""The repository works behind an AsyncSession too, through `run_sync`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN_PROFILES, PlanIdentity
from cleveragents_plans.persistence import (
    CorruptPlanRow,
    DatabaseUrlError,
    ForeignKeysOff,
    Page,
    PlanConflict,
    open_async_engine,
    open_engine,
    read_only,
)
from cleveragents_plans.persistence.errors import RelatedPlanMissing
from support.plans import a_plan, ulid

#: PostgreSQL has many writers, keeps no broken text, and has no foreign keys to switch on.
sqlite_only = pytest.mark.parametrize("migrated_engine", ["sqlite"], indirect=True, scope="session")
CHILD_TABLES = ("plan_projects", "plan_arguments", "plan_invariants")


def full(number: int = 1, **fields: object) -> Plan:
    return a_plan(
        number,
        effective_profile_snapshot=BUILT_IN_PROFILES["balanced"].snapshot(),
        project_links=[{"project_name": "p"}],
        arguments={"a": [1.0, None]},
        invariants=[{"text": "dry"}],
        **fields,
    )


def below(number: int, parent: Plan) -> Plan:
    place = {"parent_plan_id": parent.plan_id, "root_plan_id": parent.root_plan_id}
    return full(number, identity=PlanIdentity(plan_id=ulid(number), **place))


@pytest.fixture
def run(engine: Engine) -> Callable[..., Any]:
    """Run work on an AsyncSession, which is committed, on an engine that is let go afterwards."""

    def run(
        work: Callable[[AsyncSession], Awaitable[Any]],
        opened: Callable[..., AsyncEngine] = open_async_engine,
    ) -> Any:
        async def working() -> Any:
            asynchronous = opened(engine.url)
            try:
                async with AsyncSession(asynchronous) as session, session.begin():
                    return await work(session)
            finally:
                await asynchronous.dispose()

        return asyncio.run(working())

    return run


async def call(session: AsyncSession, method: Callable[..., Any], *arguments: Any) -> Any:
    return await session.run_sync(lambda it: method(PlanRepository(it), *arguments))


async def rows_of_children(session: AsyncSession) -> list[int]:
    counts = [text(f"SELECT count(*) FROM {table}") for table in CHILD_TABLES]
    return [(await session.execute(each)).scalar_one() for each in counts]


def test_plans_are_added_read_saved_and_deleted(run):
    async def work(session: AsyncSession) -> None:
        added = await call(session, PlanRepository.add, full())
        saved = await call(session, PlanRepository.save, added.begin())
        with pytest.raises(PlanConflict):
            await call(session, PlanRepository.delete, added)
        listed = await call(session, PlanRepository.list)
        await call(session, PlanRepository.delete, saved)

        assert added == full()
        assert saved.processing_state == "processing"
        assert listed == (saved,)
        assert await rows_of_children(session) == [0, 0, 0]

    run(work)


def test_a_tree_is_deleted_with_all_that_belongs_to_it(run):
    top = full(1)

    async def fill(session: AsyncSession) -> None:
        await call(session, PlanRepository.add_all, [top, below(2, top), full(3)])

    async def delete(session: AsyncSession) -> tuple[int, list[int]]:
        deleted = await call(session, PlanRepository.delete_tree, top.plan_id)
        return deleted, await rows_of_children(session)

    run(fill)

    assert run(delete) == (2, [1, 1, 1])


def test_a_plan_under_a_missing_parent_is_refused_and_children_are_detached(run):
    top, middle = full(1), below(2, full(1))

    async def work(session: AsyncSession) -> None:
        with pytest.raises(RelatedPlanMissing):
            await call(session, PlanRepository.add, below(8, full(9)))
        await call(session, PlanRepository.add_all, [top, middle, below(3, middle)])
        await call(session, PlanRepository.delete, middle)

        assert (await call(session, PlanRepository.get, ulid(3))).is_detached

    run(work)


@sqlite_only
def test_a_transaction_takes_its_turn_at_once_and_a_reader_does_not(engine, run):

    impatient = open_engine(engine.url, connect_args={"timeout": 0})

    async def write(session: AsyncSession) -> Page:
        await session.connection()
        with pytest.raises(OperationalError, match="database is locked"):
            impatient.connect().exec_driver_sql("SELECT 1")
        reader = read_only(open_async_engine(engine.url))
        async with AsyncSession(reader) as reading:
            page = await call(reading, PlanRepository.list)
        await reader.dispose()
        return page

    assert run(write) == ()
    impatient.dispose()


def test_pages_lead_through_plans_where_a_stream_cannot(run):
    plans = [full(number) for number in range(5)]

    async def work(session: AsyncSession) -> list[Plan]:
        await call(session, PlanRepository.add_all, plans)
        # Within run_sync it can.
        assert await session.run_sync(lambda it: [*PlanRepository(it).stream()]) == plans
        found, after = [], None
        while True:
            page = await session.run_sync(a_page, after)
            found += page
            after = page.next_cursor
            if after is None:
                return found

    def a_page(session: Session, after: str | None) -> Page:
        return PlanRepository(session).list(after=after, limit=2)

    assert run(work) == plans


@sqlite_only
def test_text_that_is_no_utf8_hides_no_other_row(engine, run):

    async def work(session: AsyncSession) -> tuple[Plan, ...]:
        await call(session, PlanRepository.add_all, [full(1), full(2)])
        broken = "UPDATE v3_plans SET description = CAST(x'ff' AS TEXT) WHERE plan_id = :it"
        await session.execute(text(broken), {"it": ulid(1)})
        with pytest.raises(CorruptPlanRow, match=r"v3_plans\.description"):
            await call(session, PlanRepository.get, ulid(1))
        page = await session.run_sync(lambda it: PlanRepository(it).list(on_corrupt="skip"))
        return page

    assert run(work) == (full(2),)


@sqlite_only
def test_plans_are_neither_added_nor_deleted_where_foreign_keys_are_off(engine, run):
    plan = full()

    async def fill(session: AsyncSession) -> None:
        await call(session, PlanRepository.add, plan)

    async def refused(session: AsyncSession) -> list[int]:
        for method, argument in (
            (PlanRepository.delete, plan),
            (PlanRepository.delete_tree, plan.plan_id),
            (PlanRepository.add, full(2)),
        ):
            with pytest.raises(ForeignKeysOff, match=r"open_engine\(\) or open_async_engine\(\)"):
                await call(session, method, argument)
        return await rows_of_children(session)

    def plain(url: Any) -> AsyncEngine:
        return create_async_engine(url.set(drivername="sqlite+aiosqlite"))

    run(fill)

    assert run(refused, plain) == [1, 1, 1]


def test_an_engine_goes_by_the_drivers_for_asyncio():
    assert open_async_engine("sqlite+pysqlite:///plans.db").dialect.driver == "aiosqlite"
    assert open_async_engine("postgres://u@h/d").dialect.is_async
    with pytest.raises(DatabaseUrlError, match="has a host that is none"):
        open_async_engine("sqlite://user:secret@host/plans.db")


def test_a_connection_keeps_foreign_keys_and_a_write_ahead_log(sqlite_url):
    async def ask() -> list[object]:
        engine = open_async_engine(sqlite_url)
        async with engine.connect() as connection:
            found = [
                await connection.scalar(text(f"PRAGMA {name}"))
                for name in ("foreign_keys", "journal_mode", "synchronous", "busy_timeout")
            ]
        await engine.dispose()
        return found

    assert asyncio.run(ask()) == [1, "wal", 2, 30_000]
