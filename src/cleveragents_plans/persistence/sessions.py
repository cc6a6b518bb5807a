"""
What the repository asks of a session.

A session may have several engines, and then wants to hear for each statement which model it is
about: here it always is that of the plans.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Result
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from cleveragents_plans.persistence.errors import ForeignKeysOff
from cleveragents_plans.persistence.models import LifecyclePlanModel

PLANS: Final = LifecyclePlanModel.__table__
_ABOUT_PLANS: Final[dict[str, Any]] = {"mapper": LifecyclePlanModel}


def execute(session: Session, statement: Executable) -> Result[Any]:
    """Send *statement* to the database of the plans."""
    return session.execute(statement, bind_arguments=_ABOUT_PLANS)


def connection_of(session: Session) -> Connection:
    """Give the session's connection to the database of the plans."""
    return session.connection(bind_arguments=dict(_ABOUT_PLANS))


def on_postgresql(session: Session) -> bool:
    """Say whether the plans are on PostgreSQL; nothing is connected for it."""
    return session.get_bind(**_ABOUT_PLANS).dialect.name == "postgresql"


def check_foreign_keys(session: Session) -> None:
    """
    Refuse to write where the database would not keep plans and their rows together.

    Raises:
        ForeignKeysOff: It is SQLite, and the connection has foreign keys off.
    """
    if on_postgresql(session):
        return
    if not connection_of(session).exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise ForeignKeysOff
