"""What the repository asks of a session besides its statements."""

from __future__ import annotations

from sqlalchemy.orm import Session

from cleveragents_plans.persistence.errors import ForeignKeysOff


def check_foreign_keys(session: Session) -> None:
    """
    Refuse to write where the database would not keep plans and their rows together.

    Raises:
        ForeignKeysOff: It is SQLite, and the connection has foreign keys off.
    """
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        return
    if not connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise ForeignKeysOff
