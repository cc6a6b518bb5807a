"""Sessions of PostgreSQL that a run would wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.blockers import Blocker, blockers, old_snapshots
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.locks import ANY_LOCK
from cleveragents_plans.evolution.postgresql.session_rights import uncallable
from cleveragents_plans.evolution.runner.migration_lock import migration_lock_holders
from cleveragents_plans.preflight.findings import Block

# Seconds. A transaction that is younger is that of a client at work, and ends by itself.
MIN_AGE = 2.0
_MAX_SHOWN = 50
_HIDDEN = "; to see what it does, let a superuser GRANT pg_read_all_stats TO this role"


def sessions_ahead(
    connection: Connection, tables: Sequence[str], *, builds_indexes: bool
) -> Iterator[Block]:
    """
    Find who holds what a run needs, and has held it for `MIN_AGE`.

    How old a transaction is may be hidden from this role: where one is there, all are looked at
    again after that time.

    Args:
        connection: Views of the server are read.
        tables: The tables that are locked exclusively, as in SQL with their schema.
        builds_indexes: Indexes are built concurrently, which waits for older snapshots, too.
    """
    for holder in migration_lock_holders(connection):
        yield Block(
            found=f"the migration lock is held by {holder}",
            remedy=f"wait, or: {holder.ended_by}",
        )
    found = _holders(connection, tables, builds_indexes=builds_indexes)
    unknown = {_transaction(each) for each in found if each.age is None}
    if unknown:
        time.sleep(MIN_AGE)
        found = _holders(connection, tables, builds_indexes=builds_indexes)
    for each in found:
        is_old = _transaction(each) in unknown if each.age is None else each.age >= MIN_AGE
        if is_old:
            yield Block(found=_described(each), remedy=f"wait, or: {each.ended_by}")


def _holders(
    connection: Connection, tables: Sequence[str], *, builds_indexes: bool
) -> list[Blocker]:
    # Within a transaction, other sessions are shown as they were at its first look.
    if not uncallable(connection, ["pg_stat_clear_snapshot()"]):
        run(connection, "SELECT pg_stat_clear_snapshot()")
    found = blockers(connection, tables, ANY_LOCK, _MAX_SHOWN)
    pids = {each.pid for each in found}
    if builds_indexes:
        found += [each for each in old_snapshots(connection) if each.pid not in pids]
    return [each for each in found if not _gives_way(each)]


def _transaction(blocker: Blocker) -> tuple[int | None, str | None]:
    return blocker.pid, blocker.transaction


def _gives_way(blocker: Blocker) -> bool:
    """Tell whether it is an ordinary autovacuum, which the server cancels for a waiting lock."""
    # A client may send a statement of any text, even of this one.
    query = blocker.query or ""
    ordinary = query.startswith("autovacuum: ") and "(to prevent wraparound)" not in query
    return blocker.kind == "autovacuum worker" and ordinary


def _described(blocker: Blocker) -> str:
    if blocker.pid is None:
        who = f"prepared transaction {blocker.query}"
    else:
        who = " ".join(filter(None, (f"pid {blocker.pid}", blocker.application)))
    facts = [
        who,
        f"user {blocker.user}" if blocker.user else "",
        f"host {blocker.host}" if blocker.host else "",
        blocker.state or "",
        "" if blocker.age is None else f"open {clock(blocker.age)}",
        blocker.mode,
    ]
    query = f": {blocker.query}" if blocker.query and blocker.pid is not None else ""
    hidden = _HIDDEN if blocker.state is None and blocker.pid is not None else ""
    return ", ".join(filter(None, facts)) + query + hidden


def clock(seconds: float) -> str:
    """Write *seconds* as minutes and seconds, or with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
