"""
The sessions that a statement under an exclusive lock waits for.

Such a statement waits for some milliseconds only, and not for locks on a table: another session may
have created what has the same name, and not committed. The server says so while the statement
waits, and no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from cleveragents_plans.evolution.postgresql.blockers import Blocker, waited_for
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.statement_watch import second_engine
from cleveragents_plans.evolution.threads import start

# Seconds between two questions; clients wait as long as the statement does.
_POLL = 0.002


class StatementWaits:
    """
    Asks from a second session, once a statement has waited in vain, what the next one waits for.

    Attributes:
        failed: Whether a statement, and not the request for the lock, failed in the last attempt.
        found: The sessions that were waited for last.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._second: Connection | None = None
        self._pid = 0
        self.failed = False
        self.found: list[Blocker] = []

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Connect once more, before the lock is held, if a statement failed last time."""
        failed, self.failed = self.failed, False
        if not failed:
            yield
            return
        try:
            with suppress(SQLAlchemyError):  # one connection too many for the server
                self._second = second_engine(self._connection).connect()
                self._pid = run(self._connection, "SELECT pg_backend_pid()").scalar_one()
            yield
        finally:
            if self._second is not None:
                self._second.close()
            self._second = None

    @contextmanager
    def statements(self) -> Iterator[None]:
        """Ask while the statements run."""
        over = threading.Event()
        thread = None
        if self._second is not None:
            asked = (self._second, self._pid, over)
            thread = threading.Thread(target=self._ask, args=asked, daemon=True)
            start(thread)
        try:
            yield
        except DBAPIError:
            self.failed = True
            raise
        finally:
            over.set()
            if thread is not None:
                thread.join()

    def _ask(self, second: Connection, pid: int, over: threading.Event) -> None:
        with suppress(SQLAlchemyError):
            while not over.wait(_POLL):
                self.found = waited_for(second, pid) or self.found
