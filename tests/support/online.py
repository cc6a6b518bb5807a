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
from cleveragents_plans.evolution.postgresql.schema_choice import use_schema
from support.waiting import wait_until


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


#: Seconds that a client may wait for a lock while a table is migrated. By design it is 20 ms, and
#: 50 after a minute, as tests/chain/test_lock_order.py sees; the rest is for a busy machine.
MAX_LOCK_WAIT = 2.0


@contextmanager
def never_blocked(url: str, sql: str) -> Iterator[None]:
    """
    Let a client send *sql* all the time, from before the block until after its end.

    Raises:
        AssertionError: It waited for a lock for longer than `MAX_LOCK_WAIT`. The server counts
            that, so that a client that is slow itself is not taken for one that waits.
    """
    over, failed = threading.Event(), []
    sent = 0

    def send() -> None:
        nonlocal sent
        try:
            with client(url) as connection:
                connection.execute(f"SET lock_timeout = '{MAX_LOCK_WAIT}s'".encode())
                while not over.is_set():
                    connection.execute(sql.encode())
                    sent += 1
                    time.sleep(0.002)
        except psycopg.Error as error:
            failed.append(error)

    with meanwhile(send):
        try:
            wait_until(lambda: sent or failed)
            before = sent
            yield
            wait_until(lambda: sent > before or failed)
        finally:
            over.set()
    assert failed == []


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
