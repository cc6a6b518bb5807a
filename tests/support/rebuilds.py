"""Rebuilds of tables in a SQLite file, as a revision begins them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event, pool

from cleveragents_plans.evolution.sqlite.rebuild import rebuild_table


class Rebuild:
    """The operation, as a revision calls it."""

    def __init__(self, context: MigrationContext) -> None:
        self.connection: Any = context.connection
        self.op = Operations(context)

    def __call__(self, table: str, **changes: Any) -> None:
        rebuild_table(self.op, table, **changes)


@contextmanager
def rebuilding(file: Path, *first: str, begin: str | None = "BEGIN IMMEDIATE") -> Iterator[Rebuild]:
    """Open *file* as an environment does: foreign keys off, then one real transaction."""
    engine = create_engine(f"sqlite:///{file}", poolclass=pool.NullPool)

    @event.listens_for(engine, "connect")
    def _connect(driver: Any, _record: object) -> None:
        driver.isolation_level = None
        for statement in ("PRAGMA foreign_keys = OFF", *first):
            driver.execute(statement)

    if begin:
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        yield Rebuild(context)
    engine.dispose()


def rebuild(file: Path, table: str, **changes: Any) -> None:
    with rebuilding(file) as operation:
        operation(table, **changes)


def execute(file: Path, *statements: str) -> list[tuple[Any, ...]]:
    """Run *statements* with foreign keys off, as deployed files were; give the last rows."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows
