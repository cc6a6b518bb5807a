"""Batch size and throttling."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.settings import Settings

_ASK_EVERY = 0.5
_REMEMBER = 5.0


class BatchSize:
    """The size of the next batch, so that it takes the wanted time."""

    def __init__(self, milliseconds: float, *, first: int, least: int, most: int) -> None:
        self.size: int = first
        self._wanted = milliseconds / 1000
        self._least = least
        self._most = most

    def observe(self, rows: int, seconds: float) -> None:
        """Learn that *rows* took *seconds*."""
        fitting = rows * self._wanted / max(seconds, 1e-6)
        # One measurement says little: go half the way.
        following = (self.size + min(fitting, 2 * self.size)) / 2
        self.size = round(min(max(following, self._least), self._most))


class Throttle:
    """
    Sleeps between batches, so that clients get their share of the processors.

    On a server without other active clients it does not sleep.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._rest = (1 - settings.duty_cycle) / settings.duty_cycle
        self._rows_per_second = settings.rows_per_second
        self._asked = float("-inf")
        self._seen = float("-inf")

    def rest(self, seconds: float, rows: int) -> None:
        """Sleep as is due after work of *seconds* that wrote *rows*."""
        due = seconds * self._rest if self._others_work() else 0.0
        if self._rows_per_second:
            due = max(due, rows / self._rows_per_second - seconds)
        if due > 0:
            time.sleep(due)

    @property
    def alone(self) -> bool:
        """Whether no other client was active on the server lately."""
        return time.monotonic() - self._seen >= _REMEMBER

    def _others_work(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= _ASK_EVERY:
            self._asked = now
            if run(self._connection, _OTHERS).scalar_one():
                self._seen = now
        return not self.alone


# Clients whose state is hidden from this role count as active; those that poll for the
# migration lock do not.
_OTHERS = """\
SELECT EXISTS (SELECT FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND (state IS NULL OR state = 'active'
        OR state_change > clock_timestamp() - interval '1 second')
   AND query NOT LIKE '%pg_try_advisory_lock%')"""
