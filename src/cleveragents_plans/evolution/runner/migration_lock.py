"""One migration at a time, however many processes begin one."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cleveragents_plans.evolution.errors import (
    EvolutionError,
    ExternalTransaction,
    WrongDialect,
    listed,
)
from cleveragents_plans.evolution.postgresql.blockers import Deadline
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")


class MigrationLockNotObtained(EvolutionError):
    """
    Another process went on migrating for too long.

    Attributes:
        lock: What was waited for.
        waited: For how many seconds.
        holders: Who has it.
    """

    def __init__(self, lock: str, waited: float, holders: Sequence[object] = ()) -> None:
        super().__init__(
            f"{lock} is still taken after {waited:.0f} s, by {listed(holders)}; wait until that "
            "process is done (or give a longer -x migration-lock-wait=SECONDS) and run the same "
            "command again"
        )
        self.lock = lock
        self.waited = waited
        self.holders: tuple[object, ...] = tuple(holders)


_NAME = "the migration lock of the database"
# PostgreSQL keeps the advisory locks of its databases apart, so one key does for all.
_KEY = int.from_bytes(
    hashlib.sha256(b"cleveragents_plans.evolution.migration_lock").digest()[:8],
    "big",
    signed=True,
)
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """The session that has the migration lock."""

    pid: int
    application: str | None
    #: When it connected; None when we may not see it.
    since: str | None

    def __str__(self) -> str:
        who = f" {self.application}" if self.application else ""
        return f"pid {self.pid}{who}" + (f" (connected since {self.since})" if self.since else "")


@contextmanager
def migration_lock(
    connection: Connection,
    settings: Settings | None = None,
    how_far: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """
    Hold the migration lock of the PostgreSQL database, on the *connection* that migrates.

    The lock belongs to the session, so it holds through every transaction and goes when
    the connection dies; behind a pooler that shares sessions it would mean nothing (see
    `refuse_pooler`). The connection is handed over, and left, in no transaction and at its
    own isolation level.

    Messages while it waits say *how_far* the process is that has it.

    Raises:
        MigrationLockNotObtained: Another process had it for too long.
        ExternalTransaction: The connection was in a transaction.
        WrongDialect: The database is not PostgreSQL.
    """
    if connection.dialect.name != "postgresql":
        raise WrongDialect("migration_lock", connection.dialect.name)
    if connection.in_transaction():
        raise ExternalTransaction("the connection was in a transaction before the migration lock")
    with _autocommit(connection):
        _obtain(connection, settings or Settings(), how_far)
    try:
        yield
    finally:
        # A session that has died has let go of the lock by dying.
        with suppress(SQLAlchemyError):
            if not connection.closed and not connection.invalidated:
                connection.rollback()
                with _autocommit(connection):
                    run(connection, "SELECT pg_advisory_unlock(%(key)s)", {"key": _KEY})


def _obtain(connection: Connection, settings: Settings, how_far: Callable[[], str]) -> None:
    # A blocking pg_advisory_lock would hold a snapshot while it waits, and VALIDATE in
    # the process that migrates would wait for that snapshot: for ever.
    deadline = Deadline(settings.migration_lock_wait, settings.report_every)
    said = False
    while True:
        got = run(connection, "SELECT pg_try_advisory_lock(%(key)s)", {"key": _KEY}).scalar_one()
        if got:
            return
        if deadline.left <= 0:
            raise MigrationLockNotObtained(
                _NAME, deadline.waited, migration_lock_holders(connection)
            )
        if deadline.report_due() or not said:
            holders = listed(migration_lock_holders(connection))
            told = how_far()
            log.info(
                "another process is migrating; waiting for %.0f s; it is %s%s",
                deadline.waited,
                holders,
                told and f"; {told}",
            )
            said = True
        time.sleep(min(_POLL_SECONDS, max(deadline.left, 0)))


def migration_lock_holders(connection: Connection) -> list[Holder]:
    """Find the session that has the migration lock; none if no process migrates."""
    return [Holder(*row) for row in run(connection, _HOLDERS, lock_key())]


def lock_key() -> dict[str, int]:
    """Give the parameters of `LOCK_IS_HELD`."""
    unsigned = _KEY % 2**64
    return {"high": unsigned >> 32, "low": unsigned & 0xFFFFFFFF}


@contextmanager
def _autocommit(connection: Connection) -> Iterator[None]:
    former = connection.get_isolation_level()
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            connection.execution_options(isolation_level=former)


#: A condition over ``pg_locks l``: this is the migration lock, and its session has it.
LOCK_IS_HELD: Final = """\
l.granted AND l.locktype = 'advisory' AND l.objsubid = 1
   AND l.classid = %(high)s::oid AND l.objid = %(low)s::oid
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_HOLDERS = f"""\
SELECT l.pid, a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS OF')
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE {LOCK_IS_HELD}"""
