"""
A rollback journal for the migration of a large SQLite file that has a write-ahead log.

Each page that a transaction reads or writes is looked for in all parts of the log, so that the time
of one large transaction grows faster than its table; and the log takes all that is written before
it is copied into the file. SQLite's documentation recommends a rollback journal for transactions of
more than some 100 MB (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import logging
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.sqlite.lock_holders import open_elsewhere
from cleveragents_plans.evolution.sqlite.pragmas import file_of, journal_mode

log: Final = logging.getLogger("alembic.evolution")

#: Bytes of a file that is large enough.
_LARGE = 100_000_000
#: For how many seconds it is tried to set the write-ahead log again.
_PATIENCE = 5.0
# What is remembered of a connection while `rollback_journal` holds.
_CHOSEN = "evolution.rollback_journal"


class RollbackJournalWanted(Exception):
    """The transaction is to begin again in `rollback_journal`; nothing was changed in it."""


def want_rollback_journal(connection: Connection) -> None:
    """
    Ask for a rollback journal, before the first change of a transaction that is ours to end.

    Raises:
        RollbackJournalWanted: The file is large and has a write-ahead log, and `rollback_journal`
            was not tried.
    """
    if _CHOSEN not in connection.info and _is_large_with_wal(connection):
        raise RollbackJournalWanted


def journal_of_run(connection: Connection) -> str:
    """
    Foresee which journal the file has in a run, as long as it is open as it is now.

    A warning names the processes because of which a large file keeps its write-ahead log.
    """
    present = journal_mode(connection)
    if not _is_large_with_wal(connection):
        return present
    file = file_of(connection)
    others = open_elsewhere(file)
    if not others:
        return "delete"
    log.warning(
        "%s is open elsewhere, by %s: while it is, its write-ahead log stays in a run, with which "
        "a large table takes longer, and more room on the disk; end these processes first",
        file,
        "; ".join(
            f"pid {each.pid}" + (f" ({each.program})" if each.program else "") for each in others
        ),
    )
    return present


def _is_large_with_wal(connection: Connection) -> bool:
    """Tell whether the file is large, and has a write-ahead log."""
    file = file_of(connection)
    large = file.is_file() and file.stat().st_size >= _LARGE
    return large and journal_mode(connection) == "wal"


@contextmanager
def rollback_journal(connection: Connection) -> Iterator[None]:
    """
    Give the file a rollback journal, and its write-ahead log again at the end.

    SQLite changes the journal only while no other connection has the file open; otherwise the
    write-ahead log stays. The *connection* is in no transaction. A process that is killed meanwhile
    leaves the rollback journal: the content of the file is as it was, and the engine of
    `open_engine` sets the write-ahead log whenever it connects.

    Locks: EXCLUSIVE on the file at each change, for the first as long as the log is copied into it.
    """
    driver: Any = connection.connection.driver_connection
    file = file_of(connection)
    connection.info[_CHOSEN] = True
    try:  # already here: a signal is handled when the statement that changes the journal is done
        if not _set_journal(driver, "delete"):
            log.info(
                "%s is open elsewhere, so that its write-ahead log stays: with it a large table "
                "takes longer, and more room on the disk",
                file,
            )
        yield
    finally:
        del connection.info[_CHOSEN]
        _restore_wal(driver, file)


def _set_journal(driver: Any, journal: str) -> bool:
    """Set the ``journal_mode``, without waiting for a lock; tell whether the file has it now."""
    (timeout,) = driver.execute("PRAGMA busy_timeout").fetchone()
    driver.execute("PRAGMA busy_timeout = 0")  # it holds for one of the two directions only
    try:
        (found,) = driver.execute(f"PRAGMA main.journal_mode = {journal}").fetchone()
    except sqlite3.OperationalError:  # locked, or no room: a run will say so if that lasts
        return False
    finally:
        driver.execute(f"PRAGMA busy_timeout = {timeout}")
    return bool(found == journal)


def _restore_wal(driver: Any, file: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while not _set_journal(driver, "wal"):
        if time.monotonic() > until:
            log.warning(
                "%s has a rollback journal now, because it is in use or the disk is full; the "
                "application sets its write-ahead log when it connects, or "
                "`sqlite3 %s 'PRAGMA journal_mode = WAL'` does",
                file,
                shlex.quote(str(file)),
            )
            return
        time.sleep(0.05)
