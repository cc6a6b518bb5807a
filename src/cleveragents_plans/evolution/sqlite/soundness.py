"""Refuse a damaged SQLite file before anything in it is changed."""

from __future__ import annotations

import logging
import re
import shlex
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.reporting import heartbeat
from cleveragents_plans.evolution.sqlite.pragmas import file_of, switched_on
from cleveragents_plans.evolution.sqlite.tokens import fold, quote, tokenize

log: Final = logging.getLogger("alembic.evolution")

# A value that breaks a rule of its column, and is stored as it should be, is no damage.
_ABOUT_VALUES = re.compile(r"(NULL|NUMERIC|TEXT|non-\w+) value in |CHECK constraint failed in ")
_ALL = 2**31 - 1
# What SQLite says where a statement needs what the application registers for its connections.
_LACKING = re.compile(
    r"(?:unknown|no such) function: (?P<function>.+?)(?:\(\))?$"
    r"|no such collation sequence: (?P<collation>.+)$"
)
# From here on ``PRAGMA quick_check`` takes the name of a table.
_CHECKS_TABLES = (3, 33)


class FileDamaged(EvolutionError):
    """
    The bytes of a SQLite file are not what SQLite wrote.

    Attributes:
        file: The file, or what the database is called.
        found: The first fault that SQLite found.
    """

    def __init__(self, file: Path | str, found: str) -> None:
        self.file = file
        self.found: str = " ".join(found.split())
        newer = (
            f"; if a newer SQLite than {sqlite3.sqlite_version} has written it, use that one"
            if self.found.startswith("malformed database schema") and "syntax error" in self.found
            else ""
        )
        named = shlex.quote(str(file)) if isinstance(file, Path) else "FILE"
        super().__init__(
            f"{file} is damaged ({self.found[:200]}){newer}; restore a backup, or recover what can "
            f"be read with `sqlite3 {named} .recover`; nothing was changed"
        )


class OnlyInApplication(EvolutionError):
    """
    A table of the chain needs what only connections of the application have.

    Attributes:
        name: The index or the table.
    """

    def __init__(self, file: Path, name: str, found: str) -> None:
        self.name = name
        super().__init__(
            f"{name} in {file} needs what only connections of the application have ({found}), so "
            "that neither can its rows be checked here nor copied; migrate from the application, "
            "with an engine that registers it: cleveragents_plans.schema.upgrade(engine), or "
            "downgrade(engine, revision); nothing was changed"
        )


def require_sound_file(
    connection: Connection, report_every: float, tables: Collection[str] = ()
) -> None:
    """
    Read the whole file behind *connection*, and refuse it if its structure is damaged.

    It takes as long as to read the file, and two seconds of processor time for a million plans
    (1.5 GB). A message is logged every *report_every* seconds. SQLite 3.40 calls no progress
    handler meanwhile: `callbacks.interrupt_statements` ends it.

    A table that needs a function or a collation of the application is left out with a warning,
    unless it is one of *tables*.

    Raises:
        FileDamaged: ``PRAGMA quick_check`` found a fault.
        OnlyInApplication: One of *tables* needs what the application registers.
    """
    file = file_of(connection)
    if not file.is_file() or not file.stat().st_size:
        return  # in memory, or new: SQLite counts a page from the beginning of the transaction
    begun = time.monotonic()
    with (
        report_damage(file),
        heartbeat(f"checking that {file} is not damaged", report_every),
        switched_on(connection, "ignore_check_constraints"),
    ):
        if _lacking(connection, file, _ALL) is not None:
            _check_each_table(connection, file, tables)
    log.info("%s is not damaged; checked in %.1f s", file, time.monotonic() - begun)


def _lacking(connection: Connection, file: Path, what: object) -> str | None:
    """Check *what*, a table or all of them, and give what only the application has, or None."""
    try:
        for (found,) in connection.exec_driver_sql(f"PRAGMA main.quick_check({what})"):
            if found != "ok" and not _ABOUT_VALUES.match(found):
                raise FileDamaged(file, found)
    except DBAPIError as error:
        if _LACKING.match(str(error.orig)):
            return str(error.orig)
        raise
    return None


def _check_each_table(connection: Connection, file: Path, tables: Collection[str]) -> None:
    query = "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY rowid"
    ours = set(map(fold, tables))
    for name in ["sqlite_master", *connection.exec_driver_sql(query).scalars().all()]:
        # An older SQLite would check all of them again.
        found = _lacking(connection, file, quote(name) if _can_check_tables() else _ALL)
        if found is None:
            continue
        if fold(name) in ours:
            raise OnlyInApplication(file, _user_of(connection, name, found), found)
        log.warning(
            "%s was not checked for damaged pages: it needs what only connections of the "
            "application have (%s)",
            f"the table {name}" if _can_check_tables() else file,
            found,
        )
        if not _can_check_tables():
            return


def _can_check_tables() -> bool:
    return sqlite3.sqlite_version_info >= _CHECKS_TABLES


def _user_of(connection: Connection, table: str, found: str) -> str:
    """Name the index of *table* that needs what was not *found*, or the table."""
    lacking = _LACKING.match(found)
    wanted = fold((lacking["function"] or lacking["collation"]) if lacking else "")
    query = "SELECT name, tbl_name, sql FROM main.sqlite_master WHERE type = 'index'"
    for name, owner, sql in connection.exec_driver_sql(query):
        mentioned = {fold(token.name or "") for token in tokenize(sql or "")}
        if fold(owner) == fold(table) and wanted in mentioned:
            return f"the index {name} of {table}"
    return f"the table {table}"


@contextmanager
def report_damage(file: Path) -> Iterator[None]:
    """
    Turn an error of a statement that met damaged pages into one line.

    Raises:
        FileDamaged: A statement met them.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        said = error.orig if isinstance(error, DBAPIError) else error
        if is_damage(said):
            raise FileDamaged(file, str(said)) from error
        raise


def is_damage(said: BaseException | None) -> bool:
    """Tell whether the driver *said* that the file is damaged."""
    code: int = getattr(said, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_CORRUPT
