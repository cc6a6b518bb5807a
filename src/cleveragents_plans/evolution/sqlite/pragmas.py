"""What SQLite tells and takes by PRAGMA statements (https://www.sqlite.org/pragma.html)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection

# The VFS whose files are in memory (https://www.sqlite.org/src/file/src/memdb.c).
_IN_MEMORY = "memdb"


@contextmanager
def switched_on(connection: Connection, pragma: str) -> Iterator[None]:
    """Switch *pragma* on, and back to what it was."""
    former = number(connection, pragma)
    connection.exec_driver_sql(f"PRAGMA main.{pragma} = ON")
    driver: Any = connection.connection.driver_connection
    try:
        yield
    finally:
        # By the driver, unless it was closed: what ended the step is not to be hidden.
        with suppress(sqlite3.ProgrammingError):
            driver.execute(f"PRAGMA main.{pragma} = {former}")


def number(connection: Connection, pragma: str) -> int:
    """Give the value of *pragma*; 0 where this version of SQLite does not know it."""
    return connection.exec_driver_sql(f"PRAGMA main.{pragma}").scalar() or 0


def journal_mode(connection: Connection) -> str:
    """Give the journal of the main database: ``delete``, ``wal``, ..."""
    return str(connection.exec_driver_sql("PRAGMA main.journal_mode").scalar())


def is_in_memory(url: URL) -> bool:
    """Tell whether *url* names a database of SQLite in memory."""
    name, query = url.database or ":memory:", url.normalized_query
    if not name.startswith("file:"):
        return name == ":memory:"
    # A URI, which SQLite reads: https://www.sqlite.org/uri.html
    in_memory = "memory" in query.get("mode", ()) or _IN_MEMORY in query.get("vfs", ())
    return in_memory or name.startswith("file::memory:")


def file_of(connection: Connection) -> Path:
    """Give the path of the main database; an empty one for a database in memory."""
    if _IN_MEMORY in connection.engine.url.normalized_query.get("vfs", ()):
        return Path()  # its name looks like a path
    # By the driver: SQLAlchemy would begin a transaction first.
    driver: Any = connection.connection.driver_connection
    former, driver.text_factory = driver.text_factory, bytes  # a name may be no UTF-8
    try:
        return Path(os.fsdecode(driver.execute("PRAGMA database_list").fetchone()[2] or b""))
    finally:
        driver.text_factory = former
