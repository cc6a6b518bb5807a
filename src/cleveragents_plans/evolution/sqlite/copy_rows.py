"""Carry the rows of a SQLite table over into the one that takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection, CursorResult
from sqlalchemy.exc import DBAPIError, IntegrityError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, rename_table


class CopyFunction(Protocol):
    """A function of SQL for the length of one copy."""

    def __call__(self, *arguments: Any) -> Any:
        """Compute its value."""

    def close(self) -> None:
        """Say what it met, once all rows are copied."""


#: Makes a function from the connection of the driver and the name of the old table.
MakeFunction = Callable[[Any, str], CopyFunction]


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
    """A table by its name, and what can be asked of its database."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> CursorResult[*tuple[Any, ...]]:
        """Run one statement as it is."""
        return self.connection.exec_driver_sql(sql, parameters)

    def refusal(self, reason: str) -> RebuildRefused:
        """Make the error that says why this table is not rebuilt."""
        return RebuildRefused(self.name, reason)

    @contextmanager
    def refusing(self, step: str) -> Iterator[None]:
        """Turn what SQLite says during *step* into a refusal."""
        try:
            yield
        except DBAPIError as error:
            raise self.refusal(f"{step} failed with `{error.orig}`") from error

    @contextmanager
    def pragma(self, name: str) -> Iterator[None]:
        """Switch a pragma on, and back to what it was."""
        former = self.run(f"PRAGMA main.{name}").scalar()
        self.run(f"PRAGMA main.{name} = ON")
        try:
            yield
        finally:
            self.run(f"PRAGMA main.{name} = {former or 0}")

    @contextmanager
    def functions(self, made: Mapping[str, MakeFunction], old: str) -> Iterator[None]:
        """Let statements call functions that read the rows of the table *old*."""
        driver: Any = self.connection.connection.driver_connection
        functions = {name: make(driver, old) for name, make in made.items()}
        raised: list[BaseException] = []
        for name, function in functions.items():
            driver.create_function(name, -1, _telling(function, raised))
        try:
            yield
        except DBAPIError as error:
            # The driver says only that a function raised: Ctrl-C, perhaps.
            if raised:
                raise raised[0] from error
            raise
        finally:
            for name in functions:
                driver.create_function(name, -1, None)
        for function in functions.values():
            function.close()


def _telling(function: CopyFunction, raised: list[BaseException]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            raised.append(error)
            raise

    return call


def copy_rows(
    table: SqliteTable,
    aside: str,
    statements: tuple[CreateTable, CreateTable],
    generated: set[str],
    values: Mapping[str, str],
) -> None:
    """
    Copy the rows from the table *aside* into *table*, which has its place by now.

    Args:
        table: The new table.
        aside: The old one; a plain word.
        statements: What the old table was made with, and the new one.
        generated: The columns that SQLite computes.
        values: What a column gets instead of what it had, by its folded name.

    Raises:
        RebuildRefused: A value would not be what it was before, or would break a CHECK.
    """
    insert = _insert(table, aside, statements, generated, values)
    _require_old_rows_read(table, insert)
    try:
        table.run(insert)
    except IntegrityError as error:
        if "CHECK constraint failed" not in str(error.orig):
            raise
        with table.pragma("ignore_check_constraints"):
            table.run(insert)
        _require_no_new_misfits(table, aside, statements)


def _insert(
    table: SqliteTable,
    aside: str,
    statements: tuple[CreateTable, CreateTable],
    generated: set[str],
    values: Mapping[str, str],
) -> str:
    former, columns = ({fold(name): name for name in one.columns} for one in statements)
    # Each row keeps its rowid, for those who noted it; a column can hide it.
    hidden = {"rowid", "_rowid_", "oid"} - former.keys() - columns.keys()
    pairs = [(max(hidden), f"old.{max(hidden)}")] if hidden else []
    if statements[0].without_rowid:
        pairs = []
    for folded, name in columns.items():
        if folded in values:
            value = rename_table(values[folded], table.name, aside)
            pairs.append((quote(name), f"({value})"))
        elif folded in former and folded not in generated:
            pairs.append((quote(name), f"old.{quote(name)}"))
    # OR ABORT: a column can ask for rows to be skipped instead. NOT INDEXED:
    # in the order of the old table, in which the new one grows at its end.
    return (
        f"INSERT OR ABORT INTO main.{quote(table.name)} ({', '.join(name for name, _ in pairs)})"
        f" SELECT {', '.join(value for _, value in pairs)}"
        f" FROM main.{aside} AS old NOT INDEXED"
    )


def _require_old_rows_read(table: SqliteTable, insert: str) -> None:
    # The new table has the name by now: a view that reads it would find it empty.
    rows = table.run("SELECT rootpage, tbl_name FROM main.sqlite_master")
    pages = {page for page, name in rows if fold(name) == fold(table.name)}
    for row in table.run(f"EXPLAIN {insert}"):
        if row[1] == "OpenRead" and row[3] in pages and row[4] == 0:
            raise table.refusal(
                "a value reads the table through a view, where its rows are no longer; "
                "let the value read the table itself"
            )


def _require_no_new_misfits(
    table: SqliteTable, aside: str, statements: tuple[CreateTable, CreateTable]
) -> None:
    """Let rows pass that broke a CHECK before: to mend them is not asked for."""
    old, new = statements
    for check in new.checks:
        where = f"AS {quote(table.name)} WHERE NOT {check}"
        found = table.run(f"SELECT count(*) FROM main.{quote(table.name)} {where}").scalar_one()
        before = 0
        if check in old.checks:
            before = table.run(f"SELECT count(*) FROM main.{aside} {where}").scalar_one()
        if found > before:
            raise table.refusal(f"{found} rows would break CHECK {check}; {before} did before")


def sequence_of(table: SqliteTable) -> list[tuple[Any, ...]]:
    """Read where AUTOINCREMENT stands; nothing for a table without it."""
    present = "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'"
    if table.run(present).scalar() is None:
        return []
    rows = "SELECT rowid, name, seq FROM main.sqlite_sequence WHERE name = ?"
    return [tuple(row) for row in table.run(rows, (table.name,))]


def restore_sequence(table: SqliteTable, rows: list[tuple[Any, ...]]) -> None:
    """Set AUTOINCREMENT to where it stood: the numbers of deleted rows must not come back."""
    for row in rows:
        table.run("DELETE FROM main.sqlite_sequence WHERE name = ?", (table.name,))
        table.run("INSERT INTO main.sqlite_sequence (rowid, name, seq) VALUES (?, ?, ?)", row)
