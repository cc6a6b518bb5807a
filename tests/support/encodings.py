"""PostgreSQL databases in other encodings than UTF8."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from support import postgres
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
