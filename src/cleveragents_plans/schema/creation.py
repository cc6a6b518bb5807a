"""The newest schema at once, without the chain: for tests."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, overload

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, inspect

from cleveragents_plans.evolution.postgresql.products import (
    refuse_distributed_tables,
    refuse_unfit_server,
)
from cleveragents_plans.evolution.runner.connection_errors import report_connection_failed
from cleveragents_plans.evolution.sqlite.pragmas import is_in_memory
from cleveragents_plans.persistence import (
    Base,
    DatabaseUrlError,
    open_engine,
    without_password,
)
from cleveragents_plans.schema.chain import chain_config, check_names

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_VERSION_TABLE = "alembic_version"


@overload
def create_schema(target: str | URL | Engine | Connection, *, version_table: str = ...) -> None: ...
@overload
def create_schema(
    target: AsyncEngine, *, version_table: str = ...
) -> Coroutine[Any, Any, None]: ...
def create_schema(
    target: str | URL | Engine | Connection | AsyncEngine, *, version_table: str = _VERSION_TABLE
) -> Coroutine[Any, Any, None] | None:
    """
    Create the newest schema in an empty database, some ten times as fast as `upgrade` does.

    The tables are those that the chain makes, and the version is set to the head: an upgrade
    finds nothing to do. A database that has the newest schema already stays as it is. It is
    meant for tests; a database that is to live is made by `upgrade`.

    Args:
        target: A URL, an engine, a connection (in whose transaction it happens), or an engine of
            asyncio, for which the call is awaited. A database in memory: not by its URL.
        version_table: Where Alembic keeps the version.

    Raises:
        CommandError: There are tables of this package, of another revision; the URL cannot be
            used, or the database cannot be reached; or the server is another product.
    """
    check_names(version_table=version_table)
    if isinstance(target, Connection):
        _create(target, version_table)
        return None
    if isinstance(target, Engine):
        _create_on(target, version_table)
        return None
    if not isinstance(target, str | URL):
        return _create_by(target, version_table)
    try:
        engine = open_engine(target)
    except DatabaseUrlError as error:
        raise CommandError(str(error)) from None
    if engine.dialect.name == "sqlite" and is_in_memory(engine.url):
        raise CommandError(
            "a database in memory ends with its connections; expected the engine that the tests use"
        )
    try:
        _create_on(engine, version_table)
    finally:
        engine.dispose()
    return None


def _create_on(engine: Engine, version_table: str) -> None:
    with ExitStack() as stack:
        with report_connection_failed(without_password(engine.url), engine.url):
            connection = stack.enter_context(engine.connect())
        with connection.begin():
            _create(connection, version_table)


async def _create_by(engine: AsyncEngine, version_table: str) -> None:
    async with AsyncExitStack() as stack:
        with report_connection_failed(without_password(engine.url), engine.url):
            connection = await stack.enter_async_context(engine.connect())
        async with connection.begin():
            await connection.run_sync(_create, version_table)


def _create(connection: Connection, version_table: str) -> None:
    if connection.dialect.name == "postgresql":
        shown = without_password(connection.engine.url)
        refuse_unfit_server(connection, shown)
        refuse_distributed_tables(connection, [*Base.metadata.tables], None, shown)
    script = ScriptDirectory.from_config(chain_config())
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    inspector = inspect(connection)
    found = [name for name in Base.metadata.tables if inspector.has_table(name)]
    heads = context.get_current_heads()
    if found and set(heads) == set(script.get_heads()):
        return
    if found or heads:
        raise CommandError(
            f"the database is not empty ({', '.join([*heads, *found])}); expected one without "
            "tables of this package: run `cleveragents-plans upgrade`; nothing was changed"
        )
    Base.metadata.create_all(connection)
    context.stamp(script, "head")
