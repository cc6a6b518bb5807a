"""
Engines on which a transaction is a transaction, SQLite included.

Python's SQLite driver begins transactions by itself, late, and lets DDL escape
them. The listeners here take that over: what SQLAlchemy calls a transaction is
one, from its first statement to its last.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from cleveragents_plans.persistence.errors import DatabaseUrlError

#: How long a SQLite connection waits for another's write, in seconds.
BUSY_TIMEOUT = 30.0

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_FORMS = "sqlite:///plans.db or postgresql://user:password@host/database"


def database_url(text: str | URL) -> URL:
    """
    Read *text* as the URL of a database that plans can live in.

    ``postgres://`` and ``postgresql://`` both mean PostgreSQL through psycopg 3.

    Raises:
        DatabaseUrlError: It is no URL, or names an engine other than SQLite and
            PostgreSQL. The message never repeats the URL.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise DatabaseUrlError(
            f"the database URL cannot be read; expected {_FORMS} "
            "(characters such as @ : / in a password are written %40 %3A %2F)"
        ) from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise DatabaseUrlError(
            f"the database URL names {url.drivername!r}, which is not supported; expected {_FORMS}"
        )
    return url.set(drivername=driver)


def without_password(url: URL) -> str:
    """Write *url* for people to read: whatever in it is secret is shown as ``***``."""
    secret = [name for name in url.query if "password" in name.lower()]
    shown = url.difference_update_query(secret).render_as_string(hide_password=True)
    return shown + "".join(
        f"{'&' if '?' in shown or place else '?'}{name}=***" for place, name in enumerate(secret)
    )


def open_engine(url: str | URL, *, migrating: bool = False, **options: Any) -> Engine:
    """
    Create an engine for *url*; nothing is connected yet.

    On SQLite every transaction begins with ``BEGIN IMMEDIATE``: it waits up to
    `BUSY_TIMEOUT` for its turn to write and then cannot fail half way with
    "database is locked". Readers that write nothing use `read_only`, and never wait.
    Foreign keys are on, and the journal is a write-ahead log, so that readers go on
    while somebody writes (https://www.sqlite.org/wal.html).

    Args:
        url: Where the plans live, in any form that `database_url` reads.
        migrating: For the migration chain: connections are not pooled, foreign keys
            are off (a table rebuild would delete the rows that refer to it) and the
            journal stays as it was found.
        options: Further arguments of `sqlalchemy.create_engine`.

    Raises:
        DatabaseUrlError: *url* cannot be used, or its driver is not installed.
    """
    target = database_url(url)
    if migrating:
        options.setdefault("poolclass", NullPool)
    if target.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY_TIMEOUT, **options.get("connect_args", {})}
    try:
        engine = create_engine(target, **options)
    except ModuleNotFoundError as missing:
        raise DatabaseUrlError(
            f"the module {missing.name!r} is not installed; "
            "run: pip install 'cleveragents-plans[postgresql]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise DatabaseUrlError(
            f"the database URL has parts that its driver refuses ({type(error).__name__}); "
            f"expected {_FORMS}"
        ) from None
    if target.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _migrating_connection if migrating else _connection)
        event.listen(engine, "begin", _begin)
    return engine


def read_only(engine: Engine) -> Engine:
    """
    Give a view of *engine* for transactions that only read.

    On SQLite they begin without asking for the write lock, and see one state of the
    file while others write. On PostgreSQL they are READ ONLY.
    """
    return engine.execution_options(read_only=True, postgresql_readonly=True)


def _connection(driver_connection: Any, _record: object) -> None:
    driver_connection.isolation_level = None
    driver_connection.execute("PRAGMA foreign_keys = ON")
    driver_connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode NORMAL loses no consistency, at most the last commits at a power
    # cut; plans are not to lose even those.
    driver_connection.execute("PRAGMA synchronous = FULL")


def _migrating_connection(driver_connection: Any, _record: object) -> None:
    driver_connection.isolation_level = None
    driver_connection.execute("PRAGMA foreign_keys = OFF")


def _begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")
