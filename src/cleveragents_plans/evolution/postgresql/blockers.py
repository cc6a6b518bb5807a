"""Deadlines, and the sessions that hold the locks that are waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.foreign_text import as_bytes, read_bytes
from cleveragents_plans.evolution.settings import Settings


class Deadline:
    """How long is left to wait, and until the next message."""

    def __init__(self, limit: float, report_every: float) -> None:
        self._limit = limit
        self.report_every = report_every
        self.restart()

    @classmethod
    def for_locks(cls, settings: Settings) -> Deadline:
        """Wait as long as *settings* allow for locks."""
        return cls(settings.lock_wait, settings.report_every)

    def restart(self) -> None:
        """Begin to wait anew."""
        self._begun = self._said = time.monotonic()

    @property
    def waited(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds to the end; negative after it."""
        return self._limit - self.waited

    def report_due(self) -> bool:
        """Tell whether the last message is long enough ago, and count this as one."""
        if time.monotonic() - self._said < self.report_every:
            return False
        self._said = time.monotonic()
        return True


#: What `Blocker.mode` is of a session that has written what another one waits for.
NOT_COMMITTED: Final = "not committed"


@dataclass(frozen=True, slots=True)
class Blocker:
    """One session, or one prepared transaction, that holds a lock."""

    #: None for a prepared transaction, which no process holds.
    pid: int | None
    #: The lock it holds, as PostgreSQL names it.
    mode: str
    #: Such as ``idle in transaction``; None when it is hidden from this role.
    state: str | None
    application: str | None
    #: Seconds since its transaction began; None when that is hidden, or not tracked.
    age: float | None
    #: The beginning of its statement, or the name of the prepared transaction.
    query: str | None
    user: str | None = None
    #: Its address; None for a local socket, or when it is hidden.
    host: str | None = None
    #: What the server says that it is, such as ``client backend``; None when it is hidden.
    kind: str | None = None
    #: Its ``virtualtransaction`` in ``pg_locks``, by which it is known again.
    transaction: str | None = None

    @property
    def ended_by(self) -> str:
        """The statement that ends it."""
        return statement_that_ends(self.pid, self.query)

    def __str__(self) -> str:
        age = "" if self.age is None else f" for {self.age:.0f} s"
        query = f": {self.query}" if self.query else ""
        if self.pid is None:
            return f"prepared transaction{age}{query} (end it with ROLLBACK PREPARED)"
        who = f" {self.application}" if self.application else ""
        return f"pid {self.pid}{who} ({self.state or 'state hidden'}{age}, {self.mode}){query}"


def statement_that_ends(pid: int | None, prepared: str | None) -> str:
    """Give the statement that ends a session, or the *prepared* transaction of this name."""
    if pid is None:
        if prepared is None:
            return "ROLLBACK PREPARED"
        return "ROLLBACK PREPARED '{}'".format(prepared.replace("'", "''"))
    return f"SELECT pg_terminate_backend({pid})"


def blockers(
    connection: Connection, tables: Sequence[str], modes: Sequence[str], limit: int = 5
) -> list[Blocker]:
    """
    Find the other sessions that hold one of the lock *modes* on one of the *tables*, oldest first.

    Asked of ``pg_locks``: ``pg_blocking_pids`` is empty once our own attempt has timed out. A
    transaction may end between the reading of that and of ``pg_stat_activity``: one that has is
    left out.
    """
    asked = {"tables": list(tables), "modes": list(modes), "limit": limit}
    return _read(run(connection, _BLOCKERS, asked))


def old_snapshots(connection: Connection) -> list[Blocker]:
    """
    Find the other clients of the database that hold a snapshot, the oldest first.

    An index that is built concurrently waits for each that is older.
    """
    return _read(run(connection, _OLD_SNAPSHOTS))


def waited_for(connection: Connection, pid: int) -> list[Blocker]:
    """
    Find what the session *pid* waits for just now, the longest first.

    Locks of every kind count, and old snapshots, which ``CREATE INDEX CONCURRENTLY`` waits
    for. A prepared transaction has a pid of None; its name is known where it has written, and
    not committed, what is waited for.
    """
    return _read(run(connection, _WAITED_FOR, {"pid": pid}))


