"""Tables of roles that are not trusted, refused before anything names them in a statement."""

from __future__ import annotations

from collections.abc import Collection

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from cleveragents_plans.evolution.lookups import each_table_once
from cleveragents_plans.evolution.postgresql.table_owners import (
    PART_OF_ANOTHER,
    PART_REMEDY,
    ForeignTable,
    refuse_foreign_tables,
    tables_of_untrusted_owners,
)
from cleveragents_plans.evolution.runner.table_looks import TableLooks, shortened


def looking_context(
    connection: Connection,
    config: Config,
    script: ScriptDirectory,
    version_table: str,
    schema: str | None,
    version_schema: str | None,
) -> MigrationContext:
    """Give a context of Alembic that runs nothing, for what asks about the tables."""
    return MigrationContext.configure(
        connection,
        environment_context=EnvironmentContext(config, script),
        opts={
            "script": script,
            "version_table": version_table,
            "version_table_schema": version_schema,
            "table_schema": schema,
        },
    )


@each_table_once()
def refuse_untrusted_owners(
    migration: MigrationContext, tables: Collection[str], schema: str | None, *, only_reads: bool
) -> None:
    """
    Refuse tables of roles that are not trusted, unless one such role has them all.

    To read one would evaluate what its indexes say, with the rights of this role. Where they are
    all there, as a revision makes them, their owner is trusted: that of the application. Catalogs
    are read only, and no lock is taken on a table; nothing is done on SQLite.

    Args:
        migration: A context of the database.
        tables: The names of the tables of the models.
        schema: Their schema; None is the first of the search path.
        only_reads: Nothing is going to be written; see `refuse_foreign_tables`.

    Raises:
        ForeignTable: One belongs to another role than the others, or to one that is not trusted,
            and not all of them are there.
    """
    connection = migration.connection
    assert connection is not None  # noqa: S101  # on line there is one
    if connection.dialect.name != "postgresql":
        return
    version_table, version_schema = migration.version_table, migration.version_table_schema
    names = (tables, version_table, schema, version_schema)
    refuse_foreign_tables(connection, *names, only_reads=only_reads)
    found = tables_of_untrusted_owners(connection, *names)
    if not found:
        return
    looks = TableLooks(migration, tables, schema)
    like = looks.like()
    lacking = looks.missing([like], "lacking") if like not in (None, "base") else []
    if like == "base" and looks.any_is_there():
        lacking = ["others of this chain"]
    if lacking:
        name, owner = found[0]
        raise ForeignTable(
            name,
            f"belongs to {owner}, and the tables lack {shortened(lacking)}{PART_OF_ANOTHER}",
            PART_REMEDY,
        )
