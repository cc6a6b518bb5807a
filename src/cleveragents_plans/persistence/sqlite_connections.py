"""
Connections to SQLite: on them a transaction of SQLAlchemy is one, from its first statement on.

Python's driver begins transactions by itself, late, and lets DDL escape them. The listeners here
take that over.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

# How long a new connection asks for the write-ahead log, in seconds.
_WAL_PATIENCE = 0.5

# Of the driver's `autocommit`, from Python 3.12 on: with True its commit does nothing, with False
# it begins by itself. https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.autocommit
_LEGACY_TRANSACTION_CONTROL = -1


class SqliteConnection(sqlite3.Connection):
    """
    A connection whose transaction ends where it is closed.

    SQLite itself waits until the last statement is finalized, and holds the lock until then
    (https://www.sqlite.org/c3ref/close.html). A statement lives as long as its cursor, and that as
    long as the traceback of an exception that ended a call: of a time limit of asyncio, or of the
    handler of a signal.
    """

    def close(self) -> None:
        """Roll back what is open, and close."""
        with suppress(sqlite3.Error):  # it is closed already, or SQLite has rolled back itself
            if self.in_transaction:
                self.rollback()
        super().close()


def prepare_connection(driver_connection: Any, _record: object) -> None:
    """Set what holds for each connection of the application."""
    _leave_transactions_to_us(driver_connection)
    _send(driver_connection, "PRAGMA foreign_keys = ON")
    _use_write_ahead_log(driver_connection)
    # In WAL mode NORMAL loses no consistency, at most the last commits at a power
    # cut; plans are not to lose even those.
    _send(driver_connection, "PRAGMA synchronous = FULL")


def _use_write_ahead_log(driver_connection: Any) -> None:
    """
    Ask for the write-ahead log for half a second.

    The change needs the file for itself. With a rollback journal a reader, such as a backup, keeps
    it for as long as it reads, beside which others can read: a later connection sets the log.
    """
    milliseconds = _send(driver_connection, "PRAGMA busy_timeout")
    _send(driver_connection, "PRAGMA busy_timeout = 0")  # or each attempt could wait for it
    until = time.monotonic() + _WAL_PATIENCE
    try:
        while not _set_write_ahead_log(driver_connection) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        _send(driver_connection, f"PRAGMA busy_timeout = {milliseconds}")


def _set_write_ahead_log(driver_connection: Any) -> bool:
    """Tell whether nothing is left to be tried."""
    try:
        _send(driver_connection, "PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF
        # A file that can only be read, or whose folder can, is read in the mode that it has.
        if code not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
            raise
        return code != sqlite3.SQLITE_BUSY
    return True


def prepare_migrating_connection(driver_connection: Any, _record: object) -> None:
    """Set what holds for each connection of a migration: a table is rebuilt without its keys."""
    _leave_transactions_to_us(driver_connection)
    _send(driver_connection, "PRAGMA foreign_keys = OFF")


def _leave_transactions_to_us(driver_connection: Any) -> None:
    if hasattr(driver_connection, "run_async"):  # in the thread of aiosqlite
        driver_connection.run_async(lambda driver: driver._execute(_begin_by_us, driver._conn))
    else:
        _begin_by_us(driver_connection)


def _begin_by_us(driver: Any) -> None:
    if hasattr(driver, "autocommit"):
        driver.autocommit = True  # ends the transaction that False has begun
        driver.autocommit = _LEGACY_TRANSACTION_CONTROL
    driver.isolation_level = None


def begin(connection: Connection) -> None:
    """Begin a transaction: one that waits for its turn to write, or one that only reads."""
    read_only = connection.get_execution_options().get("read_only", False)
    # The connection may have come back from a view that only reads. Not each time: SQLite compiles
    # all statements of a connection anew after a PRAGMA that sets something.
    if connection.info.get("read_only", False) != read_only:
        _send(connection.connection.dbapi_connection, f"PRAGMA query_only = {int(read_only)}")
        connection.info["read_only"] = read_only
    # A listener of the class `Engine`, as in SQLAlchemy's recipe for SQLite, has begun another, or
    # a pool without a reset gave a connection that was not done with one.
    if getattr(connection.connection.driver_connection, "in_transaction", False):
        connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")


def _send(driver_connection: Any, statement: str) -> Any:
    # Through a cursor: what SQLAlchemy shows of a connection of asyncio has no more.
    cursor = driver_connection.cursor()
    cursor.execute(statement)
    row = cursor.fetchone()
    cursor.close()
    return row and row[0]
