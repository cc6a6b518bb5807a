"""A statement that waited for a lock on a table in vain: which table, and who holds the lock."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cleveragents_plans.evolution.errors import LOCK_TIMEOUT, EvolutionError, listed, sqlstate
from cleveragents_plans.evolution.postgresql.blockers import Blocker, blockers
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.foreign_text import as_bytes, read_bytes
from cleveragents_plans.evolution.postgresql.search_path import SET_SYSTEM_SCHEMAS

# What a statement that reads conflicts with, and one that writes.
_MODES: Final = (
    "AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock",
)  # fmt: skip
# What a session holds on a table of which it has locked rows.
_WITH_ROWS: Final = ("RowExclusiveLock", "RowShareLock")
_ONLY_READS: Final = re.compile(r"\s*(?:SELECT|LOCK|EXPLAIN)\b(?!.*\bFOR\b)", re.DOTALL)


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
def blockers_named(
    connection: Connection, ours: Collection[tuple[str | None, str]] = ()
) -> Iterator[None]:
    """
    Name the sessions because of which a statement on *connection* ran into its lock_timeout.

    They hold a lock on a table that the statement names; or else, since it may lock one that it
    does not name, on one of *ours*, which are schemas and names. No other session is named.

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
        locked = _locked(connection, error, time.monotonic() - sent, {*ours})
        if locked is None:
            raise
        raise locked from error
    finally:
        event.remove(connection, "before_cursor_execute", before)


def _locked(
    connection: Connection, error: DBAPIError, waited: float, ours: set[tuple[str | None, str]]
) -> TableLocked | None:
    with suppress(SQLAlchemyError):
        connection.rollback()
        # A session that only reads has set it for the transaction that failed.
        run(connection, SET_SYSTEM_SCHEMAS)
        # What only reads waits for no row.
        kinds = (_MODES,) if _ONLY_READS.match(str(error.statement)) else (_MODES, _WITH_ROWS)
        locked = {modes: _tables_locked(connection, modes) for modes in kinds}
        for wanted in (lambda each: each.is_named_by(error), lambda each: each.name in ours):
            for modes, tables in locked.items():
                named = [each.quoted for each in tables if wanted(each)]
                found = blockers(connection, named, modes) if named else []
                if found:
                    connection.rollback()
                    return TableLocked(named, waited, found, rows=modes is _WITH_ROWS)
        connection.rollback()
    return None


@dataclass(frozen=True, slots=True)
class _Table:
    """A table that another session has locked."""

    oid: int
    #: Its schema, and its name there.
    name: tuple[str, str]
    quoted: str

    def is_named_by(self, error: DBAPIError) -> bool:
        """
        Tell whether the statement that failed names it, with its schema, or its oid.

        The server does not say which table it waited for. A name alone may be that of an alias,
        a column, or a part of another name: sessions that migrate or look write the schema.
        """
        schema, name = (f"(?:{re.escape(each)}|{_quoted(each)})" for each in self.name)
        written = re.compile(rf'(?<![\w$".]){schema}\.{name}(?![\w$"])')
        if written.search(str(error.statement).replace("%%", "%")):
            return True
        values = [*_values(error.params)]
        texts = {value for _, value in values if isinstance(value, str)}
        return (
            any(written.fullmatch(text) for text in texts)
            or texts.issuperset(self.name)
            or any(value == self.oid and "oid" in key for key, value in values)
        )


def _quoted(name: str) -> str:
    return re.escape('"{}"'.format(name.replace('"', '""')))


def _values(given: Any, key: str = "") -> Iterator[tuple[str, object]]:
    """Give the values of a statement with the names of their parameters, one by one."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield from _values(value, str(name))
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _values(value, key)
    else:
        yield key, given


def _tables_locked(connection: Connection, modes: Sequence[str]) -> list[_Table]:
    rows = run(connection, _LOCKED, {"modes": list(modes)})
    return [
        _Table(oid, (read_bytes(schema) or "", read_bytes(name) or ""), read_bytes(quoted) or "")
        for oid, schema, name, quoted in rows
    ]


_LOCKED = f"""\
SELECT DISTINCT CAST(c.oid AS bigint), {as_bytes("n.nspname::text")},
       {as_bytes("c.relname::text")},
       {as_bytes("quote_ident(n.nspname) || '.' || quote_ident(c.relname)")}
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY(%(modes)s)
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' ORDER BY 4"""
