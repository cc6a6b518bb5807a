"""
Write a database as the former release left it, before plans were aligned.

Benchmarks and tests of the migration need old rows, many of them, and among
them every kind that deployed databases hold: trees of any depth, children that
never knew their root, plans whose parent is gone, text in any script. They are
written by plain SQL, because the models of today describe the schema of today.
Equal arguments give equal rows.

    python tests/support/former_release.py --url sqlite:///old.db --plans 30000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, NullPool, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

if __name__ == "__main__":  # run by its path, as the README does
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.former_rows import (
    ACTIONS,
    COLUMNS,
    KINDS,
    Row,
    action,
    correction,
    plans_of,
)
from support.revisions import M4_003

# Tables of other packages, as deployed databases have them beside the plans.
_OTHER_TABLES = (
    "CREATE TABLE actions (namespaced_name VARCHAR(255) PRIMARY KEY, description TEXT NOT NULL,"
    " created_at TEXT NOT NULL)",
    "CREATE TABLE correction_attempts (id VARCHAR(26) PRIMARY KEY, plan_id VARCHAR(26) NOT NULL"
    " CONSTRAINT fk_correction_attempts_plan_id REFERENCES v3_plans (plan_id) ON DELETE CASCADE,"
    " original_decision_id VARCHAR(26) NOT NULL, new_decision_id VARCHAR(26),"
    " guidance TEXT NOT NULL, state VARCHAR(20) NOT NULL, created_at TEXT NOT NULL,"
    " completed_at TEXT)",
    "CREATE INDEX ix_correction_attempts_plan_id ON correction_attempts (plan_id)",
)
_BATCH = 5_000


class UnfitDatabaseError(Exception):
    """The database cannot be filled: *found* is what stands there instead of nothing."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"found {found}; expected an empty database, or one at {M4_003} without plans; "
            "name another database, or drop this one first"
        )


def write_former_release(
    url: str,
    plans: int = 20_000,
    seed: int = 0,
    *,
    pure: bool = False,
    also_tables: bool = False,
) -> dict[str, int]:
    """
    Fill the database at *url* with *plans* plans, in one transaction, and count their kinds.

    An empty database is first brought to the former release's schema by the chain.

    Args:
        url: SQLite or PostgreSQL, as SQLAlchemy writes it.
        plans: How many; from about 2,000 on every kind is among them.
        seed: Equal seeds give equal rows.
        pure: Leave out what the former release never wrote itself: children without
            a root, roots that name themselves, blank profiles. Only for such rows
            are an upgrade and a downgrade together promised to change nothing.
        also_tables: Create and fill two tables of other packages: *actions*, and
            *correction_attempts*, which refers to plans.

    Raises:
        UnfitDatabaseError: The database has plans, or is at another revision.
    """
    engine = create_engine(url, poolclass=NullPool)
    try:
        _prepare(engine, url)
        with engine.begin() as connection:
            return _fill(connection, plans, seed, pure, also_tables)
    finally:
        engine.dispose()


def true_roots(url: str) -> dict[str, str]:
    """
    Say for every plan which root it must have after the upgrade.

    Worked out here, by walking up from each plan: a root that is known counts for the
    plan and for what hangs below it; where none is known the highest ancestor that
    exists is the root.
    """
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT plan_id, parent_plan_id, root_plan_id FROM v3_plans")
        )
        links: dict[str, tuple[str | None, str | None]] = {row[0]: (row[1], row[2]) for row in rows}
    engine.dispose()
    roots = {plan: root for plan, (_, root) in links.items() if root is not None}
    for plan in links:
        path, here = {plan: None}, plan
        while here not in roots:
            parent = links[here][0]
            if parent is None or parent not in links:
                roots[here] = here
            elif parent in path:
                raise ValueError(f"plan {parent} is its own ancestor, so it has no root")
            else:
                here = parent
                path[here] = None
        roots |= dict.fromkeys(path, roots[here])
    return {plan: roots[plan] for plan in links}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a former release from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--url", required=True, help="sqlite:///old.db or postgresql+psycopg://…")
    parser.add_argument("--plans", type=int, default=20_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal rows")
    parser.add_argument("--pure", action="store_true", help="only what that release itself wrote")
    parser.add_argument(
        "--also-tables", action="store_true", help="add tables of other packages, with rows"
    )
    options = parser.parse_args(arguments)
    try:
        counts = write_former_release(
            options.url,
            options.plans,
            options.seed,
            pure=options.pure,
            also_tables=options.also_tables,
        )
    except (UnfitDatabaseError, SQLAlchemyError, CommandError, ModuleNotFoundError) as refusal:
        print(f"former_release: {' '.join(str(refusal).split())}", file=sys.stderr)
        return 2
    width = max(len(kind) for kind in counts)
    for kind, count in counts.items():
        print(f"{kind:<{width}}  {count:>12,}")
    if not options.url.startswith("sqlite"):
        print("a parent that does not exist is left out: the foreign keys here forbid it")
    return 0


def _prepare(engine: Engine, url: str) -> None:
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision not in (None, M4_003):
            raise UnfitDatabaseError(f"revision {revision}")
        if "v3_plans" in tables:
            if connection.scalar(text("SELECT 1 FROM v3_plans LIMIT 1")):
                raise UnfitDatabaseError("plans")
        elif tables:
            raise UnfitDatabaseError(f"other tables ({', '.join(sorted(tables)[:3])})")
    if revision is None:
        ini = Path(__file__).resolve().parents[2] / "alembic.ini"
        command.upgrade(Config(ini, attributes={"url": url}), M4_003)


def _fill(
    connection: Connection, plans: int, seed: int, pure: bool, others: bool
) -> dict[str, int]:
    sqlite = connection.dialect.name == "sqlite"
    rng = random.Random(seed)
    counts = Counter(dict.fromkeys(KINDS, 0))
    if sqlite:
        # For this connection only: a file that a crash spoils is written anew.
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
        # The driver would begin with the first INSERT, after the tables.
        connection.exec_driver_sql("BEGIN")
    if others:
        for statement in _OTHER_TABLES:
            connection.exec_driver_sql(statement)
        actions = [action(number) for number in range(ACTIONS)]
        _insert(connection, "actions", actions)
        counts["rows in actions"] = len(actions)
    stream = plans_of(rng, plans, pure, dangling=sqlite, counts=counts)
    while batch := list(islice(stream, _BATCH)):
        # Parents come first, so that a server that checks foreign keys agrees.
        _insert(connection, "v3_plans", [row for row, _ in batch])
        for table in ("plan_projects", "plan_arguments", "plan_invariants"):
            rows = [
                (plan[0], position, *rest)
                for plan, body in batch
                for position, rest in enumerate(body.children[table])
            ]
            _insert(connection, table, rows)
            counts[f"rows in {table}"] += len(rows)
        if others:
            attempts = [correction(rng, plan[0]) for plan, _ in batch[::20]]
            _insert(connection, "correction_attempts", attempts)
            counts["rows in correction_attempts"] += len(attempts)
    return dict(counts)


def _insert(connection: Connection, table: str, rows: list[Row]) -> None:
    columns = COLUMNS[table]
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * len(columns))
        connection.exec_driver_sql(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows
        )
        return
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


if __name__ == "__main__":
    sys.exit(main())
