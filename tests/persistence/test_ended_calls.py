"""A call that is ended from outside leaves no transaction behind, on each engine."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from contextlib import closing

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cleveragents_plans import (
    AsyncPlanRepository,
    PlanRepository,
    open_async_engine,
    open_engine,
)
from support.plans import a_plan, ulid

#: A second or more, for which no driver looks at signals or at the event loop.
SLOW = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000000) "
    "SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(1.5)",
}


def short_timeout(url: str) -> dict[str, float]:
    return {"timeout": 3} if url.startswith("sqlite") else {}


def test_call_that_a_time_limit_of_asyncio_ends_holds_no_lock(migrated_url):
    async def main() -> int:
        engine = open_async_engine(migrated_url, connect_args=short_timeout(migrated_url))

        async def work() -> None:
            async with AsyncSession(engine) as session:
                await AsyncPlanRepository(session).add(a_plan(1))
                await session.execute(text(SLOW[engine.dialect.name]))

        with pytest.raises(TimeoutError) as ended:
            async with asyncio.timeout(0.5):
                await work()
        # Its traceback has the cursor while it is handled.
        async with AsyncSession(engine) as session:
            await AsyncPlanRepository(session).add(a_plan(2))
            await session.commit()
            count = await AsyncPlanRepository(session).count()
        assert ended.tb is not None
        await engine.dispose()
        return count

    assert asyncio.run(main()) == 1


def test_time_limit_of_asyncio_ends_no_wait_for_the_write_lock_of_sqlite(sqlite_url):
    async def main() -> float:
        engine = open_async_engine(sqlite_url, connect_args={"timeout": 1})
        async with AsyncSession(engine) as session:
            await session.execute(text("CREATE TABLE t (i)"))
            await session.commit()
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as writer:
            writer.execute("INSERT INTO t VALUES (1)")
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), AsyncSession(engine) as session:
                    await session.execute(text("SELECT 1"))
            waited = time.monotonic() - begun
        await engine.dispose()
        return waited

    # As docs/databases.md says: the engine's own time holds.
    assert 0.9 < asyncio.run(main()) < 30


def test_call_that_the_handler_of_a_signal_ends_holds_no_lock(migrated_url):
    class TimeLimit(BaseException):
        pass

    def end(*_: object) -> None:
        raise TimeLimit

    engine = open_engine(migrated_url, connect_args=short_timeout(migrated_url))

    def work() -> None:
        with Session(engine) as session:
            PlanRepository(session).add(a_plan(1))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            session.execute(text(SLOW[engine.dialect.name]))

    former = signal.signal(signal.SIGALRM, end)
    try:
        with pytest.raises(TimeLimit) as ended:
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

    with Session(engine) as session:
        PlanRepository(session).add(a_plan(2))
        session.commit()
        assert not PlanRepository(session).exists(ulid(1))
    assert ended.tb is not None  # it has the cursor
    engine.dispose()


def test_transaction_that_a_pool_without_a_reset_was_given_back_is_rolled_back(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'plans.db'}", pool_reset_on_return=None)
    raw = engine.raw_connection()
    raw.cursor().execute("CREATE TABLE t (i)")
    raw.cursor().execute("BEGIN IMMEDIATE")
    raw.cursor().execute("INSERT INTO t VALUES (1)")
    raw.close()

    count = "SELECT count(*) FROM t"
    with engine.begin() as connection:
        assert connection.scalar(text(count)) == 0
    with closing(sqlite3.connect(tmp_path / "plans.db")) as other:
        assert other.execute(count).fetchone() == (0,)
    engine.dispose()


def test_connection_of_sqlite_can_be_closed_twice(tmp_path):
    engine: Engine = open_engine(f"sqlite:///{tmp_path / 'plans.db'}")
    connection = engine.raw_connection().driver_connection
    assert connection is not None

    connection.close()
    connection.close()
