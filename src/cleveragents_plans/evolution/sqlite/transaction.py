"""
The one transaction in which a SQLite file is migrated.

It holds the write lock of the file from its beginning, and with a rollback journal keeps readers
out as well (https://www.sqlite.org/lang_transaction.html): there a reader would keep the COMMIT
waiting, and what does not fit into the page cache in memory until then.
"""

from __future__ import annotations

import logging
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.run_figures import record_lock
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite.callbacks import interruptible
from cleveragents_plans.evolution.sqlite.lock_holders import LockHolder, lock_holders
from cleveragents_plans.evolution.sqlite.pragmas import file_of
from cleveragents_plans.evolution.sqlite.soundness import report_damage
from cleveragents_plans.evolution.sqlite.writable_file import report_replacement, require_writable

log: Final = logging.getLogger("alembic.evolution")

#: Milliseconds that SQLite waits for a lock at a time.
_BUSY_TIMEOUT = 200
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


class FileLocked(EvolutionError):
    """
    Other processes had the file locked for too long.

    Attributes:
        file: The file.
        waited: For how many seconds.
        holders: The processes, as far as they can be seen.
    """

    def __init__(
        self, file: Path, waited: float, holders: Sequence[LockHolder], setting: str = ""
    ) -> None:
        longer = setting and f" (or give a longer -x {setting}=SECONDS)"
        super().__init__(
            f"{file} is still locked after {waited:.0f} s, by {_named(file, holders)}; wait until "
            f"that ends, or end it{longer}, and run the same command again; nothing was changed"
        )
        self.file = file
        self.waited = waited
        self.holders: Final = tuple(holders)


class FileNotReadable(EvolutionError):
    """
    This process may not read a SQLite file, or not write where SQLite writes to read it.

    Attributes:
        target: What the file is called.
    """

    #: The error codes by which SQLite says so (https://www.sqlite.org/rescode.html), by number: the
    #: drivers that may stand in the place of `sqlite3` lack some of the names.
    CODES: Final = frozenset(
        {
            sqlite3.SQLITE_CANTOPEN,
            2570,  # SQLITE_IOERR_DELETE, of the journal, once it is rolled back
            1288,  # SQLITE_READONLY_CANTINIT
            520,  # SQLITE_READONLY_CANTLOCK
            1544,  # SQLITE_READONLY_DIRECTORY
            264,  # SQLITE_READONLY_RECOVERY
            776,  # SQLITE_READONLY_ROLLBACK
        }
    )

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(
            f"{target} cannot be read by this user ({reason}): SQLite reads a file with a "
            "write-ahead log by another one beside it, and first rolls back what was interrupted; "
            "let this user read the file and write to its folder, where an inode is free "
            "(`df -i`), and run the same command again; nothing was changed"
        )
        self.target = target


@contextmanager
def write_transaction(connection: Connection, settings: Settings) -> Iterator[None]:
    """
    Migrate in one transaction on the SQLite *connection*, which is in none.

    While the file is locked, a message names the processes that hold it, every few seconds. A
    signal ends the statement that runs. However the transaction ends, disk space that its
    journal or its write-ahead log took is freed.

    Raises:
        FileNotWritable, UrlUnfit, FileHasOtherPlace: See `require_writable`.
        FileReplaced: Another file is at the path by now, or none; the transaction was rolled back.
        FileLocked: Other processes had it locked for ``migration-lock-wait`` seconds.
        FileDamaged: A statement met damaged pages.
        KeyboardInterrupt: A signal ended a statement; the transaction was rolled back.
    """
    driver: Any = connection.connection.driver_connection
    file = file_of(connection)
    if file.name:
        require_writable(connection)
    before = _size(file, "wal")
    with report_damage(file), report_replacement(connection) as require_in_place:
        with interruptible(driver):
            transaction = _begin(connection, driver, file, settings)
        since = time.monotonic()
        try:
            # A signal whose error was suppressed is raised before the transaction commits.
            with transaction, interruptible(driver):
                yield
                require_in_place()
            record_lock(since)
        finally:
            _free_disk_space(driver)
            _warn_of_left_overs(file, before)


