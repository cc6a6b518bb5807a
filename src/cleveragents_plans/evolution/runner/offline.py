"""Print the SQL of revisions instead of running it (``--sql``)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from io import StringIO

from alembic import context
from sqlalchemy import MetaData

from cleveragents_plans.evolution.errors import EvolutionError, naming_revisions
from cleveragents_plans.evolution.postgresql.schema_choice import checked_schema
from cleveragents_plans.evolution.postgresql.search_path import restrict_script, write_schema
from cleveragents_plans.evolution.postgresql.table_owners import raise_if_foreign_tables
from cleveragents_plans.evolution.runner.alembic_internals import (
    Command,
    Heads,
    applied,
    first_heads,
    operations_of,
    step_of,
)
from cleveragents_plans.evolution.runner.error_lines import in_one_line
from cleveragents_plans.evolution.runner.standard_streams import standard_output
from cleveragents_plans.evolution.runner.steps import with_checks
from cleveragents_plans.evolution.runner.target import Target
from cleveragents_plans.evolution.settings import Options

log = logging.getLogger("alembic.evolution")


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
    heads: Heads = ()
    if command.plans_ahead:
        with in_one_line(target.shown):
            migration = context.get_context()
            heads = first_heads(migration)
            command.steps(heads, migration)
    write_schema(context.get_context().dialect, schema)
    with standard_output(), naming_revisions():
        context.static_output(
            "-- One transaction, set-based: what it changes is locked until it commits, so\n"
            "-- stop the application first. Run it with: psql -v ON_ERROR_STOP=1 -f <file>"
        )
        with context.begin_transaction():
            context.static_output(restrict_script(schema))
            tables = {name for each in metadata for name in each.tables}
            versions = options.version_table
            below = _written_by(partial(_run_up_to, heads))
            sql = _written_by(context.run_migrations)
            created = _created_by(sql, {*tables, versions})
            existing = {versions, *_created_by(below, tables)} - created
            # Before anything names a table.
            context.static_output(
                raise_if_foreign_tables(tables, versions, schema, existing, created)
            )
            context.get_context().impl.static_output(sql.removesuffix("\n\n"))


def _written_by(run: Callable[[], None]) -> str:
    """Give the SQL that *run* writes, of revisions and of the versions that are stored."""
    impl = context.get_context().impl
    output, sql = impl.output_buffer, StringIO()
    impl.output_buffer = sql
    try:
        run()
    finally:
        impl.output_buffer = output
    return sql.getvalue()


def _run_up_to(heads: Heads) -> None:
    """Run the revisions up to *heads*, which the script does not have."""
    migration = context.get_context()
    assert migration.script is not None  # noqa: S101  # env.py is run with one
    done = applied(migration.script, heads)
    with operations_of(migration):
        for each in reversed([*migration.script.walk_revisions()]):
            if each.revision in done:
                try:
                    step_of(migration.script, each.revision, "upgrade").migration_fn()
                except Exception as error:  # it may need a database
                    log.debug("the tables of %s are not known: %r", each.revision, error)


def _created_by(sql: str, tables: Collection[str]) -> set[str]:
    """Name those of *tables*, without a schema, that the script creates."""
    quote = context.get_context().dialect.identifier_preparer.quote
    creates = r"CREATE TABLE (IF NOT EXISTS )?(\S+\.)?{}[\s(]"
    return {name for name in tables if re.search(creates.format(re.escape(quote(name))), sql)}
