"""The session of PostgreSQL that a run has, on a connection of ours or of the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cleveragents_plans.evolution.errors import EvolutionError
from cleveragents_plans.evolution.postgresql.connection import run
from cleveragents_plans.evolution.postgresql.server import configure_session
from cleveragents_plans.evolution.postgresql.session_name import claim_session_name


class DriverNotSupported(EvolutionError):
    """
    The connection is one of a driver that the chain's statements are not for.

    Attributes:
        driver: The driver.
    """

    def __init__(self, driver: str) -> None:
        super().__init__(
            f"the connection is one of {driver}; expected psycopg (version 3), with asyncio or "
            "without: hand over another one, or the URL; nothing was changed"
        )
        self.driver = driver


@contextmanager
def postgresql_session(connection: Connection, *, restore: bool) -> Iterator[None]:
    """
    Configure the session for a run, and *restore* it afterwards if it is not ours.

    Transactions are READ COMMITTED: an older snapshot would show rows as they were before a
    lock was obtained. The connection must be in no transaction.

    Raises:
        DriverNotSupported: The driver is another one than psycopg.
    """
    _require_psycopg(connection)
    driver: Any = connection.connection.dbapi_connection
    level = "AUTOCOMMIT" if driver.autocommit else connection.get_isolation_level()
    settings = _settings(connection) if restore else {}
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        configure_session(connection)
        claim_session_name(connection)
        connection.rollback()
        connection.execution_options(isolation_level="READ COMMITTED")
        yield
    finally:
        if restore:
            _restore(connection, settings, level)


def _require_psycopg(connection: Connection) -> None:
    if connection.dialect.driver != "psycopg":
        raise DriverNotSupported(connection.dialect.driver)


def _settings(connection: Connection) -> dict[str, str]:
    settings = {row[0]: row[1] for row in run(connection, _SETTINGS)}
    connection.rollback()
    return settings


def _restore(connection: Connection, settings: dict[str, str], level: Any) -> None:
    if connection.closed or connection.invalidated:
        return
    try:
        connection.rollback()
        for name, value in _settings(connection).items():
            if settings.get(name, value) != value:
                query = "SELECT pg_catalog.set_config(%(name)s, %(value)s, false)"
                run(connection, query, {"name": name, "value": settings[name]})
        connection.commit()
        connection.execution_options(isolation_level=level)
    except SQLAlchemyError:
        # The application must not go on in a session that is configured for migrations.
        connection.invalidate()
        connection.rollback()


# Those of the current transaction are not the session's. The search path is that of the role.
_SETTINGS = """\
SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings
 WHERE context IN ('user', 'superuser')
   AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')"""
