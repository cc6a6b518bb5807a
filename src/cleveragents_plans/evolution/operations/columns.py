"""Columns, on both engines."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column
from sqlalchemy.schema import CreateColumn

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.expressions import Sql
from cleveragents_plans.evolution.lookups import (
    check_droppable_name,
    ddl,
    on_sqlite,
    require_table,
    sql_of,
)
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql import columns as postgresql
from cleveragents_plans.evolution.sqlite import columns as sqlite


def add_column(op: Op, table: str, column: Column[Any], *, schema: str | None = None) -> None:
    """
    Add *column* to *table*, without a rewrite of its rows.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`): rows that are there already have the DEFAULT from then on.
    SQLite: ``ALTER TABLE ADD COLUMN``, or one rebuild of the table where that cannot do it.

    Idempotent: a column of this name and type is left as it is.

    Args:
        op: Alembic's ``op``.
        table: The table.
        column: Its name, type, ``nullable`` and ``server_default``. One that is NOT NULL has
            a constant ``server_default``, since rows have to get a value; a value for each
            row is for `backfill`.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        OperationRefused: The table does not exist, the column is there with another type,
            or what is asked for takes other operations. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    _refuse_unsafe(column)
    schema = require_table(op, "add_column", table, (), schema)
    definition = ddl(op, CreateColumn(column))
    if on_sqlite(op):
        sqlite.add(op, table, column, definition)
        return
    comment = column.comment and "'" + column.comment.replace("'", "''") + "'"
    name = qualified(op.get_context(), table, schema)
    postgresql.add(op, name, column.name, definition, comment)


def drop_column(op: Op, table: str, column: str, *, schema: str | None = None) -> None:
    """
    Drop *column* of *table*, and what its rows hold.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: ``ALTER TABLE DROP COLUMN``, which writes every row.

    Idempotent: a column that is not there is no error, but a warning, unless an interrupted
    run may have dropped it. A name that differs by a letter or two from one that is there is
    refused, before the first change of the revision.

    Args:
        op: Alembic's ``op``.
        table: The table.
        column: The column. No index, constraint, view or trigger uses it any more:
            what does is dropped first, by its name, and not unsaid.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        OperationRefused: The table does not exist, or *column* is misspelt. Nothing was changed.
        ColumnInUse: Something else is made from the column. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    schema = require_table(op, "drop_column", table, (), schema)
    check_droppable_name(op, "drop_column", "column", table, column, schema)
    if on_sqlite(op):
        sqlite.drop(op, table, column)
    else:
        postgresql.drop(op, table, column, schema)


def rename_column(
    op: Op, table: str, column: str, new_name: str, *, schema: str | None = None
) -> None:
    """
    Rename *column* of *table*; indexes, constraints and views go with it.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`); functions and triggers that name the column in their text
    are not changed. SQLite: ``ALTER TABLE RENAME COLUMN``.

    Every statement of a running application that names the column fails from that moment:
    in a rolling deployment add a column, and drop the old one in a later revision.

    Idempotent: a column that has the new name already is no error.

    Args:
        op: Alembic's ``op``.
        table: The table.
        column: The column.
        new_name: Its new name.
        schema: The schema of *table*, if it is not that of the chain's tables.

    Raises:
        OperationRefused: The table or the column does not exist, or another column has
            the new name. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    schema = require_table(op, "rename_column", table, (), schema)
    if on_sqlite(op):
        sqlite.rename(op, table, column, new_name)
    else:
        postgresql.rename(op, table, column, new_name, schema)


def set_default(
    op: Op, table: str, column: str, default: str | Sql, *, schema: str | None = None
) -> None:
    """
    Let *column* of *table* have the DEFAULT *default*, instead of another or none.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: one rebuild of the table, two if it had another
    DEFAULT. Rows that are there already stay as they are. Idempotent.

    Args:
        op: Alembic's ``op``.
        table: The table.
        column: The column.
        default: SQL, the same for both engines or an `Sql`; on SQLite in parentheses unless
            it is a literal.
        schema: The schema of *table*, if it is not on the search path.

    Raises:
        OperationRefused: The table or the column does not exist, or PostgreSQL refuses the
            expression. Nothing was changed.
        RebuildRefused: SQLite refuses the expression.
        LockNotObtained: Other sessions held locks for too long.
    """
    require_table(op, "set_default", table, [column], schema)
    text = sql_of(op, default)
    if on_sqlite(op):
        sqlite.set_default(op, table, column, text)
    else:
        postgresql.alter(op, "set_default", table, column, f"SET DEFAULT {text}", schema)


def drop_default(op: Op, table: str, column: str, *, schema: str | None = None) -> None:
    """
    Take the DEFAULT of *column* of *table* away.

    PostgreSQL: ACCESS EXCLUSIVE on *table* for a change of the catalog, some milliseconds
    (see `with_exclusive_lock`). SQLite: one rebuild of the table. Idempotent.

    Raises:
        OperationRefused: The table or the column does not exist. Nothing was changed.
        LockNotObtained: Other sessions held locks for too long.
    """
    require_table(op, "drop_default", table, [column], schema)
    if on_sqlite(op):
        sqlite.drop_default(op, table, column)
    else:
        postgresql.alter(op, "drop_default", table, column, "DROP DEFAULT", schema)


def _refuse_unsafe(column: Column[Any]) -> None:
    def refuse(found: str, remedy: str) -> None:
        raise OperationRefused("add_column", f"the column {column.name} {found}", remedy)

    if column.primary_key or column.unique or column.index:
        refuse("has primary_key, unique or index", "add it without, then use create_index")
    if column.foreign_keys:
        refuse("has a ForeignKey", "add it without, then use add_foreign_key")
    if column.constraints:
        refuse("has a CheckConstraint", "add it without, then use add_check")
    if column.default is not None or column.onupdate is not None:
        refuse("has default or onupdate, which the database does not know", "use server_default")
    generated = column.computed is not None or column.identity is not None
    if not column.nullable and column.server_default is None and not generated:
        refuse(
            "is NOT NULL and rows would have no value for it",
            "give it a server_default, or add it with nullable=True, then use backfill and "
            "set_not_null",
        )
