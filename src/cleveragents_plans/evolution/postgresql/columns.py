"""Columns of a table in use: changes of the catalog, each under a lock for a moment."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Connection

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.lookups import names_of
from cleveragents_plans.evolution.misspellings import suggestion
from cleveragents_plans.evolution.op import Op, qualified
from cleveragents_plans.evolution.postgresql.column_users import refuse_used_column
from cleveragents_plans.evolution.postgresql.connection import online, run, write_sql
from cleveragents_plans.evolution.postgresql.empty_copy import empty_copy, refusing
from cleveragents_plans.evolution.postgresql.locks import run_under_lock
from cleveragents_plans.evolution.rehearsal import Rehearsal
from cleveragents_plans.evolution.settings import Settings

log: Final = logging.getLogger("alembic.evolution")


def add(op: Op, table: str, column: str, definition: str, comment: str | None) -> None:
    """
    Add *column* to *table*, the quoted name, unless it is there.

    Args:
        op: Alembic's ``op``.
        table: The quoted name of the table.
        column: The name of the column.
        definition: The column, as CREATE TABLE has it.
        comment: The literal of its comment, if it has one.

    Raises:
        OperationRefused: The definition is wrong or would rewrite the table, or the column
            is there with another type.
    """
    context = op.get_context()
    quote = context.dialect.identifier_preparer.quote
    statements = [f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {definition}"]
    if comment:
        statements.append(f"COMMENT ON COLUMN {table}.{quote(column)} IS {comment}")
    if context.as_sql:
        rehearsal = Rehearsal.of(op)
        if rehearsal and rehearsal.knows(column):
            with rehearsal.trial() as connection:
                found = _type_of(connection, table, column)
                wanted = _try_out(connection, table, quote(column), column, definition)
                _refuse_other(table, column, found, wanted)
        write_sql(context, *statements)
        if rehearsal:
            rehearsal.add_column(table, column, definition)
        return
    with online(op) as connection:
        found = _type_of(connection, table, column)
        wanted = _try_out(connection, table, quote(column), column, definition)
        _refuse_other(table, column, found, wanted)
        if found is None:
            settings = Settings.of(context.environment_context)
            with refusing("add_column"):
                run_under_lock(connection, table, statements, settings)
            # Another session may have added one of this name since: IF NOT EXISTS is silent.
            _refuse_other(table, column, _type_of(connection, table, column), wanted)
        else:
            log.info("%s has the column %s already", table, column)


def _refuse_other(table: str, column: str, found: str | None, wanted: str | None) -> None:
    if found not in (None, wanted):
        raise OperationRefused(
            "add_column",
            f"{table} has a column {column} of the type {found}, expected {wanted}",
            "rename it first, or give the new column another name",
        )


def drop(op: Op, table: str, column: str, schema: str | None) -> None:
    """
    Drop *column* of *table*, if it is there.

    Raises:
        ColumnInUse: Something is made from it.
    """
    context = op.get_context()
    name = qualified(context, table, schema)
    quoted = context.dialect.identifier_preparer.quote(column)
    statement = f"ALTER TABLE {name} DROP COLUMN IF EXISTS {quoted}"
    if context.as_sql:
        write_sql(context, statement)
        return
    with online(op) as connection:
        if _type_of(connection, name, column) is None:
            return
        refuse_used_column(connection, name, column)
        with refusing("drop_column"):
            run_under_lock(connection, name, [statement], Settings.of(context.environment_context))


def alter(op: Op, operation: str, table: str, column: str, change: str, schema: str | None) -> None:
    """
    Make a *change* of *column* that changes the catalog only, such as ``DROP DEFAULT``.

    Raises:
        OperationRefused: PostgreSQL refuses what it says.
    """
    context = op.get_context()
    name = qualified(context, table, schema)
    change = f"ALTER COLUMN {context.dialect.identifier_preparer.quote(column)} {change}"
    if context.as_sql:
        write_sql(context, f"ALTER TABLE {name} {change}")
        return
    settings = Settings.of(context.environment_context)
    with online(op) as connection:
        with empty_copy(connection, operation, name) as copy:
            run(connection, f"ALTER TABLE {copy} {change}")
        with refusing(operation):
            run_under_lock(connection, name, [f"ALTER TABLE {name} {change}"], settings)


def rename(op: Op, table: str, column: str, new_name: str, schema: str | None) -> None:
    """
    Rename *column* of *table*, unless it has its *new_name* already.

    Raises:
        OperationRefused: There is no such column, or another one has the new name.
    """
    context = op.get_context()
    quote = context.dialect.identifier_preparer.quote
    name = qualified(context, table, schema)
    statement = f"ALTER TABLE {name} RENAME COLUMN {quote(column)} TO {quote(new_name)}"
    known = names_of(op, "column", table, schema)
    rehearsal = Rehearsal.of(op)
    if context.as_sql and not (rehearsal and rehearsal.knows(column, new_name)):
        write_sql(context, statement)
        return
    if column not in known and new_name in known:
        log.info("%s has the column %s already, and no %s", table, new_name, column)
        return
    if column not in known:
        remedy = suggestion(column, known)
        raise OperationRefused("rename_column", f"{table} has no column {column}", remedy)
    if new_name in known:
        found = f"{table} has a column {new_name}, too"
        raise OperationRefused("rename_column", found, "correct the names")
    if context.as_sql:
        write_sql(context, statement)
        return
    with online(op) as connection, refusing("rename_column"):
        run_under_lock(connection, name, [statement], Settings.of(context.environment_context))


def _try_out(
    connection: Connection, table: str, quoted: str, column: str, definition: str
) -> str | None:
    """Give the type that the column would have, as the server writes it."""
    with empty_copy(connection, "add_column", table) as copy:
        run(connection, f"ALTER TABLE {copy} DROP COLUMN IF EXISTS {quoted}")
        before = run(connection, _FILE, {"table": copy}).scalar_one()
        run(connection, f"ALTER TABLE {copy} ADD COLUMN {definition}")
        if run(connection, _FILE, {"table": copy}).scalar_one() != before:
            raise OperationRefused(
                "add_column",
                f"the column {column} would rewrite every row of {table} under ACCESS EXCLUSIVE, "
                "because each row gets another value",
                "add it without that, with nullable=True, then use backfill and set_not_null",
            )
        return _type_of(connection, copy, column)


def _type_of(connection: Connection, table: str, column: str) -> str | None:
    found = run(connection, _TYPE, {"table": table, "column": column}).scalar()
    return None if found is None else str(found)


_FILE = "SELECT pg_relation_filenode(to_regclass(%(table)s))"

_TYPE = """\
SELECT format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = to_regclass(%(table)s) AND attname = %(column)s AND NOT attisdropped"""
