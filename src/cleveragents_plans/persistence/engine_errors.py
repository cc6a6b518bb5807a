"""What an error of the database means, where it says what an operator can mend."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import URL, ExceptionContext, make_url

from cleveragents_plans.persistence.base import Base
from cleveragents_plans.persistence.errors import (
    DatabaseLocked,
    DatabaseMissing,
    DatabaseReadOnly,
    EncodingMismatch,
    SchemaMissing,
)
from cleveragents_plans.persistence.urls import without_password

# SQLSTATEs: no such table, no such column; text that an encoding cannot hold, bytes that are none.
_NO_TABLE = "42P01"
_MISSING = (_NO_TABLE, "42703")
_MISSING_ON_SQLITE = ("no such table: ", "no such column: ", "table ")
_ENCODING = ("22P05", "22021")
# read_only_sql_transaction, which a standby says, too
_READ_ONLY = "25006"
_READ_ONLY_ON_SQLITE = "attempt to write a readonly database"
# SQLITE_READONLY_DIRECTORY, for which some drivers have no name.
_READ_ONLY_DIRECTORY: Final = 1544
# https://www.sqlite.org/wal.html#read_only_databases
_FOLDER_READ_ONLY = (
    "SQLite writes to the folder of a file, to read one with a write-ahead log as well: let this "
    "process write there, or, if no other process writes to the file, read it through "
    "read_only(open_engine('sqlite:///file:PATH?immutable=1&uri=true'))"
)


def explained(context: ExceptionContext) -> Exception | None:
    """
    Give the error of this package for what the database says; None where it has none.

    It is a listener of SQLAlchemy's event ``handle_error``.
    """
    error: Any = context.original_exception
    sqlstate = getattr(error, "sqlstate", None)
    reason = " ".join(str(error.diag.message_primary if sqlstate else error).split())
    if sqlstate in _ENCODING:
        return EncodingMismatch(reason)
    if getattr(error, "sqlite_errorcode", None) == _READ_ONLY_DIRECTORY:
        return DatabaseReadOnly(reason, _shown_url(context), _FOLDER_READ_ONLY)
    if sqlstate == _READ_ONLY or reason == _READ_ONLY_ON_SQLITE:
        return DatabaseReadOnly(reason, _shown_url(context))
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return DatabaseLocked(reason, _shown_url(context), _busy_timeout(context), error)
    if code == sqlite3.SQLITE_CANTOPEN and context.engine:
        path = path_of(context.engine.url)
        if path and not Path(path).exists():
            return DatabaseMissing(_shown_url(context), path, error)
    if sqlstate in _MISSING or reason.startswith(_MISSING_ON_SQLITE):
        words = set(re.findall(r"\w+", reason))
        for table in Base.metadata.tables.values():
            # A column that no release has is the caller's.
            if table.name in words and ("column" not in words or words & {*table.columns.keys()}):
                path = _search_path(context) if sqlstate == _NO_TABLE else None
                return SchemaMissing(reason, _shown_url(context), path)
    return None


def _search_path(context: ExceptionContext) -> str | None:
    """Give what the server told of itself: the transaction has failed, and cannot ask."""
    if context.connection is None:
        return None
    info = getattr(context.connection.connection.driver_connection, "info", None)
    told: str | None = info.parameter_status("search_path") if info else None
    return told


def _busy_timeout(context: ExceptionContext) -> float | None:
    """Give for how many seconds the connection waits for a lock."""
    if context.connection is None:
        return None
    cursor = context.connection.connection.cursor()
    try:
        cursor.execute("PRAGMA busy_timeout")
        (milliseconds,) = cursor.fetchone() or (None,)
    finally:
        cursor.close()
    return None if milliseconds is None else milliseconds / 1000


def _shown_url(context: ExceptionContext) -> str:
    return without_password(make_url(context.engine.url if context.engine else ""))


def path_of(url: URL) -> str | None:
    """Give the path of a SQLite file; None for a database in memory, and a URI of SQLite's own."""
    path = url.database or ":memory:"
    return None if path.startswith((":memory:", "file:")) else path
