"""PostgreSQL databases in other encodings than UTF8."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from support import postgres
from support.broken import libpq
from support.databases import migrate


@contextmanager
def database_in(encoding: str, engine: str, revision: str | None = "head") -> Iterator[str]:
    """Make a database in *encoding*, at *revision* or empty; yield its URL."""
    server = postgres.server(engine)
    name = f"{encoding.lower()}_{uuid.uuid4().hex[:12]}"
    server.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"
        " LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        if revision:
            migrate(server.url(name), revision)
        yield server.url(name)
    finally:
        server.drop_database(server.url(name))


@contextmanager
def role_named(name: bytes, engine: str) -> Iterator[None]:
    """Make a role with a name of these bytes, which other databases do not check."""
    quoted = b'"' + name + b'"'
    with (
        database_in("SQL_ASCII", engine, None) as url,
        psycopg.connect(libpq(url), autocommit=True) as connection,
    ):
        connection.execute(b"CREATE ROLE " + quoted + b" SUPERUSER LOGIN")
        try:
            yield
        finally:
            connection.execute(b"DROP ROLE " + quoted)