def _read(rows: Iterable[Any]) -> list[Blocker]:
    found = []
    for pid, mode, state, application, age, query, user, host, kind, transaction in rows:
        said = read_bytes(query)
        if said and pid is not None:
            said = _beginning(said)
        who = read_bytes(user), host, kind, transaction
        found.append(Blocker(pid, mode, state, application, age, said, *who))
    return found


def _beginning(query: str) -> str:
    """Give the first 80 characters of a *query* in one line, and a mark where it goes on."""
    line = re.sub(r"\s+", " ", query)
    return line if len(line) <= 80 else f"{line[:80]} ..."


# A client whose state may be seen, and that has no transaction open, has let go of these locks.
_HAS_ENDED = """\
coalesce(a.backend_type = 'client backend' AND a.state <> 'disabled' AND a.xact_start IS NULL,
         false)"""

# A prepared transaction has 0 for a pid here. Advisory locks can outlive a transaction.
_WAITED_FOR = f"""\
SELECT nullif(b.pid, 0), w.mode, coalesce(a.state, a.backend_type), a.application_name,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS age,
       {as_bytes("coalesce(p.gid, a.query)")},
       {as_bytes("coalesce(p.owner, a.usename)::text")}, a.client_addr::text, a.backend_type,
       NULL
  FROM unnest(pg_blocking_pids(%(pid)s)) AS b (pid)
  LEFT JOIN pg_stat_activity a ON a.pid = b.pid
  LEFT JOIN LATERAL (
    SELECT l.transactionid AS xid, l.locktype,
           CASE l.locktype WHEN 'virtualxid' THEN 'snapshot or lock of its transaction'
                           WHEN 'transactionid' THEN '{NOT_COMMITTED}'
                           ELSE 'against ' || l.mode END AS mode
      FROM pg_locks l WHERE l.pid = %(pid)s AND NOT l.granted LIMIT 1) w ON true
  LEFT JOIN pg_prepared_xacts p ON b.pid = 0 AND p.transaction = w.xid
 WHERE w.locktype = 'advisory' OR NOT {_HAS_ENDED}
 ORDER BY age DESC NULLS LAST
 LIMIT 5"""


_OLD_SNAPSHOTS = f"""\
SELECT a.pid, 'snapshot', coalesce(a.state, a.backend_type), a.application_name,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age,
       {as_bytes("a.query")}, {as_bytes("a.usename::text")}, a.client_addr::text, a.backend_type,
       (SELECT min(l.virtualtransaction) FROM pg_locks l
         WHERE l.pid = a.pid AND l.locktype = 'virtualxid')
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND a.backend_type = 'client backend' AND a.backend_xmin IS NOT NULL AND NOT {_HAS_ENDED}
 ORDER BY age DESC NULLS LAST"""

# A prepared transaction has no process; of its locks, the one on its own id names it.
_BLOCKERS = f"""\
WITH held AS MATERIALIZED (SELECT * FROM pg_locks WHERE granted)
SELECT l.pid, min(l.mode), min(coalesce(a.state, a.backend_type)), min(a.application_name),
       extract(epoch FROM clock_timestamp()
               - min(coalesce(a.xact_start, p.prepared)))::float8 AS age,
       {as_bytes('min(coalesce(p.gid, a.query) COLLATE "C")')},
       {as_bytes('min(coalesce(p.owner, a.usename)::text COLLATE "C")')},
       min(a.client_addr::text), min(a.backend_type), l.virtualtransaction
  FROM held l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN held own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
    AND own.virtualtransaction = l.virtualtransaction
  LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
 WHERE l.locktype = 'relation' AND l.mode = ANY(%(modes)s)
   AND l.relation IN (SELECT to_regclass(name) FROM unnest(CAST(%(tables)s AS text[])) name)
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid() AND NOT {_HAS_ENDED}
 GROUP BY l.pid, l.virtualtransaction
 ORDER BY age DESC NULLS LAST
 LIMIT %(limit)s"""
