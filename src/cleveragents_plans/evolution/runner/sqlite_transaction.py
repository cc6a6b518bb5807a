"""
One transaction of SQLite for a whole run, on a connection of ours or of the caller's.

The driver of Python begins transactions by itself, late, and foreign keys can be switched
outside of a transaction only. So both are seen to before the transaction begins.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.callbacks import interruptible, unless_closed
from cleveragents_plans.evolution.sqlite.inodes import require_inode
from cleveragents_plans.evolution.sqlite.journal import (
    RollbackJournalWanted,
    rollback_journal,
    want_rollback_journal,
)
from cleveragents_plans.evolution.sqlite.pragmas import file_of
from cleveragents_plans.evolution.sqlite.soundness import require_sound_file
from cleveragents_plans.evolution.sqlite.temporary_files import require_temporary_inode
from cleveragents_plans.evolution.sqlite.transaction import write_transaction
from cleveragents_plans.evolution.sqlite.writable_file import report_replacement, require_writable

T = TypeVar("T")

# Of the driver's `autocommit`, which is there from Python 3.12 on
# (https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.autocommit).
_LEGACY_TRANSACTION_CONTROL: Final = -1


class ForeignKeysEnforced(EvolutionError):
    """A transaction of the caller's enforces foreign keys: no table can be rebuilt in it."""

    def __init__(self) -> None:
        super().__init__(
            "the connection is in a transaction in which SQLite enforces foreign keys, and to "
            "rebuild a table would delete the rows that refer to it; hand over a connection "
            "that is in no transaction (engine.connect(), not engine.begin()), or run PRAGMA "
            "foreign_keys = OFF before it begins; nothing was changed"
        )


class DriverInAutocommit(EvolutionError):
    """A transaction of the caller's is one for SQLAlchemy only: its commit would do nothing."""

    def __init__(self) -> None:
        super().__init__(
            "the connection is in a transaction, and its driver in autocommit, where a commit does "
            "nothing; hand over a connection that is in no transaction (engine.connect(), not "
            "engine.begin()), or leave autocommit=True out of connect_args; nothing was changed"
        )


def call_in_driver_thread(connection: Connection, act: Callable[[Connection], T]) -> T:
    """
    Call *act* where the connection of the driver can be used directly.

    That is here, unless the driver is one of asyncio: aiosqlite has a thread for each
    connection. What is called there gets a connection without asyncio, in the same
    transaction.
    """
    if not connection.dialect.is_async:
        return act(connection)
    external = connection.in_transaction()

    def act_there(driver: Any) -> T:
        url = connection.engine.url.set(drivername="sqlite")
        engine = create_engine(url, creator=lambda: driver, poolclass=StaticPool)
        if external:  # it is the caller's to end
            keep: Any = engine.dialect
            keep.do_rollback = keep.do_commit = lambda _connection: None
        with engine.connect() as there:
            if external:
                there.begin()
            return act(there)

    adapted: Any = connection.connection.dbapi_connection
    # Both names are private to aiosqlite, which has no other way into its thread.
    result: T = adapted.run_async(lambda driver: driver._execute(act_there, driver._conn))
    return result


def in_sqlite_transaction(connection: Connection, settings: Settings, act: Callable[[], T]) -> T:
    """
    Call *act* in `sqlite_transaction`, and once more where `prepare_file` asks for it.

    The second time the file has a rollback journal, if it can have one; what *act* read the first
    time may have changed.

    Raises:
        FileLocked: Other processes had the file locked for too long.
    """
    with suppress(RollbackJournalWanted), sqlite_transaction(connection, settings):
        return act()
    driver: Any = connection.connection.driver_connection
    with (
        _transactions_begun_by_us(driver),
        rollback_journal(connection),
        sqlite_transaction(connection, settings),
    ):
        return act()


