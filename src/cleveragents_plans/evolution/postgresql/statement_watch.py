"""
Say what a run waits for, whatever statement it is that takes long, COMMIT included.

The session that waits cannot ask, so a second one does, every few seconds and for a moment.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from cleveragents_plans.evolution.errors import (
    AGAIN,
    LOCK_TIMEOUT,
    EvolutionError,
    listed,
    sqlstate,
)
from cleveragents_plans.evolution.postgresql.blockers import NOT_COMMITTED, Blocker, waited_for
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.poolers import second_connection, server_answers
from cleveragents_plans.evolution.postgresql.search_path import searching_system_schemas
from cleveragents_plans.evolution.postgresql.server import OF_EACH_SESSION
from cleveragents_plans.evolution.reporting import reasons, report_under_way
from cleveragents_plans.evolution.threads import start
from cleveragents_plans.evolution.under_way import uncounted

if TYPE_CHECKING:
    import psycopg

log: Final = logging.getLogger("alembic.evolution")

# Seconds after which an answer that does not arrive is not waited for any more; as long as
# TCP waits for a host that does not answer. It does not notice a proxy that has stopped.
_SILENCE = 60.0
# What a second connection may take; it can be one too many for the server, or a pooler.
_PATIENCE = 2.0
_POLL = 0.25
# Seconds after which a statement is looked at for the first time.
_EARLY = 1.0


class StatementBlocked(EvolutionError):
    """
    A statement waited in vain for sessions that have created what has a name of ours.

    Attributes:
        waited: For how many seconds.
        blockers: The sessions that it waited for when last looked.
    """

    def __init__(self, statement: str, waited: float, found: Sequence[Blocker]) -> None:
        ends = " and ".join(dict.fromkeys(each.ended_by for each in found))
        super().__init__(
            f"`{' '.join(statement.split())[:60]}` waited for {waited:.0f} s in vain; blocked by: "
            f"{listed(found)}; end these sessions ({ends}) or give a longer -x lock-wait=SECONDS, "
            f"and {AGAIN}"
        )
        self.waited = waited
        self.blockers: tuple[Blocker, ...] = tuple(found)


class StatementWatch:
    """
    Logs, every so many seconds, which statement on *connection* is under way, and why.

    Statements that are done sooner are not mentioned; within a `heartbeat` its words are used.
    A connection on which no answer arrives, though the server has finished (or does not answer a
    second connection either), is closed after a minute. A server that refuses a second one answers,
    and so does a pooler that lets it wait.
    """

    def __init__(self, connection: Connection, every: float) -> None:
        self._connection = connection
        self._every = every
        self._pid = run(connection, "SELECT pg_backend_pid()").scalar_one()
        connection.rollback()
        self._engine = second_engine(connection)
        self._reasons = reasons(self.reason)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._found: list[str] = []
        self._looking, self._looked = threading.Thread(), 0.0
        # One assignment, so that the other thread sees both or neither.
        self._running = ("", time.monotonic())
        self._silent_since: float | None = None
        # What a statement waited for when last looked, and its beginning.
        self._blockers: tuple[float, Sequence[Blocker]] = (0.0, ())

    def __enter__(self) -> Self:
        event.listen(self._connection, "before_cursor_execute", self._before_statement)
        event.listen(self._connection, "commit", self._before_commit)
        self._reasons.__enter__()
        start(self._thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in (self._thread, self._looking):  # which may be asking still
            if thread.ident is not None:
                thread.join(2 * _POLL)
        self._reasons.__exit__(None, None, None)
        event.remove(self._connection, "before_cursor_execute", self._before_statement)
        event.remove(self._connection, "commit", self._before_commit)

    def reason(self) -> str:
        """Say what the statement that is under way waits for, as far as that can be seen."""
        # Not in this thread: behind a full pool, or a silent network, no answer comes. And one a
        # minute then: a pool would have one more client that waits, each time.
        if not self._looking.is_alive() or time.monotonic() - self._looked >= _SILENCE:
            found = self._found = []
            looking = threading.Thread(target=lambda: found.append(self._look()), daemon=True)
            start(looking)
            self._looking, self._looked = looking, time.monotonic()
        self._looking.join(_PATIENCE)
        if self._found:
            return self._found[0]
        if self._server_answers:
            self._silent_since = None
        else:
            self._silent()
        return "what it waits for cannot be seen: a second connection gets no answer"

    @contextmanager
    def blockers_named(self) -> Iterator[None]:
        """
        Name the sessions for whose commit a statement waited until its lock_timeout.

        They are asked for while it waits: afterwards the server does not know them any more.

        Raises:
            StatementBlocked: A statement ran into its lock_timeout, and it was seen why.
        """
        try:
            yield
        except DBAPIError as error:
            (sql, begun), (of, found) = self._running, self._blockers
            unseen = of != begun or not any(each.mode == NOT_COMMITTED for each in found)
            if sqlstate(error) != LOCK_TIMEOUT or unseen:
                raise
            raise StatementBlocked(sql, time.monotonic() - begun, found) from error

    @property
    def _server_answers(self) -> bool:
        try:
            return server_answers(self._connection)
        except Exception:  # the connection is being closed
            return False

    def _before_statement(self, _connection: object, _cursor: object, sql: str, *_: object) -> None:
        self._begins(sql)

    def _before_commit(self, _connection: object) -> None:
        self._begins("COMMIT")

    def _begins(self, sql: str) -> None:
        self._running = (sql, time.monotonic())
        self._silent_since = None

    @property
    def _busy(self) -> bool:
        try:
            driver: Any = self._connection.connection.driver_connection
            status = driver.info.transaction_status
        except Exception:  # the connection is being closed
            return False
        return bool(status == status.ACTIVE)

    def _watch(self) -> None:
        said = asked = time.monotonic()
        while not self._over.wait(_POLL):
            sql, begun = self._running
            now = time.monotonic()
            # Once, so that it is known where the wait ends before the first report.
            if asked != begun and now - begun >= _EARLY and self._busy and not uncounted():
                asked = begun
                self.reason()
            if now - max(begun, said) < self._every or not self._busy or uncounted():
                continue
            said, asked = now, begun
            report_under_way(f"`{' '.join(sql.split())[:60]}`", begun)

    def _look(self) -> str:
        try:
            with self._engine.connect() as connection:
                found = run(connection, _STATE, {"pid": self._pid}).first()
                # It may be hidden from the role that the session was given, or not be tracked.
                if found is None or (found.state or "").startswith("idle"):
                    self._silent()
                    return "the server has finished it, and the answer does not arrive"
                self._silent_since = None
                if found.wait_event == "SyncRep":
                    return _waits_for_replica(*run(connection, _SYNCHRONOUS).one())
                begun = self._running[1]
                blockers = waited_for(connection, self._pid)
                self._blockers = (begun, blockers)
                return f"waiting for {listed(blockers)}" if blockers else ""
        except DBAPIError as error:
            # A connection that is refused has no SQLSTATE, as one that reaches no server.
            if sqlstate(error) is None and not self._server_answers:
                self._silent()
            else:
                self._silent_since = None
            return f"what it waits for cannot be seen ({' '.join(str(error.orig).split())[:100]})"
        except InvalidRequestError:  # the connection was closed meanwhile
            return ""

    def _silent(self) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since >= _SILENCE and self._busy:
            log.warning("no answer for %.0f s: closing the connection", _SILENCE)
            driver: Any = self._connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


def second_engine(connection: Connection, name: str | None = None) -> Engine:
    """Make an engine that connects to the server of *connection*, in autocommit, under *name*."""
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: _configured(second_connection(connection, name)),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )


def _configured(driver: psycopg.Connection) -> psycopg.Connection:
    searching_system_schemas(driver)
    calls = (f"set_config('{name}', '{value}', false)" for name, value in OF_EACH_SESSION.items())
    driver.execute(f"SELECT {', '.join(calls)}".encode())
    return driver


def _waits_for_replica(wanted: str, attached: str | None) -> str:
    return (
        f"waiting for a synchronous replica: synchronous_standby_names is {wanted!r}, attached: "
        f"{attached or 'none'}; start the replica, or take it out of synchronous_standby_names "
        "and reload the configuration"
    )


_STATE = "SELECT state, wait_event FROM pg_stat_activity WHERE pid = %(pid)s"
_SYNCHRONOUS = """\
SELECT current_setting('synchronous_standby_names'),
       (SELECT string_agg(application_name || coalesce(' (' || sync_state || ')', ''), ', ')
          FROM pg_stat_replication)"""
