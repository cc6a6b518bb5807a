"""A SQLite table that is to be rebuilt, and the error that says why it was not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult, event
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.sqlite.temporary_files import remedy_of_disk_error
from cleveragents_plans.evolution.sqlite.tokens import fold, quote

_ROWID_NAMES = ("rowid", "_rowid_", "oid")


class RebuildRefused(EvolutionError):
    """
    A table was not rebuilt, because it could not be or because something would be lost.

    Attributes:
        table: The table.
        reason: What was found, and what was expected.
    """

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f"{table} was not rebuilt: {reason}; nothing was changed")
        self.table = table
        self.reason = reason


class SqliteTable:
    """A table of the main database, by its name."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    @property
    def driver(self) -> Any:
        """The connection of the driver."""
        return self.connection.connection.driver_connection

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> CursorResult[*tuple[Any, ...]]:
        """Run one statement as it is."""
        return self.connection.exec_driver_sql(sql, parameters)

    def define(self, sql: str) -> None:
        """Run one statement whose text SQLite keeps as it is, whatever listeners make of it."""

        def send(cursor: Any, _changed: str, parameters: Any, execution: Any) -> bool:
            cursor.execute(execution.statement, parameters)
            return True

        dialect = self.connection.dialect
        event.listen(dialect, "do_execute", send)
        try:
            self.run(sql)
        finally:
            event.remove(dialect, "do_execute", send)

    def refusal(self, reason: str) -> RebuildRefused:
        """Make the error that says why this table is not rebuilt."""
        return RebuildRefused(self.name, reason)

    @contextmanager
    def refusing(self, step: str, remedy: str = "") -> Iterator[None]:
        """
        Turn an error of SQLite during *step* into a refusal, with its *remedy* if one is known.

        Raises:
            RebuildRefused: SQLite raised an error, or the driver did in a function of the copy.
        """
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            said = getattr(error, "orig", error)
            reason = " ".join(str(said).split())
            if disk := remedy_of_disk_error(said):
                remedy = f"; {disk}"
            raise self.refusal(f"{step} failed with `{reason}`{remedy}") from error


def rowid_name(connection: Connection, *tables: str) -> str | None:
    """
    Find the name by which statements can read the rowids of all *tables*.

    Returns:
        None if one is WITHOUT ROWID, or columns hide all three names
        (https://www.sqlite.org/rowidtable.html).
    """
    hidden = set()
    for table in tables:
        columns = connection.exec_driver_sql(f"PRAGMA main.table_xinfo({quote(table)})")
        hidden |= {fold(row[1]) for row in columns}
    name = next((name for name in _ROWID_NAMES if name not in hidden), None)
    if name is None:
        return None
    for table in tables:
        try:
            connection.exec_driver_sql(f"SELECT {name} FROM main.{quote(table)} LIMIT 0").close()
        except DBAPIError as error:
            if "no such column" in str(error.orig):
                return None
            raise
    return name
