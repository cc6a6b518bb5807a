"""What a migration of PostgreSQL locks and when, as another session sees it in pg_locks."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from support.broken import libpq


class Sample(NamedTuple):
    """A lock on the table of plans that was held at a moment."""

    #: Seconds of `time.monotonic`.
    at: float
    transaction: str
    mode: str
    #: What the session did in that moment.
    statement: str


class Step(NamedTuple):
    """A kind of statement, and all the times at which it held its lock on the table of plans."""

    what: str
    mode: str
    #: From when to when it was held, in milliseconds of the run; the times of one transaction.
    held: list[tuple[float, float]]


@contextmanager
def locks_recorded(url: str) -> Iterator[list[Sample]]:
    """Look at the locks on the table of plans, every few tenths of a millisecond."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            own = connection.info.backend_pid
            while not over.is_set():
                for row in connection.execute(_LOCKS, (own,)):
                    samples.append(Sample(time.monotonic(), *row))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def steps_of(samples: Sequence[Sample]) -> list[Step]:
    """
    Sort *samples* into steps, in the order in which each was first seen.

    Left out is what blocks neither readers nor writers nor a second migration: ACCESS SHARE and
    ROW SHARE, and the lock that is the gate to a stronger one, which that one follows.
    """
    transactions: dict[str, list[Sample]] = {}
    for sample in samples:
        transactions.setdefault(sample.transaction, []).append(sample)
    steps: dict[str, Step] = {}
    begun = min((sample.at for sample in samples), default=0.0)
    for seen in transactions.values():
        mode = max((sample.mode for sample in seen), key=_STRENGTH.index)
        strongest = [sample for sample in seen if sample.mode == mode]
        what = _what(mode, [" ".join(sample.statement.split()) for sample in strongest])
        if what is None:
            continue
        step = steps.setdefault(what, Step(what, _spelled(mode), []))
        if step.mode != _spelled(mode):
            raise ValueError(f"{what} was seen with {step.mode} and with {_spelled(mode)}")
        step.held.append(
            (
                round(1000 * (strongest[0].at - begun), 2),
                round(1000 * (strongest[-1].at - begun), 2),
            )
        )
    return list(steps.values())


def _what(mode: str, statements: Sequence[str]) -> str | None:
    """Say what a transaction does whose strongest lock is *mode*; None if it is left out."""
    if mode in ("AccessShareLock", "RowShareLock"):
        return None
    for pattern, what in _STEPS[mode].items():
        for statement in statements:
            if found := re.search(pattern, statement):
                return what.format(*found.groups())
    other = next((each for each in statements if _CHANGES.match(each)), None)
    if other is None:
        return None  # it takes the lock, and what it does then was too short to be seen
    raise ValueError(f"found {mode} in: {other[:200]}; give it a step here")


# A block that only checks, between changes that were too short to be seen, is none.
_CHANGES = re.compile(
    r"ALTER|CREATE|DROP|UPDATE|INSERT|DELETE|WITH|ANALYZE|REINDEX|COMMENT|DO (?!\$check\$)"
)
_STRENGTH = (
    *("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"),
    *("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
)
_STEPS = {
    "RowExclusiveLock": {r"": "UPDATE of a batch"},
    "ShareUpdateExclusiveLock": {
        r"^VACUUM": "VACUUM",
        r"VALIDATE CONSTRAINT": "VALIDATE CONSTRAINT",
        r"CREATE INDEX CONCURRENTLY (?:IF NOT EXISTS )?(\w+)": "CREATE INDEX CONCURRENTLY {}",
    },
    "ShareLock": {},
    "ShareRowExclusiveLock": {},
    "ExclusiveLock": {},
    "AccessExclusiveLock": {
        r"ADD (?:CONSTRAINT \w+ )?NOT NULL \w+ NOT VALID": "NOT NULL … NOT VALID",
        r"snapshot_archive|ADD COLUMN|SET DEFAULT|TRIGGER|FUNCTION": (
            "ADD COLUMN, SET DEFAULT, CREATE TRIGGER"
        ),
    },
}


def _spelled(mode: str) -> str:
    return " ".join(re.findall("[A-Z][a-z]+", mode.removesuffix("Lock"))).upper()


# A transaction that has just ended has the number 0, as each before it.
_LOCKS: Any = """\
SELECT l.virtualtransaction, l.mode, a.query
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.relation = 'v3_plans'::regclass AND l.locktype = 'relation' AND l.granted
   AND l.virtualtransaction NOT LIKE '%%/0'
   AND a.backend_type = 'client backend' AND l.pid <> %s"""
