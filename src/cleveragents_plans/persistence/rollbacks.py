"""
What SQLAlchemy is told of changes past the ORM, so that row objects follow a rollback of them.

It puts its own changes back: what it deleted is in the session again, and what it wrote in a
savepoint is expired. A session notes that by these methods, which are not public: there is no other
way that leaves the rest to it. The tests run with the first and the last SQLAlchemy that
pyproject.toml lets in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session, scoped_session


def written(session: Session, rows: Iterable[Any]) -> None:
    """Note that *rows* of the session tell what was written in its transaction."""
    _itself(session)._register_altered(map(inspect, rows))


def deleted(session: Session, rows: Iterable[Any]) -> None:
    """Take *rows*, which were deleted in the transaction of the session, out of it."""
    states = [*map(inspect, rows)]
    _itself(session)._register_altered(states)
    _itself(session)._remove_newly_deleted(states)


def rekeyed(session: Session, row: Any) -> None:
    """Note that the primary key of *row*, as it tells it, is stored in place of another."""
    _itself(session)._register_persistent({inspect(row)})


def in_savepoint(session: Session) -> bool:
    """Tell whether a rollback would expire some row objects only."""
    return bool(_itself(session).in_nested_transaction())


def _itself(session: Any) -> Any:
    return session.registry() if isinstance(session, scoped_session) else session
