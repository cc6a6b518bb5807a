"""How long a run takes on PostgreSQL, and the disk space it takes, from what was tried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from cleveragents_plans.evolution.foreseen import Backfill, IndexBuild, Scan
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.throttle import Throttle
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.preflight.findings import Disk, Estimate, Write
from cleveragents_plans.preflight.trials import BatchTrial, try_batches, try_indexes

# Measured (docs/preflight.md): what a run does besides its statements, in seconds; an index that
# is built concurrently reads the table twice; bytes of a table and its indexes that a VACUUM
# goes over in a second; VACUUM after so many shares of the table; the least error.
_FIXED = 1.0
_CONCURRENTLY = 2.0
_VACUUMED = 1.5e9
_VACUUM_SHARE = 10
_MIN_ERROR = 0.35


@dataclass(frozen=True, slots=True)
class Counted:
    """A backfill, its rows, and the seconds in which they were counted."""

    backfill: Backfill
    write: Write
    seconds: float


def costs(
    connection: Connection,
    counted: Sequence[Counted],
    operations: Sequence[object],
    settings: Settings,
    looked: float,
) -> tuple[Estimate, Disk]:
    """
    Estimate what a run takes.

    Args:
        connection: In a transaction that is going to be rolled back.
        counted: What is written.
        operations: All that the run does.
        settings: Those of the run.
        looked: Seconds that the checks before the first change took.
    """
    seconds, error, wal, least, most = _FIXED + looked, _MIN_ERROR, 0.0, 0.0, 0.0
    slower = _throttled(connection, settings)
    scan = max((each.seconds for each in counted), default=0.0)
    for each in counted:
        rows, of = each.write.rows or 0, each.write.of
        if not rows:
            continue
        trial = try_batches(connection, each.backfill) or BatchTrial(0.0, 0.0, 0.0, 1.0)
        work = rows * trial.write + of * trial.look
        if settings.rows_per_second:
            work = max(work, rows / settings.rows_per_second)
        size = _size(connection, each.backfill.table)
        seconds += 2 * each.seconds + work * slower
        seconds += _VACUUM_SHARE * rows / of * size / _VACUUMED
        error = max(error, trial.spread)
        wal += rows * trial.wal
        most += size * rows / of
        least += size * min(rows / of, 1 / _VACUUM_SHARE)
    seconds += scan * sum(isinstance(each, Scan) for each in operations)
    builds = [each for each in operations if isinstance(each, IndexBuild)]
    for index in try_indexes(connection, builds):
        seconds += _CONCURRENTLY * index.seconds
        wal += index.size
        least, most = least + index.size, most + index.size
    estimate = Estimate(seconds=seconds, least=seconds / (1 + error), most=seconds * (1 + error))
    return estimate, Disk(least=round(least), most=round(most), wal=round(wal), free=None)


def _throttled(connection: Connection, settings: Settings) -> float:
    """Give by what a run is longer because other sessions are at work."""
    throttle = Throttle(connection, settings)
    throttle.rest(0.0, 0)
    return 1.0 if throttle.alone else 1 / settings.duty_cycle


def _size(connection: Connection, table: str) -> int:
    query = "SELECT pg_relation_size(r) + pg_indexes_size(r) FROM to_regclass(%(table)s) AS r"
    found: int = run(connection, query, {"table": table}).scalar_one()
    return found
