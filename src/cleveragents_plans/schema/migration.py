"""Upgrade, downgrade and look at a database, by a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeVar, overload

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine

from cleveragents_plans.domain.errors import shown
from cleveragents_plans.evolution.runner.process_lock import process_lock
from cleveragents_plans.schema.chain import chain_config, check_names

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
#: What names a database, or is connected to one.
Target = str | URL | Engine | Connection

# How often a task of asyncio looks whether another run has ended, in seconds.
_POLL_SECONDS = 0.02


@overload
def upgrade(
    target: Target,
    revision: str = ...,
    *,
    version_table: str | None = ...,
    schema: str | None = ...,
    allow_second_schema: bool = ...,
    settings: Mapping[str, float] | None = ...,
) -> None: ...
@overload
def upgrade(
    target: AsyncEngine,
    revision: str = ...,
    *,
    version_table: str | None = ...,
    schema: str | None = ...,
    allow_second_schema: bool = ...,
    settings: Mapping[str, float] | None = ...,
) -> Coroutine[Any, Any, None]: ...
def upgrade(
    target: Target | AsyncEngine,
    revision: str = "head",
    *,
    version_table: str | None = None,
    schema: str | None = None,
    allow_second_schema: bool = False,
    settings: Mapping[str, float] | None = None,
) -> Coroutine[Any, Any, None] | None:
    """
    Upgrade the schema; nothing is done where it is at *revision*, or past it.

    Locks are those of the revisions, which their headers say; docs/settings-and-locks.md has a
    table.

    Args:
        target: A URL, an engine, a connection, or an engine of asyncio, for which the call is
            awaited. A database in memory is upgraded by its engine, or a connection. On a
            connection that is in a transaction everything happens in that transaction
            (SQLite), or is refused if there is something to do (PostgreSQL).
        revision: A revision of the chain, or ``head``.
        version_table: Where Alembic keeps the version, if not in ``alembic_version``: an
            application that shares the database has its own there.
        schema: The schema of PostgreSQL, if it is not the first of the search path.
        allow_second_schema: Create a set of tables although another schema has one.
        settings: Settings of the run, such as ``{"lock_wait": 60}``: those of ``-x``, with ``_``.

    Raises:
        CommandError: It was refused, or could not be done; with one line that says why.
    """
    extra = ["allow-second-schema=yes"] if allow_second_schema else []
    return _on(
        target,
        lambda config: command.upgrade(config, _text_of(revision)),
        _configured(version_table, schema, settings, extra),
    )


@overload
def downgrade(
    target: Target,
    revision: str,
    *,
    version_table: str | None = ...,
    schema: str | None = ...,
    drop_plans: bool = ...,
    settings: Mapping[str, float] | None = ...,
) -> None: ...
@overload
def downgrade(
    target: AsyncEngine,
    revision: str,
    *,
    version_table: str | None = ...,
    schema: str | None = ...,
    drop_plans: bool = ...,
    settings: Mapping[str, float] | None = ...,
) -> Coroutine[Any, Any, None]: ...
def downgrade(
    target: Target | AsyncEngine,
    revision: str,
    *,
    version_table: str | None = None,
    schema: str | None = None,
    drop_plans: bool = False,
    settings: Mapping[str, float] | None = None,
) -> Coroutine[Any, Any, None] | None:
    """
    Downgrade the schema to *revision*, or to ``base``, without any table of this package.

    Args:
        target: As for `upgrade`.
        revision: A revision of the chain, or ``base``.
        version_table: As for `upgrade`.
        schema: As for `upgrade`.
        drop_plans: Drop the plans, too, on the way to ``base``; otherwise it is refused while
            there are any.
        settings: As for `upgrade`.

    Raises:
        CommandError: It was refused, or could not be done; with one line that says why.
    """
    extra = ["drop-plans=yes"] if drop_plans else []
    return _on(
        target,
        lambda config: command.downgrade(config, _text_of(revision)),
        _configured(version_table, schema, settings, extra),
    )


@overload
def current(
    target: Target,
    *,
    check_heads: bool = ...,
    version_table: str | None = ...,
    schema: str | None = ...,
) -> str | None: ...
@overload
def current(
    target: AsyncEngine,
    *,
    check_heads: bool = ...,
    version_table: str | None = ...,
    schema: str | None = ...,
) -> Coroutine[Any, Any, str | None]: ...
def current(
    target: Target | AsyncEngine,
    *,
    check_heads: bool = False,
    version_table: str | None = None,
    schema: str | None = None,
) -> str | Coroutine[Any, Any, str | None] | None:
    """
    Tell at which revision the database is; change nothing.

    Args:
        target: As for `upgrade`.
        check_heads: Raise unless that is the newest one, the tables are as it makes them, and
            no run was interrupted: what a deployment asks before the application starts.
        version_table: As for `upgrade`.
        schema: As for `upgrade`.

    Returns:
        The revision; None where there is no version, as in an empty database.

    Raises:
        CommandError: There is no such database, or *check_heads* finds another state.
    """

    def look(config: Config) -> str | None:
        if check_heads:
            command.current(config, check_heads=True)
        return _stored(config)

    return _on(target, look, _configured(version_table, schema, None, ()))


def _stored(config: Config) -> str | None:
    found: list[str] = []

    # Its name tells env.py that nothing is written: it is that of Alembic's `current`.
    def display_version(heads: tuple[str, ...], _context: object) -> Sequence[Any]:
        found.extend(heads)
        return ()

    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=display_version):
        script.run_env()
    return ", ".join(found) or None


def _text_of(revision: object) -> str:
    if not isinstance(revision, str):
        raise CommandError(
            f"the revision is {shown(revision)}; expected its id, head or base; nothing was changed"
        )
    return revision


def _configured(
    version_table: str | None,
    schema: str | None,
    settings: Mapping[str, float] | None,
    extra: Sequence[str],
) -> Callable[[Any], Config]:
    chosen = {"version_table": version_table, "schema": schema, "evolution": settings}
    attributes = {name: value for name, value in chosen.items() if value is not None}

    def configured(target: Any) -> Config:
        if not isinstance(target, str | URL | Engine | Connection):
            raise CommandError(
                f"the target is of the type {type(target).__name__}; expected a URL, an Engine, a "
                "Connection or an AsyncEngine; nothing was changed"
            )
        check_names(version_table=version_table, schema=schema)
        config = chain_config(extra=extra, level=None)
        config.stdout = StringIO()
        names = "url" if isinstance(target, str | URL) else "connection"
        config.attributes.update(attributes, **{names: target})
        return config

    return configured


def _on(
    target: Target | AsyncEngine,
    act: Callable[[Config], T],
    configured: Callable[[Any], Config],
) -> T | Coroutine[Any, Any, T]:
    if isinstance(target, str | URL | Engine | Connection) or not hasattr(target, "sync_engine"):
        return act(configured(target))

    def on_connection(connection: Connection) -> T:
        return act(configured(connection))

    run = _in_this_thread if target.dialect.name == "sqlite" else _in_another
    return run(target, on_connection)


async def _in_this_thread(engine: AsyncEngine, act: Callable[[Connection], T]) -> T:
    # A database in memory is that of its connection, and what takes long happens in a thread
    # of the driver's.
    while not process_lock.try_acquire():
        await asyncio.sleep(_POLL_SECONDS)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(act)
    finally:
        process_lock.release()


async def _in_another(engine: AsyncEngine, act: Callable[[Connection], T]) -> T:
    """
    Run *act* in a thread with an event loop of its own: it sleeps and waits.

    Connections belong to the loop in which they were made, so the engine is made anew, with
    a pool that connects as the given one does.
    """
    from sqlalchemy.ext.asyncio import create_async_engine  # needs greenlet, an extra

    async def there() -> T:
        pool = engine.sync_engine.pool.recreate()
        own = create_async_engine(engine.url, pool=pool)
        try:
            async with own.connect() as connection:
                return await connection.run_sync(act)
        finally:
            await own.dispose()

    return await asyncio.to_thread(lambda: asyncio.run(there()))
