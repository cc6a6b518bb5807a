"""What an operation needs of Alembic's ``op``."""

from __future__ import annotations

from typing import Protocol

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import EvolutionError


class Op(Protocol):
    """What a revision imports as ``op``: Alembic's module of that name, or an `Operations`."""

    def get_context(self) -> MigrationContext:
        """Give the context of the run: dialect, offline mode, configuration."""

    def get_bind(self) -> Connection:
        """Give the connection that migrates; there is none offline."""

    def execute(self, sqltext: str, /) -> None:
        """Run one statement, or print it offline."""


def schema_of(context: MigrationContext, schema: str | None = None) -> str | None:
    """
    Give *schema*, or else that of the chain's tables; None on SQLite, which has none.

    Raises:
        EvolutionError: The context was not configured by the runner.
    """
    found: str | None = schema or context.opts.get("table_schema")
    if found is None and context.dialect.name == "postgresql":
        raise EvolutionError(
            "context.configure() was given no table_schema; let env.py call run_environment of "
            "cleveragents_plans.evolution.runner.environment"
        )
    return found


def qualified(context: MigrationContext, table: str, schema: str | None = None) -> str:
    """Write the name of *table* with its schema (see `schema_of`), quoted where needed."""
    found = schema_of(context, schema)
    name = _quoted(context, table)
    return f"{_quoted(context, found)}.{name}" if found else name


def in_schema(context: MigrationContext, sql: str, schema: str | None = None) -> str:
    """Replace each ``{schema}`` in *sql* by the schema (see `schema_of`), quoted where needed."""
    return sql.replace("{schema}", _quoted(context, schema_of(context, schema) or ""))


def _quoted(context: MigrationContext, name: str) -> str:
    if "%" in name:  # which SQLAlchemy would double, as the driver wants it beside parameters
        return '"' + name.replace('"', '""') + '"'
    return context.dialect.identifier_preparer.quote(name)


def execute_as_written(op: Op, sql: str) -> None:
    """
    Run or print *sql* character by character.

    ``op.execute`` would take ``:name`` for a parameter, and ``%(name)s`` too before
    SQLAlchemy 2.1.
    """
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(f"{sql};")
    else:
        op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