def prepare_file(
    connection: Connection, settings: Settings, tables: Collection[str], *, external: bool
) -> None:
    """
    Look at the whole file before its first change, and choose its journal.

    Args:
        connection: The connection that migrates, in its transaction.
        settings: Of the run.
        tables: Those of the chain.
        external: The transaction is the caller's, so that the journal stays as it is.

    Raises:
        FileDamaged, OnlyInApplication: See `require_sound_file`.
        NoInodeFree: A file that SQLite makes has no inode.
        RollbackJournalWanted: The transaction is to begin again.
    """
    if not external:
        want_rollback_journal(connection)
    require_inode(connection)
    require_temporary_inode(connection)
    require_sound_file(connection, settings.report_every, tables)


@contextmanager
def sqlite_transaction(connection: Connection, settings: Settings) -> Iterator[None]:
    """
    Migrate in one transaction, with foreign keys off: see `write_transaction`.

    A transaction of the caller's is used, and neither committed nor rolled back. Otherwise
    the pragmas and the driver's own settings are restored afterwards.

    Raises:
        DriverInAutocommit: A transaction of the caller's cannot be committed by SQLAlchemy.
        FileLocked: Other processes had the file locked for too long.
    """
    driver: Any = connection.connection.driver_connection
    if connection.in_transaction():
        if getattr(driver, "autocommit", None) is True:
            raise DriverInAutocommit
        if file_of(connection).name:
            require_writable(connection)
        if not driver.in_transaction:  # the driver would begin it later, and not for DDL
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        with report_replacement(connection) as require_in_place:
            yield
            require_in_place()
        return
    journal = None
    with _transactions_begun_by_us(driver):
        try:
            with _kept(driver, "busy_timeout"), _kept(driver, "foreign_keys"):
                driver.execute("PRAGMA foreign_keys = OFF")
                with write_transaction(connection, settings):
                    journal = _have_journal(driver)
                    yield
        finally:
            if journal is not None:
                with suppress(sqlite3.Error):  # locked: the connection keeps the safe one
                    driver.execute(f"PRAGMA main.journal_mode = {journal}").fetchone()


@contextmanager
def _transactions_begun_by_us(driver: Any) -> Iterator[None]:
    """Keep the driver from beginning transactions, and let its commit do something."""
    level, autocommit = driver.isolation_level, getattr(driver, "autocommit", None)
    if autocommit is not None:
        driver.autocommit = True  # ends the transaction that False has begun
        driver.autocommit = _LEGACY_TRANSACTION_CONTROL
    driver.isolation_level = None
    try:
        yield
    finally:
        with unless_closed():
            driver.isolation_level = level
            if autocommit is not None:
                driver.autocommit = autocommit


def statements_interruptible(connection: Connection) -> AbstractContextManager[None]:
    """
    Let a signal end a statement that only reads, as `write_transaction` does for all of it.

    With a driver of asyncio it does nothing: its statements run in a thread of the driver's.
    """
    if connection.dialect.name != "sqlite" or connection.dialect.is_async:
        return nullcontext()
    return interruptible(connection.connection.driver_connection)


def refuse_enforced_foreign_keys(connection: Connection) -> None:
    """
    Refuse a transaction in which foreign keys are enforced.

    Raises:
        ForeignKeysEnforced: They are.
    """
    if connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise ForeignKeysEnforced


def _have_journal(driver: Any) -> str | None:
    """
    Have a journal in the folder of the file, where the application has none, for speed.

    Without one nothing can be rolled back; of one in memory, nothing once the process was killed
    (https://www.sqlite.org/pragma.html#pragma_journal_mode). Until the first change of a
    transaction it can be chosen.

    Returns:
        The mode that was set; None where it was another one.
    """
    (former,) = driver.execute("PRAGMA main.journal_mode").fetchone()
    if former not in ("off", "memory"):
        return None
    driver.execute("PRAGMA main.journal_mode = DELETE").fetchone()
    return str(former)


@contextmanager
def _kept(driver: Any, pragma: str) -> Iterator[None]:
    former = driver.execute(f"PRAGMA {pragma}").fetchone()[0]
    try:
        yield
    finally:
        with unless_closed():
            driver.execute(f"PRAGMA {pragma} = {former}")
