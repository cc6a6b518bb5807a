"""
Measure what it costs to turn plans into rows and rows into plans.

Every figure is a ratio to a floor that is measured beside it, in turn, again and again:
for reading, a SELECT of each table on the bare driver, the rows grouped by hand and one pydantic
validation of the whole list; for writing, the same rows by executemany on the bare driver.

    python benchmarks/mapping.py --plans 10000 --stream 1000000

The tables go into ``benchmarks.md`` between its markers.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
from pydantic import TypeAdapter
from pydantic_core import from_json
from sqlalchemy import Engine, delete, make_url, select
from sqlalchemy.orm import Session, selectinload

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import many_plans
import page
from cleveragents_plans import LifecyclePlanModel, Plan, PlanRepository
from cleveragents_plans.persistence import open_engine
from cleveragents_plans.persistence.mapping import child_rows, plan_row
from support.databases import migrate
from support.postgres import server

RIVALS = ("SQLModel", "advanced-alchemy, to_schema")
PACKAGES = ("sqlalchemy", "pydantic", "psycopg", "sqlmodel", "advanced-alchemy")

Task = Callable[[], Any]

_CHILDREN = ("plan_projects", "plan_arguments", "plan_invariants")
_IDENTITY = ("plan_id", "parent_plan_id", "root_plan_id", "attempt")
_A_LIST_OF_PLANS = TypeAdapter(list[Plan])


class Bench:
    """One database, and the ways to read and write the same plans in it."""

    def __init__(self, url: str, number: int) -> None:
        self.url = make_url(url)
        self.engine = open_engine(url)
        self.plans = list(many_plans.plans(number))

    def check(self) -> None:
        """Read through the repository once, and compare with what was written."""
        assert self.read() == sorted(self.plans, key=attrgetter("plan_id"))

    def read(self) -> list[Plan]:
        """Read all plans through the repository."""
        with Session(self.engine) as session:
            return list(PlanRepository(session).list(limit=len(self.plans)))

    def write(self) -> None:
        """Write all plans through the repository."""
        with Session(self.engine) as session:
            PlanRepository(session).add_all(self.plans)
            session.commit()

    def read_objects(self) -> list[Plan]:
        """Read all plans as ORM objects, one by one."""
        relations = (
            selectinload(each.class_attribute)
            for each in LifecyclePlanModel.__mapper__.relationships
        )
        query = select(LifecyclePlanModel).options(*relations)
        with Session(self.engine) as session:
            return [row.to_domain() for row in session.scalars(query)]

    def write_objects(self) -> None:
        """Write all plans as ORM objects."""
        with Session(self.engine) as session:
            session.add_all(LifecyclePlanModel.from_domain(plan) for plan in self.plans)
            session.commit()

    def empty(self) -> None:
        """Delete all plans, and let the next write find the tables as the first one did."""
        with self.engine.begin() as connection:
            for table in reversed(LifecyclePlanModel.metadata.sorted_tables):
                connection.execute(delete(table))
        if self.engine.dialect.name == "postgresql":
            with self.driver() as connection:
                connection.autocommit = True
                connection.execute(
                    "VACUUM v3_plans, plan_projects, plan_arguments, plan_invariants"
                )

    def driver(self) -> Any:
        """Connect as the repository does, without SQLAlchemy."""
        if self.engine.dialect.name == "sqlite":
            connection = sqlite3.connect(str(self.url.database), isolation_level=None)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            return closing(connection)
        return psycopg.connect(
            self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        )

    def floor_read(self) -> Task:
        """Prepare a SELECT of each table on the bare driver, and one validation of all plans."""
        statements = ["SELECT * FROM v3_plans ORDER BY plan_id"]
        statements += [f"SELECT * FROM {table} ORDER BY plan_id, position" for table in _CHILDREN]

        def read() -> list[Plan]:
            with self.driver() as connection:
                cursor = connection.cursor()
                cursor.execute("BEGIN")
                rows, *below = (_dicts(cursor, statement) for statement in statements)
                cursor.execute("COMMIT")
            children = [_grouped(each) for each in below]
            return _A_LIST_OF_PLANS.validate_python([_fields(row, *children) for row in rows])

        return read

    def floor_write(self, *, nulls_in_statement: bool = False) -> Task:
        """Prepare the same rows for the bare driver; if wanted, in the repository's statements."""
        tables = [LifecyclePlanModel.metadata.tables[name] for name in ("v3_plans", *_CHILDREN)]
        laid_out = [[plan_row(each) for each in self.plans], *child_rows(*self.plans)]
        mark = "?" if self.engine.dialect.name == "sqlite" else "%s"
        sent = []
        for table, rows in zip(tables, laid_out, strict=True):
            nulls = {
                name
                for name in rows[0]
                if nulls_in_statement and all(row[name] is None for row in rows)
            }
            marks = ", ".join("NULL" if name in nulls else mark for name in rows[0])
            values = [tuple(row[name] for name in row if name not in nulls) for row in rows]
            sent.append((f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({marks})", values))

        def write() -> None:
            with self.driver() as connection:
                cursor = connection.cursor()
                cursor.execute("BEGIN")
                for statement, values in sent:
                    cursor.executemany(statement, values)
                cursor.execute("COMMIT")

        return write


def _dicts(cursor: Any, statement: str) -> list[dict[str, Any]]:
    cursor.execute(statement)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        del row["position"]
        groups.setdefault(row.pop("plan_id"), []).append(row)
    return groups


def _fields(row: dict[str, Any], projects: Any, arguments: Any, invariants: Any) -> dict[str, Any]:
    plan_id = row["plan_id"]
    for name in ("sandbox_refs", "validation_summary", "error_details", "tags"):
        text = row.pop(f"{name}_json")
        if text is not None:
            row[name] = from_json(text)
    profile = row["automation_profile"]
    row["automation_profile"] = (
        from_json(profile) if profile[0] == "{" else {"profile_name": profile}
    )
    row["identity"] = {name: row.pop(name) for name in _IDENTITY}
    row["reusable"], row["read_only"] = bool(row["reusable"]), bool(row["read_only"])
    row["project_links"] = projects.get(plan_id, ())
    for link in row["project_links"]:
        link["read_only"] = bool(link["read_only"])
    row["arguments"] = {
        each["name"]: from_json(each["value_json"]) for each in arguments.get(plan_id, ())
    }
    row["invariants"] = invariants.get(plan_id, ())
    return row


def measure(
    tasks: dict[str, Task], rounds: int, before: Task | None = None
) -> dict[str, list[float]]:
    """Run the tasks in turn, *rounds* times, after one that does not count; give the seconds."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for count in range(rounds + 1):
        for name, task in tasks.items():
            if before is not None:
                before()
            gc.collect()
            began = perf_counter()
            result = task()
            if count:
                taken[name].append(perf_counter() - began)
            del result
    return taken


def table(title: str, taken: dict[str, list[float]], ours: str, goals: dict[str, float]) -> str:
    """Lay out what was measured; the first task is the floor, and *ours* is to beat all rivals."""
    floor = next(iter(taken.values()))
    ratios = {
        name: median(mine / least for mine, least in zip(seconds, floor, strict=True))
        for name, seconds in taken.items()
    }
    lines = [f"| {title} | median | x floor | goal | met |", "|---|---|---|---|---|"]
    for name, seconds in taken.items():
        goal, held = "", ""
        if name in goals:
            goal, held = f"≤ {goals[name]} x", page.met(ratios[name] <= goals[name])
        elif name in RIVALS:
            goal, held = "behind the repository", page.met(ratios[name] > ratios[ours])
        lines.append(f"| {name} | {median(seconds):.3f} s | {ratios[name]:.2f} | {goal} | {held} |")
    return "\n".join(lines)


def compare(url: str, number: int, rounds: int) -> Iterator[str]:
    """Measure reading and writing on one database; give the tables."""
    bench = Bench(url, number)
    engine = bench.engine.dialect.name
    rivals = _rivals(bench.engine, bench.plans)
    bench.write()
    bench.check()
    for name, rival in rivals.items():
        assert rival.same(rival.read(), bench.plans), name
    reading = {
        "floor: bare driver, one validation": bench.floor_read(),
        "repository": bench.read,
        "ORM objects, to_domain": bench.read_objects,
        **{name: rival.read for name, rival in rivals.items()},
    }
    goals = {"repository": 1.0, "ORM objects, to_domain": 3.5}
    yield table(f"read, {engine}", measure(reading, rounds), "repository", goals)
    writing = {
        "floor: bare driver, executemany": bench.floor_write(),
        "the same, NULL in the statement": bench.floor_write(nulls_in_statement=True),
        "repository, add_all": bench.write,
        "ORM objects, from_domain": bench.write_objects,
        **{name: rival.write for name, rival in rivals.items()},
    }
    goals = {"repository, add_all": 1.5}
    taken = measure(writing, rounds, before=bench.empty)
    yield table(f"write, {engine}", taken, "repository, add_all", goals)
    bench.engine.dispose()


def _rivals(engine: Engine, wanted: list[Plan]) -> dict[str, Any]:
    try:
        import mapping_rivals
    except ModuleNotFoundError as missing:
        print(f"(without rivals: {missing.name} is not installed)", file=sys.stderr)
        return {}
    found: dict[str, Any] = mapping_rivals.rivals(engine, wanted)
    return found


def main() -> None:
    """Print tables for a database of each engine, and write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--plans", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--stream", type=int, default=1_000_000, help="write and go through so many plans"
    )
    parser.add_argument("--out", type=Path, default=page.ROOT / "docs")
    options = parser.parse_args()
    said = [f"{options.plans:,} plans, {options.rounds} rounds; {page.machine(PACKAGES)}."]
    with tempfile.TemporaryDirectory() as folder:
        for url in (f"sqlite:///{folder}/plans.db", server().create_database()):
            migrate(url, "head")
            for paragraph in compare(url, options.plans, options.rounds):
                print(paragraph, "\n", flush=True)
                said.append(paragraph)
        for url in (f"sqlite:///{folder}/many.db", server().create_database()):
            migrate(url, "head")
            for task in many_plans.TASKS:
                command = [sys.executable, many_plans.__file__, task, url, str(options.stream)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                said.append(f"- {make_url(url).get_backend_name()}: {done.stdout.strip()}")
                print(said[-1], flush=True)
    page.write(options.out, "mapping", "\n\n".join(said))


if __name__ == "__main__":
    main()
