"""
Measure what each index of m8_002 saves and costs, on a table of many plans.

    python benchmarks/indexes.py --plans 1000000

One plan in a thousand is queued, one in ten thousand in work; a tree has ten plans, a namespace
about a hundred, a project about a hundred. Each question is asked without and with its index; the
median of several runs counts. The rows are made in SQL.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import open_engine
from support.databases import migrate
from support.postgres import server

_ID = "'01J' || {pad}"
_PAD = {"sqlite": "printf('%023d', {n})", "postgresql": "lpad(({n})::text, 23, '0')"}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {last})"
    " SELECT {columns} FROM s",
    "postgresql": "SELECT {columns} FROM generate_series(0, {last}) AS s(n)",
}
_TIME = {
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', 1700000000 + n, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(1700000000 + n) AT TIME ZONE 'UTC',"
    ' \'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"\')',
}


def fill(engine: Engine, plans: int) -> None:
    """Insert the plans, and a project link for each."""
    name = engine.dialect.name

    def plan_id(number: str) -> str:
        return _ID.format(pad=_PAD[name].format(n=number))

    state = (
        "CASE WHEN n % 1000 = 7 THEN 'queued' WHEN n % 10000 = 3 THEN 'processing'"
        " ELSE 'cancelled' END"
    )
    columns = {
        "plan_id": plan_id("n"),
        "parent_plan_id": f"CASE WHEN n % 10 > 0 THEN {plan_id('n - n % 10')} END",
        "root_plan_id": plan_id("n - n % 10"),
        "namespace": f"'team' || (n % {max(plans // 100, 1)})",
        "action_name": "'local/lint'",
        "phase": "CASE n % 2 WHEN 0 THEN 'action' ELSE 'execute' END",
        "processing_state": state,
        "effective_profile_snapshot": '\'{"name":"balanced"}\'',
        "created_at": _TIME[name],
        "updated_at": _TIME[name],
        "completed_at": _TIME[name],
    }
    rows = _NUMBERS[name].format(columns=", ".join(columns.values()), last=plans - 1)
    links = _NUMBERS[name].format(
        columns=f"{plan_id('n')}, 0, 'p' || (n % {max(plans // 100, 1)})", last=plans - 1
    )
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO v3_plans ({', '.join(columns)}) {rows}"))
        connection.execute(
            text(f"INSERT INTO plan_projects (plan_id, position, project_name) {links}")
        )
    analyze(engine)


def analyze(engine: Engine) -> None:
    """Let the database know what is in its tables, as its own maintenance does."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            "VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"
        )


def questions(plans: int) -> Iterator[tuple[str, str, Callable[[PlanRepository], Any]]]:
    """Name an index, what it is good for, and ask for it."""
    late = datetime.fromtimestamp(1700000000 + plans - 100, UTC)

    def delete_one(repository: PlanRepository) -> None:
        repository.delete(repository.list(limit=1, order="newest", is_final=True)[0])

    yield "ix_v3_plans_parent_plan_id", "delete one plan", delete_one
    yield (
        "ix_v3_plans_queued",
        "poll, none queued in the phase",
        lambda repository: repository.claim(phase="apply"),
    )
    yield "ix_v3_plans_queued", "claim one", lambda repository: repository.claim(phase="execute")
    yield (
        "ix_v3_plans_processing",
        "requeue_stalled, none stalled",
        lambda repository: repository.requeue_stalled(not_touched_for=timedelta(days=36500)),
    )
    yield (
        "ix_v3_plans_namespace",
        "list a namespace of 100",
        lambda repository: repository.list(namespace="team7"),
    )
    yield (
        "ix_v3_plans_created_at",
        "list the 100 created last",
        lambda repository: repository.list(created_from=late),
    )
    yield (
        "ix_plan_projects_project_name",
        "list a project of 100",
        lambda repository: repository.list(project="p7"),
    )


def milliseconds(engine: Engine, ask: Callable[[PlanRepository], Any], rounds: int) -> float:
    """Ask *rounds* times, each in a transaction that is rolled back; give the median."""
    taken = []
    for _ in range(rounds):
        with Session(engine) as session:
            session.connection()
            began = perf_counter()
            ask(PlanRepository(session))
            taken.append((perf_counter() - began) * 1000)
            session.rollback()
    return median(taken)


def write_cost(engine: Engine, rounds: int) -> float:
    """Add 200 plans with a project each, and roll back; give the microseconds of one."""
    new = [Plan.create(f"team/n{each}", project_links=["p"]) for each in range(200)]
    return milliseconds(engine, lambda it: it.add_all(new), rounds) * 1000 / len(new)


def size(engine: Engine, index: str) -> int:
    """Give the bytes of an index; 0 where the database does not tell."""
    sql = (
        f"SELECT pg_relation_size('{index}')"
        if engine.dialect.name == "postgresql"
        else f"SELECT sum(pgsize) FROM dbstat WHERE name = '{index}'"
    )
    try:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(sql).scalar() or 0)
    except Exception:  # SQLite without dbstat
        return 0


def measure(url: str, plans: int, rounds: int) -> str:
    """Measure one database; give its table."""
    migrate(url, "m8_001_align_plans_schema")
    engine = open_engine(url)
    fill(engine, plans)
    asked = list(questions(plans))
    before = [milliseconds(engine, ask, rounds) for _, _, ask in asked]
    tables = LifecyclePlanModel.metadata.tables
    known = {
        str(index.name): index for name in tables for index in tables[name].indexes if index.name
    }
    lines = ["| index | saves | without | with | a write | bytes |", "|---|---|---|---|---|---|"]
    costs: dict[str, tuple[float, int]] = {}
    for name in dict.fromkeys(name for name, _, _ in asked):
        least = write_cost(engine, rounds)
        known[name].create(engine)
        costs[name] = (write_cost(engine, rounds) - least, size(engine, name))
    analyze(engine)
    for (name, what, ask), without in zip(asked, before, strict=True):
        cost, held = costs[name]
        lines.append(
            f"| `{name}` | {what} | {without:.1f} ms | {milliseconds(engine, ask, rounds):.1f} ms"
            f" | {cost:+.0f} µs | {held / 1e6:.1f} MB |"
        )
    engine.dispose()
    return f"**{engine.dialect.name}**, {plans:,} plans\n\n" + "\n".join(lines)


def main() -> None:
    """Print a table for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--plans", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for url in (f"sqlite:///{folder}/plans.db", server().create_database()):
            print(measure(url, options.plans, options.rounds), "\n", flush=True)


if __name__ == "__main__":
    main()
