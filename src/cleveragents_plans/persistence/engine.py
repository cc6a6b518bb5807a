"""Engines on which a transaction is a transaction, SQLite included, with and without asyncio."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool, PoolProxiedConnection

from cleveragents_plans.domain.errors import InvalidType, shown
from cleveragents_plans.persistence.engine_errors import explained, path_of
from cleveragents_plans.persistence.errors import DatabaseMissing, DatabaseUrlError
from cleveragents_plans.persistence.sqlite_connections import (
    SqliteConnection,
    begin,
    prepare_connection,
    prepare_migrating_connection,
)
from cleveragents_plans.persistence.urls import (
    FORMS,
    POSTGRESQL,
    database_url,
    refuse_timeout,
    without_password,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

#: How long a SQLite connection waits for another's write, in seconds.
BUSY_TIMEOUT = 30.0

# Else the system's values hold: 119 minutes of silence on Linux, for which a run would wait in
# vain, though the server has ended its session (and set these on its side) long before.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES-IDLE
_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}

# psycopg goes by one name for both.
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", POSTGRESQL: POSTGRESQL}
#: What to install for a driver, or for asyncio, where a module of this name is missing.
_INSTALLED_BY = {
    "psycopg": "'cleveragents-plans[postgresql]'",
    "aiosqlite": "'cleveragents-plans[asyncio]'",
    "greenlet": "'cleveragents-plans[asyncio]'",
}


def open_engine(url: str | URL, *, migrating: bool = False, **options: Any) -> Engine:
    """
    Create an engine for *url*; nothing is connected yet.

    On SQLite every transaction, one that only reads too, begins with ``BEGIN IMMEDIATE``: it waits
    up to 30 seconds for its turn to write (`DatabaseLocked` after that;
    ``connect_args={"timeout": 5}`` sets another time), and then cannot fail half way with
    "database is locked". Readers that write nothing use `read_only`, and never wait. The first
    connection creates the file, but for `read_only`, in a folder that exists (`DatabaseMissing`).
    Foreign keys are on, and the journal is a write-ahead log, so that readers go on during
    a write (https://www.sqlite.org/wal.html). A file that can only be read keeps its journal.

    On PostgreSQL texts are sent as UTF-8 whatever the encoding of the database; where that is
    SQL_ASCII, bytes that are no UTF-8 are read as lone surrogates. Behind a pooler in transaction
    mode, ``?prepare_threshold=none`` in the URL switches off prepared statements, which belong to a
    session of the server (https://www.psycopg.org/psycopg3/docs/advanced/prepare.html).

    A statement raises `SchemaMissing` where the database lacks a table or a column,
    `DatabaseReadOnly` where it writes, or locks rows, and nothing can be written, and
    `EncodingMismatch` where its encoding cannot hold a text.

    Args:
        url: Where the plans live, in any form that `database_url` reads.
        migrating: For the migration chain: connections are not pooled; on SQLite foreign
            keys are off (a table rebuild would delete the rows that refer to it) and the
            journal stays as it was found; on PostgreSQL a network that has gone silent ends
            the connection after a minute, unless the URL sets ``keepalives…`` or
            ``tcp_user_timeout`` otherwise.
        options: Further arguments of `sqlalchemy.create_engine`.

    Raises:
        DatabaseUrlError: *url* cannot be used, or its driver is not installed, or the ``timeout``
            of SQLite is out of range.
    """
    if migrating:
        options.setdefault("poolclass", NullPool)
    target = database_url(url)
    if migrating and target.get_backend_name() != "sqlite":
        named = target.query.keys()
        keepalives = {name: value for name, value in _KEEPALIVES.items() if name not in named}
        options["connect_args"] = keepalives | options.get("connect_args", {})
    engine = _created(create_engine, target, options)
    _listen(engine, prepare_migrating_connection if migrating else prepare_connection)
    if not migrating:
        event.listen(engine, "handle_error", explained)
    return engine


def open_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """
    Create an engine for ``AsyncSession``, on which all holds that `open_engine` says.

    SQLite is reached through aiosqlite, PostgreSQL through psycopg 3.

    Args:
        url: Where the plans live, in any form that `database_url` reads.
        options: Further arguments of `sqlalchemy.ext.asyncio.create_async_engine`.

    Raises:
        DatabaseUrlError: *url* cannot be used, or what it takes is not installed.
    """
    target = database_url(url)
    try:
        # SQLAlchemy does without it until a statement is sent, or cannot even be imported,
        # according to its version.
        import_module("greenlet")
        from sqlalchemy.ext.asyncio import create_async_engine
    except ImportError:
        raise _not_installed("greenlet") from None
    target = target.set(drivername=_ASYNC_DRIVERS[target.drivername])
    engine = _created(create_async_engine, target, options)
    _listen(engine.sync_engine, prepare_connection)
    event.listen(engine.sync_engine, "handle_error", explained)
    return engine


_AnyEngine = TypeVar("_AnyEngine", Engine, "AsyncEngine")


def _created(create: Callable[..., _AnyEngine], target: URL, given: dict[str, Any]) -> _AnyEngine:
    connect_args: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    if target.get_backend_name() == "sqlite":
        connect_args["factory"] = SqliteConnection
        if "timeout" not in target.query:  # which SQLAlchemy reads, and connect_args would replace
            connect_args["timeout"] = BUSY_TIMEOUT
        refuse_timeout(target, given.get("connect_args", {}))
        if path := path_of(target):
            # As SQLAlchemy's dialect keeps it: the process may go to another folder.
            target = target.set(database=str(Path(path).absolute()))
    else:
        # To look for the type, SQLAlchemy compares an oid with a regtype before anything can set
        # the search path, and an operator of another role would run.
        defaults["use_native_hstore"] = False
        # Or else it is that of the database: one that cannot hold every text, or none.
        if "client_encoding" not in target.query:
            connect_args["client_encoding"] = "utf8"
        if "prepare_threshold" in target.query:
            connect_args["prepare_threshold"] = _threshold(target.query["prepare_threshold"])
            target = target.difference_update_query(["prepare_threshold"])
    options = {**defaults, **given, "connect_args": connect_args | given.get("connect_args", {})}
    try:
        return create(target, **options)
    except ModuleNotFoundError as missing:
        raise _not_installed(missing.name) from None
    except (ArgumentError, NoSuchModuleError, TypeError, ValueError) as error:
        if str(error).startswith("Invalid argument(s)"):
            raise  # names an option, not a part of the URL
        raise DatabaseUrlError(
            f"the database URL has parts that its driver refuses ({type(error).__name__}); "
            f"expected {FORMS}"
        ) from None


def _threshold(text: str | tuple[str, ...]) -> int | None:
    if isinstance(text, str) and text.lower() == "none":
        return None
    if isinstance(text, str) and text.isdecimal() and len(text) < 10:
        return int(text)
    raise DatabaseUrlError(
        "prepare_threshold in the database URL is no such number; expected none, or how often a "
        "statement is sent before it is prepared, from 0"
    )


def _not_installed(module: str | None) -> DatabaseUrlError:
    package = _INSTALLED_BY.get(module or "", module)
    return DatabaseUrlError(f"the module {module!r} is not installed; run: pip install {package}")


def _listen(engine: Engine, connected: Callable[[Any, object], None]) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", connected)
        event.listen(engine, "begin", begin)
    else:
        # Before SQLAlchemy asks the server for its version and the default schema.
        event.listen(engine, "connect", _postgresql_connection, insert=True)


def read_only(engine: _AnyEngine) -> _AnyEngine:
    """
    Give a view of *engine* for transactions that only read.

    On SQLite they begin without asking for the write lock, and see one state of the file
    while others write (``PRAGMA query_only``). On PostgreSQL they are READ ONLY. Whatever
    writes is refused by the database (`DatabaseReadOnly`).

    A SQLite file that is not there is not created: to connect raises `DatabaseMissing`.

    Raises:
        InvalidType: *engine* is no engine.
    """
    if not isinstance(getattr(engine, "sync_engine", engine), Engine):  # asyncio is an extra
        raise InvalidType("engine", shown(engine), "an Engine or an AsyncEngine")
    view = engine.execution_options(read_only=True, postgresql_readonly=True)
    sync = view if isinstance(view, Engine) else view.sync_engine
    if sync.dialect.name == "sqlite" and (path := path_of(sync.url)):
        connect, file = sync.raw_connection, Path(path).absolute()

        def connect_to_file() -> PoolProxiedConnection:
            if not file.exists():
                reason = sqlite3.OperationalError("unable to open database file")
                url = sync.url.set(database=str(file))
                raise DatabaseMissing(without_password(url), str(file), reason)
            return connect()

        # SQLite creates the file as it connects, which no event of a view comes before.
        sync.raw_connection = connect_to_file  # type: ignore[method-assign]
    return view


# A role or a database that kept the default of PostgreSQL 11 lets costs be read as rounded text.
# https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-EXTRA-FLOAT-DIGITS
_EXACT_DOUBLES = """\
SELECT pg_catalog.set_config('extra_float_digits', '1', false)
 WHERE CAST(pg_catalog.current_setting('extra_float_digits') AS pg_catalog.int4)
       OPERATOR(pg_catalog.<) 1"""


def _postgresql_connection(driver_connection: Any, _record: object) -> None:
    # The driver is an extra, which SQLite does without.
    from cleveragents_plans.persistence.sql_ascii import read_any_bytes

    read_any_bytes(driver_connection)
    cursor = driver_connection.cursor()
    cursor.execute(_EXACT_DOUBLES)
    cursor.close()
    driver_connection.commit()
