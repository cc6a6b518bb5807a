"""What a run did, in figures: rows that it wrote, and how long it kept other sessions out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RunFigures:
    """The figures of one run."""

    #: Rows that were written: by backfills, and by the copies of SQLite's rebuilds.
    rows: int = 0
    #: Seconds of the longest lock that neither readers nor writers got past: ACCESS EXCLUSIVE on
    #: a table of PostgreSQL, the transaction of a SQLite file. None if there was no such lock.
    longest_lock: float | None = None
    #: What the database is called, without a password, and the schema of its tables.
    target: str = ""
    schema: str | None = None
    #: What the version table held.
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    #: Whether revisions were run.
    ran: bool = False

    def ended(self, schema: str | None, after: tuple[str, ...], *, ran: bool) -> None:
        """Note what the version table of the tables in *schema* holds in the end."""
        self.schema, self.after, self.ran = schema, after, ran

    def __str__(self) -> str:
        rows = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} written"
        if self.longest_lock is None:
            return f"{rows}, no exclusive lock"
        seconds = self.longest_lock
        lock = f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
        return f"{rows}, longest exclusive lock {lock}"


_figures: ContextVar[RunFigures | None] = ContextVar("run_figures", default=None)


@contextmanager
def measured(figures: RunFigures | None = None) -> Iterator[RunFigures]:
    """Count what happens in this block, and not in one around it."""
    figures = figures or RunFigures()
    token = _figures.set(figures)
    try:
        yield figures
    finally:
        _figures.reset(token)


def record_rows(rows: int) -> None:
    """Count *rows* that were written."""
    if figures := _figures.get():
        figures.rows += rows


def record_lock(since: float) -> None:
    """Note that an exclusive lock, held *since* (of `time.monotonic`), is released now."""
    if figures := _figures.get():
        figures.longest_lock = max(figures.longest_lock or 0.0, time.monotonic() - since)
