"""
Note a run in the table of runs: its beginning, each second how far it is, and how it ended.

On PostgreSQL a thread does that on a connection of its own, in autocommit: statements may run
for long, and the connection that migrates may be lost. Nothing that happens there stops a run,
or lets it wait for more than moments. On SQLite the row is written in the transaction of the run.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, Result
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution import under_way
from cleveragents_plans.evolution.errors import causes, message_of
from cleveragents_plans.evolution.postgresql.connection import run, transaction
from cleveragents_plans.evolution.postgresql.replica_lag import ReplicaLag, require_visible_lag
from cleveragents_plans.evolution.postgresql.search_path import path_statement
from cleveragents_plans.evolution.postgresql.statement_watch import second_engine
from cleveragents_plans.evolution.postgresql.throttle import Limits
from cleveragents_plans.evolution.runner.interruption import signal_arrived
from cleveragents_plans.evolution.runner.runs import NOW, RunsNotUsable, RunsTable, now
from cleveragents_plans.evolution.runner.version_lock import CheckedVersionTable
from cleveragents_plans.evolution.settings import RATES, BadSetting, Settings
from cleveragents_plans.evolution.threads import start

log: Final = logging.getLogger("alembic.evolution")

_EVERY = 1.0
# What a run waits for the row at its beginning and at its end, in seconds: behind a full pool,
# or a silent network, no answer comes.
_PATIENCE = 2.0
# Of the session that notes. A replica that is waited for must not hold it up.
_SESSION = """\
SELECT set_config('lock_timeout', '300ms', false), set_config('statement_timeout', '2s', false),
       set_config('synchronous_commit', 'off', false),
       set_config('application_name', 'cleveragents-plans heartbeat', false),
       set_config('role', %(role)s, false)"""
_MAX_TEXT = 500
_PAUSED = "by `cleveragents-plans throttle pause`; `cleveragents-plans throttle resume` ends that"


@contextmanager
def noted(
    migration: MigrationContext, table: RunsTable, versions: CheckedVersionTable, command: str
) -> Iterator[None]:
    """
    Note what runs here as one run.

    Args:
        migration: The context of the run; on PostgreSQL its connection is in no transaction.
        table: Where it is noted.
        versions: The version table.
        command: ``upgrade`` or ``downgrade``.

    Raises:
        ReplicaLagHidden: ``max-replica-lag`` was given, and the role may not see it.
        BadSetting: It was given, and the database is SQLite.
    """
    connection, heads = migration.connection, migration.get_current_heads
    assert connection is not None  # noqa: S101  # on line there is one
    settings = Settings.of(migration.environment_context)
    max_lag = settings.max_replica_lag
    row = {
        "command": command,
        "revision_before": ",".join(map(str, heads())) or None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        # A zip or a bundle need not have the metadata of what was installed.
        "package_version": sys.modules["cleveragents_plans"].__version__,
        "outcome": "running",
    }
    if connection.dialect.name != "postgresql":
        if max_lag:
            raise BadSetting("max-replica-lag", max_lag, "PostgreSQL: SQLite has no replicas")
        if settings.rows_per_second:
            log.warning(
                "rows-per-second has no effect: on SQLite a run is one transaction, and a slower "
                "one would only lock the file for longer"
            )
        row["began_at"] = now(connection)
        yield
        _note_on_sqlite(connection, table, row, heads)
        return
    role, backend = run(connection, "SELECT current_user::text, pg_backend_pid()").one()
    row |= {"role": role, "backend_pid": backend}
    path = path_statement(connection)
    if max_lag:
        require_visible_lag(connection)
    connection.rollback()
    limits, lag = Limits.begin(connection), ReplicaLag(max_lag) if max_lag else None
    heartbeat = _Heartbeat(second_engine(connection), table, versions, row, path, limits, lag)
    heartbeat.begin()
    with under_way.revisions():
        try:
            yield
        except BaseException as error:
            heartbeat.end(*_outcome(error))
            raise
        heartbeat.end("done", None)


class _Heartbeat:
    """The row of a run on PostgreSQL, and the thread that writes it."""

    def __init__(
        self,
        engine: Engine,
        table: RunsTable,
        versions: CheckedVersionTable,
        row: dict[str, Any],
        path: list[str],
        limits: Limits,
        lag: ReplicaLag | None,
    ) -> None:
        self._engine = engine
        self._table = table
        self._versions = versions
        self._row = row
        self._path = path
        self._limits = limits
        self._lag = lag
        self._connection: Connection | None = None
        self._run_id: str | None = None
        self._warned = False
        self._ending: tuple[str, str | None] = ("done", None)
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> None:
        """Write the row, and from then on each second what is under way."""
        start(self._thread)
        if not self._begun.wait(_PATIENCE):
            self._warn("a second connection gets no answer")
            self._lag_unknown("a second connection gets no answer")

    def end(self, outcome: str, error: str | None) -> None:
        """Write how the run ended."""
        self._ending = (outcome, error)
        self._over.set()
        self._thread.join(_PATIENCE)

    def _work(self) -> None:
        self._try(self._write_row)
        self._try(self._look_at_replicas)
        self._begun.set()
        while not self._over.wait(_EVERY):
            self._try(self._look_at_replicas)
            self._try(self._beat)
        if not self._try(self._write_end):  # the connection may have been lost
            self._try(self._write_end)
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.close()
        self._engine.dispose()

    def _try(self, write: Callable[[Connection], None]) -> bool:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
                run(self._connection, _SESSION, {"role": self._row["role"]})
            write(self._connection)
            return True
        except RunsNotUsable as error:
            self._warn(error.found)
        except Exception as error:
            said = message_of(error) if isinstance(error, DBAPIError) else str(error)
            reason = " ".join(said.split())[:200]
            self._warn(reason)
            if write == self._look_at_replicas:
                self._lag_unknown(reason)
            if self._connection is not None and self._connection.invalidated:
                with suppress(Exception):
                    self._connection.close()
                self._connection = None
        return False

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            name = f"{self._table.schema}.evolution_runs"
            log.warning("%s does not say how far this run is: %s", name, reason)

    def _look_at_replicas(self, connection: Connection) -> None:
        if self._lag is None:
            return
        reason = self._lag.reason(connection)
        self._limits.lag = self._lag.seconds
        if reason:
            self._limits.pause("replicas", reason)
        else:
            self._limits.resume("replicas")

    def _lag_unknown(self, why: str) -> None:
        # The limit was asked for, so a run must not go on as if there were none.
        if self._lag is not None:
            reason = f"how far replicas are behind cannot be seen ({why})"
            self._limits.pause("replicas", reason)

    def _write_row(self, connection: Connection) -> None:
        table = self._table
        table.create(connection, self._path)
        # This run has the migration lock, so those are over: they were killed.
        self._send(
            connection,
            "SET outcome = 'interrupted', paused = false, waiting_for = NULL, "
            "ended_at = coalesce(updated_at, began_at) "
            "WHERE outcome = 'running' AND version_table = %(versions)s",
            {"versions": table.version_table},
        )
        began = now(connection)
        with transaction(connection):
            table.lock(connection, "UPDATE")
            self._run_id = table.insert(connection, **self._row, began_at=began, updated_at=began)

    def _beat(self, connection: Connection) -> None:
        if self._run_id is None:
            return
        found = under_way.look()
        figures = found.figures
        chosen = self._send(
            connection,
            "SET revision = %(revision)s, what = %(what)s, done = %(done)s, total = %(total)s, "
            "rate = %(rate)s, eta_s = %(eta_s)s, waiting_for = %(waiting_for)s, "
            f"updated_at = {NOW} WHERE run_id = %(run_id)s RETURNING rows_per_second, paused",
            {
                "revision": found.revision,
                "what": found.what,
                "done": figures and figures.done,
                "total": figures and figures.total,
                "rate": figures and figures.rate,
                "eta_s": figures and figures.eta_s,
                "waiting_for": found.waiting_for and found.waiting_for[:_MAX_TEXT],
                "run_id": self._run_id,
            },
        ).first()
        rate = chosen and chosen.rows_per_second
        # What may be written to the table by others is not trusted to be a rate.
        usable = rate is not None and (rate == 0 or RATES[0] <= rate <= RATES[1])
        self._limits.rows_per_second = rate if usable else None
        if chosen and chosen.paused:
            self._limits.pause("throttle", _PAUSED)
        else:
            self._limits.resume("throttle")

    def _write_end(self, connection: Connection) -> None:
        if self._run_id is None:
            return
        outcome, error = self._ending
        self._send(
            connection,
            # How far it came stays: what is under way here is the end.
            f"SET outcome = %(outcome)s, error = %(error)s, ended_at = {NOW}, waiting_for = NULL, "
            "revision = %(revision)s, "
            "paused = false, revision_after = %(after)s WHERE run_id = %(run_id)s",
            {
                "outcome": outcome,
                "error": error,
                "after": self._versions.stored(connection),
                "revision": under_way.look().revision,
                "run_id": self._run_id,
            },
        )

    def _send(self, connection: Connection, change: str, values: dict[str, Any]) -> Result[Any]:
        table = self._table.quoted(connection).replace("%", "%%")
        # Each time, because another role could put a table of its own in the place of one that was
        # dropped, and its triggers would run with the rights of the run.
        with transaction(connection):
            self._table.lock(connection, "UPDATE")
            return run(connection, f"UPDATE {table} {change}", values)


def _outcome(error: BaseException) -> tuple[str, str | None]:
    stopped = any(isinstance(each, KeyboardInterrupt | SystemExit) for each in causes(error))
    if stopped or signal_arrived():
        return "interrupted", None
    return "failed", " ".join(str(error).split())[:_MAX_TEXT]


def _note_on_sqlite(
    connection: Connection,
    table: RunsTable,
    row: dict[str, Any],
    heads: Callable[[], tuple[str, ...]],
) -> None:
    try:
        table.create(connection, [])
        ended = now(connection)
        done = {"outcome": "done", "ended_at": ended, "updated_at": ended}
        table.insert(connection, **row | done, revision_after=",".join(map(str, heads())) or None)
    except RunsNotUsable as error:
        log.warning("%s; this run is not noted there", error)
    except DBAPIError as error:
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:  # a full disk ends the whole transaction
            raise
        log.warning("this run is not noted in %s: %s", table.quoted(connection), error.orig)
