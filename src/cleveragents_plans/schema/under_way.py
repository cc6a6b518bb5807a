"""Whether a database is being migrated now, and how that is waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from cleveragents_plans.evolution.postgresql.session_rights import refuse_hidden_sessions
from cleveragents_plans.evolution.runner.command_line import typed
from cleveragents_plans.evolution.runner.migration_lock import migration_lock_holders
from cleveragents_plans.evolution.runner.runs import RunsNotUsable
from cleveragents_plans.evolution.sqlite.lock_holders import HELD, lock_holders
from cleveragents_plans.evolution.sqlite.pragmas import file_of
from cleveragents_plans.schema.database import Database


def runs_under_way(database: Database) -> list[Any]:
    """
    Find the sessions that migrate *database* now, or the processes that keep its file locked.

    A revision that is unfinished was not interrupted while there is one. On SQLite the transaction
    ends, and it takes a moment if there is one.

    Raises:
        RightsMissing: The role may not see the sessions of PostgreSQL.
    """
    if database.on_postgresql:
        refuse_hidden_sessions(database.connection, database.shown)
        return [*migration_lock_holders(database.connection, [database.schema or ""])]
    file = file_of(database.connection)
    # With vfs=unix-excl, reading takes such a lock, too.
    writing = {each.pid for each in lock_holders(file) if each.writes} - {os.getpid()}
    if not writing:
        return []
    # A client that writes a row has ended by then; with a rollback journal it may wait for this.
    database.connection.rollback()
    time.sleep(HELD)
    return [each for each in lock_holders(file) if each.writes and each.pid in writing]


def ways_to_wait(
    database: Database, migrating: Sequence[Any], remedies: tuple[str, ...], *, paused: bool
) -> tuple[str, ...]:
    """
    Say how the end of a run is waited for.

    Args:
        database: The database.
        migrating: The sessions or processes that migrate it, from `runs_under_way`; one at least.
        remedies: The remedies where no session migrates it.
        paused: Whether the run is paused by ``throttle``.
    """
    follow = typed(database.config, "status --follow")
    if paused:
        resume = typed(database.config, "throttle resume")
        return (f"run {resume} to let the run go on that is paused",)
    who = "; ".join(map(str, migrating))
    if database.on_postgresql:
        if all(each.pid is None for each in migrating):  # no run, and none can begin
            return (f"the migration lock is held by {who}",)
        return (f"wait for the run that is under way; {follow} shows it",)
    if not remedies:  # the application may write
        return ()
    return (f"wait for {who}: a run, or the application; {follow} shows when it ends",)


def is_paused(database: Database) -> bool:
    """Tell whether a run is under way that ``throttle`` has paused, as far as can be read."""
    try:
        run = database.runs.under_way(database.connection)
    except RunsNotUsable:
        return False
    return run is not None and run.paused
