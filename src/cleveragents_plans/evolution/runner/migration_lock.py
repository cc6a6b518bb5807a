"""One migration of a schema at a time, however many processes begin one."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
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
from cleveragents_plans.evolution.postgresql.blockers import Deadline, statement_that_ends
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.foreign_text import as_bytes, read_bytes
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
            "is done (or give a longer -x migration-lock-wait=SECONDS) and run the same "
            "command again"
        )
        self.lock = lock
        self.waited = waited
        self.holders: tuple[object, ...] = tuple(holders)


# One key of two for all of our locks; the other is the schema's oid. PostgreSQL keeps the
# advisory locks of its databases apart.
_KEY = int.from_bytes(
    hashlib.sha256(b"cleveragents_plans.evolution.migration_lock").digest()[:4],
    "big",
    signed=True,
)
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """The session, or the prepared transaction, that has the migration lock."""

    #: None for a prepared transaction, which no process holds.
    pid: int | None
    application: str | None
    #: When it connected, or was prepared; None when we may not see it.
    since: str | None
    #: The name of the prepared transaction.
    prepared: str | None = None

    @property
    def ended_by(self) -> str:
        """The statement that ends it."""
        return statement_that_ends(self.pid, self.prepared)

    def __str__(self) -> str:
        if self.pid is None:
            return f"a prepared transaction (of {self.since}; end it with {self.ended_by})"
        who = f" {self.application}" if self.application else ""
        return f"pid {self.pid}{who}" + (f" (connected since {self.since})" if self.since else "")


@contextmanager
def migration_lock(
    connection: Connection,
    schemas: Collection[str | None],
    settings: Settings | None = None,
    how_far: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """
    Hold the migration locks of *schemas* of PostgreSQL, on the *connection* that migrates.

    Those are the schemas of the tables and of the version table: runs on other schemas of the
    database go on meanwhile. A lock belongs to the session, so it holds through every
    transaction and goes when the connection dies; behind a pooler that shares sessions it
    would mean nothing (see `refuse_pooler`). The connection is handed over, and left, in no
    transaction and at its own isolation level.

    Messages while it waits say *how_far* the process is that has it.

    Raises:
        MigrationLockNotObtained: Another process had one for too long.
        ExternalTransaction: The connection was in a transaction.
        WrongDialect: The database is not PostgreSQL.
    """
    if connection.dialect.name != "postgresql":
        raise WrongDialect("migration_lock", connection.dialect.name)
    if connection.in_transaction():
        raise ExternalTransaction("the connection was in a transaction before the migration lock")
    settings = settings or Settings()
    deadline = Deadline(settings.migration_lock_wait, settings.report_every)
    obtained: list[int] = []
    try:
        with _autocommit(connection):
            # Each process in the same order, or two would wait for each other.
            for oid, schema in _oids(connection, schemas):
                _obtain(connection, oid, schema, deadline, how_far)
                obtained.append(oid)
        yield
    finally:
        # A session that has died has let go of its locks by dying.
        with suppress(SQLAlchemyError):
            if not connection.closed and not connection.invalidated:
                connection.rollback()
                with _autocommit(connection):
                    for oid in obtained:
                        run(connection, f"SELECT pg_advisory_unlock({_KEY}, {_signed(oid)})")


def _oids(connection: Connection, schemas: Collection[str | None]) -> list[tuple[int, str]]:
    rows = run(connection, _SCHEMAS, {"names": list(filter(None, schemas))})
    return [(row.oid, row.nspname) for row in rows]


def _signed(oid: int) -> int:
    return oid - 2**32 if oid >= 2**31 else oid


def _obtain(
    connection: Connection,
    oid: int,
    schema: str,
    deadline: Deadline,
    how_far: Callable[[], str],
) -> None:
    # A blocking pg_advisory_lock would hold a snapshot while it waits, and VALIDATE in
    # the process that migrates would wait for that snapshot: for ever.
    said = False
    while True:
        query = f"SELECT pg_try_advisory_lock({_KEY}, {_signed(oid)})"
        if run(connection, query).scalar_one():
            return
        holders = migration_lock_holders(connection, [schema])
        if deadline.left <= 0:
            raise MigrationLockNotObtained(
                f"the migration lock of the schema {schema}", deadline.waited, holders
            )
        if deadline.report_due() or not said:
            told = how_far()
            log.info(
                "another process is migrating; waiting for %.0f s; it is %s%s",
                deadline.waited,
                listed(holders),
                told and f"; {told}",
                extra={"event": "waiting", "blockers": [*map(str, holders)]},
            )
            said = True
        time.sleep(min(_POLL_SECONDS, max(deadline.left, 0)))


def migration_lock_holders(
    connection: Connection, schemas: Collection[str] | None = None
) -> list[Holder]:
    """Find the sessions that migrate one of *schemas*, or any schema of the database."""
    chosen = {"schemas": None if schemas is None else list(schemas)}
    rows = run(connection, _HOLDERS, chosen | lock_key())
    return [Holder(pid, name, since, read_bytes(gid)) for pid, name, since, gid in rows]


def lock_key() -> dict[str, int]:
    """Give the parameters of `LOCK_IS_HELD`."""
    return {"lock_class": _KEY % 2**32}


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


_SCHEMAS = "SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY(%(names)s) ORDER BY oid"

#: A condition over ``pg_locks l``: this is the migration lock of a schema of the database, and
#: its session has it.
LOCK_IS_HELD: Final = """\
l.granted AND l.locktype = 'advisory' AND l.objsubid = 2
   AND l.classid = %(lock_class)s::oid
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_HOLDERS = f"""\
SELECT DISTINCT l.pid, a.application_name,
       to_char(coalesce(a.backend_start, p.prepared), 'YYYY-MM-DD HH24:MI:SS OF'),
       {as_bytes("p.gid")}
  FROM pg_locks l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
    AND own.virtualtransaction = l.virtualtransaction
  LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
 WHERE {LOCK_IS_HELD}
   AND (%(schemas)s::text[] IS NULL
        OR l.objid = ANY(SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s)))"""
