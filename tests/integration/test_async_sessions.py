"""The repository works behind an AsyncSession too, through `run_sync`."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from cleveragents_plans import Plan, PlanRepository
from cleveragents_plans.domain import BUILT_IN
from cleveragents_plans.persistence import PlanChangedMeanwhile
from support.plans import a_plan, ulid

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg_async"}


def test_plans_are_added_read_saved_and_deleted_behind_an_async_session(engine: Engine):
    url = engine.url.set(drivername=DRIVERS[engine.dialect.name])
    plan = a_plan(
        effective_profile_snapshot=BUILT_IN["balanced"].snapshot(),
        arguments={"a": [1.0, None]},
        project_links=[{"project_name": "p"}],
    )

    async def work() -> tuple[Plan, Plan]:
        asynchronous = create_async_engine(url)
        async with AsyncSession(asynchronous) as session:
            await session.run_sync(lambda session: PlanRepository(session).add(plan))
            await session.commit()
            saved = await session.run_sync(
                lambda session: PlanRepository(session).save(plan.begin())
            )
            with pytest.raises(PlanChangedMeanwhile):
                await session.run_sync(lambda session: PlanRepository(session).delete(plan))
            await session.commit()
            listed = await session.run_sync(lambda session: PlanRepository(session).list())
            await session.run_sync(lambda session: PlanRepository(session).delete(saved))
            await session.commit()
        await asynchronous.dispose()
        assert listed.plans == (saved,)
        return saved, listed.plans[0]

    saved, listed = asyncio.run(work())

    assert saved == listed
    assert saved.plan_id == ulid(1)
    assert saved.processing_state == "processing"
