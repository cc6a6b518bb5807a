"""Statements on their way to the database, whichever engine sends them, and those that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session


class Died(Exception):
    """What a run that is killed at a statement ends with here."""


@contextmanager
def recorded(*, of_this_thread: bool = False) -> Iterator[list[str]]:
    """List the statements that are sent within the block, by any thread or *of_this_thread*."""
    statements: list[str] = []
    thread = threading.get_ident()

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not of_this_thread or threading.get_ident() == thread:
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


@contextmanager
def dying_at(words: str) -> Iterator[None]:
    """
    End the block with `Died` before a statement with *words* in it is sent.

    Raises:
        AssertionError: No such statement came.
    """
    died = False

    def die(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal died
        if words in statement and not died:
            died = True
            raise Died(words)

    event.listen(Engine, "before_cursor_execute", die)
    try:
        yield
    except Died:
        pass
    finally:
        event.remove(Engine, "before_cursor_execute", die)
    assert died, f"no statement with {words!r} was sent"


@contextmanager
def recorded_in(session: Session) -> Iterator[list[str]]:
    """List the statements that *session* sends within the block, but for what begins it."""
    sent: list[str] = []

    def record(*what: Any) -> None:
        if not what[2].startswith("BEGIN"):
            sent.append(what[2])

    event.listen(session.get_bind(), "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(session.get_bind(), "before_cursor_execute", record)


def sent_by(session: Session, work: Callable[[], Any]) -> list[str]:
    """List what *work* sends."""
    with recorded_in(session) as sent:
        work()
    return sent


def wait_until_blocked(engine: Engine) -> None:
    """Wait until a session of this PostgreSQL database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(2400):
        with engine.connect() as connection:
            if connection.scalar(waiting):
                return
        time.sleep(0.05)
    raise AssertionError("no session waits for a lock")
