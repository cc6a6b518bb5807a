"""The repository for asyncio does what the other one does, by the same code."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import InvalidType, InvalidValue
from cleveragents_plans.persistence import (
    AsyncPlanRepository,
    PlanConflict,
    UnknownFilter,
    open_async_engine,
)
from support.plans import a_child, a_root, ulid

METHODS = [name for name in dir(PlanRepository) if not name.startswith("_")]


def run(engine: Engine, work: Callable[[AsyncPlanRepository], Awaitable[Any]]) -> Any:
    async def working() -> Any:
        opened = open_async_engine(engine.url)
        try:
            async with AsyncSession(opened) as session, session.begin():
                return await work(AsyncPlanRepository(session))
        finally:
            await opened.dispose()

    return asyncio.run(working())


def test_every_method_is_there_with_its_parameters_and_documentation():
    assert [name for name in dir(AsyncPlanRepository) if not name.startswith("_")] == METHODS
    for name in METHODS:
        ours, other = getattr(AsyncPlanRepository, name), getattr(PlanRepository, name)
        assert [*inspect.signature(ours).parameters] == [*inspect.signature(other).parameters]
        assert inspect.iscoroutinefunction(ours) or name == "stream"
        assert (inspect.getdoc(ours) == inspect.getdoc(other)) or name == "stream"


def test_plans_are_added_claimed_saved_listed_and_deleted(engine):
    async def work(plans: AsyncPlanRepository) -> None:
        top = await plans.add(a_root(1, arguments={"a": 1}))
        assert await plans.add_all([a_child(3, a_child(2, top)), a_child(2, top)]) == 2
        (claimed,) = await plans.claim(phase="action")
        assert claimed == await plans.get(ulid(1))
        released = await plans.release(await plans.touch(claimed))
        assert (released.processing_state, released.attempt) == ("queued", 1)
        (claimed,) = await plans.claim(phase="action")
        saved = await plans.save(claimed.complete())
        with pytest.raises(PlanConflict):
            await plans.save(claimed)
        advanced = await plans.change(ulid(1), Plan.advance)
        assert advanced.phase == "strategize"
        assert saved.updated_at < advanced.updated_at
        page = await plans.list(limit=2, order="newest")
        assert [plan.plan_id for plan in page] == [ulid(3), ulid(2)]
        rest = await plans.list(limit=2, order="newest", after=page.next_cursor)
        assert [*rest] == [advanced]
        assert await plans.count_by("phase") == {"action": 2, "strategize": 1}
        assert (await plans.tree_summary(ulid(1))).depth == 2
        assert await plans.requeue_stalled(not_touched_for=timedelta(0)) == ()
        assert await plans.delete_trees(completed_before=datetime.now(UTC)) == 0
        assert await plans.delete_tree(ulid(1)) == 3

    run(engine, work)


def test_a_stream_is_gone_through_by_async_for(engine):
    plans = [a_root(number) for number in range(1500)]

    async def work(repository: AsyncPlanRepository) -> list[Plan]:
        await repository.add_all(plans)
        return [plan async for plan in repository.stream(order="newest", phase="action")]

    assert run(engine, work) == plans[::-1]


def test_the_arguments_of_a_stream_are_checked_at_once(engine):
    async def work(repository: AsyncPlanRepository) -> None:
        with pytest.raises(UnknownFilter, match="processing_state"):
            repository.stream(state="queued")
        with pytest.raises(InvalidValue, match="order is"):
            repository.stream(order="latest")

    run(engine, work)


def test_a_repository_is_given_the_session_that_it_works_on(engine):
    asynchronous = open_async_engine(engine.url)
    for wrong in (asynchronous, engine, AsyncSession(asynchronous), None, "sqlite://"):
        with pytest.raises(InvalidType, match=r"session is .*; expected a Session"):
            PlanRepository(wrong)
    for wrong in (asynchronous, engine, Session(engine), None):
        with pytest.raises(InvalidType, match=r"session is .*; expected an AsyncSession"):
            AsyncPlanRepository(wrong)
    with pytest.raises(InvalidType, match="AsyncPlanRepository takes an AsyncSession"):
        PlanRepository(AsyncSession(asynchronous))
    with pytest.raises(InvalidType, match=r"as in: with Session\(engine\)"):
        PlanRepository(engine)
    with scoped_session(sessionmaker(engine))() as session:
        assert PlanRepository(session).list() == ()
    scoped = scoped_session(sessionmaker(engine))
    assert PlanRepository(scoped).list() == ()
    scoped.remove()
    asyncio.run(asynchronous.dispose())
