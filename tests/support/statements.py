"""The statements that some work sends to a database, and those that wait there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session


@contextmanager
def recorded(session: Session) -> Iterator[list[str]]:
    """Record what is sent meanwhile, but for what begins the transaction."""
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
    """Record what *work* sends."""
    with recorded(session) as sent:
        work()
    return sent


def wait_until_blocked(engine: Engine) -> None:
    """Wait until a session of this PostgreSQL database waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(600):
        with engine.connect() as connection:
            if connection.scalar(waiting):
                return
        time.sleep(0.05)
    raise AssertionError("no session waits for a lock")
