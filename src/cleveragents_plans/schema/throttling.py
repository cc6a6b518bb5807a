"""Throttle a run that is under way, from any machine that reaches the database."""

from __future__ import annotations

from typing import Any

from alembic.config import Config

from cleveragents_plans.evolution.errors import EvolutionError, listed
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.session_rights import refuse_hidden_sessions
from cleveragents_plans.evolution.runner.migration_lock import migration_lock_holders
from cleveragents_plans.evolution.runner.runs import RUNS, Run
from cleveragents_plans.evolution.runner.target import find_target
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.schema.chain import APPLICATION
from cleveragents_plans.schema.database import write_database


class NoRunToThrottle(EvolutionError):
    """No run is under way that could be throttled."""


def throttle(
    config: Config, *, rows_per_second: float | None = None, paused: bool | None = None
) -> Run:
    """
    Change the rate of the run under way, or let it pause or go on; give it as it is then.

    The run reads that with its next heartbeat, and follows before its next batch. Locks: the row
    of the run, for a moment.

    Args:
        config: See `cleveragents_plans.schema.chain_config`.
        rows_per_second: The rate from now on; 0 is no limit, None leaves it.
        paused: Whether it is to pause; None leaves it.

    Raises:
        BadSetting: The rate is out of range.
        NoRunToThrottle: None is under way, or it is not noted; or the database is SQLite.
        RunsNotUsable: The table of runs cannot be written by this role.
    """
    if rows_per_second is not None:
        rows_per_second = Settings.checked("rows_per_second", rows_per_second)
    target = find_target(config, APPLICATION)
    if target.is_sqlite:
        raise NoRunToThrottle(
            f"{target.shown} is SQLite, where the whole run is one transaction: a slower one "
            "would only lock the file for longer; expected PostgreSQL; nothing was changed"
        )
    with write_database(config, "throttle") as database:
        connection, runs = database.connection, database.runs
        runs.usable(connection, "UPDATE")
        found = runs.under_way(connection)
        if found is None:
            refuse_hidden_sessions(connection, database.shown)
            holders = migration_lock_holders(connection)
            raise NoRunToThrottle(
                f"a run is under way in {database.shown} that is not noted in {RUNS} "
                f"({listed(holders)}): stop it, and run it again with -x rows-per-second=ROWS"
                if holders
                else f"no run is under way in {database.shown}; nothing was changed"
            )
        values: dict[str, Any] = {
            "rate": rows_per_second,
            "paused": paused,
            "run_id": found.run_id,
        }
        table = runs.quoted(connection).replace("%", "%%")
        run(
            connection,
            f"UPDATE {table} SET paused = coalesce(CAST(%(paused)s AS boolean), paused), "
            "rows_per_second = coalesce(CAST(%(rate)s AS double precision), rows_per_second) "
            "WHERE run_id = %(run_id)s",
            values,
        )
        changed = runs.under_way(connection)
        return changed or found