def wait_until_readable(connection: Connection, report_every: float) -> None:
    """
    Read a little of the file in the transaction of *connection*, as soon as no lock forbids it.

    That is how long a migration takes where the journal is a rollback journal. A message names
    the processes that hold the file, every *report_every* seconds. SQLite itself would wait in
    silence, and no signal would end that.

    Raises:
        FileLocked: It was locked for as long as the connection waits for a lock.
    """
    driver: Any = connection.connection.driver_connection
    milliseconds = driver.execute("PRAGMA busy_timeout").fetchone()[0]
    driver.execute(f"PRAGMA busy_timeout = {min(milliseconds, _BUSY_TIMEOUT)}")
    try:
        for waited in _waits(file_of(connection), report_every):
            try:
                connection.exec_driver_sql("SELECT 1 FROM main.sqlite_master LIMIT 1").close()
                break
            except DBAPIError as error:
                if not _is_locked(error):
                    raise
            if waited() * 1000 > milliseconds:
                file = file_of(connection)
                raise FileLocked(file, waited(), lock_holders(file))
    finally:
        driver.execute(f"PRAGMA busy_timeout = {milliseconds}")


def _begin(connection: Connection, driver: Any, file: Path, settings: Settings) -> RootTransaction:
    driver.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT}")
    for waited in _waits(file, settings.report_every):
        try:
            return _begin_exclusive(connection, driver)
        except DBAPIError as error:
            if not _is_locked(error):
                raise
        if waited() > settings.migration_lock_wait:
            raise FileLocked(file, waited(), lock_holders(file), "migration-lock-wait")
    raise AssertionError


def _waits(file: Path, report_every: float) -> Iterator[Callable[[], float]]:
    """Give how long a lock on *file* has been waited for, again and again, and log it."""
    begun = said = time.monotonic()
    while True:
        yield lambda: time.monotonic() - begun
        now = time.monotonic()
        if said == begun or now - said >= report_every:
            said = now
            holders = _named(file, lock_holders(file))
            log.info("%s is locked by %s; waiting (%.0f s)", file, holders, now - begun)


def _is_locked(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _LOCKED


def _begin_exclusive(connection: Connection, driver: Any) -> RootTransaction:
    transaction = connection.begin()
    try:
        # A listener of the engine has begun another kind of transaction, or there is none.
        if driver.in_transaction:
            connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
    except BaseException:
        transaction.rollback()
        raise
    return transaction


def _named(file: Path, holders: Sequence[LockHolder]) -> str:
    return "; ".join(map(str, holders)) or (
        f"a process that cannot be seen from here (`lsof {shlex.quote(str(file))}` lists those "
        "that have it open)"
    )


def _free_disk_space(driver: Any) -> None:
    """
    Let SQLite give back the disk space that the transaction took.

    To read the file rolls a journal back that a failed rollback has left, as on a full disk
    (https://www.sqlite.org/lockingv3.html#hot_journals); a checkpoint copies the write-ahead
    log into the file, and truncates it.
    """
    with suppress(sqlite3.Error):
        driver.execute("SELECT count(*) FROM sqlite_master").fetchone()
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _warn_of_left_overs(file: Path, log_before: int) -> None:
    for kind, before in (("journal", 0), ("wal", log_before)):
        size = _size(file, kind)
        if size > before:
            log.warning(
                "%s-%s (%.1f MB) could not be emptied yet, because the file is in use or the disk "
                "is full: it is a part of the database, so never delete, move or copy one of the "
                "two alone; SQLite empties it later",
                file,
                kind,
                size / 1e6,
            )


def _size(file: Path, kind: str) -> int:
    try:
        return Path(f"{file}-{kind}").stat().st_size
    except OSError:
        return 0
