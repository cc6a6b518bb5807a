"""
Measure what each index of m8_002 saves and costs, on a table of many plans.

    python benchmarks/indexes.py --plans 1000000

The tables are those of `support.plan_tables`. Each question is asked without and with its index;
the median of several runs counts. The tables go into ``indexes.md`` between its markers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import page
from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import open_engine
from support.databases import migrate
from support.plan_tables import GROUP, analyze, created_at, fill
from support.postgres import server


def questions(plans: int) -> Iterator[tuple[str, str, Callable[[PlanRepository], Any]]]:
    """Name an index, what it is good for, and ask for it."""

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
        "ix_v3_plans_open",
        "count what is open, by state",
        lambda repository: repository.count_by("processing_state", is_final=False),
    )
    yield (
        "ix_v3_plans_completed_roots",
        "delete_trees, none old enough",
        lambda repository: repository.delete_trees(completed_before=created_at(0)),
    )
    yield (
        "ix_v3_plans_namespace",
        "list a namespace of 100",
        lambda repository: repository.list(namespace="team7"),
    )
    yield (
        "ix_v3_plans_created_at",
        "list the 100 created last",
        lambda repository: repository.list(created_from=created_at(plans - GROUP)),
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
    parser.add_argument("--out", type=Path, default=page.ROOT / "docs")
    options = parser.parse_args()
    said = []
    with tempfile.TemporaryDirectory() as folder:
        for url in (f"sqlite:///{folder}/plans.db", server().create_database()):
            said.append(measure(url, options.plans, options.rounds))
            print(said[-1], "\n", flush=True)
    page.write(options.out, "indexes", "\n\n".join(said), "indexes.md")


if __name__ == "__main__":
    main()
