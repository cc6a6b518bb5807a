"""The rows that a run writes on PostgreSQL, the depth of its trees, and its locks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import sqlstate
from cleveragents_plans.evolution.foreseen import Backfill, ExclusiveLock
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.preflight.findings import Lock, Write
from cleveragents_plans.schema.database import Database

log = logging.getLogger("alembic.evolution")

# Plans from which trees are walked upwards, and how far.
_SAMPLED = 2_000
MAX_DEPTH = 1_000
# A hash or merge join would read the whole table for each step.
_WALK = {"statement_timeout": "'1s'", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_CANCELLED = "57014"


def count_writes(connection: Connection, backfill: Backfill) -> Write | None:
    """
    Count the rows that *backfill* writes, in one scan; None where there is no table yet.

    Args:
        connection: ACCESS SHARE is taken for the length of the scan.
        backfill: What is written.
    """
    there = "SELECT to_regclass(%(table)s) IS NOT NULL"
    if not run(connection, there, {"table": backfill.table}).scalar_one():
        return None
    # Grouped, so that each condition is evaluated once for a row, by parallel workers, too.
    names = list(backfill.columns)
    conditions = ", ".join(f"({each})" for each in backfill.columns.values() or [backfill.needs])
    places = ", ".join(str(place + 1) for place in range(len(names) or 1))
    query = f"SELECT {conditions}, count(*) FROM {backfill.table} t GROUP BY {places}"
    try:
        with connection.begin_nested():
            groups = [tuple(row) for row in run(connection, query)]
    except DBAPIError as error:
        # It reads what a step before it creates.
        if not (sqlstate(error) or "").startswith("42"):
            raise
        return Write(table=backfill.table, label=backfill.label, rows=None, of=0, columns={})
    return Write(
        table=backfill.table,
        label=backfill.label,
        rows=sum(number for *needed, number in groups if any(needed)),
        of=sum(number for *_, number in groups),
        columns={
            name: sum(group[-1] for group in groups if group[place])
            for place, name in enumerate(names)
        },
    )


def depth_of(database: Database, plans: str) -> int | None:
    """
    Walk up from some of the plans, and tell how many plans the longest way has.

    It takes one look-up for each step, and stops after `MAX_DEPTH` of them, or after a second:
    then it is not known.

    Args:
        database: The database.
        plans: The table of plans.
    """
    table = database.table(plans)
    pages = "SELECT greatest(relpages, 1) FROM pg_class WHERE oid = to_regclass(%(table)s)"
    size = run(database.connection, pages, {"table": table}).scalar() or 1
    share = min(100.0, 100.0 * 64 / size)
    query = _DEPTH.format(table=table, share=share)
    try:
        # Rolled back with its settings: the role's own limits are not to return.
        with database.connection.begin_nested() as savepoint:
            for name, value in _WALK.items():
                run(database.connection, f"SET LOCAL {name} TO {value}")
            found: int = run(database.connection, query).scalar_one()
            savepoint.rollback()
            return found
    except DBAPIError as error:
        if sqlstate(error) != _CANCELLED:
            raise
        return None


def statistics_warning(connection: Connection, table: str) -> str | None:
    """Tell whether *table* was never analysed, which the planner needs."""
    if run(connection, _ANALYSED, {"table": table}).scalar():
        return None
    return (
        f"{table} was never analysed, so the planner knows nothing of its rows: run ANALYZE {table}"
    )


def locks_of(operations: Sequence[object]) -> tuple[Lock, ...]:
    """Count the strong locks that *operations* take."""
    taken = Counter(each.table for each in operations if isinstance(each, ExclusiveLock))
    return tuple(Lock(name="ACCESS EXCLUSIVE", on=on, times=times) for on, times in taken.items())


# Without a snapshot of its own statistics, a table that is empty counts as analysed.
_ANALYSED = """\
SELECT s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL OR c.reltuples > 0
       OR pg_relation_size(c.oid) = 0
  FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.oid = to_regclass(%(table)s)"""

_DEPTH = f"""\
WITH RECURSIVE up (parent, depth) AS (
  (SELECT t.parent_plan_id, 1 FROM {{table}} t TABLESAMPLE SYSTEM ({{share}}) LIMIT {_SAMPLED})
  UNION ALL
  SELECT p.parent_plan_id, up.depth + 1
    FROM up JOIN {{table}} p ON p.plan_id = up.parent
   WHERE up.depth < {MAX_DEPTH}
)
SELECT coalesce(max(depth), 0) FROM up"""
