"""
What a run does just now: the one place where the bar, the log and the heartbeat find it.

One thread migrates and writes here, others read. What is under way can be within something
else: rows are vacuumed within a backfill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Figures:
    """How far something is that is counted."""

    done: int
    total: int
    #: Rows per second of late.
    rate: float
    #: Seconds that are left; None if that is not known.
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What is under way, how far it is, and what it waits for."""

    #: None before the first revision.
    revision: str | None
    what: str | None
    figures: Figures | None
    #: None where it does not wait, or that is not known.
    waiting_for: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    what: str
    figures: Callable[[], Figures] | None = None


# The innermost last.
_entries: Final[list[_Entry]] = []
_waits: Final[list[str]] = []
_revisions: Final[list[str]] = []


@contextmanager
def revisions() -> Iterator[None]:
    """Let `begin_revision` say which one runs, until the end."""
    try:
        yield
    finally:
        _revisions.clear()


def begin_revision(name: str) -> None:
    """Say that the revision *name* begins."""
    _revisions[:] = [name]


@contextmanager
def entered(what: str, figures: Callable[[], Figures] | None = None) -> Iterator[None]:
    """Let *what* be under way here; *figures* tells how far it is, if it is counted."""
    entry = _Entry(what, figures)
    _entries.append(entry)
    try:
        yield
    finally:
        _entries.remove(entry)


@contextmanager
def waits() -> Iterator[Callable[[str], None]]:
    """Give a function that says what is waited for here, from its call to the end."""
    said: list[str] = []

    def say(reason: str) -> None:
        _waits.append(reason)
        for former in said:
            _waits.remove(former)
        said[:] = [reason]

    try:
        yield say
    finally:
        for each in said:
            _waits.remove(each)


def uncounted() -> str | None:
    """Name the innermost thing that is under way and not counted."""
    return next((each.what for each in reversed([*_entries]) if each.figures is None), None)


def look() -> UnderWay:
    """Tell what is under way."""
    entries, reasons = [*_entries], [*_waits]
    counted = next((each.figures for each in reversed(entries) if each.figures), None)
    return UnderWay(
        revision=next(iter([*_revisions]), None),
        what=entries[-1].what if entries else None,
        figures=counted() if counted else None,
        waiting_for=reasons[-1] if reasons else None,
    )
