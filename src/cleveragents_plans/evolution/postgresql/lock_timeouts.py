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
# What a session holds on a table of which it has locked rows.
_WITH_ROWS: Final = ("RowExclusiveLock", "RowShareLock")


class TableLocked(EvolutionError):
    """
    Other sessions held a lock on a table, or on rows of it, for longer than a statement waits.

    Attributes:
        tables: The tables.
        waited: For how many seconds.
        blockers: The sessions that held a lock when last looked.
    """

    def __init__(
        self, tables: Sequence[str], waited: float, found: Sequence[Blocker], *, rows: bool = False
    ) -> None:
        ends = " and ".join(dict.fromkeys(each.ended_by for each in found))
        super().__init__(
            f"no lock on {'rows of ' if rows else ''}{' and '.join(tables)} in {waited:.0f} s; "
            f"{'sessions that lock rows there' if rows else 'blocked by'}: {listed(found)}; wait "
            f"until they are done, or end them ({ends}), and run the same command again"
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
        TableLocked: A statement ran into its lock_timeout, and it can be seen why.
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
        locked = _locked(connection, error, time.monotonic() - sent)
        if locked is None:
            raise
        raise locked from error
    finally:
        event.remove(connection, "before_cursor_execute", before)


def _locked(connection: Connection, error: DBAPIError, waited: float) -> TableLocked | None:
    # The server does not say of which table; the statement, or its values, has the name.
    text = f"{error.statement} {error.params}"
    with suppress(SQLAlchemyError):
        connection.rollback()
        # A session that only reads has set it for the transaction that failed.
        run(connection, f"SET LOCAL search_path = {SYSTEM_SCHEMAS}")
        for modes in (_MODES, _WITH_ROWS):
            locked: Sequence[Any] = run(connection, _LOCKED, {"modes": list(modes)}).all()
            named = [table for table, name in locked if name in text]
            found = blockers(connection, named, modes) if named else []
            if found:
                connection.rollback()
                return TableLocked(named, waited, found, rows=modes is _WITH_ROWS)
        connection.rollback()
    return None


_LOCKED = """\
SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname), CAST(c.relname AS text)
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY(%(modes)s)
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' ORDER BY 1"""
