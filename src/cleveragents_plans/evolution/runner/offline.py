"""Print the SQL of revisions instead of running it (``--sql``)."""

from __future__ import annotations

from collections.abc import Sequence

from alembic import context
from sqlalchemy import MetaData

from cleveragents_plans.evolution.errors import EvolutionError, naming_revisions
from cleveragents_plans.evolution.postgresql.schema_choice import checked_schema
from cleveragents_plans.evolution.postgresql.search_path import restrict_script, write_schema
from cleveragents_plans.evolution.postgresql.table_owners import raise_if_foreign_tables
from cleveragents_plans.evolution.runner.alembic_internals import Command, first_heads
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.standard_streams import standard_output
from cleveragents_plans.evolution.runner.steps import with_checks
from cleveragents_plans.evolution.runner.target import Target
from cleveragents_plans.evolution.settings import Options


def print_script(
    target: Target, options: Options, metadata: Sequence[MetaData], command: Command
) -> None:
    """
    Print the SQL of the wanted revisions, in one transaction.

    It is for the schema that ``-x schema`` names, else for ``public``; run where another
    one is the first in the search path, it raises.

    Raises:
        EvolutionError: The database is SQLite, whose tables are rebuilt from what the file holds;
            or the chain has no such revision, and nothing is printed.
    """
    if target.is_sqlite:
        raise EvolutionError(
            "--sql cannot be written for SQLite: its tables are rebuilt from what the file "
            "holds; run the same command without --sql, on a copy of the file if it is to be "
            "tried"
        )
    schema = checked_schema(options.schema or "public")
    context.configure(
        url=target.url,
        target_metadata=metadata,
        literal_binds=True,
        # Without this every % in the script would be doubled.
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=False,
        version_table=options.version_table,
        version_table_schema=schema,
        table_schema=schema,
        fn=with_checks(command),
    )
    if command.plans_ahead:
        with in_one_line(target.shown):
            migration = context.get_context()
            command.steps(first_heads(migration), migration)
    write_schema(context.get_context().dialect, schema)
    with standard_output(), naming_revisions():
        context.static_output(
            "-- One transaction, set-based: what it changes is locked until it commits, so\n"
            "-- stop the application first. Run it with: psql -v ON_ERROR_STOP=1 -f <file>"
        )
        with context.begin_transaction():
            context.static_output(restrict_script(schema))
            tables = {name for each in metadata for name in each.tables}
            context.static_output(raise_if_foreign_tables(tables, options.version_table, schema))
            context.run_migrations()
