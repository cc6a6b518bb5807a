"""
Clients of the former release, at work while its table is migrated, and how long they wait.

Each client has a timetable of its own and is late when a statement makes it late: what
queues up behind a lock is counted too, as the users of an application would count it.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import psycopg
from sqlalchemy import make_url

CLIENTS = 8
#: No client of a migration is to wait for more milliseconds than this.
LONG_MS = 20.0

_SAMPLE = 20_000
_NOW = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
_SELECT = (
    "SELECT plan_id, parent_plan_id, action_name, phase, processing_state, updated_at"
    " FROM v3_plans WHERE plan_id = %s"
)
_UPDATE = f"UPDATE v3_plans SET last_completed_step = 1, updated_at = {_NOW} WHERE plan_id = %s"
_UPDATE_THREE = f"UPDATE v3_plans SET attempt = 2, updated_at = {_NOW} WHERE plan_id = ANY (%s)"
_INSERT = (
    "INSERT INTO v3_plans (plan_id, parent_plan_id, action_name, created_at, updated_at)"
    f" VALUES (%s, %s, 'local/action-1', {_NOW}, {_NOW})"
)


class Waits(NamedTuple):
    """When each statement was due, in seconds of one clock, and how long it took from then on."""

    due: array[float]
    milliseconds: array[float]

    def between(self, start: float, end: float) -> Self:
        """Give those that were due from *start* to *end*, with *start* as second 0."""
        chosen = [n for n, due in enumerate(self.due) if start <= due <= end]
        return type(self)(
            array("d", (self.due[n] - start for n in chosen)),
            array("d", (self.milliseconds[n] for n in chosen)),
        )

    @property
    def longest(self) -> float:
        """The longest wait, in milliseconds."""
        return max(self.milliseconds)

    @property
    def p99(self) -> float:
        """The wait that one statement in a hundred exceeds, in milliseconds."""
        return sorted(self.milliseconds)[int(0.99 * (len(self.milliseconds) - 1))]

    @property
    def long(self) -> int:
        """How many waits were longer than `LONG_MS`."""
        return sum(wait > LONG_MS for wait in self.milliseconds)


class Clients:
    """
    Several clients that read, update and insert at a steady rate, all together.

    They do what the former release does: a plan is read by its key, one plan or three are
    updated, and a child is inserted without a root and without a profile.
    """

    def __init__(self, url: str, per_second: float) -> None:
        self.failures: Counter[str] = Counter()
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._rate = per_second / CLIENTS
        self._until = float("inf")
        self._waits = Waits(array("d"), array("d"))
        self._lock = threading.Lock()
        with psycopg.connect(self._url) as connection:
            keys = connection.execute(
                "SELECT plan_id FROM v3_plans ORDER BY md5(plan_id) LIMIT %s", (_SAMPLE,)
            )
            self._keys: list[str] = [row[0] for row in keys]
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever is late has still to do what was due until now, so that it is counted.
        self._until = time.monotonic()
        for thread in self._threads:
            thread.join()

    def waits(self) -> Waits:
        """Give all waits, once the clients have stopped."""
        return self._waits

    def _work(self, number: int) -> None:
        rng = random.Random()
        waits = Waits(array("d"), array("d"))
        with psycopg.connect(self._url, autocommit=True) as connection:
            due = time.monotonic() + rng.expovariate(self._rate)
            while due < self._until:
                early = due - time.monotonic()
                if early > 0:
                    time.sleep(early)
                try:
                    connection.execute(*self._next(rng))
                except psycopg.Error as error:
                    self._failed(connection, error)
                waits.due.append(due)
                waits.milliseconds.append(1000 * (time.monotonic() - due))
                due += rng.expovariate(self._rate)
        with self._lock:
            self._waits.due.extend(waits.due)
            self._waits.milliseconds.extend(waits.milliseconds)

    def _next(self, rng: random.Random) -> tuple[Any, tuple[Any, ...]]:
        key = rng.choice(self._keys)
        kind = rng.randrange(4)
        if kind == 0:
            return _SELECT, (key,)
        if kind == 1:
            return _UPDATE, (key,)
        if kind == 2:
            return _UPDATE_THREE, (sorted({key, *rng.choices(self._keys, k=2)}),)
        # Later than all there are, as the ULID of a new plan is.
        return _INSERT, (f"7{time.time_ns():020}{rng.randrange(10**5):05}", key)

    def _failed(self, connection: psycopg.Connection[Any], error: psycopg.Error) -> None:
        with self._lock:
            self.failures[str(error).splitlines()[0]] += 1
        if connection.closed:
            raise error


@contextmanager
def at_work(url: str, per_second: float) -> Iterator[Clients]:
    """Have clients at work, with some seconds before and after to see what is usual."""
    with Clients(url, per_second) as clients:
        time.sleep(3)
        yield clients
        time.sleep(2)


class Watched(NamedTuple):
    """What clients met while something happened that took *seconds*."""

    seconds: float
    waits: Waits
    failures: Counter[str]

    @property
    def failed(self) -> int:
        """How many statements failed."""
        return self.failures.total()


def watch(url: str, per_second: float, happening: Callable[[], float]) -> Watched:
    """Run *happening*, which says how many seconds it took, while clients are at work."""
    with at_work(url, per_second) as clients:
        start = time.monotonic()
        seconds = happening()
        end = time.monotonic()
    return Watched(seconds, clients.waits().between(start, end), clients.failures)
