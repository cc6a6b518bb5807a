"""
How a lock that conflicts with readers and writers is requested.

A session that waits for ACCESS EXCLUSIVE blocks every later one, so it is requested with short
timeouts, and never for longer than clients can wait.
"""

from __future__ import annotations

import random
import time
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from cleveragents_plans.evolution.errors import LOCK_TIMEOUT, sqlstate
from cleveragents_plans.evolution.postgresql.blockers import Deadline
from cleveragents_plans.evolution.postgresql.connection import run

#: Lock timeout, deadlock, serialization failure: a conflict with another session.
LOCK_CONFLICTS: Final = frozenset({LOCK_TIMEOUT, "40P01", "40001"})

# No session queues behind NOWAIT, so it is tried first; among overlapping transactions it
# starves, and only a request that queues is granted. The length of that queue is how long
# clients wait. After a minute of starving, one longer request per round is worth it.
_POLL_SECONDS = 0.5
_POLL_PAUSE = 0.005
_RUNGS_MS = (10, 10, 20, 20)
_LONG_RUNG_MS, _LONG_RUNG_AFTER = 50, 60.0


def take_lock(connection: Connection, tables: str, mode: str, deadline: Deadline) -> None:
    """
    Take a lock of *mode* on *tables*, in a round of about a second.

    The *connection* is in a transaction. First comes SHARE UPDATE EXCLUSIVE, which stops no
    reader and no writer; behind a request for *mode* clients wait for 20 ms at most (50 ms once
    a minute has passed).

    Raises:
        DBAPIError: Of `LOCK_CONFLICTS`, where the round was in vain.
    """
    set_lock_timeout(connection, gate_timeout(connection, deadline), local=True)
    run(connection, f"LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE")

    # From here on other sessions cannot VACUUM the table, and the snapshot of this transaction
    # holds their VACUUMs back elsewhere: so a round is about a second, and then it is rolled back.
    set_lock_timeout(connection, _RUNGS_MS[-1], local=True)
    until = time.monotonic() + _POLL_SECONDS
    while time.monotonic() < until:
        if _try(connection, f"LOCK TABLE {tables} IN {mode} MODE NOWAIT"):
            return
        pause(_POLL_PAUSE / 2, _POLL_PAUSE * 3 / 2)
    long = (_LONG_RUNG_MS,) if deadline.waited > _LONG_RUNG_AFTER else ()
    for milliseconds in (*_RUNGS_MS, *long):
        pause(milliseconds / 200, milliseconds / 66)
        set_lock_timeout(connection, milliseconds, local=True)
        if _try(connection, f"LOCK TABLE {tables} IN {mode} MODE"):
            return
    run(connection, f"LOCK TABLE {tables} IN {mode} MODE NOWAIT")


def _try(connection: Connection, statement: str) -> bool:
    run(connection, "SAVEPOINT rung")
    try:
        run(connection, statement)
    except DBAPIError as error:
        if sqlstate(error) not in LOCK_CONFLICTS:
            raise
        run(connection, "ROLLBACK TO SAVEPOINT rung")
        run(connection, "RELEASE SAVEPOINT rung")
        return False
    return True


def gate_timeout(connection: Connection, deadline: Deadline) -> float:
    """Give the milliseconds to wait for SHARE UPDATE EXCLUSIVE in one request."""
    # An autovacuum is cancelled when a session has waited for it as long as deadlock_timeout,
    # so a wait must be longer than that to be of use.
    deadlock = run(
        connection,
        "SELECT extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8",
    ).scalar_one()
    return 1000 * max(0.05, min(deadline.report_every + float(deadlock), deadline.left))


def set_lock_timeout(connection: Connection, milliseconds: float, *, local: bool) -> None:
    """Set lock_timeout for the session; *local*: until the transaction ends."""
    run(connection, f"SET {'LOCAL' if local else 'SESSION'} lock_timeout = '{milliseconds:.0f}ms'")


def pause(minimum: float, maximum: float) -> None:
    """Sleep for a random time between two, in seconds, so that sessions do not meet again."""
    time.sleep(random.uniform(minimum, maximum))  # noqa: S311  # jitter, not a secret
