"""Indexes, on both engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Index, MetaData, Table, TextClause, literal_column
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateIndex

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.foreseen import checks
from cleveragents_plans.evolution.lookups import (
    check_droppable_name,
    ddl,
    names_of,
    on_sqlite,
    require_table,
)
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql import indexes as postgresql
from cleveragents_plans.evolution.postgresql.connection import online, write_sql
from cleveragents_plans.evolution.postgresql.index_names import check_names
from cleveragents_plans.evolution.postgresql.index_rows import refuse_wide_rows
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.settings import Settings
from cleveragents_plans.evolution.sqlite import indexes as sqlite


class _Definition(NamedTuple):
    """What `create_index` was given."""

    name: str
    columns: Sequence[str | TextClause]
    unique: bool
    where: str | None
    options: dict[str, Any]


def create_index(
    op: Op,
    name: str,
    table: str,
    columns: Sequence[str | TextClause],
    *,
    unique: bool = False,
    where: str | None = None,
    use_equal: bool = False,
    schema: str | None = None,
    **options: Any,
) -> None:
    """
    Create the index *name* of *table*, beside readers and writers.

    PostgreSQL: ``CREATE INDEX CONCURRENTLY``, which holds SHARE UPDATE EXCLUSIVE on *table*
    for two scans (no reader and no writer waits; VACUUM and other changes of the table do)
    and waits for every older transaction in the database: these are named every few
    seconds, and given up on after ``lock-wait``. An INVALID index that an interrupted run
    left is dropped first. SQLite: ``CREATE INDEX``, in the one transaction of the run.

    Idempotent: an index of this name and definition is left as it is. Offline a plain
    CREATE INDEX is printed, since the script is one transaction: it locks out writers.

    Args:
        op: Alembic's ``op``.
        name: What to call the index; as it is, without a naming convention.
        table: The table.
        columns: Names of columns, and expressions such as ``text("lower(name)")`` or
            ``text("created_at DESC")``.
        unique: Whether rows must differ in *columns*.
        where: The condition of a partial index.
        use_equal: Accept an equal index that has another name, and create none.
        schema: The schema of *table*, if it is not that of the chain's tables.
        options: Further ones of SQLAlchemy's ``Index``, such as ``postgresql_using="gin"``.

    Raises:
        OperationRefused: The table, a column or an option does not exist, the definition is
            wrong, or the name is taken by something else. Nothing was changed.
        IndexNotBuilt: Others did not end within ``lock-wait``.
        DuplicateRows: *unique*, and rows are equal.
    """
    named = [column for column in columns if isinstance(column, str)]
    schema = require_table(op, "create_index", table, named, schema)
    given = _Definition(name, columns, unique, where, options)
    plain = ddl(op, CreateIndex(_index(table, schema, given)))
    if on_sqlite(op):
        sqlite.create(op, name, table, plain, use_equal=use_equal)
        return
    context = op.get_context()
    statements = _statements(op, table, schema, given)
    if context.as_sql:
        try:
            if rehearsal := Rehearsal.of(op):
                postgresql.rehearse_build(rehearsal, statements, use_equal=use_equal)
        finally:
            # An event trigger may refuse what is tried, and is looked for by what is written.
            write_sql(context, plain)
        return
    settings = Settings.of(context.environment_context)
    with online(op) as connection:
        postgresql.build(connection, statements, settings, use_equal=use_equal)


def drop_index(
    op: Op,
    name: str,
    table: str,
    columns: Sequence[str | TextClause] | None = None,
    *,
    unique: bool = False,
    where: str | None = None,
    schema: str | None = None,
    **options: Any,
) -> None:
    """
    Drop the index *name* of *table*, beside readers and writers.

    PostgreSQL: ``DROP INDEX CONCURRENTLY``, which holds SHARE UPDATE EXCLUSIVE on *table*
    and waits for the transactions that use the table: these are named every few seconds,
    and given up on after ``lock-wait``. SQLite: ``DROP INDEX``.

    Idempotent: an index that is not there is no error, but a warning, unless an interrupted
    run may have dropped it. A name that differs by a letter or two from one that is there is
    refused, before the first change of the revision. Offline a plain DROP INDEX IF EXISTS
    is printed.

    Args:
        op: Alembic's ``op``.
        name: The index.
        table: The table.
        columns: With *unique*, *where* and *options* what `create_index` was given: then an index
            of this name that is defined otherwise, by an operator, is kept, with a warning.
            And one that is not there, as `create_index` used an equal one, is never refused.
            Else any index of this name is dropped.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        OperationRefused: The table does not exist, the name is misspelt, something else than an
            index of the table has it, or a constraint needs the index. Nothing was changed.
        IndexNotBuilt: Others did not end within ``lock-wait``.
    """
    schema = require_table(op, "drop_index", table, (), schema)
    context, quoted = op.get_context(), qualified(op.get_context(), table, schema)
    rehearsal = Rehearsal.of(op)
    if rehearsal and rehearsal.knows(name):
        postgresql.find_droppable(rehearsal.connection, quoted, name)
    check_droppable_name(
        op, "drop_index", "index", table, name, schema, optional=columns is not None
    )
    given = None if columns is None else _Definition(name, columns, unique, where, options)
    if on_sqlite(op):
        plain = None if given is None else ddl(op, CreateIndex(_index(table, schema, given)))
        sqlite.drop(op, name, table, plain)
        return
    if context.as_sql:
        write_sql(context, f"DROP INDEX IF EXISTS {qualified(context, name, schema)}")
        return
    settings = Settings.of(context.environment_context)
    wanted = None if given is None else _statements(op, table, schema, given)
    with online(op) as connection:
        postgresql.drop(connection, quoted, name, settings, wanted)


def _statements(
    op: Op, table: str, schema: str | None, given: _Definition
) -> postgresql.Statements:
    concurrent = given._replace(options={**given.options, "postgresql_concurrently": True})
    return postgresql.Statements(
        name=given.name,
        table=qualified(op.get_context(), table, schema),
        columns=tuple(names_of(op, "column", table, schema)),
        indexed=tuple(each for each in given.columns if isinstance(each, str)),
        build=ddl(op, CreateIndex(_index(table, schema, concurrent))),
        try_out=ddl(op, CreateIndex(_index("evolution_copy", "pg_temp", given))),
    )


@checks("rows too wide for an index")
def check_index_rows(op: Op, table: str, indexes: Mapping[str, Sequence[str]]) -> None:
    """
    Refuse rows of *table* that are too wide for an index on PostgreSQL; change nothing.

    ACCESS SHARE for one scan. On SQLite, which has no such limit, and offline it does nothing.

    Args:
        op: Alembic's ``op``.
        table: The table.
        indexes: The columns of each index, by its name.

    Raises:
        RowsTooWide: There are such rows.
    """
    context = op.get_context()
    if not on_sqlite(op) and not context.as_sql:
        refuse_wide_rows(op.get_bind(), qualified(context, table), indexes)


@checks("names of indexes")
def check_index_names(op: Op, table: str, *names: str) -> None:
    """
    Find out whether something else than an index of *table* has one of *names*; change nothing.

    Reads the catalog of PostgreSQL. On SQLite, and offline, it does nothing.

    Raises:
        OperationRefused: Something else has a name.
    """
    context = op.get_context()
    if not on_sqlite(op) and not context.as_sql:
        check_names(op.get_bind(), qualified(context, table), names)


def _index(table: str, schema: str | None, given: _Definition) -> Index:
    name, columns, unique, where, options = given
    conditions: dict[str, Any] = {}
    if where is not None:
        # Not text(), to which a colon would be the beginning of a parameter.
        conditions = dict.fromkeys(("postgresql_where", "sqlite_where"), literal_column(where))
    try:
        index = Index(name, *columns, unique=unique, **conditions, **options)
    except (ArgumentError, TypeError) as error:
        raise OperationRefused(
            "create_index", f"{name} cannot be made ({error})", "correct the revision"
        ) from error
    names = dict.fromkeys(column for column in columns if isinstance(column, str))
    # A table without metadata that has a naming convention.
    Table(table, MetaData(), *map(Column, names), index, schema=schema)
    return index
