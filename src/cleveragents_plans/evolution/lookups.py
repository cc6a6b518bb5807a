"""What an operation finds out of the database before it changes anything."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.sql.elements import ClauseElement

from cleveragents_plans.evolution.errors import OperationRefused
from cleveragents_plans.evolution.expressions import Sql
from cleveragents_plans.evolution.op import Op


def on_sqlite(op: Op) -> bool:
    """Tell whether the database is SQLite; it is PostgreSQL otherwise."""
    return op.get_context().dialect.name == "sqlite"


def sql_of(op: Op, expression: str | Sql) -> str:
    """Give the text of *expression* for the engine at hand."""
    if isinstance(expression, str):
        return expression
    return expression.sqlite if on_sqlite(op) else expression.postgresql


def ddl(op: Op, element: ClauseElement) -> str:
    """Write *element* as the engine's SQL, which is to be sent character by character."""
    # With the parameter style of a driver, every % would be doubled.
    make_dialect: Any = type(op.get_context().dialect)
    dialect = make_dialect(paramstyle="named")
    return str(element.compile(dialect=dialect)).strip()


def require_table(
    op: Op, operation: str, table: str, columns: Iterable[str] = (), schema: str | None = None
) -> None:
    """
    Refuse a table, or *columns* of it, that are not there; offline nothing can be found out.

    Raises:
        OperationRefused: One of them is not there.
    """
    if op.get_context().as_sql:
        return
    found = inspect(op.get_bind())
    where = f" in the schema {schema}" if schema else ""
    if not found.has_table(table, schema=schema):
        known = found.get_table_names(schema=schema)
        raise OperationRefused(
            operation, f"there is no table {table}{where}", _correct(table, known)
        )
    if columns:
        known = [column["name"] for column in found.get_columns(table, schema=schema)]
        for column in columns:
            if column not in known:
                raise OperationRefused(
                    operation, f"{table} has no column {column}", _correct(column, known)
                )


def require_key(op: Op, operation: str, table: str, key: str, schema: str | None = None) -> None:
    """
    Refuse a *key* of *table* that is not one column in which all rows differ.

    Raises:
        OperationRefused: It has two columns, or several rows may have the same value of it.
    """
    if not key.isidentifier() and any(sign in key for sign in ",() "):
        raise OperationRefused(
            operation,
            f"the key {key!r} of {table} is not the name of one column",
            "name one column that the primary key or a unique index covers alone",
        )
    require_table(op, operation, table, [key], schema)
    if op.get_context().as_sql:
        return
    found = inspect(op.get_bind())
    primary = found.get_pk_constraint(table, schema=schema)["constrained_columns"]
    unique = [each["column_names"] for each in found.get_unique_constraints(table, schema=schema)]
    indexes = [
        each["column_names"]
        for each in found.get_indexes(table, schema=schema)
        if each["unique"] and not any("where" in option for option in each["dialect_options"])
    ]
    if [key] not in [primary, *unique, *indexes]:
        covered = f" (the primary key is {', '.join(primary)})" if primary else ""
        raise OperationRefused(
            operation,
            f"rows of {table} may be equal in {key}{covered}",
            "name one column that the primary key or a unique index covers alone",
        )


def _correct(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"is {close[0]} meant?" if close else "correct the name"
