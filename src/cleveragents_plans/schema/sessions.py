"""How a session is configured in which a database is looked at."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from cleveragents_plans.evolution.postgresql.connection import run, set_parameters
from cleveragents_plans.evolution.postgresql.products import (
    refuse_distributed_tables,
    refuse_unfit_server,
)
from cleveragents_plans.evolution.postgresql.schema_choice import find_schema, use_schema
from cleveragents_plans.evolution.postgresql.server import OF_EACH_SESSION, session_settings
from cleveragents_plans.evolution.postgresql.session_rights import (
    OF_EACH_COMMAND,
    refuse_uncallable,
)
from cleveragents_plans.evolution.settings import Options
from cleveragents_plans.persistence import Base

# A time limit is for clients.
_SESSION = {
    **OF_EACH_SESSION,
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
}


def configure_sqlite(connection: Connection, writes: bool) -> None:
    """Configure a connection before its transaction, to read only unless it *writes*."""
    driver: Any = connection.connection.driver_connection
    # SQLite stores any bytes as text; one such text must not hide all others.
    driver.text_factory = lambda data: data.decode(errors="surrogateescape")
    connection.execution_options(read_only=not writes)


def configure_postgresql(connection: Connection, writes: bool) -> None:
    """Configure a connection before its transaction, to read one state unless it *writes*."""
    if writes:  # not said to be READ WRITE: a standby would refuse that in its own words
        connection.execution_options(isolation_level="READ COMMITTED")
    else:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def begin_postgresql(
    connection: Connection, options: Options, shown: str, purpose: str
) -> tuple[str, str]:
    """
    Begin the transaction; give the schemas of the tables and of the version table.

    Raises:
        EvolutionError: The server or the tables are none of ours.
        RightsMissing: A function was revoked that each command calls.
    """
    refuse_unfit_server(connection, shown)
    refuse_uncallable(connection, OF_EACH_COMMAND, shown)
    # A limit for clients ends no lookup of a schema; SET runs no function that others may own.
    run(connection, "SET LOCAL statement_timeout = 0")
    tables, version_table = [*Base.metadata.tables], [options.version_table]
    schema = use_schema(connection, options.schema, tables, version_table, local=True)
    refuse_distributed_tables(connection, tables, schema, shown)
    version_schema = options.schema or find_schema(connection, version_table, tables)
    wanted = {**_SESSION, "application_name": f"cleveragents-plans {purpose}"}
    set_parameters(connection, session_settings(connection, wanted), local=True)
    connection.execution_options(schema_translate_map={None: schema})
    return schema, version_schema
