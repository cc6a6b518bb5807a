"""Constraints, on both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    MetaData,
    Table,
    inspect,
    literal_column,
)
from sqlalchemy.schema import AddConstraint
from sqlalchemy.sql.elements import conv

from cleveragents_plans.evolution.errors import EvolutionError, OperationRefused
from cleveragents_plans.evolution.lookups import check_droppable_name, ddl, on_sqlite, require_table
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql import constraints as postgresql
from cleveragents_plans.evolution.postgresql import not_null
from cleveragents_plans.evolution.postgresql.kept_not_null import refuse_kept_not_null
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.sqlite import constraints as sqlite
from cleveragents_plans.evolution.sqlite.rebuild import rebuild_table

_MAX_SHOWN = 5


class RowsViolateConstraint(EvolutionError):
    """
    Rows that are there already break a constraint that is to be added.

    Attributes:
        table: The table.
        constraint: The constraint.
    """

    def __init__(self, table: str, constraint: str, rows: Sequence[str]) -> None:
        shown = f", such as {', '.join(rows)}" if rows else ""
        super().__init__(
            f"rows of {table} break {constraint}{shown}; correct them (a backfill before it, in "
            "the same revision), then run the same command again"
        )
        self.table = table
        self.constraint = constraint


def set_not_null(
    op: Op,
    table: str,
    *columns: str,
    refill: Callable[[], Any] | None = None,
    schema: str | None = None,
) -> None:
    """
    Make *columns* of *table* NOT NULL; the end is what NOT NULL in CREATE TABLE gives.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for changes of the catalog, some milliseconds
    each (see `with_exclusive_lock`), and SHARE UPDATE EXCLUSIVE for one scan of the rows,
    beside readers and writers. SQLite: one rebuild of the table.

    Idempotent and resumable.

    Args:
        op: Alembic's ``op``.
        table: The table.
        columns: Its columns, without NULLs by now.
        refill: Called on PostgreSQL when the scan meets a NULL all the same; then it scans
            again.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        NullsRemain: There is a NULL on PostgreSQL, and *refill* did not help.
        RebuildRefused: There is a NULL on SQLite.
        LockNotObtained: Other sessions held locks for too long.
        OperationRefused: The table or a column does not exist. Nothing was changed.
    """
    schema = require_table(op, "set_not_null", table, columns, schema)
    if on_sqlite(op):
        rebuild_table(op, table, set_not_null=columns)
    else:
        not_null.set_not_null(op, table, columns, refill, schema)


def drop_not_null(op: Op, table: str, *columns: str, schema: str | None = None) -> None:
    """
    Let *columns* of *table* be NULL again.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: one rebuild of the table.

    Idempotent; what an interrupted `set_not_null` left goes, too.

    Raises:
        LockNotObtained: Other sessions held locks for too long.
        OperationRefused: The table or a column does not exist. Nothing was changed.
        TableUnfit: PostgreSQL keeps it, as `check_drop_not_null` says. Nothing was changed.
    """
    schema = require_table(op, "drop_not_null", table, columns, schema)
    if on_sqlite(op):
        rebuild_table(op, table, drop_not_null=columns)
    else:
        name, rehearsal = qualified(op.get_context(), table, schema), Rehearsal.of(op)
        # What the revision itself did before is not known.
        if rehearsal and rehearsal.knows(table):
            refuse_kept_not_null(rehearsal.connection, table, name, columns)
        not_null.drop_not_null(op, table, columns, schema)


def add_check(op: Op, table: str, name: str, condition: str, *, schema: str | None = None) -> None:
    """
    Add the CHECK *name* to *table*; rows that are there already must satisfy it.

    PostgreSQL: reads the rows first, under ACCESS SHARE; then ACCESS EXCLUSIVE on *table*
    for a change of the catalog (NOT VALID), some milliseconds (see `with_exclusive_lock`),
    and SHARE UPDATE EXCLUSIVE for the scan that validates it, beside readers and writers.
    SQLite: one rebuild of the table.

    Idempotent and resumable: a CHECK of this name and condition is left as it is.

    Args:
        op: Alembic's ``op``.
        table: The table.
        name: What to call it; as it is, without a naming convention.
        condition: SQL over the columns of a row; it is satisfied by NULL.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        OperationRefused: The table does not exist, the condition is wrong, or the name is
            taken by something else. Nothing was changed.
        RowsViolateConstraint: Rows do not satisfy it.
        LockNotObtained: Other sessions held locks for too long.
    """
    schema = require_table(op, "add_check", table, (), schema)
    check = CheckConstraint(literal_column(condition), name=conv(name))
    Table(table, MetaData(), check, schema=schema)
    _add(
        op,
        postgresql.Wanted(
            operation="add_check",
            table=table,
            schema=schema,
            name=name,
            text=_text(op, check),
            refuse_rows=lambda: _refuse_rows(op, table, schema, name, f"NOT ({condition})"),
        ),
    )


def add_foreign_key(
    op: Op,
    table: str,
    name: str,
    columns: Sequence[str],
    referred_table: str,
    referred_columns: Sequence[str],
    *,
    ondelete: str | None = None,
    onupdate: str | None = None,
    schema: str | None = None,
    referred_schema: str | None = None,
) -> None:
    """
    Add the foreign key *name* to *table*; rows that are there already must satisfy it.

    PostgreSQL: reads the rows first, under ACCESS SHARE; then SHARE ROW EXCLUSIVE on both
    tables for a change of the catalog (NOT VALID), some milliseconds, in which writers
    wait; then SHARE UPDATE EXCLUSIVE on *table* and ROW SHARE on *referred_table* for the
    scan that validates it, beside readers and writers. SQLite: one rebuild of *table*.

    A DELETE on *referred_table* looks for the rows that refer to it: without an index on
    *columns*, by a scan of *table*.

    Idempotent and resumable: a foreign key of this name and meaning is left as it is.

    Args:
        op: Alembic's ``op``.
        table: The table whose rows refer to others.
        name: What to call it; as it is, without a naming convention.
        columns: The columns that refer.
        referred_table: The table that they refer to.
        referred_columns: Its primary key, or columns that a unique index covers.
        ondelete: ``CASCADE``, ``SET NULL``, ``SET DEFAULT``, ``RESTRICT`` or ``NO ACTION``.
        onupdate: Likewise.
        schema: The schema of *table*, if it is not that of the chain's tables.
        referred_schema: The schema of *referred_table*, likewise.

    Raises:
        OperationRefused: A table or a column does not exist, the columns do not fit each
            other, or the name is taken by something else. Nothing was changed.
        RowsViolateConstraint: Rows refer to none.
        LockNotObtained: Other sessions held locks for too long.
    """
    operation = "add_foreign_key"
    schema = require_table(op, operation, table, columns, schema)
    referred_schema = require_table(
        op, operation, referred_table, referred_columns, referred_schema
    )
    if len(columns) != len(referred_columns) or not columns:
        raise OperationRefused(
            operation,
            f"{name} has {len(columns)} columns that refer to {len(referred_columns)}",
            "name as many columns as it refers to",
        )
    quote = op.get_context().dialect.identifier_preparer.quote
    pairs = zip(map(quote, columns), map(quote, referred_columns), strict=True)
    equal = " AND ".join(f"r.{there} = t.{here}" for here, there in pairs)
    given = " AND ".join(f"t.{quote(column)} IS NOT NULL" for column in columns)
    referred = qualified(op.get_context(), referred_table, referred_schema)
    broken = f"{given} AND NOT EXISTS (SELECT 1 FROM {referred} AS r WHERE {equal})"

    def text(of_table: str, of_schema: str | None) -> str:
        metadata = MetaData()
        Table(of_table, metadata, *map(Column, referred_columns), schema=of_schema)
        key = ForeignKeyConstraint(
            columns,
            [
                f"{of_schema}.{of_table}.{c}" if of_schema else f"{of_table}.{c}"
                for c in referred_columns
            ],
            name=conv(name),
            ondelete=ondelete,
            onupdate=onupdate,
        )
        Table("evolution_copy", metadata, *map(Column, columns), key)
        return _text(op, key)

    _add(
        op,
        postgresql.Wanted(
            operation=operation,
            table=table,
            schema=schema,
            name=name,
            text=text(referred_table, referred_schema),
            refuse_rows=lambda: _refuse_rows(op, table, schema, name, broken),
            referred=referred,
            try_out=text("evolution_referred", "pg_temp"),
        ),
    )


def drop_constraint(op: Op, table: str, name: str, *, schema: str | None = None) -> None:
    """
    Drop the CHECK or the foreign key *name* of *table*; on PostgreSQL a UNIQUE, too.

    PostgreSQL: ACCESS EXCLUSIVE on *table*, and for a foreign key on the table it refers
    to, for a change of the catalog, some milliseconds (see `with_exclusive_lock`). SQLite:
    one rebuild of the table.

    Idempotent: a constraint that is not there is no error, but a warning, unless an interrupted
    run may have dropped it. A name that differs by a letter or two from one that is there is
    on PostgreSQL refused, before the first change of the revision.

    Raises:
        OperationRefused: The table does not exist, *name* is misspelt, or the constraint is of
            another kind. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    schema = require_table(op, "drop_constraint", table, (), schema)
    if on_sqlite(op):
        sqlite.drop(op, table, name)
    else:
        check_droppable_name(op, "drop_constraint", "constraint", table, name, schema)
        postgresql.drop(op, table, name, schema)


