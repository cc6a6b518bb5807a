"""Batch size, throttling, and reasons to pause."""

from __future__ import annotations

import logging
import time
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.session_name import session_name
from cleveragents_plans.evolution.reporting import report_pause, report_rest
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.under_way import waits

log: Final = logging.getLogger("alembic.evolution")

_ASK_EVERY = 0.5
_REMEMBER = 5.0
# How long a rest goes on before a new rate, or a reason to pause, is looked for.
_LOOK_EVERY = 0.2
# What is remembered of each connection: its `Limits`.
_LIMITS = "evolution.limits"
# Rows of a batch, however low the rate.
_LEAST_ROWS = 10


class Limits:
    """
    What holds a run back between its batches: a rate, and reasons to pause.

    The heartbeat writes here, in a thread of its own, and the batches read.
    """

    def __init__(self) -> None:
        #: Rows per second that an operator chose for the run under way; 0 is no limit, and None
        #: what the run was started with.
        self.rows_per_second: float | None = None
        #: Seconds by which the replica is behind that is waited for; None if none is.
        self.lag: float | None = None
        self._reasons: dict[str, str] = {}

    @classmethod
    def begin(cls, connection: Connection) -> Limits:
        """Give new limits to the run that begins on *connection*."""
        found = connection.info[_LIMITS] = cls()
        return found

    @classmethod
    def of(cls, connection: Connection) -> Limits:
        """Give the limits of the run that migrates on *connection*."""
        found: Limits = connection.info.setdefault(_LIMITS, cls())
        return found

    def pause(self, source: str, reason: str) -> None:
        """Let the run pause between two batches, until *source* has no *reason* any more."""
        self._reasons[source] = reason

    def resume(self, source: str) -> None:
        """Let *source* have no reason to pause."""
        self._reasons.pop(source, None)

    @property
    def reason(self) -> str:
        """Why the run is to pause now; empty if it is not."""
        return "; ".join([*self._reasons.values()])


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

    On a server without other active clients it does not sleep, unless there is a rate or a reason
    to pause (see `Limits`). While it sleeps, the session is idle: it has no transaction, and no
    lock on a table.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._rest = (1 - settings.duty_cycle) / settings.duty_cycle
        self._rows_per_second = settings.rows_per_second
        self._report_every = settings.report_every
        self._limits = Limits.of(connection)
        self._asked = float("-inf")
        self._seen = float("-inf")
        #: Seconds that the run has paused.
        self.paused: float = 0.0

    def rest(self, seconds: float, rows: int) -> None:
        """Sleep as is due after work of *seconds* that wrote *rows*, and while it is to pause."""
        share = seconds * self._rest if self._others_work() else 0.0
        slept = said = 0.0
        with waits() as say:
            while (due := self._due(share, seconds, rows) - slept) > 0:
                if slept - said >= self._report_every:
                    reason = self._reason(share, seconds, rows)
                    say(reason)
                    report_rest(reason, slept, due)
                    said = slept
                nap = min(due, _LOOK_EVERY)
                time.sleep(nap)
                slept += nap
        self._pause()

    def fitting(self, size: int) -> int:
        """Make a batch of *size* rows so small that it is due each second at the chosen rate."""
        rate = self.rows_per_second
        return min(size, max(_LEAST_ROWS, round(rate))) if rate else size

    @property
    def rows_per_second(self) -> float:
        """The rate that holds now; 0 is no limit."""
        chosen = self._limits.rows_per_second
        return self._rows_per_second if chosen is None else chosen

    @property
    def alone(self) -> bool:
        """Whether no other client was active on the server lately."""
        return time.monotonic() - self._seen >= _REMEMBER

    @property
    def unhindered(self) -> bool:
        """Whether the run has the server to itself, at any rate, and is not to pause."""
        return self.alone and not self.rows_per_second and not self._limits.reason

    def _due(self, share: float, seconds: float, rows: int) -> float:
        rate = self.rows_per_second
        return max(share, rows / rate - seconds) if rate else share

    def _reason(self, share: float, seconds: float, rows: int) -> str:
        rate = self.rows_per_second
        if rate and rows / rate - seconds >= share:
            return f"throttled to {rate:,g} rows/s, and the last batch wrote {rows:,}"
        return f"leaving others their share (duty-cycle) after a batch of {seconds:,.1f} s"

    def _pause(self) -> None:
        if not self._limits.reason:
            return
        begun = time.monotonic()
        with waits() as say:
            said = float("-inf")
            while reason := self._limits.reason:
                gone = time.monotonic() - begun
                say(f"PAUSED: {reason}")
                if gone - said >= self._report_every:
                    report_pause(reason, gone, first=said < 0, lag=self._limits.lag)
                    said = gone
                time.sleep(_LOOK_EVERY)
        gone = time.monotonic() - begun
        self.paused += gone
        log.info("going on after a pause of %.0f s", gone)

    def _others_work(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= _ASK_EVERY:
            self._asked = now
            # The name costs no round trip of its own.
            name = {"name": session_name(self._connection)}
            if run(self._connection, _OTHERS, name).one()[0]:
                self._seen = now
        return not self.alone


# Clients whose state is hidden from this role, or not tracked, count as active; those that poll for
# the migration lock, or look how far the run is, do not.
_OTHERS = """\
SELECT EXISTS (SELECT FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND (state IS NULL OR state IN ('active', 'disabled')
        OR state_change > clock_timestamp() - interval '1 second')
   AND application_name NOT IN ('cleveragents-plans heartbeat', 'cleveragents-plans status',
                                'cleveragents-plans second session')
   AND query NOT LIKE '%%pg_try_advisory_lock%%' AND query NOT LIKE '%%evolution_runs%%'),
       set_config('application_name',
                  coalesce(CAST(%(name)s AS text), current_setting('application_name')), false)"""
