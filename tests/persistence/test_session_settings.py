"""What a role or a database sets for its sessions changes nothing that is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cleveragents_plans import LifecyclePlanModel, PlanRepository
from cleveragents_plans.persistence import AsyncPlanRepository, open_async_engine, open_engine
from cleveragents_plans.schema import chain_config, upgrade
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import verify
from support.broken import libpq
from support.plans import a_root

COST = 0.1 + 0.2


@pytest.fixture(params=["0", "-15"])
def url(request: pytest.FixtureRequest, postgresql_url: str) -> str:
    upgrade(postgresql_url)
    name = make_url(postgresql_url).database
    with psycopg.connect(libpq(postgresql_url), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET extra_float_digits = {request.param}')
    return postgresql_url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def check(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        repository = PlanRepository(session)
        added = repository.add(a_root(1))
        costly = repository.save(added.edit(cost_actual_usd=COST))
        again = repository.get(costly.plan_id)
        assert again == costly
        assert again.cost_actual_usd == COST
        assert repository.tree_summary(costly.plan_id).cost_actual_usd == COST
        row = session.scalars(select(LifecyclePlanModel)).one()
        assert row.cost_actual_usd == COST
        session.expunge(row)
    with Session(engine) as session, session.begin():
        repository = PlanRepository(session)
        (claimed,) = repository.claim(phase="action")
        assert claimed.cost_actual_usd == COST
        assert repository.save(claimed.complete()).cost_actual_usd == COST
        assert repository.get(claimed.plan_id).cost_actual_usd == COST


def test_costs_are_read_to_the_last_bit_however_few_digits_the_database_sets(
    engine: Engine,
) -> None:
    check(engine)


def test_costs_are_read_to_the_last_bit_by_asyncio(url: str) -> None:
    async def read() -> float | None:
        engine = open_async_engine(url)
        async with AsyncSession(engine) as session, session.begin():
            repository = AsyncPlanRepository(session)
            await repository.add(a_root(1, cost_actual_usd=COST))
        async with AsyncSession(engine) as session:
            found = await AsyncPlanRepository(session).get(a_root(1).plan_id)
        await engine.dispose()
        return found.cost_actual_usd

    assert asyncio.run(read()) == COST


def test_fingerprints_do_not_depend_on_the_digits_that_the_database_sets(
    url: str, engine: Engine
) -> None:
    with Session(engine) as session, session.begin():
        PlanRepository(session).add(a_root(1, cost_actual_usd=COST))
    found = []
    for digits in ("0", "3"):
        given = make_url(url).update_query_dict({"options": f"-c extra_float_digits={digits}"})
        shown = given.render_as_string(hide_password=False)
        with read_database(chain_config(shown), "verify") as db:
            found.append(verify(db, fingerprint=True).fingerprint)
    assert found[0] == found[1]
