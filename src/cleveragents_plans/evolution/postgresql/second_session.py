"""
A second session that writes batches beside the first, on a server without other clients.

A backfill by one session keeps one processor busy, and leaves even that one idle while the
client prepares the next batch, or VACUUM runs. Where clients work, the other processors are theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cleveragents_plans.evolution.postgresql.batch_queue import BatchQueue
from cleveragents_plans.evolution.postgresql.connection import run, set_parameters
from cleveragents_plans.evolution.postgresql.statement_watch import second_engine

log: Final = logging.getLogger("alembic.evolution")

#: What the session is called in ``pg_stat_activity``, so that it is not taken for a client.
SECOND_SESSION = "cleveragents-plans second session"


class SecondSession:
    """
    The session and its thread: it connects when it is needed first.

    Where it cannot connect, or meets a conflict, the first session goes on without it.
    """

    def __init__(self, first: Connection) -> None:
        self._first = first
        self._threads = ThreadPoolExecutor(1, "second-session")
        self._connected: Future[Connection] | None = None

    @contextmanager
    def beside(
        self, queue: BatchQueue, work: Callable[[Connection, BatchQueue], None]
    ) -> Iterator[None]:
        """
        Let the session *work* on *queue* during the block, which ends when both are done.

        Raises:
            DBAPIError: PostgreSQL refused a statement of the second session.
        """
        if self._connected is None:
            settings = {row[0]: row[1] for row in run(self._first, _SETTINGS)}
            self._connected = self._threads.submit(self._connect, settings)
        if not self._connected.done() or self._connected.exception() is not None:
            yield
            return
        working = self._threads.submit(work, self._connected.result(), queue)
        try:
            yield
            working.result()
        except BaseException:
            queue.stop()
            wait([working])
            raise

    def close(self) -> None:
        """Disconnect; behind a full pool, which does not answer yet, as soon as it does."""
        self._threads.shutdown(wait=False)
        if self._connected is not None:
            self._connected.add_done_callback(_disconnect)

    def _connect(self, settings: Mapping[str, str]) -> Connection:
        try:
            connection = second_engine(self._first, SECOND_SESSION).connect()
            set_parameters(connection, settings)
        except SQLAlchemyError as error:
            log.debug("batches are written by one session: %s", error)
            raise
        return connection


def _disconnect(connected: Future[Connection]) -> None:
    if connected.exception() is None:
        connected.result().close()


# Whatever this session was set to, the role last: it may not be allowed to set the rest.
_SETTINGS = """\
SELECT name, current_setting(name) FROM pg_settings
 WHERE source = 'session' AND context IN ('user', 'superuser')
   AND name NOT IN ('application_name', 'role', 'session_authorization',
                    'transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
UNION ALL SELECT 'role', current_setting('role')"""
