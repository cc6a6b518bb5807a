"""
What an operator sees while an index is built or dropped concurrently.

The session that builds is busy with one statement, so a second one asks for it
(https://www.postgresql.org/docs/current/progress-reporting.html).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cleveragents_plans.evolution.errors import listed
from cleveragents_plans.evolution.postgresql.blockers import (
    Blocker,
    blockers,
    old_snapshots,
    waited_for,
)
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.locks import ANY_LOCK
from cleveragents_plans.evolution.postgresql.statement_watch import second_engine
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.threads import start
from cleveragents_plans.evolution.under_way import entered, waits

log: Final = logging.getLogger("alembic.evolution")

# Which of the server's counters tells how far a phase is.
_COUNTERS = (("tuples_done", "tuples_total", "rows"), ("blocks_done", "blocks_total", "blocks"))
# What the second connection is waited for at the end, in seconds: behind a full pool, or a silent
# network, no answer comes.
_PATIENCE = 2.0


class IndexProgress:
    """
    Logs, every few seconds, how far a statement on an index is and which sessions it waits for.

    `under_way` is told of the latter, too.

    Statements that are done sooner are not mentioned. It takes one more connection, which is waited
    for two seconds at most when the statement is done, and no lock on any table.
    """

    def __init__(self, connection: Connection, what: str, table: str, settings: Settings) -> None:
        self._blockers: Sequence[Blocker] = ()
        # That of the caller may have a pool of one connection, or wait for another without end.
        self._engine = second_engine(connection)
        self._pid = run(connection, "SELECT pg_backend_pid()").scalar_one()
        self._what, self._table, self._every = what, table, settings.report_every
        self._label = entered(what)
        self._waits = ExitStack()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        self._label.__enter__()
        start(self._thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)
        self._waits.close()
        self._label.__exit__(None, None, None)

    def waited_for(self, connection: Connection) -> Sequence[Blocker]:
        """
        Find the sessions and prepared transactions that were waited for last.

        The *connection* has given up the wait. Where it was over before a message was due, those
        are given that hold a lock on the table, or else a snapshot.
        """
        return (
            self._blockers
            or blockers(connection, [self._table], ANY_LOCK)
            or old_snapshots(connection)
        )

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                # Anew each time: a connection kept open could be lost, or hold a slot.
                with self._engine.connect() as connection:
                    self._report(connection)
            except SQLAlchemyError as error:
                self._log(f"how far it is cannot be told: {type(error).__name__}")

    def _report(self, connection: Connection) -> None:
        row = run(connection, _PROGRESS, {"pid": self._pid}).mappings().first()
        self._blockers = waited_for(connection, self._pid)
        if any(blocker.pid is None for blocker in self._blockers):
            named = blockers(connection, [self._table], ANY_LOCK)
            processes = [blocker for blocker in self._blockers if blocker.pid is not None]
            self._blockers = [*processes, *(each for each in named if each.pid is None)]
        if self._over.is_set():
            return
        phase = str(row["phase"]) + _share(row) if row else ""
        self._waits.close()
        waiting = ""
        if self._blockers:
            waiting = f"waiting for {listed(self._blockers)}"
            self._waits.enter_context(waits())(f"waits for {listed(self._blockers)}")
        self._log("; ".join(part for part in (phase, waiting) if part))

    def _log(self, state: str) -> None:
        if self._over.is_set():  # the answer came too late
            return
        log.info("%s, %.0f s: %s", self._what, time.monotonic() - self._begun, state or "working")


def _share(row: Any) -> str:
    if str(row["phase"]).startswith("waiting"):  # the counters are those of the phase before
        return ""
    for done, total, unit in _COUNTERS:
        if row[total]:
            percent = 100 * row[done] // row[total]
            return f", {percent} % ({row[done]:,} of {row[total]:,} {unit})"
    return ""


_PROGRESS = """\
SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total
  FROM pg_stat_progress_create_index WHERE pid = %(pid)s"""
