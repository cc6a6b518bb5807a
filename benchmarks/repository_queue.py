"""
Workers that take jobs and finish them: ours, a naive loop, and procrastinate.

Each is a process that takes one job, commits, finishes it, commits, until there is none. What was
taken twice is counted; a job that was not finished is an error.
"""

# Their packages are wanted for this comparison only, and not installed for type checks.
# mypy: ignore-errors

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cleveragents_plans import Plan, PlanConflict, PlanRepository, open_engine

WORKERS = 4

_Worker = Callable[[str, Any, Any], None]


@dataclass(frozen=True)
class Drained:
    """How a queue was emptied by several workers."""

    jobs: int
    seconds: float
    #: How many jobs were taken more than once, and how many statements failed with a lock.
    doubled: int
    locked: int
    #: How many saves another worker made fail.
    conflicts: int

    @property
    def per_second(self) -> float:
        """Give how many jobs were taken and finished in a second."""
        return self.jobs / self.seconds


def fill(url: str, jobs: int) -> None:
    """Delete all plans and queue new ones."""
    engine = open_engine(url)
    with Session(engine) as session, session.begin():
        session.execute(text("DELETE FROM v3_plans"))
        PlanRepository(session).add_all(Plan.create(f"local/n{n}") for n in range(jobs))
    _settle(engine)
    engine.dispose()


def _settle(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        postgresql = engine.dialect.name == "postgresql"
        connection.exec_driver_sql("VACUUM ANALYZE" if postgresql else "ANALYZE")


def claiming(url: str, start: Any, results: Any) -> None:
    """Take plans by `claim`, and `save` them complete, each in a transaction of the caller."""
    _claim(open_engine(url), start, results)


def claiming_alone(url: str, start: Any, results: Any) -> None:
    """Do as `claiming`; each statement is a transaction by itself, as procrastinate's are."""
    _claim(open_engine(url, isolation_level="AUTOCOMMIT"), start, results)


def _claim(engine: Engine, start: Any, results: Any) -> None:
    taken: list[str] = []
    with Session(engine) as session:
        plans = PlanRepository(session)
        start.wait()
        while claimed := plans.claim():
            session.commit()
            taken += (plan.plan_id for plan in claimed)
            for plan in claimed:
                plans.save(plan.complete())
            session.commit()
        session.rollback()
    engine.dispose()
    results.put((time.monotonic(), taken, 0, 0))


def listing(url: str, start: Any, results: Any) -> None:
    """Take plans as one would without `claim`: `list` the oldest, and `save` it begun."""
    engine = open_engine(url)
    taken: list[str] = []
    conflicts = locked = 0
    with Session(engine) as session:
        plans = PlanRepository(session)
        start.wait()
        while found := plans.list(phase="action", processing_state="queued", limit=1):
            try:
                plan = plans.save(found[0].begin())
                session.commit()
            except PlanConflict:
                session.rollback()
                conflicts += 1
                continue
            except OperationalError:
                session.rollback()
                locked += 1
                continue
            taken.append(plan.plan_id)
            plans.save(plan.complete())
            session.commit()
        session.rollback()
    engine.dispose()
    results.put((time.monotonic(), taken, conflicts, locked))


def fetching(url: str, start: Any, results: Any) -> None:
    """Take jobs of procrastinate by what its own worker calls: fetch and finish."""
    asyncio.run(_fetch(_conninfo(url), start, results))


async def _fetch(conninfo: str, start: Any, results: Any) -> None:
    app = App(connector=PsycopgConnector(conninfo=conninfo, min_size=1, max_size=1))
    taken: list[int] = []
    async with app.open_async():
        worker = await app.job_manager.register_worker()
        start.wait()
        while job := await app.job_manager.fetch_job(None, worker):
            assert job.id is not None
            taken.append(job.id)
            await app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
        await app.job_manager.unregister_worker(worker)
    results.put((time.monotonic(), taken, 0, 0))


def defer(url: str, jobs: int) -> None:
    """Make procrastinate's tables anew, and queue jobs."""
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    asyncio.run(_defer(_conninfo(url), jobs))
    with psycopg.connect(_conninfo(url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


async def _defer(conninfo: str, jobs: int) -> None:
    app = App(connector=PsycopgConnector(conninfo=conninfo, min_size=1, max_size=1))

    @app.task(name="work")
    async def work(number: int) -> None: ...

    queued: list[dict[str, Any]] = [{"number": number} for number in range(jobs)]
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await work.batch_defer_async(*queued)


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def drain(url: str, worker: _Worker, jobs: int) -> Drained:
    """Let the workers empty the queue, from the moment at which all of them are ready."""
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(WORKERS + 1), spawn.Queue()
    workers = [spawn.Process(target=worker, args=(url, start, results)) for _ in range(WORKERS)]
    for each in workers:
        each.start()
    start.wait(timeout=120)
    began = time.monotonic()
    ended = [results.get(timeout=600) for _ in workers]
    for each in workers:
        each.join()
    taken = [job for _, jobs_of_one, _, _ in ended for job in jobs_of_one]
    if len({*taken}) != jobs:
        raise RuntimeError(f"{jobs} jobs were queued, {len({*taken})} were done")
    return Drained(
        jobs=jobs,
        seconds=max(moment for moment, *_ in ended) - began,
        doubled=len(taken) - len({*taken}),
        locked=sum(locked for *_, locked in ended),
        conflicts=sum(conflicts for *_, conflicts, _ in ended),
    )
