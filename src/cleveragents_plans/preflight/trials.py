"""
Batches of a backfill and builds of indexes on PostgreSQL, tried out, timed and rolled back.

A batch locks its rows as that of a run does, for some milliseconds, until its savepoint is rolled
back; rows that others lock are left out. An index is built on a temporary copy of some rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import (
    UNDEFINED_COLUMN,
    EvolutionError,
    function_of,
    sqlstate,
)
from cleveragents_plans.evolution.foreseen import Backfill, IndexBuild
from cleveragents_plans.evolution.postgresql.batch_queue import batch_statement
from cleveragents_plans.evolution.postgresql.batches import BATCH_SESSION
from cleveragents_plans.evolution.postgresql.conflicts import is_conflict, reason_of
from cleveragents_plans.evolution.postgresql.connection import parameters, run
from cleveragents_plans.evolution.postgresql.indexes import TOO_WIDE
from cleveragents_plans.evolution.postgresql.ranges import base_type
from cleveragents_plans.evolution.postgresql.search_path import after_triggers
from cleveragents_plans.preflight.stand_ins import stand_in

_PLACES = 8
_BATCH = 200
_LOOK = 2_000
_SAMPLED = 10_000
# A trial that takes longer than clients can wait is given up.
_LIMITS = {"lock_timeout": "20ms", "statement_timeout": "250ms"}
_NOT_NULL = "23502"
_CANCELLED = "57014"


class BatchRefused(EvolutionError):
    """
    The database refused a batch that was tried out, as it would refuse it in a run.

    Attributes:
        table: The table.
    """

    def __init__(self, backfill: Backfill, error: DBAPIError) -> None:
        found, remedy = reason_of(error)
        super().__init__(
            f"PostgreSQL refuses a batch of {backfill.label} that was tried out on "
            f"{backfill.table}{found}; {remedy}; nothing was changed"
        )
        self.table = backfill.table


@dataclass(frozen=True, slots=True)
class BatchTrial:
    """What one row costs."""

    #: Seconds to write a row that needs it, to look whether a row does, and WAL in bytes.
    write: float
    look: float
    wal: float
    #: The spread of the first, as a share of it.
    spread: float


@dataclass(frozen=True, slots=True)
class IndexTrial:
    """What an index costs, for all rows of its table."""

    seconds: float
    size: int


def try_batches(connection: Connection, backfill: Backfill) -> BatchTrial | None:
    """
    Try some batches in several places of the table; None if none could be run.

    Triggers that the run has dropped by then do nothing.

    Args:
        connection: In a transaction that is going to be rolled back.
        backfill: What is tried out.

    Raises:
        BatchRefused: The database refused one, and neither a lock nor the time is why.
    """
    key = f"t.{connection.dialect.identifier_preparer.quote(backfill.key)}"
    kind = base_type(connection, backfill.table, backfill.key)
    looks: list[float] = []
    writes: list[float] = []
    wal: list[float] = []
    with connection.begin_nested() as savepoint:
        wanted = {**BATCH_SESSION, **_LIMITS}
        for name in parameters(connection, wanted):
            run(connection, f"SET LOCAL {name} TO '{wanted[name]}'")
        for start in _places(connection, backfill.table, key):
            try:
                with connection.begin_nested() as attempt:
                    seconds, keys = _look(connection, backfill, key, start)
                    looks.append(seconds)
                    if keys:
                        stand_in(connection, backfill.table, backfill.dropped)
                        condition = f"{key} = ANY(CAST(%(keys)s AS {kind}[]))"
                        sql, values = batch_statement(
                            connection, backfill.update, condition, {"keys": keys}
                        )
                        before = run(connection, _WAL).scalar_one()
                        begun = time.perf_counter()
                        done = run(connection, sql, values).rowcount
                        seconds = time.perf_counter() - begun
                        with after_triggers(connection):
                            after = run(connection, _WAL).scalar_one()
                        if done > 0:
                            writes.append(seconds / done)
                            wal.append(float(after - before) / done)
                        # What is checked at the end of a transaction is not reached otherwise.
                        run(connection, "SET CONSTRAINTS ALL IMMEDIATE")
                    attempt.rollback()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                # A step before it adds the column.
                if sqlstate(error) == UNDEFINED_COLUMN and function_of(error) is None:
                    break
                # Of a table that inherits, which has no stand-in: the run drops NOT NULL first.
                if backfill.dropped and sqlstate(error) == _NOT_NULL and not function_of(error):
                    continue
                # Of a lock, or a limit; another place is as good.
                if sqlstate(error) != _CANCELLED and not is_conflict(connection, error):
                    raise BatchRefused(backfill, error) from error
        savepoint.rollback()
    if not looks:
        return None
    # The first of several pays for what is planned and loaded once.
    writes = writes[1:] or writes
    mean = statistics.mean(writes) if writes else 0.0
    spread = statistics.pstdev(writes) / mean if mean else 0.0
    return BatchTrial(
        write=statistics.median(writes) if writes else 0.0,
        look=statistics.median(looks),
        wal=statistics.median(wal) if wal else 0.0,
        spread=spread,
    )


def _places(connection: Connection, table: str, key: str) -> Sequence[object]:
    """Give keys that are spread over the table, in their order."""
    share = _share(connection, table, 64)
    query = f"SELECT {key} FROM {table} t TABLESAMPLE SYSTEM ({share}) ORDER BY 1"
    found = run(connection, query).scalars().all()
    step = max(1, len(found) // (_PLACES + 1))
    return found[::step][: _PLACES + 1]


def _share(connection: Connection, table: str, pages: int) -> float:
    query = "SELECT pg_relation_size(to_regclass(%(table)s)) / 8192"
    size: int = run(connection, query, {"table": table}).scalar_one()
    return min(100.0, 100.0 * pages / max(size, 1))


def _look(
    connection: Connection, backfill: Backfill, key: str, start: object
) -> tuple[float, list[object]]:
    """Look for rows as a run does; give the seconds for a row, and keys of a batch."""
    needs, typical, table = (
        each.replace("%", "%%") for each in (backfill.needs, backfill.typical, backfill.table)
    )
    look = (
        f"SELECT {key} AS k, ({needs}) AS n FROM {table} t"
        f" WHERE {key} >= %(start)s ORDER BY {key} LIMIT {_LOOK}"
    )
    begun = time.perf_counter()
    rows = run(connection, f"WITH w AS MATERIALIZED ({look}) SELECT k, n FROM w", {"start": start})
    found = rows.all()
    seconds = (time.perf_counter() - begun) / max(len(found), 1)
    keys = [row[0] for row in found if row[1]]
    chosen = f"SELECT {key} FROM {table} t WHERE {key} = ANY(%(keys)s) AND ({typical})"
    query = f"{chosen} ORDER BY 1 LIMIT {_BATCH}"
    return seconds, list(run(connection, query, {"keys": keys}).scalars())


def try_indexes(connection: Connection, builds: Sequence[IndexBuild]) -> list[IndexTrial]:
    """
    Build each index on a temporary copy of some rows of its table, and project it to all rows.

    Args:
        connection: In a transaction that is going to be rolled back.
        builds: What is tried out.
    """
    found = []
    for table in dict.fromkeys(each.table for each in builds):
        with connection.begin_nested() as savepoint:
            share = _copy(connection, table)
            for build in builds:
                if build.table == table:
                    begun = time.perf_counter()
                    if not _built(connection, build):
                        found.append(IndexTrial(0, 0))
                        continue
                    seconds = time.perf_counter() - begun
                    query = "SELECT pg_relation_size(to_regclass('pg_temp.' || quote_ident(%(n)s)))"
                    size = run(connection, query, {"n": build.name}).scalar_one() or 0
                    found.append(IndexTrial(seconds / share, round(size / share)))
            savepoint.rollback()
    return found


def _built(connection: Connection, build: IndexBuild) -> bool:
    """Build the index, unless a row is too wide for it: a check of the revision says which."""
    try:
        with connection.begin_nested():
            run(connection, build.try_out)
    except DBAPIError as error:
        if sqlstate(error) != TOO_WIDE:
            raise
        return False
    return True


def _copy(connection: Connection, table: str) -> float:
    """Copy some rows of *table*; give their share of it."""
    query = "SELECT greatest(reltuples, 0), relpages FROM pg_class WHERE oid = to_regclass(%(t)s)"
    rows, pages = run(connection, query, {"t": table}).one()
    per_page = rows / pages if rows and pages else 10
    share = _share(connection, table, max(8, round(_SAMPLED / per_page)))
    run(
        connection,
        "CREATE TEMPORARY TABLE evolution_copy ON COMMIT DROP AS"
        f" SELECT * FROM {table} TABLESAMPLE SYSTEM ({share})",
    )
    return share / 100


_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
