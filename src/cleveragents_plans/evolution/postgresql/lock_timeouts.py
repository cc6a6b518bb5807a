"""A statement that waited for a lock on a table in vain: which table, and who holds the lock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cleveragents_plans.evolution.errors import LOCK_TIMEOUT, EvolutionError, listed, sqlstate
from cleveragents_plans.evolution.postgresql.blockers import Blocker, blockers
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.search_path import SYSTEM_SCHEMAS

# What a statement that reads conflicts with, and one that writes.
_MODES: Final = (
    "AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock",
)  # fmt: skip


class TableLocked(EvolutionError):
    """
    Other sessions held a lock on a table for longer than a statement waits.

    Attributes:
        tables: The tables.
        waited: For how many seconds.
        blockers: The sessions that held a lock when last looked.
    """

    def __init__(self, tables: Sequence[str], waited: float, found: Sequence[Blocker]) -> None:
        ends = " and ".join(dict.fromkeys(each.ended_by for each in found))
        super().__init__(
            f"no lock on {' and '.join(tables) or 'a table'} in {waited:.0f} s; blocked by: "
            f"{listed(found)}; wait until they are done"
            + (f", or end them ({ends})" if ends else "")
            + ", and run the same command again"
        )
        self.tables: tuple[str, ...] = tuple(tables)
        self.waited = waited
        self.blockers: tuple[Blocker, ...] = tuple(found)


@contextmanager
def blockers_named(connection: Connection) -> Iterator[None]:
    """
    Name the sessions because of which a statement on *connection* ran into its lock_timeout.

    The transaction of *connection* is rolled back then. On SQLite it does nothing.

    Raises:
        TableLocked: A statement ran into its lock_timeout.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    sent = time.monotonic()

    def before(*_: object) -> None:
        nonlocal sent
        sent = time.monotonic()

    event.listen(connection, "before_cursor_execute", before)
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) != LOCK_TIMEOUT:
            raise
        raise _locked(connection, error, time.monotonic() - sent) from error
    finally:
        event.remove(connection, "before_cursor_execute", before)


def _locked(connection: Connection, error: DBAPIError, waited: float) -> TableLocked:
    found: list[Blocker] = []
    chosen: list[str] = []
    with suppress(SQLAlchemyError):
        connection.rollback()
        # A session that only reads has set it for the transaction that failed.
        run(connection, f"SET LOCAL search_path = {SYSTEM_SCHEMAS}")
        locked: Sequence[Any] = run(connection, _LOCKED, {"modes": list(_MODES)}).all()
        # The server does not say which one; the statement, or its values, has the name.
        text = f"{error.statement} {error.params}"
        named = [table for table, name in locked if name in text]
        chosen = named or [table for table, _ in locked]
        found = blockers(connection, chosen, _MODES)
        connection.rollback()
    return TableLocked(chosen, waited, found)


_LOCKED = """\
SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname), CAST(c.relname AS text)
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY(%(modes)s)
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' ORDER BY 1"""
