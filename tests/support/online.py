"""A revision that is under way on a real PostgreSQL, without a chain around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from cleveragents_plans import open_engine
from cleveragents_plans.evolution.postgresql.search_path import use_schema


@contextmanager
def revision(url: str, **settings: float) -> Iterator[Operations]:
    """
    Give what a revision gets as ``op``, in the transaction that the runner gives it.

    On PostgreSQL Alembic owns it, and names are looked up in system schemas only; the tables
    are in ``public``. On SQLite it is that of the whole run.
    """
    engine = open_engine(url, migrating=True)
    postgresql = engine.dialect.name == "postgresql"
    config = Config()
    config.attributes["evolution"] = settings
    with (
        engine.connect() as connection,
        nullcontext() if postgresql else connection.begin(),
    ):
        if postgresql:
            use_schema(connection, "public")
            connection.commit()
        context = MigrationContext.configure(
            connection,
            environment_context=EnvironmentContext(config, _no_scripts()),
            opts={
                "transaction_per_migration": True,
                "transactional_ddl": True,
                "table_schema": "public" if postgresql else None,
            },
        )
        with context.begin_transaction(_per_migration=True):
            yield Operations(context)


@contextmanager
def script(dialect: str = "postgresql") -> Iterator[tuple[Operations, StringIO]]:
    """Give what a revision gets as ``op`` with ``--sql``, and what it writes."""
    written = StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect,
        opts={
            "as_sql": True,
            "output_buffer": written,
            "literal_binds": True,
            "table_schema": "public" if dialect == "postgresql" else None,
        },
    )
    yield Operations(context), written


def client(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect as a client of the application does."""
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=autocommit)


class Probe:
    """A client that does the same small thing all the time, and times it."""

    def __init__(self, url: str, sql: str, pause: float = 0.002) -> None:
        self.longest = 0.0
        self.times: list[float] = []
        self._stop = threading.Event()
        self._url, self._sql, self._pause = url, sql, pause
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.longest = max(self.times)

    def _go(self) -> None:
        with client(self._url) as connection:
            while not self._stop.is_set():
                begun = time.monotonic()
                connection.execute(self._sql.encode())
                self.times.append(time.monotonic() - begun)
                time.sleep(self._pause)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Run *act* in a thread, and wait for it at the end."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(120)
        assert not thread.is_alive()


def _no_scripts() -> ScriptDirectory:
    return ScriptDirectory(Path(__file__).parent)