def _add(op: Op, wanted: postgresql.Wanted) -> None:
    if on_sqlite(op):
        sqlite.add(op, wanted.operation, wanted.table, wanted.name, wanted.text, wanted.refuse_rows)
    else:
        postgresql.add(op, wanted)


def _text(op: Op, constraint: CheckConstraint | ForeignKeyConstraint) -> str:
    """Write *constraint* as CREATE TABLE has it, from the word CONSTRAINT on."""
    return ddl(op, AddConstraint(constraint)).split(" ADD ", 1)[1]


def _refuse_rows(op: Op, table: str, schema: str | None, name: str, broken: str) -> None:
    """
    Refuse the constraint *name*, which rows, ``t`` in *broken*, break.

    Raises:
        RowsViolateConstraint: There are some.
    """
    connection = op.get_bind()
    quote = connection.dialect.identifier_preparer.quote
    keys = inspect(connection).get_pk_constraint(table, schema=schema)["constrained_columns"]
    shown = ", ".join(f"t.{quote(key)}" for key in keys) or "1"
    rows = connection.exec_driver_sql(
        f"SELECT {shown} FROM {qualified(op.get_context(), table, schema)} AS t WHERE {broken}"
        f" LIMIT {_MAX_SHOWN}",
        execution_options={"no_parameters": True},
    ).all()
    if rows:
        raise RowsViolateConstraint(
            table, name, [" ".join(map(str, row)) for row in rows] if keys else []
        )
